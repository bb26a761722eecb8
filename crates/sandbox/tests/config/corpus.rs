//! The configurations that the other tests change, and what reads them.

use std::path::{Path, PathBuf};

use hiber_sandbox::cgroup::{DeviceRule, Layout, Limits};
use hiber_sandbox::config;
use hiber_sandbox::plan::{Options, Plan};
use serde_json::Value;

/// One with every field of the runtime specification 1.3, and those that other programs wrote.
pub(crate) fn all() -> Vec<(String, Vec<u8>)> {
    let own = Path::new(env!("CARGO_MANIFEST_DIR"));
    let directories = [own.join("tests/config/corpus"), own.join("../../tests/oci/configs")];
    let files = directories.iter().flat_map(|d| std::fs::read_dir(d).unwrap()).map(|e| e.unwrap().path());
    let mut all: Vec<_> = files
        .filter(|f| f.extension().is_some_and(|e| e == "json"))
        .map(|f| (f.file_name().unwrap().to_string_lossy().into_owned(), std::fs::read(f).unwrap()))
        .collect();
    all.sort_unstable();
    all
}

/// The one with every field.
pub(crate) fn complete() -> Value {
    serde_json::from_str(include_str!("corpus/complete.json")).unwrap()
}

/// A bundle with an empty root filesystem.
pub(crate) struct Bundle(tempfile::TempDir);

impl Bundle {
    pub(crate) fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        std::fs::create_dir(directory.path().join("rootfs")).unwrap();
        Self(directory)
    }

    fn config(&self) -> PathBuf {
        self.0.path().join("config.json")
    }

    /// Reads the text as `create` does, up to where the host is touched.
    pub(crate) fn read(&self, text: &[u8]) -> Result<(), String> {
        std::fs::write(self.config(), text).unwrap();
        let read = || -> Result<(), hiber_sandbox::Error> {
            let spec = config::load(&self.config())?.spec;
            let options = Options { id: "box".into(), bundle: self.0.path().into(), ..Options::default() };
            Plan::new(&spec, &options)?;
            let linux = spec.linux().clone().unwrap_or_default();
            let layout = Layout::detect()?;
            let resources = linux.resources().clone().unwrap_or_default();
            Limits::from_spec(&resources, &layout, Some(&DeviceRule::defaults()))?;
            layout.resolve(linux.cgroups_path().as_deref(), "box").map(drop)
        };
        read().map_err(|e| e.to_string())
    }
}
