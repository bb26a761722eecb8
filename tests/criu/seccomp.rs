//! Programs with threads under the filters of container engines.

#[path = "../../crates/sandbox/tests/seccomp/captured.rs"]
mod captured;

use crate::sleep_and_wake;
use hiber_tests::prelude::*;

/// redis with an engine's default profile, as it is for a container with CAP_AUDIT_WRITE.
fn redis(engine: &str) -> Bundle {
    let (_, text) = captured::FILES.iter().find(|(name, _)| *name == engine).unwrap();
    let machine = if cfg!(target_arch = "x86_64") { "amd64" } else { "arm64" };
    let archs: &[&str] = if cfg!(target_arch = "x86_64") {
        &["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"]
    } else {
        &["SCMP_ARCH_AARCH64", "SCMP_ARCH_ARM"]
    };
    let profile = captured::load(text, &["CAP_AUDIT_WRITE"], machine, archs);
    Bundle::redis().edit(|c| c["linux"]["seccomp"] = serde_json::to_value(profile).unwrap())
}

/// How each thread of the first process is filtered.
fn filters(c: &Container) -> Vec<String> {
    let tasks = std::fs::read_dir(format!("/proc/{}/task", c.pid())).unwrap();
    let status = |task: std::io::Result<std::fs::DirEntry>| {
        let text = std::fs::read_to_string(task.unwrap().path().join("status")).unwrap();
        let line = |name: &str| text.lines().find(|l| l.starts_with(name)).unwrap_or_default().to_owned();
        format!("{} {}", line("Seccomp:"), line("Seccomp_filters:"))
    };
    tasks.map(status).collect()
}

#[test]
fn threads_that_share_their_filters_sleep_and_wake_again_and_again() {
    require!(Root, Criu, Redis);
    for engine in ["podman", "docker", "containerd"] {
        let c = Runtime::hiber().container(redis(engine));
        c.run_detached().ok();
        let answers =
            || c.command("exec", &[]).args(["redis-cli", "ping"]).output().unwrap().stdout == b"PONG\n";
        wait_for("redis", answers);
        c.exec(&["redis-cli", "set", "engine", engine]).ok();
        let before = filters(&c);
        assert!(before.len() > 1 && before.iter().all(|f| *f == before[0]), "{engine}: {before:?}");
        assert!(before[0].starts_with("Seccomp:\t2"), "{engine}: {before:?}");
        for _ in 0..2 {
            sleep_and_wake(&c, &[], &[]);
            assert_eq!(filters(&c), before, "{engine}");
            assert_eq!(c.exec(&["redis-cli", "get", "engine"]).ok(), engine);
        }
    }
}
