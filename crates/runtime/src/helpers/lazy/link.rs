//! The socket between the process that brings a container's memory, and the one that receives the container from another machine: the
//! first asks for pages, and the second passes that on and gives them. Words are those of CRIU's page protocol, and [`FAILED`].

use std::io::{self, ErrorKind, Read, Write};
use std::net::Shutdown;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;

use hiber_criu::page_protocol::{ADD_F, GET, WORD, Word};
use hiber_criu::pagemap::PAGE;
use hiber_memory::page_daemon::{Answer, PageServer};

/// Ours, and none of CRIU's: no more pages come. So many bytes follow that say why.
const FAILED: u16 = 0x6870;
/// Of pages that are asked for: somebody waits for them.
const WAITED: u16 = 1;
/// No answer has more bytes, and no reason.
const MAX_ANSWER: u64 = 1 << 20;
const MAX_REASON: usize = 4 << 10;

/// The end of the process that receives the container.
#[derive(Debug, Clone)]
pub(crate) struct Link(Arc<UnixStream>);

/// Pages that are wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Wanted {
    /// The task's number at the dump.
    pub(crate) task: u64,
    /// Of the first.
    pub(crate) address: u64,
    pub(crate) pages: u64,
    /// Whether somebody waits for them.
    pub(crate) waited: bool,
}

impl Link {
    /// With the other end, which [`Arrival`](super::arrival::Arrival) takes.
    pub(crate) fn pair() -> io::Result<(Self, OwnedFd)> {
        let (ours, theirs) = UnixStream::pair()?;
        Ok((Self(ours.into()), theirs.into()))
    }

    /// The pages that are wanted next; none if the other end is gone.
    pub(crate) fn next(&self) -> Option<Wanted> {
        let mut word = [0; WORD];
        (&*self.0).read_exact(&mut word).ok()?;
        let Word { command: GET, flags, pages, address, id: task } = Word::of(&word) else { return None };
        Some(Wanted { task, address, pages, waited: flags == WAITED })
    }

    /// Gives pages. The other end may be gone.
    pub(crate) fn give(&self, task: u64, address: u64, bytes: &[u8]) -> io::Result<()> {
        let pages = bytes.len() as u64 / PAGE;
        (&*self.0).write_all(&Word { command: ADD_F, flags: 0, pages, address, id: task }.bytes())?;
        (&*self.0).write_all(bytes)
    }

    /// No more pages come, for this reason.
    pub(crate) fn fail(&self, why: &str) {
        let why = &why.as_bytes()[..why.len().min(MAX_REASON)];
        let word = Word { command: FAILED, pages: why.len() as u64, ..Word::default() };
        let _ = (&*self.0).write_all(&[&word.bytes()[..], why].concat());
        let _ = self.0.shutdown(Shutdown::Write);
    }
}

/// The other end.
#[derive(Debug)]
pub(super) struct Linked(UnixStream);

impl Linked {
    pub(super) fn of(socket: OwnedFd) -> Self {
        Self(socket.into())
    }

    fn read(&self, to: &mut [u8]) -> io::Result<()> {
        (&self.0).read_exact(to).map_err(|e| match e.kind() {
            ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset => {
                io::Error::new(e.kind(), "the process that received the container has ended")
            }
            _ => e,
        })
    }
}

impl PageServer for Linked {
    fn prefers(&self) -> bool {
        true
    }

    fn ask(&self, task: i32, address: u64, pages: u64, waited: bool) -> io::Result<()> {
        let (flags, id) = (if waited { WAITED } else { 0 }, u64::try_from(task).unwrap_or_default());
        let word = Word { command: GET, flags, pages, address, id }.bytes();
        match (&self.0).write_all(&word) {
            // The reason comes as the answer.
            Err(e) if e.kind() == ErrorKind::BrokenPipe => Ok(()),
            other => other,
        }
    }

    fn answer(&self) -> io::Result<Answer> {
        let mut word = [0; WORD];
        self.read(&mut word)?;
        let Word { command, pages, address, id, .. } = Word::of(&word);
        match command {
            ADD_F if pages <= MAX_ANSWER / PAGE => {
                let mut bytes = vec![0; usize::try_from(pages * PAGE).unwrap_or_default()];
                self.read(&mut bytes)?;
                Ok(Answer { task: i32::try_from(id).unwrap_or_default(), address, bytes })
            }
            FAILED if pages <= MAX_REASON as u64 => {
                let mut why = vec![0; pages as usize];
                self.read(&mut why)?;
                Err(io::Error::other(String::from_utf8_lossy(&why)))
            }
            _ => Err(io::Error::new(ErrorKind::InvalidData, format!("word {command:#x} of {pages} pages"))),
        }
    }

    fn close(&self) {
        let _ = self.0.shutdown(Shutdown::Both);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wanted_comes_until_it_is_said_why_nothing_more_does() {
        let (link, theirs) = Link::pair().unwrap();
        let linked = Linked::of(theirs);
        linked.ask(7, 3 * PAGE, 2, true).unwrap();
        let wanted = Wanted { task: 7, address: 3 * PAGE, pages: 2, waited: true };
        assert_eq!(link.next(), Some(wanted));
        link.give(7, 4 * PAGE, &[5; PAGE as usize]).unwrap();
        let Answer { task, address, bytes } = linked.answer().unwrap();
        assert_eq!((task, address, bytes), (7, 4 * PAGE, vec![5; PAGE as usize]));
        link.fail("the link was cut");
        assert_eq!(linked.answer().unwrap_err().to_string(), "the link was cut");
        let ended = linked.answer().unwrap_err().to_string();
        assert_eq!(ended, "the process that received the container has ended");
        drop(linked);
        assert_eq!(link.next(), None);
    }
}
