//! `descriptors.json`: what the standard streams of a checkpointed container were.
//!
//! runc and crun write it beside CRIU's images, a JSON list of three strings, the targets of the
//! links /proc/PID/fd/0 to 2; so does hiber. A restore gives CRIU its own pipes under the old names.

use std::fs;
use std::io::{ErrorKind, Read as _};
use std::path::Path;

use crate::directory::ImageDirectory;
use crate::error::{CriuError, Result};

/// The file's name.
pub const FILE_NAME: &str = "descriptors.json";

/// Three short strings; anything longer is no such file.
const MAX_SIZE: u64 = 64 * 1024;

/// The targets of a process's standard streams, such as `/dev/null`, `pipe:[4242]`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Descriptors(pub Vec<String>);

impl Descriptors {
    /// Reads the links of descriptors 0, 1 and 2 of process `pid`; a closed one is an empty string.
    ///
    /// # Errors
    /// [`CriuError::Io`] if the process is gone or not ours to look at.
    pub fn of_process(pid: i32) -> Result<Self> {
        let link = |fd| {
            let path = format!("/proc/{pid}/fd/{fd}");
            match fs::read_link(&path) {
                Ok(target) => Ok(target.to_string_lossy().into_owned()),
                Err(e) if e.kind() == ErrorKind::NotFound && Path::new(&format!("/proc/{pid}")).exists() => {
                    Ok(String::new())
                }
                Err(e) => Err(CriuError::io(format!("read the link {path}"), e)),
            }
        };
        (0..3).map(link).collect::<Result<_>>().map(Self)
    }

    /// Reads the file in `dir`; none if there is no such file, as in a checkpoint of CRIU's own.
    ///
    /// # Errors
    /// [`CriuError::Image`] if it is not a list of strings.
    pub fn read(dir: &ImageDirectory) -> Result<Option<Self>> {
        let path = dir.path().join(FILE_NAME);
        let Some(file) = dir.file_if_any(FILE_NAME)? else { return Ok(None) };
        let mut json = Vec::new();
        file.take(MAX_SIZE)
            .read_to_end(&mut json)
            .map_err(|e| CriuError::io(format!("read {}", path.display()), e))?;
        serde_json::from_slice(&json)
            .map(|list| Some(Self(list)))
            .map_err(|e| CriuError::Image { path, problem: format!("not a JSON list of strings: {e}") })
    }

    /// Writes the file in `dir`, as runc does: no spaces, no newline.
    ///
    /// # Errors
    /// [`CriuError::Io`].
    pub fn write(&self, dir: &ImageDirectory) -> Result<()> {
        let json = serde_json::to_vec(&self.0).map_err(|e| CriuError::io("encode descriptors.json", e))?;
        dir.write(FILE_NAME, &json)
    }

    /// The streams that are pipes: the descriptor's number and the name that CRIU knows it by, the key
    /// of an inherited file. Other strings need nothing at restore.
    pub fn pipes(&self) -> impl Iterator<Item = (usize, &str)> {
        let named = self.0.iter().map(String::as_str).enumerate();
        named.filter(|(_, target)| target.starts_with("pipe:["))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_written_as_runc_writes_it_and_read_back() {
        let dir = tempfile::tempdir().unwrap();
        let d = Descriptors(vec!["/dev/null".into(), "pipe:[1]".into(), "pipe:[2]".into()]);
        d.write(&ImageDirectory::open(dir.path()).unwrap()).unwrap();
        let json = fs::read_to_string(dir.path().join(FILE_NAME)).unwrap();
        assert_eq!(json, r#"["/dev/null","pipe:[1]","pipe:[2]"]"#);
        let read = Descriptors::read(&ImageDirectory::open(dir.path()).unwrap()).unwrap().unwrap();
        assert_eq!(read, d);
        assert_eq!(read.pipes().collect::<Vec<_>>(), [(1, "pipe:[1]"), (2, "pipe:[2]")]);
    }

    #[test]
    fn absence_is_no_error_but_garbage_is() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(Descriptors::read(&ImageDirectory::open(dir.path()).unwrap()).unwrap(), None);
        fs::write(dir.path().join(FILE_NAME), "{\"0\":1}").unwrap();
        let e = Descriptors::read(&ImageDirectory::open(dir.path()).unwrap()).unwrap_err().to_string();
        assert!(e.contains("descriptors.json: not a JSON list of strings"), "{e}");
    }

    #[test]
    fn reads_the_links_of_a_process() {
        let pid = i32::try_from(std::process::id()).unwrap();
        let expected = fs::read_link("/proc/self/fd/1").unwrap();
        assert_eq!(Descriptors::of_process(pid).unwrap().0[1], expected.to_string_lossy());
        assert!(Descriptors::of_process(i32::MAX).is_err());
    }
}
