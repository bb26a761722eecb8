//! Keys of OpenSSH (PROTOCOL.key; RFC 4253, section 6.6) of the kind ssh-ed25519 (RFC 8709).

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use zeroize::Zeroizing;

/// The only kind that is known here.
pub(crate) const KIND: &str = "ssh-ed25519";
/// The label of a file with a private key.
pub(crate) const LABEL: &str = "OPENSSH PRIVATE KEY";
/// The beginning of a private key.
const MAGIC: &[u8] = b"openssh-key-v1\0";

/// A public key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PublicKey {
    /// As ssh sends it.
    pub(crate) wire: Vec<u8>,
    /// The point on Edwards' curve, whether it is there or not.
    pub(crate) point: [u8; 32],
}

impl PublicKey {
    fn of_wire(wire: &[u8]) -> Result<Self, String> {
        let mut reader = Reader(wire);
        let kind = reader.string().unwrap_or_default();
        if kind != KIND.as_bytes() {
            let kind = String::from_utf8_lossy(&kind[..kind.len().min(40)]);
            return Err(format!("is a key of the kind {}; expected {KIND}", kind.escape_debug()));
        }
        let point = reader.string().and_then(|key| <[u8; 32]>::try_from(key).ok());
        let point = point.filter(|_| reader.0.is_empty()).ok_or("is no public key: it has not 32 bytes")?;
        Ok(Self { wire: wire.into(), point })
    }
}

/// The key in a line of a file of public keys: the kind, the key in Base64, and a comment.
pub(crate) fn public_key(line: &str) -> Result<PublicKey, String> {
    let mut words = line.split_ascii_whitespace();
    let kind = words.next().unwrap_or_default();
    if kind != KIND {
        return Err(format!("is a key of the kind {kind}; expected {KIND} (`ssh-keygen -t ed25519`)"));
    }
    let wire = words.next().and_then(|text| STANDARD.decode(text).ok());
    PublicKey::of_wire(&wire.ok_or("is no public key: what follows its kind is no Base64")?)
}

/// The key in a file that ssh-keygen has written: the seed, and the public key that is said to belong to it.
pub(crate) fn private_key(text: &str) -> Result<(Zeroizing<[u8; 32]>, PublicKey), String> {
    let block = pem::parse(text.trim()).map_err(|_| "is no private key of OpenSSH")?;
    if block.tag() != LABEL {
        return Err(format!("is a {}; expected a private key of OpenSSH of the kind {KIND}", block.tag()));
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
    let mut seed = Zeroizing::new([0; 32]);
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
