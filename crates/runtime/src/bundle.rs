//! Bundles that are made for a container.

use std::os::unix::fs::DirBuilderExt;
use std::path::Path;

use oci_spec::runtime::Spec;

use crate::error::{Error, Result};
use crate::host::owned;

/// The label (an annotation of the configuration) with the path of a container's bundle.
pub const BUNDLE_LABEL: &str = "org.hiber.bundle";

/// Makes a bundle: the directory `dir` (0755), with `spec` as its config.json (0600), which gets the label [`BUNDLE_LABEL`]. The
/// caller puts the root filesystem at `root.path`.
///
/// # Errors
/// If the directory exists, its parent does not, or it cannot be written. Then nothing is left behind.
pub fn create(dir: &Path, mut spec: Spec) -> Result<()> {
    let absolute = std::path::absolute(dir).map_err(|e| Error::file(dir, &e))?;
    let mut annotations = spec.annotations().clone().unwrap_or_default();
    annotations.insert(BUNDLE_LABEL.to_owned(), absolute.to_string_lossy().into_owned());
    spec.set_annotations(Some(annotations));
    let json = serde_json::to_vec_pretty(&spec).map_err(|e| Error::internal("encode config.json", e))?;
    std::fs::DirBuilder::new().mode(0o755).create(dir).map_err(|e| Error::file(dir, &e))?;
    let path = dir.join("config.json");
    // Environments have secrets in them.
    owned::write(&path, &json).map_err(|e| {
        let _ = std::fs::remove_dir_all(dir);
        Error::file(&path, &e)
    })
}

/// The user and group of a configuration's process; 0 and 0 where it has none.
pub fn user(spec: &Spec) -> (u32, u32) {
    spec.process().as_ref().map_or((0, 0), |process| (process.user().uid(), process.user().gid()))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_bundle_says_where_it_is() {
        let dir = tempfile::tempdir().unwrap();
        let bundle = dir.path().join("b");
        create(&bundle, Spec::default()).unwrap();
        assert_eq!(std::fs::metadata(&bundle).unwrap().permissions().mode() & 0o777, 0o755);
        assert_eq!(
            std::fs::metadata(bundle.join("config.json")).unwrap().permissions().mode() & 0o777,
            0o600
        );
        let spec = Spec::load(bundle.join("config.json")).unwrap();
        assert_eq!(spec.annotations().as_ref().unwrap()[BUNDLE_LABEL], bundle.to_str().unwrap());
        let again = create(&bundle, Spec::default()).unwrap_err().to_string();
        assert!(again.contains("file exists"), "{again}");
        let orphan = create(&dir.path().join("no/b"), Spec::default()).unwrap_err().to_string();
        assert!(orphan.contains("no/b: no such file"), "{orphan}");
    }

    #[test]
    fn users() {
        let spec = r#"{"ociVersion": "1.0.2", "process": {"cwd": "/", "user": {"uid": 5, "gid": 6}}}"#;
        assert_eq!(user(&serde_json::from_str(spec).unwrap()), (5, 6));
        assert_eq!(user(&serde_json::from_str(r#"{"ociVersion": "1.0.2"}"#).unwrap()), (0, 0));
    }
}
