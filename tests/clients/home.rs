//! A client's private world: directory, environment, cgroup, image, and the server if it has one.

use hiber_tests::prelude::*;
use hiber_tests::{bundle, command, leaks, tools};
use rustix::process::{Pid, Signal, kill_process};
use std::fs::{self, File};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use tempfile::TempDir;

/// The busybox image's name, as every client knows it.
pub(crate) const IMAGE: &str = "localhost/bb:latest";
/// That of the image with redis.
pub(crate) const REDIS: &str = "localhost/redis:latest";

/// The directory; what a client leaves behind is found by its unique name, and cleared with it.
#[derive(Debug)]
pub(crate) struct Home {
    name: String,
    directory: TempDir,
}

impl Home {
    /// An empty one.
    pub(crate) fn new() -> Self {
        let name = bundle::unique_name();
        let directory = tempfile::Builder::new().prefix(&format!("{name}-")).tempdir();
        Self { directory: directory.unwrap_or_else(|e| panic!("no scratch directory: {e}")), name }
    }

    /// The cgroup over all containers' cgroups: `/NAME`.
    pub(crate) fn cgroup(&self) -> String {
        format!("/{}", self.name)
    }

    /// A path in the directory.
    pub(crate) fn join(&self, path: &str) -> PathBuf {
        self.directory.path().join(path)
    }

    /// A path in the directory, as an argument.
    pub(crate) fn path(&self, path: &str) -> String {
        self.join(path).display().to_string()
    }

    /// Writes a file into the directory and returns its path.
    #[track_caller]
    pub(crate) fn write(&self, path: &str, text: &str) -> String {
        let file = self.join(path);
        if let Err(e) = fs::write(&file, text) {
            panic!("{}: {e}", file.display());
        }
        file.display().to_string()
    }

    /// A program with the environment of this world and nothing else: CRIU is in PATH.
    pub(crate) fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        let directory = self.directory.path();
        command
            .env_clear()
            .env("PATH", tools::path_with_criu())
            .env("HOME", directory)
            .env("TMPDIR", directory);
        command.current_dir(directory);
        command
    }

    /// Makes an archive of the busybox image that every client loads, and returns its path.
    #[track_caller]
    pub(crate) fn image(&self) -> String {
        self.archive(IMAGE, tools::rootfs_busybox(), &["sh"])
    }

    /// As [`image`](Self::image), of the one with redis.
    #[track_caller]
    pub(crate) fn redis_image(&self) -> String {
        self.archive(REDIS, tools::rootfs_redis(), &["sh"])
    }

    /// As [`image`](Self::image), of one that starts a redis-server, by a name of the caller's.
    #[track_caller]
    pub(crate) fn redis_image_called(&self, name: &str) -> String {
        self.archive(name, tools::rootfs_redis(), &["redis-server", "--save", ""])
    }

    /// An image's archive in the format of `docker save` (the image specification 1.2 of moby).
    #[track_caller]
    fn archive(&self, name: &str, rootfs: Result<&Path, &str>, command: &[&str]) -> String {
        let rootfs = rootfs.unwrap_or_else(|e| panic!("no root filesystem: {e}"));
        let tar = |directory: &Path, archive: &str, what: &[&str]| {
            let mut tar = Command::new("tar");
            tar.arg("-C").arg(directory).arg("-cf").arg(self.join(archive)).args(what);
            command::run(tar, b"").ok();
        };
        tar(rootfs, "layer.tar", &["."]);
        let mut sum = Command::new("sha256sum");
        sum.arg(self.join("layer.tar"));
        let sum = command::run(sum, b"");
        let digest = sum.ok().split(' ').next().unwrap_or_default();
        let config = json!({
            "architecture": "amd64",
            "os": "linux",
            "config": {"Cmd": command, "Env": ["PATH=/usr/sbin:/usr/bin:/sbin:/bin"]},
            "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{digest}")]}
        });
        let manifest = json!([{"Config": "config.json", "RepoTags": [name], "Layers": ["layer.tar"]}]);
        self.write("config.json", &config.to_string());
        self.write("manifest.json", &manifest.to_string());
        tar(self.directory.path(), "image.tar", &["manifest.json", "config.json", "layer.tar"]);
        self.path("image.tar")
    }

    /// Checks that nothing runs, is mounted, or has a cgroup any more, and that the runtime's `state` does
    /// not know these containers.
    #[track_caller]
    pub(crate) fn assert_clean(&self, state: &Path, ids: &[String]) {
        for id in ids {
            let left = state.join(id);
            wait_for(&format!("{} to vanish", left.display()), || !left.exists());
        }
        leaks::assert_none(&self.name, &self.cgroup(), state);
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        leaks::clear(&self.name, &self.cgroup());
    }
}

/// A server of the test's own. It is asked to end when dropped.
#[derive(Debug)]
pub(crate) struct Server(Child);

impl Server {
    /// Starts it, and waits until it listens on `socket`. It writes into `log`, which is shown if it ends
    /// before.
    #[track_caller]
    pub(crate) fn start(mut command: Command, socket: &Path, log: &Path) -> Self {
        let open = || File::create(log).and_then(|f| Ok((f.try_clone()?, f)));
        let (out, err) = open().unwrap_or_else(|e| panic!("{}: {e}", log.display()));
        command.stdin(Stdio::null()).stdout(out).stderr(err);
        let child = command.spawn().unwrap_or_else(|e| panic!("{command:?}: {e}"));
        let mut server = Self(child);
        wait_for("the server to listen", || {
            if let Ok(Some(status)) = server.0.try_wait() {
                let said = fs::read_to_string(log).unwrap_or_default();
                panic!("the server ended ({status}): {said}");
            }
            UnixStream::connect(socket).is_ok()
        });
        server
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(pid) = i32::try_from(self.0.id()).ok().and_then(Pid::from_raw) {
            let _ = kill_process(pid, Signal::TERM);
        }
        let end = std::time::Instant::now() + hiber_tests::PATIENCE;
        while std::time::Instant::now() < end {
            if !matches!(self.0.try_wait(), Ok(None)) {
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
