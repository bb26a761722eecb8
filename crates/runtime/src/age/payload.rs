//! The payload: chunks, each sealed with its number and whether it is the last one.

use std::io::{self, BufRead, Read, Write};

use ring::aead::{Aad, LessSafeKey, Nonce};

use super::failure::Failure;
use super::primitives::TAG;

const CHUNK: usize = 64 << 10;

/// The number of a chunk, and whether another one follows.
fn nonce(number: u64, last: bool) -> Nonce {
    let mut nonce = [0; 12];
    nonce[3..11].copy_from_slice(&number.to_be_bytes());
    nonce[11] = u8::from(last);
    Nonce::assume_unique_for_key(nonce)
}

/// Encrypts what is written, and gives it on in chunks.
pub(crate) struct Sealer<W> {
    to: W,
    key: LessSafeKey,
    number: u64,
    chunk: Vec<u8>,
}

impl<W: Write> Sealer<W> {
    pub(super) fn new(to: W, key: LessSafeKey) -> Self {
        Self { to, key, number: 0, chunk: Vec::with_capacity(CHUNK + TAG) }
    }

    /// Seals what is left. Without this the file is truncated.
    pub(crate) fn finish(mut self) -> io::Result<W> {
        self.seal(true)?;
        Ok(self.to)
    }

    fn seal(&mut self, last: bool) -> io::Result<()> {
        self.key
            .seal_in_place_append_tag(nonce(self.number, last), Aad::empty(), &mut self.chunk)
            .map_err(|_| io::Error::other("a chunk cannot be encrypted"))?;
        self.to.write_all(&self.chunk)?;
        self.chunk.clear();
        self.number += 1;
        Ok(())
    }
}

impl<W: Write> Write for Sealer<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        // A full chunk waits for what tells that it is not the last one.
        if self.chunk.len() == CHUNK && !bytes.is_empty() {
            self.seal(false)?;
        }
        let part = bytes.len().min(CHUNK - self.chunk.len());
        self.chunk.extend_from_slice(&bytes[..part]);
        Ok(part)
    }

    /// An unfinished chunk stays.
    fn flush(&mut self) -> io::Result<()> {
        self.to.flush()
    }
}

/// Decrypts what is read. Each chunk was written so, in this place, or there is an error.
pub(crate) struct Opener<R> {
    from: R,
    key: LessSafeKey,
    number: u64,
    chunk: Vec<u8>,
    /// How much of the chunk is content, and how much of that was given on.
    length: usize,
    given: usize,
    ended: bool,
}

impl<R: BufRead> Opener<R> {
    pub(super) fn new(from: R, key: LessSafeKey) -> Self {
        let chunk = Vec::with_capacity(CHUNK + TAG);
        Self { from, key, number: 0, chunk, length: 0, given: 0, ended: false }
    }

    fn next(&mut self) -> io::Result<()> {
        self.chunk.clear();
        (self.length, self.given) = (0, 0);
        self.from.by_ref().take((CHUNK + TAG) as u64).read_to_end(&mut self.chunk)?;
        let last = self.chunk.len() < CHUNK + TAG || self.from.fill_buf()?.is_empty();
        if self.chunk.len() < TAG {
            return Err(Failure::Truncated.into());
        }
        let whole = if last { self.chunk.clone() } else { Vec::new() };
        let opened = self.key.open_in_place(nonce(self.number, last), Aad::empty(), &mut self.chunk);
        let Ok(opened) = opened else {
            return Err(self.failed(whole).into());
        };
        self.length = opened.len();
        if self.length == 0 && self.number > 0 {
            return Err(Failure::Changed(self.number).into());
        }
        self.number += 1;
        self.ended = last;
        Ok(())
    }

    /// Why a chunk cannot be opened: one that more should follow is whole.
    fn failed(&self, mut last: Vec<u8>) -> Failure {
        let more = nonce(self.number, false);
        let whole =
            last.len() == CHUNK + TAG && self.key.open_in_place(more, Aad::empty(), &mut last).is_ok();
        // Nothing tells a chunk that was cut from one that was changed.
        let short = !last.is_empty() && last.len() < CHUNK + TAG;
        match (whole, short) {
            (true, _) => Failure::Truncated,
            (_, true) => Failure::Cut(self.number),
            _ => Failure::Changed(self.number),
        }
    }
}

impl<R: BufRead> Read for Opener<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.given == self.length && !self.ended {
            self.next()?;
        }
        let part = buffer.len().min(self.length - self.given);
        buffer[..part].copy_from_slice(&self.chunk[self.given..self.given + part]);
        self.given += part;
        Ok(part)
    }
}
