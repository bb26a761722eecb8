//! Admission to a container's memory: of all clients, the first that shows the checkpoint's token gets the memory.
//!
//! Anybody can connect. A peer that says nothing, or something else, keeps no other waiting: all are heard side by side,
//! each for some seconds, and where there are too many the oldest makes room.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use hiber_criu::page_relay::{REQUEST, Request, asks_for_pages};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::retry_on_intr;

use super::token::Token;

/// How long a peer may take to show the token.
const PATIENCE: Duration = Duration::from_secs(5);
/// How many peers are heard side by side.
const MAX_PEERS: usize = 64;
/// How many strangers are told of.
const MAX_TOLD: usize = 10;
/// The answer to the token.
pub(super) const WELCOME: u8 = 1;

/// The clients that are let in.
#[derive(Debug)]
pub(super) struct Terms {
    pub(super) token: Token,
    /// Also clients that ask for pages without a token.
    pub(super) any_peer: bool,
}

/// A peer that has not said enough yet.
struct Stranger {
    stream: TcpStream,
    address: SocketAddr,
    until: Instant,
    heard: Request,
    count: usize,
}

/// The kind of a client, after its first message.
enum Heard {
    Unfinished,
    Gone,
    Wrong,
    /// With what it has asked for already.
    Right(Option<Request>),
}

impl Terms {
    /// Waits at `listener` for a peer that is let in, and gives its first request if that was read; none once CRIU has
    /// gone. `tell` is told of strangers.
    pub(super) fn admit(
        &self,
        listener: &TcpListener,
        criu: &UnixStream,
        mut tell: impl FnMut(String),
    ) -> std::io::Result<Option<(TcpStream, Option<Request>)>> {
        // A peer may be gone again before it is accepted.
        listener.set_nonblocking(true)?;
        let (mut strangers, mut told) = (Vec::<Stranger>::new(), 0);
        while let Some(ready) = wait(listener, criu, &strangers)? {
            for index in ready.into_iter().rev() {
                let heard = strangers[index].hear(self);
                if let Heard::Unfinished = heard {
                    continue;
                }
                let Stranger { stream, address, .. } = strangers.remove(index);
                match heard {
                    Heard::Right(first) => {
                        stream.set_nonblocking(false)?;
                        return Ok(Some((stream, first)));
                    }
                    Heard::Wrong if told < MAX_TOLD => {
                        told += 1;
                        tell(format!(
                            "{address} was sent away, for it did not show this checkpoint's token first; a daemon of \
                             CRIU's own, which has none, needs checkpoint --page-server-any-peer"
                        ));
                    }
                    _ => {}
                }
            }
            strangers.retain(|stranger| stranger.until > Instant::now());
            match listener.accept() {
                Ok((stream, address)) if stream.set_nonblocking(true).is_ok() => {
                    if strangers.len() == MAX_PEERS {
                        strangers.remove(0);
                    }
                    strangers.push(Stranger::new(stream, address));
                }
                Err(e) if e.kind() != ErrorKind::WouldBlock => {
                    // No descriptors or memory: whoever was first makes room.
                    std::thread::sleep(Duration::from_millis(50));
                    strangers.drain(..strangers.len().min(1));
                }
                _ => {}
            }
        }
        Ok(None)
    }
}

/// Waits until somebody connects or speaks, or has said nothing for too long; gives the indices of those who spoke. None
/// once CRIU has gone.
fn wait(
    listener: &TcpListener,
    criu: &UnixStream,
    strangers: &[Stranger],
) -> std::io::Result<Option<Vec<usize>>> {
    let streams = strangers.iter().map(|stranger| stranger.stream.as_fd());
    let mut all: Vec<_> = [criu.as_fd(), listener.as_fd()]
        .into_iter()
        .chain(streams)
        .map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN))
        .collect();
    let first = strangers.iter().map(|stranger| stranger.until).min();
    let timeout = first.map(|until| Timespec::try_from(until.saturating_duration_since(Instant::now())));
    let timeout = timeout.transpose().map_err(|_| ErrorKind::InvalidInput)?;
    retry_on_intr(|| poll(&mut all, timeout.as_ref()))?;
    let spoken = |fd: &PollFd<'_>| !fd.revents().is_empty();
    if spoken(&all[0]) {
        return Ok(None);
    }
    Ok(Some((0..strangers.len()).filter(|index| spoken(&all[index + 2])).collect()))
}

impl Stranger {
    fn new(stream: TcpStream, address: SocketAddr) -> Self {
        Self { stream, address, until: Instant::now() + PATIENCE, heard: [0; REQUEST], count: 0 }
    }

    fn hear(&mut self, terms: &Terms) -> Heard {
        match self.stream.read(&mut self.heard[self.count..]) {
            Ok(0) => return Heard::Gone,
            Ok(count) => self.count += count,
            Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
            Err(_) => return Heard::Gone,
        }
        if self.count < REQUEST {
            Heard::Unfinished
        } else if Token::from_bytes(self.heard) == terms.token {
            // The first byte on a new connection always has room.
            if self.stream.write_all(&[WELCOME]).is_ok() { Heard::Right(None) } else { Heard::Gone }
        } else if terms.any_peer && asks_for_pages(&self.heard) {
            Heard::Right(Some(self.heard))
        } else {
            Heard::Wrong
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Shutdown;

    const RIGHT: [u8; REQUEST] = [7; REQUEST];

    /// A request for pages, as CRIU's daemon begins.
    fn get() -> Request {
        let mut request = [0; REQUEST];
        request[0] = 7;
        request
    }

    /// Lets `peers` connect while somebody waits for one to admit; gives what that one says next, its first request, and how
    /// many strangers were told of.
    fn admitted(
        any_peer: bool,
        peers: impl FnOnce(SocketAddr) -> Vec<TcpStream>,
    ) -> (u8, Option<Request>, usize) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (criu, _other) = UnixStream::pair().unwrap();
        let terms = Terms { token: Token::from_bytes(RIGHT), any_peer };
        std::thread::scope(|scope| {
            let door = scope.spawn(|| {
                let mut told = 0;
                let admitted = terms.admit(&listener, &criu, |_| told += 1).unwrap();
                (admitted.unwrap(), told)
            });
            let _peers = peers(address);
            let ((mut stream, first), told) = door.join().unwrap();
            let mut next = [0];
            stream.read_exact(&mut next).unwrap();
            (next[0], first, told)
        })
    }

    fn says(address: SocketAddr, words: &[&[u8]]) -> TcpStream {
        let mut stream = TcpStream::connect(address).unwrap();
        words.iter().for_each(|word| stream.write_all(word).unwrap());
        stream
    }

    #[test]
    fn who_has_the_token_is_let_in_past_all_others() {
        let found = admitted(false, |address| {
            let mut all: Vec<_> = (0..3 * MAX_PEERS).map(|_| says(address, &[])).collect();
            for _ in 0..300 {
                let _ = says(address, &[]).shutdown(Shutdown::Both);
            }
            all.extend((0..20).map(|_| says(address, &[&[9; REQUEST], &[1; 100]])));
            all.push(says(address, &[&RIGHT[..REQUEST - 1]]));
            all.push(says(address, &[&get(), &[2]]));
            // In two parts
            let mut right = says(address, &[&RIGHT[..5]]);
            std::thread::sleep(Duration::from_millis(50));
            right.write_all(&RIGHT[5..]).unwrap();
            let mut welcome = [0];
            right.read_exact(&mut welcome).unwrap();
            assert_eq!(welcome, [WELCOME]);
            right.write_all(&[3]).unwrap();
            all.push(right);
            all
        });
        assert_eq!(found, (3, None, MAX_TOLD));
    }

    #[test]
    fn who_asks_for_pages_is_let_in_where_anybody_is() {
        let found = admitted(true, |address| {
            vec![says(address, &[]), says(address, &[&[9; REQUEST]]), says(address, &[&get(), &[4]])]
        });
        assert_eq!(found, (4, Some(get()), 1));
        let found = admitted(true, |address| vec![says(address, &[&RIGHT, &[5]])]);
        assert_eq!(found, (5, None, 0));
    }

    #[test]
    fn nobody_is_waited_for_when_criu_has_gone() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (criu, other) = UnixStream::pair().unwrap();
        let terms = Terms { token: Token::from_bytes(RIGHT), any_peer: false };
        let _silent = says(listener.local_addr().unwrap(), &[]);
        drop(other);
        assert!(terms.admit(&listener, &criu, |_| {}).unwrap().is_none());
    }

    #[test]
    fn a_silent_peer_is_sent_away_in_time() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (criu, other) = UnixStream::pair().unwrap();
        let terms = Terms { token: Token::from_bytes(RIGHT), any_peer: false };
        std::thread::scope(|scope| {
            let door = scope.spawn(|| terms.admit(&listener, &criu, |_| {}).unwrap().is_none());
            let mut silent = says(listener.local_addr().unwrap(), &[&RIGHT[..3]]);
            silent.set_read_timeout(Some(2 * PATIENCE)).unwrap();
            assert_eq!(silent.read_to_end(&mut Vec::new()).unwrap(), 0, "the connection is closed");
            drop(other);
            assert!(door.join().unwrap());
        });
    }
}
