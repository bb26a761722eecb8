//! Small choices that people make on a command line.

use std::fmt;
use std::str::FromStr;

use criu_proto::rpc::{CriuCgMode, CriuNetworkLockMethod};
use serde::{Deserialize, Serialize};

/// How a restore treats cgroups (criu(8), --manage-cgroups); a dump saves them unless ignored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum CgroupMode {
    /// Sets the values of cgroups that CRIU makes, leaves existing ones alone.
    #[default]
    Soft,
    /// Sets the values of all of them.
    Full,
    /// Fails if one exists already.
    Strict,
    /// Neither saves nor restores any.
    Ignore,
    /// Sets values in existing cgroups, makes none.
    Props,
    /// Makes none and sets none, but puts tasks into existing ones.
    None,
}

/// How packets are kept out while TCP connections are saved or restored (criu(8), --network-lock).
/// A restore uses the method of its dump, whatever it is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum NetworkLock {
    /// With the program iptables-restore.
    Iptables,
    /// With libnftables, inside CRIU.
    Nftables,
    /// Not at all: for a network that nothing reaches, or that the handler locks.
    Skip,
}

/// A word that is none of a choice's.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid {what} {given:?}: expected {expected}")]
pub struct UnknownWord {
    what: &'static str,
    given: String,
    expected: &'static str,
}

impl CgroupMode {
    pub(crate) fn to_proto(self) -> CriuCgMode {
        match self {
            Self::Soft => CriuCgMode::SOFT,
            Self::Full => CriuCgMode::FULL,
            Self::Strict => CriuCgMode::STRICT,
            Self::Ignore => CriuCgMode::IGNORE,
            Self::Props => CriuCgMode::PROPS,
            Self::None => CriuCgMode::CG_NONE,
        }
    }
}

impl NetworkLock {
    pub(crate) fn to_proto(self) -> CriuNetworkLockMethod {
        match self {
            Self::Iptables => CriuNetworkLockMethod::IPTABLES,
            Self::Nftables => CriuNetworkLockMethod::NFTABLES,
            Self::Skip => CriuNetworkLockMethod::SKIP,
        }
    }
}

impl FromStr for CgroupMode {
    type Err = UnknownWord;
    fn from_str(s: &str) -> Result<Self, UnknownWord> {
        Ok(match s {
            "soft" => Self::Soft,
            "full" => Self::Full,
            "strict" => Self::Strict,
            "ignore" => Self::Ignore,
            "props" => Self::Props,
            "none" => Self::None,
            _ => {
                let expected = "soft, full, strict, ignore, props or none";
                return Err(UnknownWord { what: "cgroup mode", given: s.into(), expected });
            }
        })
    }
}

impl FromStr for NetworkLock {
    type Err = UnknownWord;
    fn from_str(s: &str) -> Result<Self, UnknownWord> {
        Ok(match s {
            "iptables" => Self::Iptables,
            "nftables" => Self::Nftables,
            "skip" => Self::Skip,
            _ => {
                let expected = "iptables, nftables or skip";
                return Err(UnknownWord { what: "network lock", given: s.into(), expected });
            }
        })
    }
}

impl fmt::Display for CgroupMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Soft => "soft",
            Self::Full => "full",
            Self::Strict => "strict",
            Self::Ignore => "ignore",
            Self::Props => "props",
            Self::None => "none",
        })
    }
}

impl fmt::Display for NetworkLock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Iptables => "iptables",
            Self::Nftables => "nftables",
            Self::Skip => "skip",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_mode_reads_back_what_it_shows() {
        use CgroupMode as M;
        for mode in [M::Soft, M::Full, M::Strict, M::Ignore, M::Props, M::None] {
            assert_eq!(mode.to_string().parse(), Ok(mode));
        }
        for lock in [NetworkLock::Iptables, NetworkLock::Nftables, NetworkLock::Skip] {
            assert_eq!(lock.to_string().parse(), Ok(lock));
        }
    }

    #[test]
    fn an_unknown_word_is_answered_with_the_known_ones() {
        let e = "Soft".parse::<CgroupMode>().unwrap_err();
        assert_eq!(
            e.to_string(),
            "invalid cgroup mode \"Soft\": expected soft, full, strict, ignore, props or none"
        );
        let e = "".parse::<NetworkLock>().unwrap_err();
        assert_eq!(e.to_string(), "invalid network lock \"\": expected iptables, nftables or skip");
    }
}
