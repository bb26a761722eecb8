//! The token that a destination shows to get a container's memory.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::error::{Error, Result};
use crate::host::random::random;

/// 32 random bytes in the manifest of a checkpoint whose memory is served: who has the images has them, too. In JSON they
/// are hexadecimal.
///
/// Comparing two tokens takes the same time wherever they differ.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(blake3::Hash);

impl Token {
    /// A new one.
    pub(crate) fn new() -> Result<Self> {
        random().map(Self::from_bytes)
    }

    /// From its digits.
    pub(crate) fn of_hex(digits: &str) -> Result<Self> {
        blake3::Hash::from_hex(digits).map(Self).map_err(|e| Error::internal("read a token", e))
    }

    /// Its digits.
    pub(crate) fn to_hex(&self) -> String {
        self.0.to_hex().to_string()
    }

    pub(super) fn from_bytes(bytes: [u8; blake3::OUT_LEN]) -> Self {
        Self(blake3::Hash::from_bytes(bytes))
    }

    pub(super) fn as_bytes(&self) -> &[u8; blake3::OUT_LEN] {
        self.0.as_bytes()
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(..)")
    }
}

impl Serialize for Token {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0.to_hex())
    }
}

impl<'de> Deserialize<'de> for Token {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        blake3::Hash::from_hex(&text).map(Self).map_err(|_| {
            de::Error::invalid_value(de::Unexpected::Str("…"), &"a token of 64 hexadecimal digits")
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_new_and_survive_json_alone() {
        let (one, other) = (Token::new().unwrap(), Token::new().unwrap());
        assert_ne!(one, other);
        let json = serde_json::to_string(&one).unwrap();
        assert_eq!(serde_json::from_str::<Token>(&json).unwrap(), one);
        let secret = json.trim_matches('"');
        assert_eq!(secret.len(), 64);
        assert!(!format!("{one:?}").contains(&secret[..8]));
        let error = serde_json::from_str::<Token>("\"12\"").unwrap_err().to_string();
        assert!(error.contains("64 hexadecimal digits"), "{error}");
    }
}
