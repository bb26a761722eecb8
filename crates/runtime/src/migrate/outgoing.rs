//! The way to the other end of a conversation, for words, files and memory from several threads.

use std::fmt;
use std::io::{self, Write};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use hiber_criu::page_protocol::Memory;
use hiber_memory::images::{Away, REST};

use super::packing::Packer;
use super::progress::{Gauge, Phase, Stage};
use super::word::{Bytes, MAX_DATA, Word, write_bytes, write_word};

/// The stream to the other end, shared by those who speak: a frame at a time.
#[derive(Clone)]
pub(super) struct Outgoing(Arc<Mutex<Line>>);

pub(super) struct Line {
    stream: Box<dyn Write + Send>,
    pub(super) packer: Packer,
    /// Bytes of files and memory that were sent, as they were sent.
    pub(super) sent: u64,
    /// Bytes of memory and of the root file system in a second, at most.
    pub(super) bandwidth: Option<u64>,
    /// Of a source.
    pub(super) gauge: Option<Gauge>,
}

impl Outgoing {
    pub(super) fn new(stream: impl Write + Send + 'static) -> Self {
        let (stream, packer) = (Box::new(stream), Packer::default());
        Self(Arc::new(Mutex::new(Line { stream, packer, sent: 0, bandwidth: None, gauge: None })))
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Line> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets go of the stream: nothing more is said.
    pub(super) fn end(&self) {
        self.lock().stream = Box::new(io::sink());
    }

    pub(super) fn say(&self, word: &Word) -> io::Result<()> {
        write_word(&mut *self.lock().stream, word)
    }

    pub(super) fn begin(&self, stage: Stage, total: Option<u64>) {
        self.lock().gauge.iter_mut().for_each(|gauge| gauge.begin(stage, total));
    }

    pub(super) fn send(&self, bytes: Bytes<'_>) -> io::Result<()> {
        let mut line = self.lock();
        let began = Instant::now();
        let packing = line.packer.next(bytes.len());
        let sent = write_bytes(&mut *line.stream, bytes, packing)? as u64;
        line.sent += sent;
        if let (Bytes::Pages { .. } | Bytes::Rootfs(_), Some(bandwidth)) = (bytes, line.bandwidth) {
            // Time in which nothing was sent is not made up for.
            let due = Duration::from_secs_f64(sent as f64 / bandwidth as f64);
            std::thread::sleep(due.saturating_sub(began.elapsed()));
        }
        line.packer.took(packing, bytes.len(), began.elapsed());
        if let Some(gauge) = line.gauge.as_mut().filter(|_| !matches!(bytes, Bytes::File(_))) {
            gauge.went(bytes.len());
        }
        Ok(())
    }
}

impl fmt::Debug for Outgoing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Outgoing").finish_non_exhaustive()
    }
}

/// Says words while the other end listens, and sends memory.
#[derive(Debug)]
pub(super) struct Sender(pub(super) Outgoing);

impl Sender {
    /// Whether the word could be said.
    pub(super) fn say(&self, word: &Word) -> bool {
        self.0.say(word).is_ok()
    }

    pub(super) fn send(&self, bytes: Bytes<'_>) -> io::Result<()> {
        self.0.send(bytes)
    }

    /// Tells who waits for this.
    pub(super) fn tell(&self, phase: Phase) {
        self.0.lock().gauge.iter_mut().for_each(|gauge| gauge.phase(phase));
    }
}

impl Away for Sender {
    fn put(&mut self, memory: Memory, address: u64, pages: &[u8]) -> io::Result<()> {
        let send = |(bytes, address)| self.0.send(Bytes::Pages { memory: memory.id(), address, bytes });
        if pages.is_empty() {
            return send((pages, address));
        }
        pages.chunks(MAX_DATA).zip((address..).step_by(MAX_DATA)).try_for_each(send)
    }

    fn begins(&mut self, round: u32, bytes: u64) {
        self.0.begin(if round == REST { Stage::Rest } else { Stage::Round(round) }, Some(bytes));
    }
}
