//! Encrypted archives: what hiber writes the program age opens, and the other way round.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::archives::{assert_no_scratch, export, import, names, place};
use crate::{count, counter, counts_on};
use hiber_tests::prelude::*;

/// Runs a program to its end, and returns what it prints.
#[track_caller]
pub(crate) fn run(program: &str, args: &[&str]) -> String {
    let output = Command::new(program).args(args).stdin(Stdio::null()).output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {args:?}: {error}");
    String::from_utf8(output.stdout).unwrap()
}

/// Keys of both kinds in a directory.
struct Keys(PathBuf);

impl Keys {
    fn new(c: &Container) -> Self {
        let dir = c.bundle().join("keys");
        fs::create_dir(&dir).unwrap();
        let keys = Self(dir);
        for name in ["own", "other"] {
            run("age-keygen", &["-o", &keys.path(name)]);
        }
        run("ssh-keygen", &["-q", "-t", "ed25519", "-N", "", "-f", &keys.path("ssh")]);
        run("ssh-keygen", &["-q", "-t", "ed25519", "-N", "locked", "-f", &keys.path("locked")]);
        run("ssh-keygen", &["-q", "-t", "rsa", "-N", "", "-f", &keys.path("rsa")]);
        keys
    }

    fn path(&self, name: &str) -> String {
        self.0.join(name).to_str().unwrap().to_owned()
    }

    fn recipient(&self, name: &str) -> String {
        run("age-keygen", &["-y", &self.path(name)]).trim().to_owned()
    }

    fn ssh(&self) -> String {
        fs::read_to_string(self.path("ssh.pub")).unwrap().trim().to_owned()
    }
}

#[test]
fn what_hiber_encrypts_age_opens_and_the_other_way_round() {
    require!(Root, Criu, Program("age"), Program("age-keygen"), Program("ssh-keygen"), Program("zstd"));
    let c = counter(&Runtime::hiber(), Bundle::busybox());
    let keys = Keys::new(&c);
    let file = place(&c).join("c.tar.zst.age");
    let path = file.to_str().unwrap();
    let opened = c.bundle().join("opened");
    let opened = opened.to_str().unwrap();
    let list = c.bundle().join("recipients");
    fs::write(&list, format!("# those on duty\n\n{}\n{}\n", keys.recipient("own"), keys.ssh())).unwrap();
    let (own, ssh, list) = (keys.recipient("own"), keys.ssh(), list.to_str().unwrap());
    let ssh_file = keys.path("ssh.pub");
    for (to, opens) in [
        (&["--encrypt-to", &own][..], &["own"][..]),
        (&["--encrypt-to", &ssh, "--compress", "lz4"], &["ssh"]),
        (&["--encrypt-to", &ssh_file, "--compress", "none"], &["ssh"]),
        (&["--encrypt-to", list], &["own", "ssh"]),
        (&["--encrypt-to", &own, "--encrypt-to", &ssh, "--pre-copy", "on"], &["own", "ssh"]),
    ] {
        let before = count(&c);
        export(&c, &file, to).ok();
        c.assert_clean();
        assert_no_scratch(&c);
        assert!(fs::read(&file).unwrap().starts_with(b"age-encryption.org/v1\n"));
        for key in opens {
            let key = keys.path(key);
            run("age", &["--decrypt", "--identity", &key, "--output", opened, path]);
            c.runtime().run(&["inspect", "--verify", opened]).ok();
            c.runtime().run(&["inspect", "--identity", &key, "--verify", path]).ok();
        }
        // An archive that age has encrypted comes back, for either kind of key.
        run("age", &["--recipient", &own, "--recipient", &ssh, "--output", path, opened]);
        let key = keys.path(if before.is_multiple_of(2) { "own" } else { "ssh" });
        import(&c, &file, &["--identity", &keys.path("other"), "--identity", &key]).ok();
        counts_on(&c, before);
        assert_no_scratch(&c);
    }
}

#[test]
fn an_encrypted_archive_goes_through_pipes() {
    require!(Root, Criu, Program("age"), Program("age-keygen"), Program("ssh-keygen"));
    let c = counter(&Runtime::hiber(), Bundle::busybox());
    let there = Runtime::hiber().container(Bundle::busybox());
    let keys = Keys::new(&c);
    let before = count(&c);
    let mut sender = c.command("checkpoint", &["--export", "-", "--encrypt-to", &keys.recipient("own")]);
    let mut sender = sender.stdout(Stdio::piped()).spawn().unwrap();
    let mut between = Command::new("age")
        .args(["-d", "-i", &keys.path("own")])
        .stdin(sender.stdout.take().unwrap())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut back = Command::new("age")
        .args(["-r", &keys.recipient("other")])
        .stdin(between.stdout.take().unwrap())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let (bundle, key) = (there.bundle_path(), keys.path("other"));
    let flags = ["--detach", "--bundle", &bundle, "--import", "-", "--identity", &key];
    let mut receiver = there.command("restore", &flags);
    receiver.stdin(back.stdout.take().unwrap()).stdout(Stdio::null());
    assert!(receiver.spawn().unwrap().wait().unwrap().success());
    for mut process in [sender, between, back] {
        assert!(process.wait().unwrap().success());
    }
    assert_eq!(c.status(), "gone");
    counts_on(&there, before);
    assert_no_scratch(&there);
}

#[test]
fn who_has_no_key_or_a_changed_archive_restores_nothing() {
    require!(Root, Criu, Program("age"), Program("age-keygen"), Program("ssh-keygen"));
    let c = counter(&Runtime::hiber(), Bundle::busybox());
    let keys = Keys::new(&c);
    let file = place(&c).join("c.age");
    let path = file.to_str().unwrap();
    let before = count(&c);
    export(&c, &file, &["--encrypt-to", &keys.recipient("own")]).ok();
    let (own, other) = (keys.path("own"), keys.path("other"));
    let none = "is encrypted; name a file with your key by --identity";
    let others = "is encrypted to others: none of the keys of --identity opens it (its recipients: X25519)";
    import(&c, &file, &[]).fails(none);
    import(&c, &file, &["--trust-images"]).fails(none);
    import(&c, &file, &["--identity", &other, "--identity", &keys.path("ssh")]).fails(others);
    c.runtime().run(&["inspect", path]).fails(none);
    c.runtime().run(&["inspect", "--verify", "--identity", &other, path]).fails(others);
    let (locked, rsa, gone) = (keys.path("locked"), keys.path("rsa"), keys.path("gone"));
    import(&c, &file, &["--identity", &locked]).fails("locked: is protected by a passphrase");
    import(&c, &file, &["--identity", &rsa]).fails("is a key of the kind ssh-rsa; expected ssh-ed25519");
    import(&c, &file, &["--identity", &gone]).fails("No such file or directory");
    import(&c, &file, &["--identity", path]).fails("is no text; expected a file of keys");
    let whole = fs::read(&file).unwrap();
    for (end, why) in [
        (whole.len() - 1, "is encrypted, and truncated"),
        (whole.len() / 2, "is encrypted, and truncated"),
        (100, "is encrypted, and truncated"),
        (30, "is encrypted, and truncated"),
    ] {
        fs::write(&file, &whole[..end]).unwrap();
        import(&c, &file, &["--identity", &own]).fails(why);
    }
    for place in [60, 180, whole.len() / 2, whole.len() - 20] {
        let mut changed = whole.clone();
        changed[place] ^= 1;
        fs::write(&file, &changed).unwrap();
        // Trust in images is none in what nobody has encrypted so.
        import(&c, &file, &["--identity", &own, "--trust-images"]).fails("is encrypted");
        c.runtime().run(&["inspect", "--identity", &own, path]).fails("is encrypted");
        assert_eq!(c.status(), "gone");
        c.assert_clean();
        assert_no_scratch(&c);
    }
    fs::write(&file, &whole).unwrap();
    let armored = place(&c).join("armored");
    let armored_path = armored.to_str().unwrap();
    run("age", &["--armor", "-r", &keys.recipient("own"), "-o", armored_path, path]);
    import(&c, &armored, &["--identity", &own]).fails("expected the form without --armor");
    import(&c, &file, &["--identity", &own]).ok();
    counts_on(&c, before);
}

#[test]
fn recipients_that_are_none_leave_the_container_alone() {
    require!(Root, Criu, Program("age-keygen"), Program("ssh-keygen"));
    let c = counter(&Runtime::hiber(), Bundle::busybox());
    let keys = Keys::new(&c);
    let file = place(&c).join("c.age");
    let rsa = fs::read_to_string(keys.path("rsa.pub")).unwrap();
    let (own, rsa_file, gone) = (keys.path("own"), keys.path("rsa.pub"), keys.path("gone"));
    for (recipient, why) in [
        ("age1qqq", ": is no recipient; expected age1"),
        ("", ": expected a recipient or a file"),
        (rsa.trim(), "is a key of the kind ssh-rsa; expected ssh-ed25519"),
        (&rsa_file, "line 1: is a key of the kind ssh-rsa; expected ssh-ed25519"),
        (&own, "line 3: is a secret key; expected the recipient that belongs to it"),
        (&gone, "No such file or directory"),
        ("/dev/null", "names no recipient"),
    ] {
        let before = count(&c);
        let good = keys.recipient("own");
        let output = export(&c, &file, &["--encrypt-to", &good, "--encrypt-to", recipient]);
        output.fails(why);
        assert!(!output.stderr.contains("AGE-SECRET-KEY-1"), "{output}");
        assert_eq!(c.status(), "running");
        counts_on(&c, before);
    }
    let layout = format!("oci:{}", place(&c).join("layout").display());
    let own_recipient = keys.recipient("own");
    let output = c.call("checkpoint", &["--export", &layout, "--encrypt-to", &own_recipient]);
    output.fails("an image in an OCI layout is not encrypted");
    assert!(names(&place(&c)).is_empty());
    c.call("checkpoint", &["--encrypt-to", &keys.recipient("own")]).fails("--encrypt-to needs --export");
    let bundle = c.bundle_path();
    let restore = ["--bundle", &bundle, "--image-path", "/x", "--identity", &own];
    c.call("restore", &restore).fails("--identity needs --import");
}

#[test]
fn checkpoints_with_names_go_out_encrypted() {
    require!(Root, Criu, Program("age"), Program("age-keygen"), Program("ssh-keygen"));
    let c = counter(&Runtime::hiber(), Bundle::busybox());
    let keys = Keys::new(&c);
    let before = count(&c);
    let file: PathBuf = place(&c).join("c.age");
    let file: &Path = &file;
    let (path, bundle) = (file.to_str().unwrap(), c.bundle_path());
    let (to, key) = (keys.recipient("own"), keys.path("own"));
    let named = |action: &str, flags: &[&str], words: &[&str]| {
        let line = [&["checkpoints", action], flags, &["--bundle", &bundle, c.id()], words].concat();
        c.runtime().run(&line)
    };
    named("create", &[], &["one"]).ok();
    named("export", &["--encrypt-to", "age1"], &["one", path]).fails("is no recipient");
    named("export", &["--encrypt-to", &to], &["one", path]).ok();
    named("import", &[], &["two", path]).fails("is encrypted; name a file with your key by --identity");
    named("import", &["--identity", &key], &["two", path]).ok();
    named("verify", &[], &["two"]).ok();
    c.call_detached("restore", &["--detach", "--bundle", &bundle, "--checkpoint", "two"]).ok();
    counts_on(&c, before);
}
