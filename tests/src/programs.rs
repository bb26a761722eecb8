//! The C programs of the tests, which run in containers: statically linked, so that they run in any root filesystem.

use std::fs;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::path::{Path, PathBuf};

use crate::bundle::Bundle;

/// Where programs are kept that were compiled before: a machine of `hack/vm` has no compiler.
pub(crate) const BEFORE: &str = "HIBER_PROGRAMS";

/// Puts the program `name` into a bundle's root filesystem, as /bin/NAME. Its source is `tests/criu/NAME.c`, or all that
/// lies in `tests/criu/NAME/`. It is compiled once for each version of them, or was before.
///
/// # Panics
/// If it does not compile.
#[track_caller]
pub fn install(name: &str, bundle: &Bundle) {
    let to = bundle.rootfs().join("bin").join(name);
    if let Some(before) = std::env::var_os(BEFORE) {
        let from = Path::new(&before).join(name);
        fs::copy(&from, to).unwrap_or_else(|e| panic!("{BEFORE}: {}: {e}", from.display()));
        return;
    }
    let sources = sources(name);
    let mut version = DefaultHasher::new();
    for source in &sources {
        fs::read(source).unwrap_or_else(|e| panic!("{}: {e}", source.display())).hash(&mut version);
    }
    let tests = std::env::current_exe().unwrap_or_else(|e| panic!("the tests' own program: {e}"));
    // cargo keeps it beside the tests, and `cargo clean` removes it with them
    let compiled = tests.with_file_name(format!("{name}-{:x}", version.finish()));
    if fs::copy(&compiled, &to).is_ok() {
        return;
    }
    let mut compiler = std::process::Command::new("cc");
    compiler.args(["-D_GNU_SOURCE", "-static", "-O1", "-pthread", "-o"]).arg(&to);
    compiler.args(sources.iter().filter(|source| source.extension().is_some_and(|e| e == "c")));
    crate::command::run(compiler, b"").ok();
    // Tests run side by side: each makes the file under a name of its own.
    let own = compiled.with_extension(bundle.name());
    let _ = fs::copy(&to, &own).and_then(|_| fs::rename(&own, &compiled));
}

/// The source files, headers among them, by name.
fn sources(name: &str) -> Vec<PathBuf> {
    let all = Path::new(env!("CARGO_MANIFEST_DIR")).join("criu");
    let Ok(directory) = fs::read_dir(all.join(name)) else { return vec![all.join(format!("{name}.c"))] };
    let files = directory.flatten().map(|entry| entry.path());
    let mut files: Vec<_> = files.filter(|f| f.extension().is_some_and(|e| e == "c" || e == "h")).collect();
    files.sort();
    files
}
