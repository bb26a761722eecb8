//! Keys, and what is done with them.

use std::io;

use curve25519_dalek::montgomery::MontgomeryPoint;
use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};
use ring::rand::{SecureRandom, SystemRandom};
use ring::{hkdf, hmac};
use zeroize::Zeroizing;

/// The length of a tag of Poly1305.
pub(super) const TAG: usize = 16;

/// A key of 32 bytes, which does not stay behind in memory.
pub(super) type Key = Zeroizing<[u8; 32]>;

/// The key of one file.
pub(super) struct FileKey(Zeroizing<[u8; 16]>);

impl FileKey {
    pub(super) fn new(bytes: [u8; 16]) -> Self {
        Self(Zeroizing::new(bytes))
    }

    /// The key that authenticates the header.
    pub(super) fn mac(&self) -> hmac::Key {
        hmac::Key::new(hmac::HMAC_SHA256, &*derive(&*self.0, b"", "header"))
    }

    /// The key of the payload behind this nonce.
    pub(super) fn payload(&self, nonce: &[u8; 16]) -> LessSafeKey {
        aead(&derive(&*self.0, nonce, "payload"))
    }

    /// Sealed by a key that is used once.
    pub(super) fn wrapped(&self, by: &Key) -> Vec<u8> {
        let mut body = self.0.to_vec();
        let sealed = aead(by).seal_in_place_append_tag(zero(), Aad::empty(), &mut body);
        sealed.expect("16 bytes can be sealed");
        body
    }

    /// The key in the body of a stanza; none if another key sealed the body.
    pub(super) fn unwrapped(body: &[u8], by: &Key) -> Option<Self> {
        let mut body = Zeroizing::new(body.to_vec());
        let opened = aead(by).open_in_place(zero(), Aad::empty(), &mut body).ok()?;
        <[u8; 16]>::try_from(&*opened).ok().map(Self::new)
    }
}

/// HKDF with SHA-256.
pub(super) fn derive(secret: &[u8], salt: &[u8], info: &str) -> Key {
    struct Length;
    impl hkdf::KeyType for Length {
        fn len(&self) -> usize {
            32
        }
    }
    let mut key = Key::default();
    let info = [info.as_bytes()];
    let expanded = hkdf::Salt::new(hkdf::HKDF_SHA256, salt).extract(secret);
    expanded.expand(&info, Length).and_then(|okm| okm.fill(&mut *key)).expect("HKDF gives 32 bytes");
    key
}

fn aead(key: &Key) -> LessSafeKey {
    LessSafeKey::new(UnboundKey::new(&CHACHA20_POLY1305, &**key).expect("a key has 32 bytes"))
}

/// The nonce of keys that are used once.
fn zero() -> Nonce {
    Nonce::assume_unique_for_key([0; 12])
}

/// Bytes that nobody can guess.
pub(super) fn random<const N: usize>() -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    SystemRandom::new().fill(&mut bytes).map_err(|_| io::Error::other("the kernel gives no random bytes"))?;
    Ok(bytes)
}

/// The public key of a secret one, by X25519 (RFC 7748).
pub(super) fn public(secret: &Key) -> [u8; 32] {
    MontgomeryPoint::mul_base_clamped(**secret).to_bytes()
}

/// The secret that the owners of both keys share; none for points of small order, with which anybody shares it.
pub(super) fn shared(secret: &Key, public: &[u8; 32]) -> Option<Key> {
    let shared = MontgomeryPoint(*public).mul_clamped(**secret).to_bytes();
    (shared != [0; 32]).then(|| Key::new(shared))
}
