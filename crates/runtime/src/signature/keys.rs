//! Keys of ed25519 (RFC 8032) in the files that people have: openssl's (RFC 8410) and OpenSSH's.

use std::path::Path;

use ring::signature::{ED25519, Ed25519KeyPair, KeyPair as _, UnparsedPublicKey};
use zeroize::Zeroizing;

use crate::error::{Error, Result};
use crate::{key_file, openssh};

/// The largest file of a key.
pub(super) const MAX_FILE: u64 = 64 << 10;
/// The bytes before a public key of ed25519 in its structure (SubjectPublicKeyInfo).
const PUBLIC: [u8; 12] = [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];
pub(super) const EXPECTED_PUBLIC: &str =
    "expected a public key of ed25519 (`openssl pkey -pubout`, or ssh-ed25519)";
const EXPECTED_PRIVATE: &str = "expected a private key of ed25519 (`openssl genpkey -algorithm ed25519`)";

/// A key that signs checkpoints.
#[derive(Debug)]
pub struct SigningKey(Ed25519KeyPair);

impl SigningKey {
    /// Reads a private key of ed25519: PKCS #8 in PEM, as `openssl genpkey` writes it, or OpenSSH's without a passphrase.
    ///
    /// # Errors
    /// The file cannot be read, or has something else; the message has no part of a key.
    pub fn read(path: &Path) -> Result<Self> {
        let text = key_file::read(path, MAX_FILE, "a key")?;
        Self::of_text(&text).map(Self).map_err(|why| Error::File { path: path.into(), why })
    }

    fn of_text(text: &str) -> Result<Ed25519KeyPair, String> {
        let block = pem::parse(text.trim()).map_err(|_| format!("is no key; {EXPECTED_PRIVATE}"))?;
        match block.tag() {
            openssh::LABEL => {
                let (seed, public) = openssh::private_key(text)?;
                Ed25519KeyPair::from_seed_and_public_key(&*seed, &public.point)
                    .map_err(|_| "is damaged: its public key is another one's".into())
            }
            "PRIVATE KEY" => {
                let bytes = Zeroizing::new(block.into_contents());
                Ed25519KeyPair::from_pkcs8_maybe_unchecked(&bytes)
                    .map_err(|_| format!("is a key of another kind; {EXPECTED_PRIVATE}"))
            }
            "ENCRYPTED PRIVATE KEY" => {
                Err("is protected by a passphrase; expected a key without (`openssl pkey` takes it away)"
                    .into())
            }
            other => Err(format!("is a {other}; {EXPECTED_PRIVATE}")),
        }
    }

    /// The signature of these bytes.
    pub(crate) fn sign(&self, bytes: &[u8]) -> Vec<u8> {
        self.0.sign(bytes).as_ref().to_vec()
    }

    /// The key that verifies its signatures.
    pub fn public(&self) -> VerifyingKey {
        let mut key = [0; 32];
        key.copy_from_slice(self.0.public_key().as_ref());
        VerifyingKey(key)
    }
}

/// A key that verifies signatures of checkpoints.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VerifyingKey([u8; 32]);

impl VerifyingKey {
    /// Reads a public key of ed25519: PEM, as `openssl pkey -pubout` writes it, or a line of OpenSSH's.
    ///
    /// # Errors
    /// The file cannot be read, or has something else.
    pub fn read(path: &Path) -> Result<Self> {
        let text = key_file::read(path, MAX_FILE, "a key")?;
        Self::of_text(&text).map_err(|why| Error::File { path: path.into(), why })
    }

    /// The key in a file with this text.
    pub(crate) fn of_text(text: &str) -> Result<Self, String> {
        let text = text.trim();
        if !text.starts_with("-----BEGIN ") {
            return match text.split_whitespace().next() {
                Some(kind) if kind.contains('-') && text.lines().count() == 1 => {
                    openssh::public_key(text).map(|key| Self(key.point))
                }
                _ => Err(format!("is no key; {EXPECTED_PUBLIC}")),
            };
        }
        let block = pem::parse(text).map_err(|_| format!("is no key; {EXPECTED_PUBLIC}"))?;
        if block.tag() != "PUBLIC KEY" {
            return Err(format!("is a {}; {EXPECTED_PUBLIC}", block.tag()));
        }
        let key = block.contents().strip_prefix(&PUBLIC).and_then(|key| <[u8; 32]>::try_from(key).ok());
        key.map(Self).ok_or_else(|| format!("is a key of another kind; {EXPECTED_PUBLIC}"))
    }

    /// Whether its owner has signed these bytes.
    pub(crate) fn verifies(&self, bytes: &[u8], signature: &[u8]) -> bool {
        UnparsedPublicKey::new(&ED25519, self.0).verify(bytes, signature).is_ok()
    }
}
