//! Versions of CRIU, and features that it finds in the kernel.

use std::fmt;

use criu_proto::rpc::{CriuFeatures, CriuVersion};

/// A version of CRIU: 4.1.1 is newer than 4.1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version {
    /// 4 of 4.1.2.
    pub major: u32,
    /// 1 of 4.1.2.
    pub minor: u32,
    /// 2 of 4.1.2.
    pub sublevel: u32,
}

impl Version {
    /// The oldest one that hiber works with: it brought SINGLE_PRE_DUMP and LSM profiles at restore.
    pub const MINIMUM: Self = Self::new(3, 17, 0);

    /// A version.
    pub const fn new(major: u32, minor: u32, sublevel: u32) -> Self {
        Self { major, minor, sublevel }
    }

    /// A development build calls itself by the last release and a git id; it counts as that release.
    pub(crate) fn from_proto(v: &CriuVersion) -> Self {
        let part = |n: Option<i32>| n.and_then(|n| u32::try_from(n).ok()).unwrap_or(0);
        Self::new(part(v.major_number), part(v.minor_number), part(v.sublevel))
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)?;
        if self.sublevel > 0 { write!(f, ".{}", self.sublevel) } else { Ok(()) }
    }
}

/// The features that CRIU and the kernel have together (FEATURE_CHECK).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Features {
    /// Which pages changed: incremental dumps and pre-dumps (CONFIG_MEM_SOFT_DIRTY).
    pub mem_track: bool,
    /// Pages can follow after a restore (userfaultfd).
    pub lazy_pages: bool,
    /// Tasks can be told from later ones with the same pid (pidfd_open, pidfd_getfd).
    pub pidfd_store: bool,
}

impl Features {
    /// The question about all of them.
    pub(crate) fn all_to_proto() -> CriuFeatures {
        CriuFeatures {
            mem_track: Some(true),
            lazy_pages: Some(true),
            pidfd_store: Some(true),
            ..Default::default()
        }
    }

    pub(crate) fn from_proto(f: &CriuFeatures) -> Self {
        Self {
            mem_track: f.mem_track.unwrap_or(false),
            lazy_pages: f.lazy_pages.unwrap_or(false),
            pidfd_store: f.pidfd_store.unwrap_or(false),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_ordered_and_shown_as_criu_does() {
        assert!(Version::new(3, 9, 9) < Version::MINIMUM);
        assert!(Version::new(4, 1, 1) > Version::new(4, 1, 0));
        assert_eq!(Version::new(4, 2, 0).to_string(), "4.2");
        assert_eq!(Version::new(3, 17, 1).to_string(), "3.17.1");
    }

    #[test]
    fn negative_parts_count_as_zero() {
        let odd = CriuVersion { major_number: Some(4), minor_number: Some(-1), ..Default::default() };
        assert_eq!(Version::from_proto(&odd), Version::new(4, 0, 0));
    }
}
