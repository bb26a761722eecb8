//! The files that the runtime keeps of its containers: nobody else writes them, and what somebody else may have written is
//! not believed.

use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::path::Path;
use std::process::Command;

use hiber_tests::command;
use hiber_tests::prelude::*;
use hiber_tests::user::{GID, UID};

fn sleeper(runtime: &Runtime) -> Container {
    let c = runtime.container(Bundle::busybox().args(["sleep", "1000"]));
    c.run_detached().ok();
    c
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
}

/// All files below `dir` that group or others may write, links aside.
fn writable_by_others(dir: &Path, found: &mut Vec<String>) {
    for entry in fs::read_dir(dir).unwrap().flatten() {
        let stat = fs::symlink_metadata(entry.path()).unwrap();
        if stat.is_dir() {
            writable_by_others(&entry.path(), found);
        }
        // A socket below a closed directory is reached by nobody.
        if stat.mode() & 0o022 != 0 && (stat.is_file() || stat.is_dir()) {
            found.push(format!("{} {:o}", entry.path().display(), stat.mode()));
        }
    }
}

#[test]
fn modes_do_not_hang_on_the_callers_umask() {
    require!(Root);
    let runtime = Runtime::hiber();
    let root = runtime.root().join("made/root");
    let c = runtime.container(Bundle::busybox().args(["sleep", "1000"]));
    let call = |words: &[&str]| {
        let mut command = Command::new("sh");
        let bare = runtime.bare_command();
        command.args(["-c", "umask 0; exec \"$@\"", "sh"]).arg(bare.get_program()).arg("--root").arg(&root);
        command.args(words);
        let log = c.bundle().path().join("log");
        command.stdin(std::process::Stdio::null()).stdout(std::process::Stdio::null());
        command::run_detached(command, &log)
    };
    call(&["run", "--detach", "--bundle", &c.bundle_path(), c.id()]).ok();
    let mode = |path: &Path| fs::metadata(path).unwrap().mode() & 0o7777;
    let modes = [mode(&runtime.root().join("made")), mode(&root), mode(&root.join(c.id()))];
    let mut others = Vec::new();
    writable_by_others(&runtime.root().join("made"), &mut others);
    call(&["delete", "--force", c.id()]).ok();
    assert_eq!(modes, [0o700; 3]);
    assert_eq!(others, Vec::<String>::new());
}

/// An unrelated process is not signalled because somebody else's file says so.
#[test]
fn a_root_that_others_own_or_may_write_to_is_refused() {
    require!(Root);
    let runtime = Runtime::hiber();
    let c = sleeper(&runtime);
    let root = runtime.root().to_owned();
    let pid = c.pid();
    let refused = |words: &str| {
        for command in ["state", "kill", "ps", "delete", "start", "pause"] {
            c.call(command, &[]).fails(words);
        }
        runtime.run(&["list"]).fails(words);
        c.exec(&["true"]).fails(words);
        c.create(&[]).fails(words);
    };
    for mode in [0o777, 0o770, 0o1777] {
        set_mode(&root, mode);
        refused(&format!("can be written by others than its owner: it has mode {mode:04o}"));
    }
    set_mode(&root, 0o700);
    chown(&root, Some(UID), Some(GID)).unwrap();
    refused(&format!("belongs to user {UID}: expected root or the caller"));
    chown(&root, Some(0), Some(0)).unwrap();
    set_mode(&root, 0o755);
    assert_eq!((c.status(), c.pid()), ("running".to_owned(), pid));
}

/// In a directory that was open to others once, and what is then in the container's own.
#[test]
fn state_that_somebody_else_may_have_written_is_not_believed() {
    require!(Root);
    let runtime = Runtime::hiber();
    let c = sleeper(&runtime);
    let dir = runtime.root().join(c.id());
    let state = dir.join("state.json");
    let refused = |words: &str| {
        c.call("kill", &["--all"]).fails(words);
        c.call("state", &[]).fails(words);
        c.exec(&["true"]).fails(words);
        let list = runtime.run(&["list"]);
        assert!(!list.ok().contains(c.id()), "{list}");
        assert!(list.stderr.contains(words) && list.stderr.contains(c.id()), "{list}");
    };
    chown(&state, Some(UID), None).unwrap();
    refused("state.json: belongs to user");
    chown(&state, Some(0), None).unwrap();
    set_mode(&state, 0o666);
    refused("state.json: can be written by others");
    set_mode(&state, 0o400);
    fs::hard_link(&state, runtime.root().join("link")).unwrap();
    refused("state.json: has 2 names");
    fs::remove_file(runtime.root().join("link")).unwrap();
    fs::rename(&state, dir.join("kept")).unwrap();
    symlink("kept", &state).unwrap();
    refused("state.json");
    fs::rename(dir.join("kept"), &state).unwrap();
    // Containers to be signalled, executed in or deleted are reached by the directory, those that are only shown by its files.
    set_mode(&dir, 0o733);
    for command in ["kill", "ps", "pause", "delete"] {
        c.call(command, &[]).fails("can be written by others");
    }
    set_mode(&dir, 0o700);
    let config = dir.join("config.json");
    chown(&config, Some(UID), None).unwrap();
    c.exec(&["true"]).fails("config.json: belongs to user");
    chown(&config, Some(0), None).unwrap();
    c.exec(&["true"]).ok();
    c.delete(&["--force"]).ok();
    c.assert_clean();
}

/// `list` says which it leaves out and why; what can be known of it goes with it.
#[test]
fn a_container_whose_state_cannot_be_read_is_told_of_and_deleted() {
    require!(Root);
    let runtime = Runtime::hiber();
    let (whole, broken, later) = (sleeper(&runtime), sleeper(&runtime), sleeper(&runtime));
    let state = |c: &Container| runtime.root().join(c.id()).join("state.json");
    let pid = broken.pid();
    let kept = fs::read(state(&broken)).unwrap();
    for damage in ["", "{", "{\"version\":1}", &String::from_utf8_lossy(&kept).replace("/sys/fs", "../fs")] {
        fs::write(state(&broken), damage).unwrap();
        for format in ["table", "json"] {
            let list = runtime.run(&["list", "--format", format]);
            assert!(list.ok().contains(whole.id()) && !list.stdout.contains(broken.id()), "{list}");
            assert!(list.stderr.contains(broken.id()) && list.stderr.contains("state.json"), "{list}");
        }
        broken.delete(&[]).fails("state.json");
    }
    broken.delete(&["--force"]).ok();
    assert_eq!(broken.status(), "gone");
    // Its process was not known any more.
    assert!(Path::new(&format!("/proc/{pid}")).exists());
    hiber_tests::leaks::clear(broken.bundle().name(), &broken.bundle().cgroup_parent());
    broken.assert_clean();
    // The state of a later version can be told from damage, and is enough to end the container by.
    let text = fs::read_to_string(state(&later)).unwrap();
    fs::write(state(&later), text.replacen("\"version\":1", "\"version\":2", 1)).unwrap();
    later.call("kill", &[]).fails("has version 2, expected 1");
    later.delete(&["--force"]).ok();
    later.assert_clean();
    assert_eq!(whole.status(), "running");
}

#[test]
fn an_id_that_is_too_long_is_refused_with_the_limit() {
    require!(Root);
    let runtime = Runtime::hiber();
    let bundle = Bundle::busybox();
    let run = |id: &str| runtime.run(&["run", "--bundle", &bundle.path().display().to_string(), id]);
    run(&"i".repeat(254)).ok();
    for length in [255, 256, 5000] {
        run(&"i".repeat(length))
            .fails(&format!("container id of {length} bytes is too long: expected at most 254"));
    }
    assert_eq!(fs::read_dir(runtime.root()).unwrap().count(), 0);
}
