//! Checkpoints in archives: one file or a pipe, and nothing else on the disk.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::archives_encrypted::run;
use crate::crash::killer;
use crate::pre_copy::with_notes;
use crate::{count, counter, counts_on};
use hiber_tests::prelude::*;
use hiber_tests::tmpfs::Tmpfs;

/// A directory for an archive, beside the bundle.
pub(crate) fn place(c: &Container) -> PathBuf {
    let place = c.bundle().join("archives");
    let _ = fs::create_dir(&place);
    place
}

pub(crate) fn names(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    entries.collect()
}

/// `checkpoint --export FILE`.
pub(crate) fn export(c: &Container, file: &Path, flags: &[&str]) -> Output {
    let file = file.to_str().unwrap();
    c.call("checkpoint", &[&["--export", file], flags].concat())
}

/// `restore --import FILE`.
pub(crate) fn import(c: &Container, file: &Path, flags: &[&str]) -> Output {
    let bundle = c.bundle_path();
    let file = file.to_str().unwrap();
    c.call_detached("restore", &[&["--detach", "--bundle", &bundle, "--import", file], flags].concat())
}

/// Nothing passes through memory any more.
#[track_caller]
pub(crate) fn assert_no_scratch(c: &Container) {
    let scratch = c.runtime().root().join("~scratch");
    let left: Vec<_> = fs::read_dir(&scratch).into_iter().flatten().flatten().map(|e| e.path()).collect();
    assert!(left.is_empty(), "{left:?}");
    let mounts = fs::read_to_string("/proc/thread-self/mounts").unwrap();
    assert!(!mounts.contains(scratch.to_str().unwrap()), "{mounts}");
}

#[test]
fn a_container_sleeps_in_one_file_and_wakes_from_it() {
    require!(Root, Criu);
    let c = counter(&Runtime::hiber(), Bundle::busybox());
    let file = place(&c).join("c.tar");
    for how in [&[][..], &["--compress", "lz4"], &["--compress", "none"], &["--compress", "zstd:3"]] {
        let before = count(&c);
        export(&c, &file, how).ok();
        assert_eq!(c.status(), "gone", "{how:?}");
        c.assert_clean();
        assert_no_scratch(&c);
        assert_eq!(names(&place(&c)), ["c.tar"]);
        let path = file.to_str().unwrap();
        let inspected = c.runtime().run(&["inspect", "--format", "json", path]).json();
        assert_eq!(inspected["manifest"]["container"], c.id());
        assert_eq!(inspected["podman"]["id"], c.id());
        let statistics = &inspected["statistics"];
        for member in ["frozenTime", "pagesWritten"] {
            assert!(statistics[member].as_u64().unwrap() > 0, "{member}: {statistics}");
        }
        c.runtime().run(&["inspect", "--verify", path]).ok();
        import(&c, &file, &["--prove"]).fails("--prove and --detach exclude each other");
        import(&c, &file, &[]).ok();
        assert_eq!(c.status(), "running");
        counts_on(&c, before);
        assert_no_scratch(&c);
    }
}

#[test]
fn the_archive_is_as_engines_write_it() {
    require!(Root, Criu);
    let c = counter(&Runtime::hiber(), Bundle::busybox());
    let file = place(&c).join("c.tar");
    export(&c, &file, &["--compress", "none", "--leave-running"]).ok();
    counts_on(&c, 3);
    let list = Command::new("tar").arg("-tf").arg(&file).output().unwrap();
    let list = String::from_utf8(list.stdout).unwrap();
    let list: Vec<_> = list.lines().collect();
    assert_eq!(&list[..2], ["config.dump", "spec.dump"]);
    for name in ["dump.log", "stats-dump", "checkpoint/", "checkpoint/hiber.json", "checkpoint/inventory.img"]
    {
        assert!(list.contains(&name), "{name}: {list:?}");
    }
    let spec = Command::new("tar").arg("-xOf").arg(&file).arg("spec.dump").output().unwrap();
    let spec: Value = serde_json::from_slice(&spec.stdout).unwrap();
    assert_eq!(spec["process"]["args"], c.bundle().config()["process"]["args"]);
}

#[test]
fn a_pipe_carries_it_to_another_root() {
    require!(Root, Criu);
    let c = counter(&Runtime::hiber(), Bundle::busybox());
    let there = Runtime::hiber().container(Bundle::busybox());
    let before = count(&c);
    let mut sender = c.command("checkpoint", &["--export", "-"]);
    let mut sender = sender.stdout(Stdio::piped()).spawn().unwrap();
    let bundle = there.bundle_path();
    let mut receiver = there.command("restore", &["--detach", "--bundle", &bundle, "--import", "-"]);
    receiver.stdin(sender.stdout.take().unwrap()).stdout(Stdio::null());
    assert!(receiver.spawn().unwrap().wait().unwrap().success());
    assert!(sender.wait().unwrap().success());
    assert_eq!(c.status(), "gone");
    c.assert_clean();
    assert_no_scratch(&c);
    counts_on(&there, before);
    assert_no_scratch(&there);
}

#[test]
fn a_container_whose_reader_goes_away_runs_on() {
    require!(Root, Criu);
    let c = counter(&Runtime::hiber(), Bundle::busybox());
    // The first one takes a part; the second one takes nothing, though all would fit into the pipe.
    for script in ["exec head -c 1000", "exec sleep 0.5"] {
        let before = count(&c);
        let mut sender = c.command("checkpoint", &["--export", "-", "--compress", "none"]);
        let mut sender = sender.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut reader = Command::new("sh");
        reader.args(["-c", script]).stdin(sender.stdout.take().unwrap()).stdout(Stdio::null());
        let mut reading = reader.spawn().unwrap();
        // It has the pipe, too.
        drop(reader);
        reading.wait().unwrap();
        let output = sender.wait_with_output().unwrap();
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && error.contains("write the archive"), "{error}");
        assert!(error.contains("broken pipe"), "{error}");
        assert_eq!(c.status(), "running");
        counts_on(&c, before);
        assert_no_scratch(&c);
    }
}

#[test]
fn a_full_disk_leaves_the_container_and_no_file() {
    require!(Root, Criu, CPrograms);
    let c = crate::pre_copy::torture(|bundle| bundle);
    let place = place(&c);
    let small = Tmpfs::mount(&place, 20);
    let file = place.join("c.tar");
    fs::write(&file, "older").unwrap();
    for flags in [&[][..], &["--leave-running"], &["--pre-copy", "on"]] {
        let flags = [flags, &["--compress", "none"]].concat();
        export(&c, &file, &flags).fails("write the archive").fails("No space left on device");
        assert_eq!(c.status(), "running");
        crate::pre_copy::works_on(&c, "a full disk");
        assert_eq!(names(&place), ["c.tar"]);
        assert_eq!(fs::read_to_string(&file).unwrap(), "older");
        assert_no_scratch(&c);
    }
    drop(small);
    let nowhere = place.join("none/c.tar");
    export(&c, &nowhere, &[]).fails("make the archive").fails("No such file or directory");
    export(&c, &place, &[]).fails("is a directory; expected a file");
    crate::pre_copy::works_on(&c, "no place");
}

#[test]
fn memory_comes_back_whole() {
    require!(Root, Criu, CPrograms);
    comes_back_whole();
    // The first of these makes CRIU's notes; of the others CRIU leaves the memory to hiber.
    with_notes(comes_back_whole);
}

fn comes_back_whole() {
    let c = crate::pre_copy::torture(|bundle| bundle.args(["/bin/torture", "3", "5000"]));
    let file = place(&c).join("c.tar.zst");
    for (flags, restore) in [
        (&["--pre-copy", "on"][..], &[][..]),
        (&["--pre-copy", "off"], &[]),
        (&["--pre-copy", "on", "--max-rounds", "1"], &[]),
        (&["--pre-copy", "on", "--no-hash"], &["--background"]),
    ] {
        export(&c, &file, flags).ok();
        c.assert_clean();
        if !flags.contains(&"--no-hash") {
            c.runtime().run(&["inspect", "--verify", file.to_str().unwrap()]).ok();
        }
        import(&c, &file, restore).ok();
        crate::pre_copy::works_on(&c, &format!("{flags:?} {restore:?}"));
        assert_no_scratch(&c);
    }
}

#[test]
fn redis_goes_through_an_archive() {
    require!(Root, Criu, Redis);
    let c = Runtime::hiber().container(Bundle::redis());
    c.run_detached().ok();
    wait_for("the server", || c.exec(&["redis-cli", "ping"]).stdout.trim() == "PONG");
    let fill = "for i = 1, 200000 do redis.call('SET', i, string.rep(i, 50)) end";
    c.exec(&["redis-cli", "eval", fill, "0"]).ok();
    let file = place(&c).join("c.tar.zst");
    for n in 1..3 {
        assert_eq!(c.exec(&["redis-cli", "incr", "number"]).ok(), n.to_string());
        export(&c, &file, &["--prove"]).ok();
        c.assert_clean();
        import(&c, &file, &[]).ok();
    }
    assert_eq!(c.exec(&["redis-cli", "dbsize"]).ok(), "200001");
}

/// How much of memory a file system uses.
fn used(at: &Path) -> u64 {
    rustix::fs::statvfs(at).map_or(0, |fs| (fs.f_blocks - fs.f_bfree) * fs.f_frsize)
}

#[test]
fn memory_goes_into_the_archive_without_being_kept() {
    require!(Root, Criu, Redis);
    with_notes(|| {
        // It makes CRIU's notes.
        let c = counter(&Runtime::hiber(), Bundle::busybox());
        export(&c, &place(&c).join("c.tar"), &[]).ok();
        goes_without_being_kept();
    });
}

fn goes_without_being_kept() {
    const MOST: u64 = 48 << 20;
    let c = Runtime::hiber().container(Bundle::redis());
    c.run_detached().ok();
    wait_for("the server", || c.exec(&["redis-cli", "ping"]).stdout.trim() == "PONG");
    let fill = "for i = 1, 300000 do redis.call('SET', i, string.rep(i, 100)) end";
    c.exec(&["redis-cli", "eval", fill, "0"]).ok();
    let mut sender = c.command("checkpoint", &["--export", "-"]);
    let mut sender = sender.stdout(Stdio::piped()).spawn().unwrap();
    // Nobody reads: it stands still when the pipe is full.
    let pipe = std::os::fd::AsFd::as_fd(sender.stdout.as_ref().unwrap()).try_clone_to_owned().unwrap();
    let full = || rustix::io::ioctl_fionread(&pipe).is_ok_and(|bytes| bytes >= 60_000);
    wait_for("a full pipe", full);
    let scratch = fs::read_dir(c.runtime().root().join("~scratch")).unwrap().next().unwrap().unwrap().path();
    let kept = used(&scratch.join("images"));
    drop(pipe);
    let file = place(&c).join("c.tar.zst");
    let mut reader = Command::new("cat");
    reader.stdin(sender.stdout.take().unwrap()).stdout(fs::File::create(&file).unwrap());
    let mut reading = reader.spawn().unwrap();
    let mut peak = 0;
    wait_for("the end", || {
        let status = fs::read_to_string(format!("/proc/{}/status", sender.id())).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let kib = line.and_then(|line| line.trim().strip_suffix(" kB")?.parse::<u64>().ok());
        peak = kib.map_or(peak, |kib| kib << 10);
        sender.try_wait().unwrap().is_some()
    });
    assert!(sender.wait().unwrap().success() && reading.wait().unwrap().success());
    assert!(peak > 0 && peak + kept < MOST, "{peak} bytes, and {kept} in files");
    let inspected =
        c.runtime().run(&["inspect", "--verify", "--format", "json", file.to_str().unwrap()]).json();
    assert_eq!(inspected["problems"], json!([]));
    assert!(inspected["size"].as_u64().unwrap() > 2 * MOST, "{inspected}");
    c.assert_clean();
    import(&c, &file, &[]).ok();
    let wrong = "for i = 1, 300000 do if redis.call('GET', i) ~= string.rep(string.format('%d', i), 100) \
                 then return i end end return 'none'";
    assert_eq!(c.exec(&["redis-cli", "eval", wrong, "0"]).ok(), "none");
}

/// An export that may be killed.
pub(crate) struct Export<'a> {
    /// `--export` or `--store`, and the place.
    pub(crate) to: [&'a str; 2],
    /// There once the archive is one.
    pub(crate) shows: &'a Path,
    pub(crate) forget: &'a dyn Fn(),
    /// Whether nothing is there but a whole archive, if that is.
    pub(crate) is_clean: &'a dyn Fn() -> bool,
    pub(crate) import: &'a dyn Fn() -> Output,
}

/// Kills hiber at each notification of CRIU's, before and after it is heard: the container lives on, or the archive is there.
#[track_caller]
pub(crate) fn killed_at_every_step(c: &Container, export: &Export<'_>) {
    let (killer, mark) = (killer(c), c.bundle().join("killed"));
    let (mut kills, mut published) = (0, 0);
    for (step, side) in (1..20).flat_map(|step| [(step, "before"), (step, "after")]) {
        let _ = fs::remove_file(&mark);
        (export.forget)();
        let before = count(c);
        let mut command = c.command("checkpoint", &export.to);
        command.env("LD_PRELOAD", &killer);
        command.env("KILL_AT", format!("hiber {side} {step} {}", mark.display()));
        let output = hiber_tests::command::run(command, b"");
        let when = format!("killed {side} step {step} ({})", output.stderr.trim());
        wait_for(&when, || match c.status().as_str() {
            "running" => !export.shows.exists() && (export.is_clean)(),
            "stopped" | "gone" => export.shows.exists(),
            _ => false,
        });
        if export.shows.exists() {
            published += 1;
            c.delete(&["--force"]).ok();
            c.assert_clean();
            (export.import)().ok();
        }
        counts_on(c, before);
        assert!((export.is_clean)(), "{when}");
        assert_no_scratch(c);
        if !mark.exists() {
            output.ok();
            break;
        }
        kills += 1;
    }
    assert!(kills >= 6, "a dump has at least three notifications: {kills}");
    assert!(published >= 2, "once CRIU has heard that it is published, it stays: {published}");
}

#[test]
fn a_kill_leaves_the_container_or_the_archive() {
    require!(Root, Criu, Program("cc"));
    let c = counter(&Runtime::hiber(), Bundle::busybox());
    let place = place(&c);
    let file = place.join("c.tar");
    killed_at_every_step(
        &c,
        &Export {
            to: ["--export", file.to_str().unwrap()],
            shows: &file,
            forget: &|| drop(fs::remove_file(&file)),
            is_clean: &|| names(&place).len() == usize::from(file.exists()),
            import: &|| import(&c, &file, &[]),
        },
    );
}

#[test]
fn checkpoints_with_names_go_out_and_come_in() {
    require!(Root, Criu);
    let c = counter(&Runtime::hiber(), Bundle::busybox());
    let before = count(&c);
    let file = place(&c).join("c.tar.lz4");
    let file = file.to_str().unwrap();
    let bundle = c.bundle_path();
    let named = |action: &str, flags: &[&str], words: &[&str]| {
        let line = [&["checkpoints", action], flags, &["--bundle", &bundle, c.id()], words].concat();
        c.runtime().run(&line)
    };
    named("create", &[], &["one"]).ok();
    named("export", &["--compress", "lz4"], &["one", file]).ok();
    named("export", &[], &["none", file]).fails("checkpoint none does not exist");
    named("import", &[], &["one", file]).fails("checkpoint with name one already exists");
    named("rm", &[], &["one"]).ok();
    named("import", &[], &["two", file]).ok();
    let shown = named("inspect", &[], &["two"]).json();
    assert_eq!((&shown["name"], &shown["exit"]), (&json!("two"), &json!(true)), "{shown}");
    named("verify", &[], &["two"]).ok();
    // A file that is no archive leaves nothing.
    fs::write(file, "no archive").unwrap();
    named("import", &[], &["three", file]).fails("is no readable archive");
    assert_eq!(names(&c.bundle().join("checkpoints")), ["two"]);
    c.call_detached("restore", &["--detach", "--bundle", &bundle, "--checkpoint", "two"]).ok();
    counts_on(&c, before);
}

#[test]
fn an_archive_that_was_changed_is_refused() {
    require!(Root, Criu);
    let c = counter(&Runtime::hiber(), Bundle::busybox());
    let file = place(&c).join("c.tar");
    export(&c, &file, &["--compress", "none"]).ok();
    let whole = fs::read(&file).unwrap();
    // The last byte of the content of an image.
    let find = |words: &[u8]| whole.windows(words.len()).position(|at| at == words).unwrap();
    let mut changed = whole.clone();
    let pages = find(b"checkpoint/pages-1.img");
    changed[pages + 512 + 100] ^= 1;
    fs::write(&file, &changed).unwrap();
    import(&c, &file, &[]).fails("checkpoint/pages-1.img: its content is not what was written");
    fs::write(&file, &whole[..whole.len() - 3000]).unwrap();
    import(&c, &file, &[]).fails("is no readable archive: truncated");
    // A link in the place of an image.
    let mut linked = whole.clone();
    linked[pages + 156] = b'2';
    let sum: u32 = linked[pages..pages + 512]
        .iter()
        .enumerate()
        .map(|(n, byte)| u32::from(if (148..156).contains(&n) { b' ' } else { *byte }))
        .sum();
    linked[pages + 148..pages + 156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    fs::write(&file, &linked).unwrap();
    import(&c, &file, &[]).fails("checkpoint/pages-1.img: is a symbolic link");
    // Files that no manifest names, beside the images and among them.
    for name in ["checkpoint/more", "checkpoint/config.json", "rootfs-diff.tar"] {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("checkpoint")).unwrap();
        fs::write(dir.path().join(name), "{}").unwrap();
        fs::write(&file, &whole).unwrap();
        run("tar", &["-C", dir.path().to_str().unwrap(), "-rf", file.to_str().unwrap(), name]);
        import(&c, &file, &[]).fails(&format!("{name}: is not of this checkpoint"));
    }
    assert_eq!(c.status(), "gone");
    assert_no_scratch(&c);
    fs::write(&file, &whole).unwrap();
    import(&c, &file, &[]).ok();
    counts_on(&c, 3);
}

#[test]
fn flags_that_do_not_go_together_are_told() {
    require!(Root, Criu);
    let c = counter(&Runtime::hiber(), Bundle::busybox());
    let file = place(&c).join("c.tar");
    for (flags, words) in [
        (&["--pre-dump"][..], "--export and --pre-dump exclude each other"),
        (&["--lazy-pages", "--page-server", "localhost:1"], "--export and --lazy-pages exclude each other"),
        (&["--image-path", "/x"], "--export and --image-path exclude each other"),
        (&["--compress", "gzip"], "expected zstd, zstd:LEVEL, lz4 or none"),
    ] {
        export(&c, &file, flags).fails(words);
    }
    c.call("checkpoint", &["--compress", "lz4"]).fails("--compress needs --export");
    import(&c, &file, &["--image-path", "/x"]).fails("--import and --image-path exclude each other");
    import(&c, &file, &["--lazy-pages"]).fails("--import and --lazy-pages exclude each other");
    import(&c, &file, &[]).fails("open the archive");
    assert!(names(&place(&c)).is_empty());
    assert_eq!(c.status(), "running");
}
