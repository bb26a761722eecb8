//! Keys of OpenSSH (PROTOCOL.key; RFC 4253, section 6.6) of the kind ssh-ed25519 (RFC 8709), as age uses them: moved from Edwards'
//! curve to Montgomery's.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use curve25519_dalek::edwards::CompressedEdwardsY;
use ring::digest::{SHA256, SHA512, digest};
use zeroize::Zeroizing;

use super::primitives::Key;

const KIND: &str = "ssh-ed25519";
/// The beginning of a private key.
const MAGIC: &[u8] = b"openssh-key-v1\0";

/// A public key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct PublicKey {
    /// As ssh sends it.
    pub(super) wire: Vec<u8>,
    /// On Montgomery's curve.
    pub(super) point: [u8; 32],
}

impl PublicKey {
    /// By which its owner finds a file's key.
    pub(super) fn tag(&self) -> [u8; 4] {
        let hash = digest(&SHA256, &self.wire);
        let bytes = hash.as_ref();
        [bytes[0], bytes[1], bytes[2], bytes[3]]
    }

    fn of_wire(wire: &[u8]) -> Result<Self, String> {
        let mut reader = Reader(wire);
        let kind = reader.string().unwrap_or_default();
        if kind != KIND.as_bytes() {
            let kind = String::from_utf8_lossy(&kind[..kind.len().min(40)]);
            return Err(format!("is a key of the kind {}; expected {KIND}", kind.escape_debug()));
        }
        let key = reader.string().and_then(|key| <[u8; 32]>::try_from(key).ok());
        let point = key.filter(|_| reader.0.is_empty()).and_then(|key| CompressedEdwardsY(key).decompress());
        let point = point.filter(|point| !point.is_small_order());
        let point = point.ok_or("is no public key: its point is not on the curve")?;
        Ok(Self { wire: wire.into(), point: point.to_montgomery().to_bytes() })
    }
}

/// The key in a line of a file of public keys: the kind, the key in Base64, and a comment.
pub(super) fn public_key(line: &str) -> Result<PublicKey, String> {
    let mut words = line.split_ascii_whitespace();
    let kind = words.next().unwrap_or_default();
    if kind != KIND {
        return Err(format!(
            "is a key of the kind {kind}; expected {KIND} (age1… or `ssh-keygen -t ed25519`)"
        ));
    }
    let wire = words.next().and_then(|text| STANDARD.decode(text).ok());
    PublicKey::of_wire(&wire.ok_or("is no public key: what follows its kind is no Base64")?)
}

/// The key in a file that ssh-keygen has written: what X25519 uses of it, and its public key.
pub(super) fn private_key(text: &str) -> Result<(Key, PublicKey), String> {
    let (seed, public) = seed(text)?;
    let hash = digest(&SHA512, &*seed);
    let mut secret = Key::default();
    secret.copy_from_slice(&hash.as_ref()[..32]);
    if super::primitives::public(&secret) != public.point {
        return Err("is damaged: its public key is another one's".into());
    }
    Ok((secret, public))
}

fn seed(text: &str) -> Result<(Key, PublicKey), String> {
    let block = pem::parse(text.trim()).map_err(|_| "is no private key of OpenSSH")?;
    if block.tag() != "OPENSSH PRIVATE KEY" {
        return Err(format!("is a {:?}; expected a private key of OpenSSH of the kind {KIND}", block.tag()));
    }
    let bytes = Zeroizing::new(block.into_contents());
    let damaged = || "is damaged: it ends early".to_owned();
    let mut reader = Reader(bytes.strip_prefix(MAGIC).ok_or("is no private key of OpenSSH, version 1")?);
    let cipher = reader.string().ok_or_else(damaged)?;
    if cipher != b"none" {
        return Err(
            "is protected by a passphrase; expected a key without (`ssh-keygen -p` takes it away)".into()
        );
    }
    let (_kdf, _options) = (reader.string().ok_or_else(damaged)?, reader.string().ok_or_else(damaged)?);
    if reader.number().ok_or_else(damaged)? != 1 {
        return Err("has several keys; expected one".into());
    }
    let public = PublicKey::of_wire(reader.string().ok_or_else(damaged)?)?;
    let mut private = Reader(reader.string().ok_or_else(damaged)?);
    // Two equal numbers, which a wrong passphrase would make different, and the public key once more.
    let checked = private.number().is_some_and(|first| private.number() == Some(first));
    let same = private.string() == Some(KIND.as_bytes()) && private.string().is_some();
    let pair = private.string().filter(|pair| checked && same && pair.len() == 64).ok_or_else(damaged)?;
    let mut seed = Key::default();
    seed.copy_from_slice(&pair[..32]);
    Ok((seed, public))
}

/// Numbers of 32 bits in network order, and strings behind their length.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn number(&mut self) -> Option<u32> {
        let (number, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(u32::from_be_bytes(*number))
    }

    fn string(&mut self) -> Option<&'a [u8]> {
        let length = usize::try_from(self.number()?).ok()?;
        let (string, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(string)
    }
}
