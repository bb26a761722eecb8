//! Keys: how chunks get their ids, and how files of the store are sealed.

use std::io;

use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};
use ring::rand::{SecureRandom, SystemRandom};
use zeroize::Zeroizing;

use crate::layout::Id;

/// How the key's parts are told from each other, and from whatever else is made of the same secret.
const SECRET: &str = "hiber-store 2026-12-01 secret";
const CHUNKS: &str = "hiber-store 2026-12-01 ids of chunks";
const KEY: &str = "hiber-store 2026-12-01 id of the key";
const FILE: &str = "hiber-store 2026-12-01 key of a file";
/// The bytes that sealing adds.
pub(crate) const TAG: usize = 16;
pub(crate) const SALT: usize = 32;

/// The key of checkpoints that share their chunks; or none, for those that are not sealed.
#[derive(Clone, Default)]
pub struct Key(Option<Secret>);

type Secret = Zeroizing<[u8; 32]>;

/// The id of a key, which does not give the key away. Zeros stand for none.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct KeyId(pub(crate) [u8; 16]);

impl KeyId {
    /// Whether this is the id of no key: what has it is not sealed.
    pub fn is_none(self) -> bool {
        self.0 == [0; 16]
    }
}

impl std::fmt::Display for KeyId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.iter().take(8).try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl std::fmt::Debug for Key {
    /// Without the key.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Key({})", self.id())
    }
}

impl Key {
    /// The key that belongs to a secret, of 32 random bytes or more.
    pub fn of(secret: &[u8]) -> Self {
        Self(Some(Zeroizing::new(blake3::derive_key(SECRET, secret))))
    }

    /// The key as bytes, for another process of the same user; empty for none.
    pub fn to_bytes(&self) -> Zeroizing<Vec<u8>> {
        Zeroizing::new(self.0.as_ref().map_or_else(Vec::new, |secret| secret.to_vec()))
    }

    /// The key that [`to_bytes`](Self::to_bytes) gave.
    pub fn from_bytes(bytes: &[u8]) -> Self {
        Self(bytes.try_into().ok().map(Zeroizing::new))
    }

    /// Its id, which is no secret.
    pub fn id(&self) -> KeyId {
        let id = |secret: &Secret| {
            let derived = blake3::derive_key(KEY, &**secret);
            KeyId(std::array::from_fn(|n| derived[n]))
        };
        self.0.as_ref().map_or_else(KeyId::default, id)
    }

    /// The function that gives chunks their ids.
    pub(crate) fn chunks(&self) -> Chunks {
        Chunks(self.0.as_ref().map(|secret| Zeroizing::new(blake3::derive_key(CHUNKS, &**secret))))
    }

    /// The seal of a file with this salt, which no other file has.
    pub(crate) fn file(&self, salt: &[u8; SALT]) -> Seal {
        let key = |secret: &Secret| {
            let both = Zeroizing::new([secret.as_slice(), salt].concat());
            let key = Zeroizing::new(blake3::derive_key(FILE, &both));
            LessSafeKey::new(UnboundKey::new(&CHACHA20_POLY1305, &*key).expect("a key has 32 bytes"))
        };
        Seal(self.0.as_ref().map(key))
    }
}

/// Gives chunks their ids.
#[derive(Clone)]
pub(crate) struct Chunks(Option<Zeroizing<[u8; 32]>>);

impl Chunks {
    pub(crate) fn id(&self, chunk: &[u8]) -> Id {
        let hash = self.0.as_ref().map_or_else(|| blake3::hash(chunk), |key| blake3::keyed_hash(key, chunk));
        *hash.as_bytes()
    }
}

impl std::fmt::Debug for Chunks {
    /// Without the key.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Chunks(keyed: {})", self.0.is_some())
    }
}

/// Seals the parts of one file, each by its number; or leaves them as they are.
pub(crate) struct Seal(Option<LessSafeKey>);

impl Seal {
    pub(crate) fn seal(&self, number: u64, mut part: Vec<u8>) -> Vec<u8> {
        if let Some(key) = &self.0 {
            let sealed = key.seal_in_place_append_tag(nonce(number), Aad::empty(), &mut part);
            sealed.expect("what is sealed is far shorter than 256 GiB");
        }
        part
    }

    /// The part, if nobody has changed it.
    pub(crate) fn open(&self, number: u64, mut part: Vec<u8>) -> Option<Vec<u8>> {
        if let Some(key) = &self.0 {
            let length = key.open_in_place(nonce(number), Aad::empty(), &mut part).ok()?.len();
            part.truncate(length);
        }
        Some(part)
    }
}

/// A key seals one file, of which each part has its number.
fn nonce(number: u64) -> Nonce {
    let mut nonce = [0; 12];
    nonce[..8].copy_from_slice(&number.to_le_bytes());
    Nonce::assume_unique_for_key(nonce)
}

/// A salt for a new file.
pub(crate) fn salt() -> io::Result<[u8; SALT]> {
    let mut salt = [0; SALT];
    let filled = SystemRandom::new().fill(&mut salt);
    filled.map_err(|_| io::Error::other("the kernel gives no random bytes"))?;
    Ok(salt)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_one_key_sealed_no_other_opens() {
        let (one, other, none) = (Key::of(&[1; 32]), Key::of(&[2; 32]), Key::default());
        let sealed = one.file(&[7; SALT]).seal(3, b"page".to_vec());
        assert_eq!(one.file(&[7; SALT]).open(3, sealed.clone()).unwrap(), b"page");
        assert!(one.file(&[7; SALT]).open(4, sealed.clone()).is_none());
        assert!(one.file(&[8; SALT]).open(3, sealed.clone()).is_none());
        assert!(other.file(&[7; SALT]).open(3, sealed).is_none());
        let ids = [&one, &other, &none].map(|key| key.chunks().id(b"page"));
        assert!(ids[0] != ids[1] && ids[1] != ids[2] && ids[0] != ids[2]);
        assert_eq!(ids[2], *blake3::hash(b"page").as_bytes());
        assert!(none.id().is_none() && !one.id().is_none() && one.id() != other.id());
        assert_eq!(Key::from_bytes(&one.to_bytes()).id(), one.id());
        assert!(Key::from_bytes(&none.to_bytes()).id().is_none());
        assert!(!format!("{one:?}").contains("1, 1"));
    }
}
