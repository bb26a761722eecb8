//! A value that is written to a file of a cgroup.

use serde::{Deserialize, Serialize};

use super::version::Version;

/// One value for one file of a cgroup.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Write {
    /// The field of config.json that it comes from, for errors.
    pub field: String,
    /// The hierarchy's version.
    pub version: Version,
    /// The controller, by its name there: `blkio` or `io`.
    pub controller: String,
    /// The file in the cgroup's directory.
    pub file: String,
    /// The written value, without a newline.
    pub value: String,
    /// File and value to use where the kernel has no `file`.
    pub instead: Option<(String, String)>,
    /// Whether a kernel without the file already does what `value` asks for.
    pub optional: bool,
}

impl Write {
    pub(super) fn new(
        field: impl Into<String>,
        version: Version,
        controller: &str,
        file: impl Into<String>,
        value: impl Into<String>,
    ) -> Self {
        Self {
            field: field.into(),
            version,
            controller: controller.into(),
            file: file.into(),
            value: value.into(),
            instead: None,
            optional: false,
        }
    }
}
