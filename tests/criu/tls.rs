//! Certificates of a test, a receiver that listens, and a link to it that fails.

use hiber_tests::prelude::*;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// A CA, and the files of those that it knows.
pub(crate) struct Ca {
    files: tempfile::TempDir,
    issuer: CertifiedIssuer<'static, KeyPair>,
}

impl Ca {
    pub(crate) fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let new = Self { files: tempfile::tempdir().unwrap(), issuer };
        fs::write(new.path("ca.pem"), new.issuer.pem()).unwrap();
        new
    }

    pub(crate) fn path(&self, name: &str) -> String {
        self.files.path().join(name).display().to_string()
    }

    /// A certificate for this machine, with a change, in NAME.pem and NAME.key.
    pub(crate) fn issue(&self, name: &str, change: impl FnOnce(&mut CertificateParams)) -> &Self {
        let names = ["localhost", "127.0.0.1", "::1"].map(str::to_owned);
        let mut params = CertificateParams::new(names).unwrap();
        change(&mut params);
        let key = KeyPair::generate().unwrap();
        fs::write(self.path(&format!("{name}.pem")), params.signed_by(&key, &self.issuer).unwrap().pem())
            .unwrap();
        fs::write(self.path(&format!("{name}.key")), key.serialize_pem()).unwrap();
        self
    }

    /// The flags of one who has NAME's certificate and believes `ca`.
    pub(crate) fn flags_with(&self, name: &str, ca: &Self) -> Vec<String> {
        let file = |ending: &str| self.path(&format!("{name}.{ending}"));
        ["--cert".into(), file("pem"), "--key".into(), file("key"), "--ca".into(), ca.path("ca.pem")].into()
    }

    pub(crate) fn flags(&self, name: &str) -> Vec<String> {
        self.flags_with(name, self)
    }
}

/// `receive --listen`.
pub(crate) struct Receiver {
    process: Child,
    pub(crate) port: u16,
    log: tempfile::NamedTempFile,
}

impl Receiver {
    /// For containers that come to the runtime of `there`.
    pub(crate) fn start(there: &Container, flags: &[String]) -> Self {
        let log = tempfile::NamedTempFile::new().unwrap();
        let mut command = there.runtime().command();
        command.args(["receive", "--listen", "127.0.0.1:0"]).args(flags);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(log.reopen().unwrap());
        let mut process = command.spawn().unwrap();
        let mut line = String::new();
        BufReader::new(process.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let port = line.trim().strip_prefix("listening at 127.0.0.1:").and_then(|port| port.parse().ok());
        Self {
            process,
            port: port.unwrap_or_else(|| panic!("{line:?}: {:?}", fs::read_to_string(&log))),
            log,
        }
    }

    /// Its log so far.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.log.path()).unwrap()
    }

    /// Waits until it has said that.
    #[track_caller]
    pub(crate) fn says(&self, words: &str) {
        wait_for(&format!("{words:?} in {:?}", self.log()), || self.log().contains(words));
    }

    pub(crate) fn signal(&self, signal: rustix::process::Signal) {
        rustix::process::kill_process(rustix::process::Pid::from_child(&self.process), signal).unwrap();
    }

    /// The processes that serve connections.
    pub(crate) fn serving(&self) -> Vec<rustix::process::Pid> {
        let pid = self.process.id();
        let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
        children
            .split_whitespace()
            .filter_map(|pid| rustix::process::Pid::from_raw(pid.parse().ok()?))
            .collect()
    }

    /// Its exit status, if it has ended.
    pub(crate) fn ended(&mut self) -> Option<i32> {
        self.process.try_wait().unwrap().map(|status| status.code().unwrap_or(-1))
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// `migrate FLAGS ID tls://HOST:PORT`.
pub(crate) fn migration(
    c: &Container,
    there: &Container,
    flags: &[&str],
    (host, port): (&str, u16),
    identity: &[String],
) -> std::process::Command {
    let bundle = there.bundle_path();
    let mut all = vec!["--id", there.id(), "--bundle", &bundle];
    all.extend(flags);
    let mut migrate = c.command("migrate", &all);
    migrate.arg(format!("tls://{host}:{port}")).args(identity);
    migrate
}

/// How a link fails when so many bytes have passed in one direction.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Fault {
    Cut(u64),
    Flip(u64),
    Stall(u64),
}

/// A link to a receiver for one connection, whose direction to the receiver (0) or from it (1) may fail.
pub(crate) struct Link {
    pub(crate) port: u16,
    /// Bytes that have passed in each direction.
    pub(crate) passed: Arc<[AtomicU64; 2]>,
}

impl Link {
    pub(crate) fn new(to: u16, fault: Option<(usize, Fault)>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (port, passed) = (listener.local_addr().unwrap().port(), Arc::<[AtomicU64; 2]>::default());
        let counts = Arc::clone(&passed);
        std::thread::spawn(move || {
            let (source, _) = listener.accept().unwrap();
            let there = TcpStream::connect(("127.0.0.1", to)).unwrap();
            let ends = [(source.try_clone().unwrap(), there.try_clone().unwrap()), (there, source)];
            for (direction, (from, to)) in ends.into_iter().enumerate() {
                let counts = Arc::clone(&counts);
                let fault = fault.filter(|(at, _)| *at == direction).map(|(_, fault)| fault);
                std::thread::spawn(move || pump(from, to, fault, &counts[direction]));
            }
        });
        Self { port, passed }
    }
}

fn pump(mut from: TcpStream, mut to: TcpStream, fault: Option<Fault>, passed: &AtomicU64) {
    let mut buffer = [0; 16 << 10];
    loop {
        let read = from.read(&mut buffer).unwrap_or(0);
        let before = passed.fetch_add(read as u64, Ordering::Relaxed);
        let within = |at: u64| at.checked_sub(before).filter(|at| *at < read as u64).map(|at| at as usize);
        match fault {
            Some(Fault::Cut(at)) if within(at).is_some() => {
                let _ = to.write_all(&buffer[..within(at).unwrap_or_default()]);
                let _ = (from.shutdown(Shutdown::Both), to.shutdown(Shutdown::Both));
                return;
            }
            Some(Fault::Stall(at)) if before + read as u64 > at => continue,
            Some(Fault::Flip(at)) => within(at).into_iter().for_each(|at| buffer[at] ^= 0x55),
            _ => {}
        }
        if read == 0 || to.write_all(&buffer[..read]).is_err() {
            let _ = to.shutdown(Shutdown::Write);
            return;
        }
    }
}

/// The answer of a receiver to one who shows no certificate.
pub(crate) fn without_certificate(port: u16, ca: &Path) -> std::io::Result<usize> {
    use rustls::pki_types::pem::PemObject;
    let mut roots = rustls::RootCertStore::empty();
    roots.add(rustls::pki_types::CertificateDer::from_pem_file(ca).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let tls = rustls::ClientConnection::new(config.into(), "localhost".try_into().unwrap()).unwrap();
    let mut stream = rustls::StreamOwned::new(tls, TcpStream::connect(("127.0.0.1", port))?);
    stream.write_all(b"W\0\0\0\0")?;
    stream.read(&mut [0; 100])
}
