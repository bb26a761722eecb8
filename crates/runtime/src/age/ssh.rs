//! Keys of OpenSSH as age uses them: moved from Edwards' curve to Montgomery's.

use curve25519_dalek::edwards::CompressedEdwardsY;
use ring::digest::{SHA256, SHA512, digest};

use super::primitives::{Key, public};
use crate::openssh;

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

    fn of(key: openssh::PublicKey) -> Result<Self, String> {
        let point = CompressedEdwardsY(key.point).decompress().filter(|point| !point.is_small_order());
        let point = point.ok_or("is no public key: its point is not on the curve")?;
        Ok(Self { wire: key.wire, point: point.to_montgomery().to_bytes() })
    }
}

/// The key in a line of a file of public keys.
pub(super) fn public_key(line: &str) -> Result<PublicKey, String> {
    openssh::public_key(line).and_then(PublicKey::of)
}

/// The key in a file that ssh-keygen has written: what X25519 uses of it, and its public key.
pub(super) fn private_key(text: &str) -> Result<(Key, PublicKey), String> {
    let (seed, key) = openssh::private_key(text)?;
    let key = PublicKey::of(key)?;
    let hash = digest(&SHA512, &*seed);
    let mut secret = Key::default();
    secret.copy_from_slice(&hash.as_ref()[..32]);
    if public(&secret) != key.point {
        return Err("is damaged: its public key is another one's".into());
    }
    Ok((secret, key))
}
