//! The programs and root filesystems that tests use, from the environment or from the scripts in hack/.

use std::env;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

/// The path in `variable`, else what `hack/SCRIPT` prints as its last line, with `file` joined to it.
fn find(variable: &str, script: &[&str], file: &str) -> Result<PathBuf, String> {
    if let Some(path) = env::var_os(variable) {
        let path = PathBuf::from(path);
        return if path.exists() {
            Ok(path)
        } else {
            Err(format!("{variable}={}: not there", path.display()))
        };
    }
    let program = repository().join("hack").join(script[0]);
    // Its standard error is the caller's: whoever waits for a build sees what is built.
    let output = Command::new(&program)
        .args(&script[1..])
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .map_err(|e| format!("{variable} is unset and {} cannot be run: {e}", program.display()))?;
    let stdout = String::from_utf8_lossy(&output.stdout);
    match stdout.trim_end().lines().next_back() {
        Some(path) if output.status.success() && file.is_empty() => Ok(path.into()),
        Some(path) if output.status.success() => Ok(Path::new(path).join(file)),
        _ => Err(format!("{variable} is unset and hack/{} failed, as is said above", script.join(" "))),
    }
}

fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests/ lies in the repository")
}

/// `hack/NAME`.
pub fn script(name: &str) -> PathBuf {
    repository().join("hack").join(name)
}

/// Whether PATH has the program `name`.
pub fn in_path(name: &str) -> bool {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path).any(|directory| directory.join(name).is_file())
}

/// PATH with the directory of [`criu`] before all others, as clients need it to run `criu` by name.
pub fn path_with_criu() -> OsString {
    let rest = env::var_os("PATH").unwrap_or_default();
    let first = criu().ok().filter(|c| c.is_absolute()).and_then(Path::parent);
    let all = first.map(Path::to_owned).into_iter().chain(env::split_paths(&rest));
    env::join_paths(all).unwrap_or(rest)
}

macro_rules! tool {
    ($(#[$doc:meta])* $name:ident, $variable:literal, $script:expr, $file:literal) => {
        $(#[$doc])*
        pub fn $name() -> Result<&'static Path, &'static str> {
            static FOUND: OnceLock<Result<PathBuf, String>> = OnceLock::new();
            FOUND.get_or_init(|| find($variable, &$script, $file)).as_ref().map(PathBuf::as_path).map_err(String::as_str)
        }
    };
}

tool!(
    /// The runtime under test: `$HIBER_BIN`, else the debug build of the sources as they are now.
    hiber, "HIBER_BIN", ["build", "--debug"], ""
);
tool!(
    /// The shim under test: `$HIBER_SHIM`, else the debug build of the sources as they are now.
    shim, "HIBER_SHIM", ["build", "--debug", "--shim"], ""
);
tool!(
    /// The directory of the library's examples, built: `$HIBER_EXAMPLES`, else a debug build.
    examples, "HIBER_EXAMPLES", ["build", "--examples"], ""
);
tool!(
    /// A CRIU that works on the running kernel: `$HIBER_CRIU`, else hack/criu's.
    criu, "HIBER_CRIU", ["criu"], ""
);
tool!(
    /// Debian's runc: `$HIBER_RUNC`, else hack/peers'.
    runc, "HIBER_RUNC", ["peers"], "runc"
);
tool!(
    /// Debian's crun: `$HIBER_CRUN`, else hack/peers'.
    crun, "HIBER_CRUN", ["peers"], "crun"
);
tool!(
    /// A root filesystem with busybox's applets. Read-only by agreement: bundles copy it.
    rootfs_busybox, "HIBER_ROOTFS_BUSYBOX", ["rootfs", "busybox"], ""
);
tool!(
    /// A root filesystem with redis-server, redis-cli and busybox.
    rootfs_redis, "HIBER_ROOTFS_REDIS", ["rootfs", "redis"], ""
);

/// The product of `hack/rootfs NAME`: a root filesystem with a program of Debian's and busybox.
pub fn rootfs(name: &str) -> Result<PathBuf, String> {
    find(&format!("HIBER_ROOTFS_{}", name.to_uppercase()), &["rootfs", name], "")
}

/// Compiles a C program, or a library.
///
/// # Panics
/// If cc(1) is missing or refuses it.
#[track_caller]
pub fn compile(source: &str, to: &Path, flags: &[&str]) {
    let mut compiler = Command::new("cc");
    compiler.arg("-o").arg(to).arg(source).args(flags);
    crate::command::run(compiler, b"").ok();
}
