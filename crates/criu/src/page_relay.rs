//! What stands between the two ends of CRIU's protocol for pages, so that a migration that breaks loses no container.
//!
//! The source's page server takes the end of the connection for success, and the destination's daemon takes its leave
//! in the same words whether it has all pages or has failed. In both cases the source kills its tasks, and the
//! destination has none that work. So requests pass through here, and a leave is passed on only if it is meant. Of
//! anything else CRIU sees half a request, which it takes for the failure that it is: its tasks run on.
//!
//! The protocol (CRIU's page-xfer.c): the daemon sends requests of 32 bytes, {u32 command, u32 padding, u64 pages, u64
//! address, u64 process}; each is answered by such a header and the pages. A leave is answered by 4 bytes.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::unix::net::UnixStream;

/// Bytes of a request.
const REQUEST: usize = 32;
/// The answer to a leave: no error.
const DONE: [u8; 4] = [0; 4];
/// Commands, in the lower 16 bits of the first word.
const GET: u16 = 7;
const CLOSE: u16 = 0x1023;
const FORCE_CLOSE: u16 = 0x1024;

/// How the requests of a connection ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// With a leave, which was not passed on.
    Leave,
    /// Without one.
    Broken,
}

/// Passes requests for pages on until one is something else.
fn requests(mut from: impl Read, mut to: impl Write) -> Ended {
    let mut request = [0; REQUEST];
    while from.read_exact(&mut request).is_ok() {
        match u16::from_le_bytes([request[0], request[1]]) {
            GET if to.write_all(&request).is_ok() => {}
            CLOSE | FORCE_CLOSE => return Ended::Leave,
            _ => break,
        }
    }
    Ended::Broken
}

fn leave(mut to: impl Write) -> io::Result<()> {
    let mut request = [0; REQUEST];
    request[..2].copy_from_slice(&FORCE_CLOSE.to_le_bytes());
    to.write_all(&request)
}

/// Copies to the end. Once nobody takes the bytes any more, the rest is read and thrown away, so that whoever writes it
/// is not stopped in the middle; its length is returned.
fn drain(mut from: impl Read, mut to: impl Write) -> u64 {
    let mut buffer = vec![0; 64 << 10];
    let (mut taken, mut lost) = (true, 0);
    loop {
        let count = match from.read(&mut buffer) {
            Ok(0) => return lost,
            Ok(count) => count,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
            Err(_) => return lost,
        };
        taken = taken && to.write_all(&buffer[..count]).is_ok();
        if !taken {
            lost += count as u64;
        }
    }
}

/// The source's side: serves the pages of CRIU's page server at `criu` to the destination at `peer`. Before a leave is
/// passed on `done` is called, and CRIU then ends its tasks; on any other end it lets them run on.
///
/// `None` for a peer that hung up without a word: that was no destination, and CRIU has heard nothing.
///
/// # Errors
/// If `done` fails: CRIU is told of a failure.
pub fn serve(
    criu: &UnixStream,
    peer: &TcpStream,
    done: impl FnOnce() -> io::Result<()>,
) -> io::Result<Option<Ended>> {
    if !peer.peek(&mut [0]).is_ok_and(|count| count > 0) {
        return Ok(None);
    }
    std::thread::scope(|scope| {
        scope.spawn(|| {
            drain(criu, peer);
            let _ = peer.shutdown(Shutdown::Both);
        });
        let ended = requests(peer, criu);
        let result = match ended {
            Ended::Leave => done().and_then(|()| leave(criu)),
            Ended::Broken => fail(criu),
        };
        if result.is_err() {
            let _ = fail(criu);
        }
        result.map(|()| Some(ended))
    })
}

/// Has a page server fail, so that its tasks run on.
pub fn fail(mut criu: &UnixStream) -> io::Result<()> {
    // Half a request; the whole of one cannot begin with zeros.
    criu.write_all(&[0; REQUEST / 2])?;
    criu.shutdown(Shutdown::Write)
}

/// The destination's side: passes the requests of CRIU's daemon at `daemon` on to the source at `peer`, and its pages
/// back, until one of them ends. The daemon's leave is answered here; the source hears of it by [`Fetched::confirm`].
pub fn fetch(daemon: UnixStream, peer: &TcpStream) -> io::Result<Fetched> {
    let (to_daemon, from_peer) = (daemon.try_clone()?, peer.try_clone()?);
    let answers = std::thread::spawn(move || {
        let lost = drain(&from_peer, &to_daemon);
        let _ = to_daemon.shutdown(Shutdown::Both);
        lost
    });
    let ended = requests(&daemon, peer);
    if ended == Ended::Leave {
        let _ = (&daemon).write_all(&DONE);
    }
    Ok(Fetched { ended, answers, daemon })
}

/// A daemon's pages, all passed on.
#[derive(Debug)]
pub struct Fetched {
    /// How it ended.
    pub ended: Ended,
    /// Gives the number of bytes that came when the daemon was gone.
    answers: std::thread::JoinHandle<u64>,
    daemon: UnixStream,
}

impl Fetched {
    /// Tells the source that it may end its tasks; whether it has confirmed that.
    pub fn confirm(self, peer: &TcpStream) -> bool {
        let _ = self.daemon.shutdown(Shutdown::Both);
        let sent = leave(peer).and_then(|()| peer.shutdown(Shutdown::Write));
        sent.is_ok() && self.answers.join().is_ok_and(|lost| lost == DONE.len() as u64)
    }
}

/// Tells the source that its container is still needed.
pub fn decline(mut peer: &TcpStream) {
    let _ = peer.write_all(&[0; REQUEST]);
    let _ = peer.shutdown(Shutdown::Both);
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    fn request(command: u16) -> [u8; REQUEST] {
        let mut bytes = [9; REQUEST];
        bytes[..2].copy_from_slice(&command.to_le_bytes());
        bytes
    }

    fn connection() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        (client, listener.accept().unwrap().0)
    }

    /// What a page server hears when a destination sends `words` and hangs up; whether that was told as done.
    fn heard(words: &[[u8; REQUEST]]) -> (Vec<u8>, bool, Ended) {
        let ((ours, theirs), (mut peer, accepted)) = (UnixStream::pair().unwrap(), connection());
        peer.write_all(&words.concat()).unwrap();
        peer.shutdown(Shutdown::Write).unwrap();
        let server = std::thread::spawn(move || {
            let mut all = Vec::new();
            let mut request = [0; REQUEST];
            while let Ok(count) = (&theirs).read(&mut request) {
                all.extend_from_slice(&request[..count]);
                if count < REQUEST || request[..2] == FORCE_CLOSE.to_le_bytes() {
                    break;
                }
            }
            all
        });
        let mut told = false;
        let ended = serve(&ours, &accepted, || {
            told = true;
            Ok(())
        });
        (server.join().unwrap(), told, ended.unwrap().unwrap())
    }

    #[test]
    fn a_page_server_hears_of_success_only_by_a_leave() {
        let (bytes, told, ended) = heard(&[request(GET), request(CLOSE)]);
        assert_eq!((bytes.len(), told, ended), (64, true, Ended::Leave));
        assert_eq!(bytes[..REQUEST], request(GET));
        let (bytes, told, ended) = heard(&[request(GET)]);
        assert_eq!((bytes.len(), told, ended), (48, false, Ended::Broken));
        // Nobody may write pages there.
        let (bytes, told, _) = heard(&[request(3), request(CLOSE)]);
        assert_eq!((bytes.len(), told), (16, false));
    }

    #[test]
    fn a_failed_done_is_a_failure() {
        let ((ours, mut theirs), (mut peer, accepted)) = (UnixStream::pair().unwrap(), connection());
        peer.write_all(&request(CLOSE)).unwrap();
        let server = std::thread::spawn(move || {
            let mut all = Vec::new();
            theirs.read_to_end(&mut all).unwrap();
            all
        });
        assert!(serve(&ours, &accepted, || Err(io::ErrorKind::Other.into())).is_err());
        assert_eq!(server.join().unwrap().len(), 16);
    }

    #[test]
    fn the_source_hears_of_the_destinations_leave_when_it_is_meant() {
        for confirmed in [true, false] {
            let ((ours, theirs), (mine, source)) = (UnixStream::pair().unwrap(), connection());
            let server = std::thread::spawn(move || {
                let mut request = [0; REQUEST];
                (&source).read_exact(&mut request).unwrap();
                (&source).write_all(b"page").unwrap();
                let second = (&source).read_exact(&mut request).map(|()| request[0]);
                (&source).write_all(&DONE).unwrap();
                second
            });
            let daemon = std::thread::spawn(move || {
                let mut answer = [0; 4];
                (&theirs).write_all(&request(GET)).unwrap();
                (&theirs).read_exact(&mut answer).unwrap();
                assert_eq!(&answer, b"page");
                (&theirs).write_all(&request(CLOSE)).unwrap();
                (&theirs).read_exact(&mut answer).unwrap();
                assert_eq!(answer, DONE);
            });
            let fetched = fetch(ours, &mine).unwrap();
            daemon.join().unwrap();
            assert_eq!(fetched.ended, Ended::Leave);
            if confirmed {
                assert!(fetched.confirm(&mine));
            } else {
                decline(&mine);
            }
            let second = server.join().unwrap().unwrap();
            assert_eq!(second == FORCE_CLOSE.to_le_bytes()[0], confirmed);
        }
    }
}
