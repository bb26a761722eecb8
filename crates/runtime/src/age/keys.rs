//! Recipients, to whom a file is encrypted, and identities, which open it.

use std::io;
use std::path::Path;

use bech32::Bech32;
use bech32::primitives::decode::CheckedHrpstring;
use zeroize::Zeroizing;

use super::failure::{ARMOR, Failure, MAGIC};
use super::header::{Header, Stanza, base64};
use super::primitives::{FileKey, Key, derive, public, random, shared};
use super::ssh::{self, PublicKey};
use crate::error::{Error, Result};
use crate::key_file;

/// The largest file of keys.
const MAX_FILE: u64 = 1 << 20;
const FILE: &str = "a file of keys";
const RECIPIENT: &str = "age";
const IDENTITY: &str = "age-secret-key-";
const X25519: &str = "X25519";
const LABEL: &str = "age-encryption.org/v1/X25519";
const SSH_ED25519: &str = "ssh-ed25519";
const SSH_LABEL: &str = "age-encryption.org/v1/ssh-ed25519";

/// Those for whom an archive is encrypted: each of them can open it with a key of theirs. With none, it is not encrypted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Recipients(Vec<Recipient>);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Recipient {
    X25519([u8; 32]),
    Ssh(PublicKey),
}

impl Recipients {
    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Adds a recipient: `age1…` of age's kind X25519, or an OpenSSH public key of the kind ssh-ed25519.
    ///
    /// # Errors
    /// The text is none.
    pub fn add(&mut self, text: &str) -> Result<()> {
        let found = recipient(text).map_err(|why| Error::Invalid(format!("{text:?}: {why}")))?;
        self.0.push(found);
        Ok(())
    }

    /// Adds those of a file: one on each line; empty lines and those that begin with `#` are none.
    ///
    /// # Errors
    /// The file cannot be read, has a line that is no recipient, or has none at all.
    pub fn add_file(&mut self, path: &Path) -> Result<()> {
        let refuse = |why: String| Error::File { path: path.into(), why };
        let text = key_file::read(path, MAX_FILE, FILE)?;
        let before = self.0.len();
        for (number, line) in lines(&text) {
            let found = recipient(line).map_err(|why| refuse(format!("line {number}: {why}")))?;
            self.0.push(found);
        }
        if self.0.len() == before { Err(refuse("names no recipient".into())) } else { Ok(()) }
    }

    /// The file's key, for each of them.
    pub(super) fn wrap(&self, key: &FileKey) -> io::Result<Vec<Stanza>> {
        self.0.iter().map(|recipient| recipient.wrap(key)).collect()
    }
}

fn recipient(text: &str) -> Result<Recipient, String> {
    let text = text.trim();
    if text.starts_with("ssh-") || text.starts_with("ecdsa-") || text.starts_with("sk-") {
        return ssh::public_key(text).map(Recipient::Ssh);
    }
    if text.to_ascii_lowercase().starts_with(IDENTITY) {
        return Err("is a secret key; expected the recipient that belongs to it (`age-keygen -y`)".into());
    }
    let expected = "expected age1… of age's kind X25519, or an OpenSSH public key of the kind ssh-ed25519";
    let (kind, bytes) = decoded(text).ok_or_else(|| format!("is no recipient; {expected}"))?;
    let bytes: [u8; 32] = match bytes.try_into() {
        Ok(bytes) if kind == RECIPIENT => bytes,
        _ => return Err(format!("is a recipient of another kind; {expected}")),
    };
    // Whatever the secret: with such a point nothing would be.
    shared(&Key::new([1; 32]), &bytes).ok_or("is a point of small order, which is nobody's key")?;
    Ok(Recipient::X25519(bytes))
}

impl Recipient {
    fn wrap(&self, key: &FileKey) -> io::Result<Stanza> {
        let secret = Key::new(random()?);
        let share = public(&secret);
        let none = || io::Error::other("a recipient's point has a small order");
        let (to, kind, label) = match self {
            Self::X25519(to) => (to, X25519, LABEL),
            Self::Ssh(key) => (&key.point, SSH_ED25519, SSH_LABEL),
        };
        let mut secret = shared(&secret, to).ok_or_else(none)?;
        let mut arguments = vec![base64(&share)];
        if let Self::Ssh(key) = self {
            secret = shared(&derive(b"", &key.wire, label), &secret).ok_or_else(none)?;
            arguments.insert(0, base64(&key.tag()));
        }
        let wrapper = derive(&*secret, &[share, *to].concat(), label);
        Ok(Stanza { kind: kind.into(), arguments, body: key.wrapped(&wrapper) })
    }
}

/// Keys that open archives.
#[derive(Default)]
pub struct Identities(Vec<Identity>);

struct Identity {
    secret: Key,
    /// The public key of `secret`.
    point: [u8; 32],
    /// An identity of ssh's is known by its public key.
    ssh: Option<PublicKey>,
}

impl std::fmt::Debug for Identities {
    /// Without the keys.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} identities", self.0.len())
    }
}

impl Identities {
    /// Adds those of a file: lines with `AGE-SECRET-KEY-1…`, as age-keygen writes them, or a private key of OpenSSH of the kind
    /// ssh-ed25519 that no passphrase protects.
    ///
    /// # Errors
    /// The file cannot be read, or has something else; the message has no part of a key.
    pub fn add_file(&mut self, path: &Path) -> Result<()> {
        self.add_text(&key_file::read(path, MAX_FILE, FILE)?)
            .map_err(|why| Error::File { path: path.into(), why })
    }

    /// Adds those of a file with this text.
    pub(super) fn add_text(&mut self, text: &str) -> Result<(), String> {
        if text.as_bytes().starts_with(MAGIC) || text.as_bytes().starts_with(ARMOR) {
            return Err("is encrypted itself; expected what `age --decrypt` makes of it".into());
        }
        if text.trim_start().starts_with("-----BEGIN ") {
            let (secret, key) = ssh::private_key(text)?;
            self.0.push(Identity { point: key.point, secret, ssh: Some(key) });
            return Ok(());
        }
        let before = self.0.len();
        for (number, line) in lines(text) {
            let found = identity(line).map_err(|why| format!("line {number}: {why}"))?;
            self.0.push(found);
        }
        if self.0.len() == before { Err("has no key".into()) } else { Ok(()) }
    }

    /// The secret of the only key; none if there are more.
    pub(crate) fn only_secret(&self) -> Option<&Zeroizing<[u8; 32]>> {
        match self.0.as_slice() {
            [only] => Some(&only.secret),
            _ => None,
        }
    }

    /// The key of the file with this header.
    pub(super) fn unwrap(&self, header: &Header) -> Result<FileKey, Failure> {
        let stanzas = &header.stanzas;
        if stanzas.iter().any(|stanza| stanza.kind == "scrypt") {
            return Err(match stanzas.len() {
                1 => Failure::Passphrase,
                _ => Failure::Header("has a passphrase beside other recipients".into()),
            });
        }
        if self.0.is_empty() {
            return Err(Failure::NoIdentity);
        }
        for identity in &self.0 {
            for stanza in stanzas {
                if let Some(key) = identity.unwrap(stanza)? {
                    return Ok(key);
                }
            }
        }
        let mut kinds: Vec<_> = stanzas.iter().map(|stanza| stanza.kind.as_str()).collect();
        // age writes stanzas of no meaning, so that readers get used to unknown ones.
        kinds.retain(|kind| !kind.ends_with("-grease"));
        kinds.truncate(8);
        Err(Failure::NotForUs(kinds.join(", ")))
    }
}

fn identity(line: &str) -> Result<Identity, String> {
    if line.starts_with("AGE-PLUGIN-") || line.starts_with("AGE-SECRET-KEY-PQ-") {
        return Err("is a key of a kind that hiber does not know; expected AGE-SECRET-KEY-1…".into());
    }
    let bytes = decoded(line).filter(|(kind, _)| kind == IDENTITY).map(|(_, bytes)| Zeroizing::new(bytes));
    let secret = bytes.and_then(|bytes| <[u8; 32]>::try_from(&**bytes).ok()).map(Key::new);
    let secret = secret.ok_or("is no identity; expected AGE-SECRET-KEY-1…, or a private key of OpenSSH")?;
    Ok(Identity { point: public(&secret), secret, ssh: None })
}

impl Identity {
    /// The file's key, if this stanza is for us.
    fn unwrap(&self, stanza: &Stanza) -> Result<Option<FileKey>, Failure> {
        let (kind, label) = if self.ssh.is_some() { (SSH_ED25519, SSH_LABEL) } else { (X25519, LABEL) };
        if stanza.kind != kind {
            return Ok(None);
        }
        let bad = || Failure::Header(format!("has a malformed recipient of the kind {kind}"));
        let place = usize::from(self.ssh.is_some());
        let share: [u8; 32] = stanza.argument(place).ok_or_else(bad)?;
        if stanza.arguments.len() != place + 1 || stanza.body.len() != 32 {
            return Err(bad());
        }
        let mut secret = shared(&self.secret, &share).ok_or_else(bad)?;
        if let Some(key) = &self.ssh {
            let tag: [u8; 4] = stanza.argument(0).ok_or_else(bad)?;
            if tag != key.tag() {
                return Ok(None);
            }
            secret = shared(&derive(b"", &key.wire, label), &secret).ok_or_else(bad)?;
        }
        let wrapper = derive(&*secret, &[share, self.point].concat(), label);
        Ok(FileKey::unwrapped(&stanza.body, &wrapper))
    }
}

/// The kind of a text in Bech32, in lower case, and its bytes. The text may be in lower or in upper case, and not in both.
fn decoded(text: &str) -> Option<(String, Vec<u8>)> {
    let checked = CheckedHrpstring::new::<Bech32>(text).ok()?;
    let (kind, bytes) = (checked.hrp(), checked.byte_iter().collect::<Vec<_>>());
    // Bits that fill the last letter are zero.
    let canonical = bech32::encode_lower::<Bech32>(kind, &bytes).ok()?;
    text.eq_ignore_ascii_case(&canonical).then(|| (kind.to_lowercase(), bytes))
}

/// Lines that say something, and their numbers.
fn lines(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let lines = text.lines().enumerate().map(|(n, line)| (n + 1, line.trim()));
    lines.filter(|(_, line)| !line.is_empty() && !line.starts_with('#'))
}
