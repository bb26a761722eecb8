//! Streams over TLS 1.3. Both ends show a certificate, and believe certificates of one CA; the source also compares the name or
//! address by which it has reached the destination.

use std::fs::File;
use std::io::{self, BufReader, Read, Write};
use std::net::{Shutdown, TcpStream, ToSocketAddrs};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::event::PollFlags;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, ClientConnection, Connection, RootCertStore, ServerConfig, ServerConnection};

use super::stream::await_ready;
use super::tls_errors::in_words;
use crate::error::{Error, Result};
use crate::state::migration::Identity;

/// Bytes that are asked of the socket at once.
const PART: usize = 128 << 10;
/// How long an end that has refused takes what the other one still sends: were the socket closed at once, TCP would throw away
/// the refusal that is on its way.
const LINGER: Duration = Duration::from_secs(2);

impl Identity {
    /// Whether the files can be read, and belong together.
    ///
    /// # Errors
    /// The file that cannot be used, and why.
    pub fn check(&self) -> Result<()> {
        self.server().map(drop)
    }

    fn client(&self) -> Result<ClientConfig> {
        let ours = Credentials::read(self)?;
        let mut config =
            ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
                .with_protocol_versions(&[&rustls::version::TLS13])
                .map_err(broken)?
                .with_root_certificates(ours.roots)
                .with_client_auth_cert(ours.chain, ours.key)
                .map_err(|e| self.unusable(&e))?;
        config.resumption = rustls::client::Resumption::disabled();
        Ok(config)
    }

    fn server(&self) -> Result<ServerConfig> {
        let ours = Credentials::read(self)?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let verifier = WebPkiClientVerifier::builder_with_provider(ours.roots.into(), provider.clone());
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(broken)?
            .with_client_cert_verifier(
                verifier.build().map_err(|e| Error::internal("check certificates", e))?,
            )
            .with_single_cert(ours.chain, ours.key)
            .map_err(|e| self.unusable(&e))?;
        // A connection is a migration: none is resumed.
        config.send_tls13_tickets = 0;
        Ok(config)
    }

    fn unusable(&self, e: &rustls::Error) -> Error {
        let (cert, key) = (self.cert.display(), self.key.display());
        Error::Invalid(match e {
            rustls::Error::InconsistentKeys(_) => format!("--key {key}: is not the key of --cert {cert}"),
            rustls::Error::InvalidCertificate(_) => format!("--cert {cert}: {e}"),
            _ => format!("--key {key}: {e}"),
        })
    }
}

fn broken(e: rustls::Error) -> Error {
    Error::internal("set TLS up", e)
}

/// The content of the files.
struct Credentials {
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
    roots: RootCertStore,
}

impl Credentials {
    fn read(from: &Identity) -> Result<Self> {
        let mut roots = RootCertStore::empty();
        for root in items::<CertificateDer<'static>>("--ca", &from.ca, "certificate")? {
            roots.add(root).map_err(|e| {
                Error::Invalid(format!("--ca {}: {}", from.ca.display(), in_words(&e, "the CA")))
            })?;
        }
        let chain = items("--cert", &from.cert, "certificate")?;
        let mut keys = items("--key", &from.key, "private key")?;
        Ok(Self { chain, key: keys.swap_remove(0), roots })
    }
}

/// All items of a kind in a file of PEM form: at least one.
fn items<T: PemObject>(flag: &str, path: &Path, what: &str) -> Result<Vec<T>> {
    let bad = |why: String| {
        Error::Invalid(format!("{flag} {}: {why}; expected a {what} in PEM form", path.display()))
    };
    let file = File::open(path).map_err(|e| Error::host(format!("{flag} {}", path.display()), e))?;
    let found = T::pem_reader_iter(file).collect::<std::result::Result<Vec<T>, _>>();
    match found {
        Ok(found) if found.is_empty() => Err(bad(format!("has no {what}"))),
        Ok(found) => Ok(found),
        Err(pem::Error::Io(e)) => Err(Error::host(format!("{flag} {}", path.display()), e)),
        Err(e) => Err(bad(e.to_string())),
    }
}

/// A connection, for all who hold a part of it.
struct Shared {
    socket: TcpStream,
    tls: Mutex<Connection>,
    stall: Duration,
    /// The other end, in messages.
    other: &'static str,
}

/// The parts of a connection: for reading, for writing, and for its end.
pub(super) type Parts = (Reader, Writer, Ending);

/// To a receiver that listens, as the source.
pub(super) fn connect(host: &str, port: u16, identity: &Identity, stall: Duration) -> Result<Parts> {
    let config = identity.client()?;
    // A zone is of this machine; no certificate has it.
    let bare = host.split_once('%').map_or(host, |(address, _)| address);
    let name = ServerName::try_from(bare.to_owned())
        .map_err(|_| Error::Invalid(format!("tls://{host}: expected the name or address of a host")))?;
    let failed = |e: io::Error| Error::host(format!("connect to tls://{host}:{port}"), e);
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    for address in (host, port).to_socket_addrs().map_err(failed)? {
        match TcpStream::connect_timeout(&address, stall) {
            Ok(socket) => {
                let tls = ClientConnection::new(config.into(), name).map_err(broken)?;
                return shake_hands(socket, tls.into(), stall, "the destination").map_err(failed);
            }
            Err(e) => last = e,
        }
    }
    Err(failed(last))
}

/// From a source that has connected.
pub(super) fn accept(socket: TcpStream, identity: &Identity, stall: Duration) -> Result<Parts> {
    let tls = ServerConnection::new(identity.server()?.into()).map_err(broken)?;
    shake_hands(socket, tls.into(), stall, "the source")
        .map_err(|e| Error::host("agree on TLS with the source", e))
}

/// Done within `stall`, however slowly the other end sends its part.
fn shake_hands(
    socket: TcpStream,
    tls: Connection,
    stall: Duration,
    other: &'static str,
) -> io::Result<Parts> {
    socket.set_nonblocking(true)?;
    socket.set_nodelay(true)?;
    let incoming = BufReader::with_capacity(PART, socket.try_clone()?);
    let shared = Arc::new(Shared { socket, tls: tls.into(), stall, other });
    let mut reader = Reader { shared: Arc::clone(&shared), incoming };
    // From here on the other end hears why, and takes its time to.
    let ending = Ending(Arc::clone(&shared));
    let end = Instant::now() + stall;
    while shared.lock().is_handshaking() {
        shared.flush(end)?;
        if shared.lock().is_handshaking() && !reader.receive(end)? {
            let why = "it has closed the connection before TLS was agreed upon";
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, why));
        }
    }
    shared.flush(end)?;
    Ok((reader, Writer(shared), ending))
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Connection> {
        self.tls.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends all that is encrypted, as far as the socket takes it; whether that was all.
    fn send(&self) -> io::Result<bool> {
        let mut tls = self.lock();
        while tls.wants_write() {
            match tls.write_tls(&mut &self.socket) {
                Ok(_) => {}
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(e) => return Err(e),
            }
        }
        Ok(true)
    }

    fn flush(&self, end: Instant) -> io::Result<()> {
        while !self.send()? {
            self.wait(PollFlags::OUT, end)?;
        }
        Ok(())
    }

    /// Waits for the socket until the time `end`.
    fn wait(&self, flags: PollFlags, end: Instant) -> io::Result<()> {
        await_ready(&self.socket, flags, end.saturating_duration_since(Instant::now())).map_err(|e| {
            match e.kind() {
                io::ErrorKind::TimedOut => {
                    let why =
                        format!("{} has stalled for {} s (--stall)", self.other, self.stall.as_secs_f64());
                    io::Error::new(io::ErrorKind::TimedOut, why)
                }
                _ => e,
            }
        })
    }

    fn patience(&self) -> Instant {
        Instant::now() + self.stall
    }
}

/// The other end's words.
pub(super) struct Reader {
    shared: Arc<Shared>,
    incoming: BufReader<TcpStream>,
}

impl Reader {
    /// Decrypts what comes next; false at the end of the stream.
    fn receive(&mut self, end: Instant) -> io::Result<bool> {
        loop {
            let mut tls = self.shared.lock();
            match tls.read_tls(&mut self.incoming) {
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                    drop(tls);
                    self.shared.wait(PollFlags::IN, end)?;
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
                Ok(bytes) => {
                    let understood = tls.process_new_packets();
                    drop(tls);
                    // An alert that says why, or an answer that TLS itself has: it may go with what is sent next.
                    let _ = self.shared.send();
                    let words =
                        |e| io::Error::new(io::ErrorKind::InvalidData, in_words(&e, self.shared.other));
                    return understood.map(|_| bytes > 0).map_err(words);
                }
            }
        }
    }
}

impl Read for Reader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let read = self.shared.lock().reader().read(buffer);
            match read {
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => self.receive(self.shared.patience())?,
                // An end of the stream without close_notify may have been made by anybody in between.
                Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => {
                    let why = format!("the connection was cut: {} has not closed it", self.shared.other);
                    return Err(io::Error::new(io::ErrorKind::ConnectionAborted, why));
                }
                other => return other,
            };
        }
    }
}

/// Words to the other end.
pub(super) struct Writer(Arc<Shared>);

impl Write for Writer {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.0.lock().writer().write(bytes)?;
        self.0.flush(self.0.patience())?;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The end of a connection: the other end hears of it.
pub(super) struct Ending(Arc<Shared>);

impl Ending {
    fn close(&self) {
        self.0.lock().send_close_notify();
        let _ = self.0.send();
        let _ = self.0.socket.shutdown(Shutdown::Write);
    }

    /// Drops what comes, until there is nothing more.
    fn drain(&self) {
        let (end, mut buffer) = (Instant::now() + LINGER, vec![0; PART]);
        while self.0.wait(PollFlags::IN, end).is_ok() {
            match (&self.0.socket).read(&mut buffer) {
                Ok(0) => return,
                Err(e) if e.kind() != io::ErrorKind::WouldBlock => return,
                _ => {}
            }
        }
    }
}

impl Drop for Ending {
    fn drop(&mut self) {
        self.close();
        self.drain();
    }
}
