//! Signed checkpoints: by keys of openssl and OpenSSH, in archives and directories.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::archives::{assert_no_scratch, export, import, place};
use crate::archives_encrypted::run;
use crate::{count, counter, counts_on};
use hiber_tests::prelude::*;

/// Keys in a directory, each as NAME and NAME.pub.
pub(crate) struct Keys(PathBuf);

impl Keys {
    pub(crate) fn new(c: &Container) -> Self {
        let dir = c.bundle().join("signers");
        fs::create_dir(&dir).unwrap();
        let keys = Self(dir);
        for name in ["own", "other"] {
            run("openssl", &["genpkey", "-algorithm", "ed25519", "-out", &keys.path(name)]);
            let public = format!("{name}.pub");
            run("openssl", &["pkey", "-in", &keys.path(name), "-pubout", "-out", &keys.path(&public)]);
        }
        run("ssh-keygen", &["-q", "-t", "ed25519", "-N", "", "-f", &keys.path("ssh")]);
        keys
    }

    pub(crate) fn path(&self, name: &str) -> String {
        self.0.join(name).to_str().unwrap().to_owned()
    }
}

/// Changes what is in an archive by a script, which runs where its files are.
pub(crate) fn repack(c: &Container, file: &Path, script: &str) {
    let dir = c.bundle().join("repack");
    let _ = fs::remove_dir_all(&dir);
    fs::create_dir(&dir).unwrap();
    let (file, dir) = (file.to_str().unwrap(), dir.to_str().unwrap());
    run("tar", &["-xf", file, "-C", dir]);
    run("sh", &["-ec", &format!("cd '{dir}'; {script}")]);
    run("sh", &["-ec", &format!("cd '{dir}'; tar -cf '{file}' config.dump spec.dump checkpoint")]);
}

#[test]
fn an_archive_is_restored_if_its_signer_is_known() {
    require!(Root, Criu, Program("openssl"), Program("ssh-keygen"));
    let c = counter(&Runtime::hiber(), Bundle::busybox());
    let keys = Keys::new(&c);
    let file = place(&c).join("c.tar");
    let path = file.to_str().unwrap();
    let signer = |name: &str| (keys.path(name), keys.path(&format!("{name}.pub")));
    for name in ["own", "ssh"] {
        for more in [&[][..], &["--leave-running"], &["--pre-copy", "on"]] {
            let before = count(&c);
            let (private, public) = signer(name);
            export(&c, &file, &[&["--compress", "none", "--sign-key", &private], more].concat()).ok();
            if more.contains(&"--leave-running") {
                c.call("delete", &["--force"]).ok();
            }
            c.runtime().run(&["inspect", "--verify", "--verify-key", &public, path]).ok();
            let other = keys.path("other.pub");
            let verified = c.runtime().run(&["inspect", "--verify", "--verify-key", &other, path]);
            assert!(verified.stdout.contains("is not signed by the key of --verify-key"), "{verified}");
            import(&c, &file, &["--verify-key", &other]).fails("is not signed by the key of --verify-key");
            import(&c, &file, &["--verify-key", &other, "--trust-images"]).fails("is not signed by the key");
            assert_no_scratch(&c);
            import(&c, &file, &["--verify-key", &other, "--verify-key", &public]).ok();
            counts_on(&c, before);
        }
    }
}

#[test]
fn openssl_verifies_what_hiber_signs_and_the_other_way_round() {
    require!(Root, Criu, Program("openssl"), Program("ssh-keygen"));
    let c = counter(&Runtime::hiber(), Bundle::busybox());
    let keys = Keys::new(&c);
    let file = place(&c).join("c.tar");
    export(&c, &file, &["--compress", "none", "--sign-key", &keys.path("own")]).ok();
    let (own, other) = (keys.path("own.pub"), keys.path("other"));
    let verify = format!(
        "openssl pkeyutl -verify -pubin -inkey '{own}' -rawin -in checkpoint/hiber.json -sigfile checkpoint/hiber.json.sig"
    );
    let sign = format!(
        "openssl pkeyutl -sign -inkey '{other}' -rawin -in checkpoint/hiber.json -out checkpoint/hiber.json.sig"
    );
    repack(&c, &file, &format!("{verify}; {sign}"));
    import(&c, &file, &["--verify-key", &own]).fails("is not signed by the key of --verify-key");
    import(&c, &file, &["--verify-key", &keys.path("other.pub")]).ok();
    counts_on(&c, 3);
}

#[test]
fn a_signature_covers_every_file() {
    require!(Root, Criu, Program("openssl"), Program("ssh-keygen"));
    let c = counter(&Runtime::hiber(), Bundle::busybox());
    let keys = Keys::new(&c);
    let (signed, file) = (place(&c).join("signed.tar"), place(&c).join("c.tar"));
    let before = count(&c);
    export(&c, &signed, &["--compress", "none", "--sign-key", &keys.path("own")]).ok();
    let own = keys.path("own.pub");
    for (script, why) in [
        (
            "rm checkpoint/hiber.json.sig",
            "is not signed (there is no hiber.json.sig), and --verify-key wants",
        ),
        ("truncate -s 63 checkpoint/hiber.json.sig", "is not signed by the key of --verify-key"),
        ("echo >> checkpoint/hiber.json.sig", "is not signed by the key of --verify-key"),
        ("sed -i s/created/Created/ checkpoint/hiber.json", "malformed"),
        ("sed -i 's/$/ /' checkpoint/hiber.json", "is not signed by the key of --verify-key"),
        ("rm checkpoint/hiber.json", "has no hiber.json"),
        ("printf x | dd of=checkpoint/pages-1.img bs=1 seek=5000 conv=notrunc", "pages-1.img: its content"),
        ("truncate -s +1 checkpoint/pages-1.img", "pages-1.img: has"),
        (
            // Some containers have one.
            "printf x | dd of=checkpoint/kept.json bs=1 seek=5 conv=notrunc",
            "kept.json: ",
        ),
        ("rm checkpoint/core-1.img", "core-1.img"),
        ("echo > checkpoint/more.json", "more.json: is not of this checkpoint"),
        ("echo > checkpoint/more.img", "more.img: is not of this checkpoint"),
    ] {
        fs::copy(&signed, &file).unwrap();
        repack(&c, &file, script);
        for flags in [&["--verify-key", &own][..], &["--verify-key", &own, "--trust-images"]] {
            import(&c, &file, flags).fails(why);
            assert_eq!(c.status(), "gone");
            assert_no_scratch(&c);
        }
    }
    import(&c, &signed, &["--verify-key", &own]).ok();
    counts_on(&c, before);
}

/// A directory's signature says nothing of an archive that somebody has made of it.
#[test]
fn what_is_put_beside_signed_images_is_refused() {
    require!(Root, Criu, Program("openssl"), Program("ssh-keygen"));
    let c = counter(&Runtime::hiber(), Bundle::busybox());
    let keys = Keys::new(&c);
    let (own, file) = (keys.path("own.pub"), place(&c).join("c.tar"));
    let images = place(&c).join("checkpoint");
    let before = count(&c);
    c.call("checkpoint", &["--image-path", images.to_str().unwrap(), "--sign-key", &keys.path("own")]).ok();
    let pack = |script: &str| {
        let dir = place(&c).to_str().unwrap().to_owned();
        run("sh", &["-ec", &format!("cd '{dir}'; {script}; tar -cf c.tar checkpoint $more")]);
    };
    for (script, name) in [
        ("more=rootfs-diff.tar; mkdir -p bin; echo evil >bin/evil; tar -cf $more bin", "rootfs-diff.tar"),
        ("more=deleted.files; echo '[\"bin/busybox\"]' >$more", "deleted.files"),
    ] {
        pack(script);
        let verified =
            c.runtime().run(&["inspect", "--verify", "--verify-key", &own, file.to_str().unwrap()]);
        assert_eq!(verified.status.code(), Some(1), "{verified}");
        assert!(verified.stdout.contains(&format!("{name}: is not of this checkpoint")), "{verified}");
        for flags in [&["--with-rootfs"][..], &["--with-rootfs", "--trust-images"]] {
            let flags = [&["--verify-key", &own], flags].concat();
            import(&c, &file, &flags).fails(&format!("{name}: is not covered by a signature"));
            assert_eq!(c.status(), "gone");
        }
    }
    assert!(!c.bundle().rootfs().join("bin/evil").exists());
    // A configuration that nobody has signed makes no bundle, and is of no use to one that has its own.
    pack("more=spec.dump; cp ../config.json spec.dump");
    let (config, hidden) = (c.bundle().join("config.json"), c.bundle().join("hidden.json"));
    fs::rename(&config, &hidden).unwrap();
    import(&c, &file, &["--verify-key", &own, "--trust-spec"]).fails("no spec.dump that a signature covers");
    fs::rename(&hidden, &config).unwrap();
    import(&c, &file, &["--verify-key", &own]).ok();
    counts_on(&c, before);
}

/// The directory of the checkpoint of that name.
fn images_of(c: &Container, name: &str) -> PathBuf {
    c.bundle().join("checkpoints").join(name)
}

#[test]
fn directories_and_names_are_signed_too() {
    require!(Root, Criu, Program("openssl"), Program("ssh-keygen"));
    let c = counter(&Runtime::hiber(), Bundle::busybox());
    let keys = Keys::new(&c);
    let (private, own, other) = (keys.path("own"), keys.path("own.pub"), keys.path("other.pub"));
    let images = place(&c).join("images");
    let path = images.to_str().unwrap();
    let bundle = c.bundle_path();
    let restore = |flags: &[&str]| {
        let all = [&["--detach", "--bundle", &bundle, "--image-path", path], flags].concat();
        c.call_detached("restore", &all)
    };
    let before = count(&c);
    c.call("checkpoint", &["--image-path", path, "--sign-key", &private]).ok();
    restore(&["--verify-key", &other]).fails("is not signed by the key of --verify-key");
    restore(&["--verify-key", &own, "--lazy-pages"])
        .fails("--lazy-pages: brings memory that no signature covers");
    // Memory is looked at, too, which a restore from a directory does not do otherwise.
    let pages = images.join("pages-1.img");
    let whole = fs::read(&pages).unwrap();
    let mut changed = whole.clone();
    changed[5000] ^= 1;
    fs::write(&pages, &changed).unwrap();
    restore(&["--verify-key", &own]).fails("pages-1.img: its content is not what was written");
    fs::write(&pages, &whole).unwrap();
    run("chmod", &["0777", path]);
    restore(&["--verify-key", &own, "--trust-images"])
        .fails("a signature shows nothing of what others can change");
    run("chmod", &["0700", path]);
    assert_eq!(c.status(), "gone");
    // hiber notes there in which order memory is wanted.
    fs::write(images.join("working-set.json"), "{}").unwrap();
    restore(&["--verify-key", &own, "--background"]).ok();
    counts_on(&c, before);
}

#[test]
fn a_signature_goes_along_with_a_checkpoint_that_has_a_name() {
    require!(Root, Criu, Program("openssl"), Program("ssh-keygen"));
    let c = counter(&Runtime::hiber(), Bundle::busybox());
    let keys = Keys::new(&c);
    let (private, own, other) = (keys.path("own"), keys.path("own.pub"), keys.path("other.pub"));
    let bundle = c.bundle_path();
    let named = |action: &str, flags: &[&str], words: &[&str]| {
        let line = [&["checkpoints", action], flags, &["--bundle", &bundle, c.id()], words].concat();
        c.runtime().run(&line)
    };
    let file = place(&c).join("c.tar");
    let file = file.to_str().unwrap();
    let before = count(&c);
    named("create", &["--sign-key", &private], &["one"]).ok();
    // The signature goes along; the private key need not be here.
    fs::write(images_of(&c, "one").join("restore.log"), "of no concern").unwrap();
    named("export", &[], &["one", file]).ok();
    c.runtime().run(&["inspect", "--verify", "--verify-key", &own, file]).ok();
    named("import", &["--verify-key", &other], &["two", file])
        .fails("is not signed by the key of --verify-key");
    named("import", &["--verify-key", &own], &["two", file]).ok();
    named("verify", &[], &["two"]).ok();
    for part in ["hiber.json", "hiber.json.sig"] {
        let [one, two] = ["one", "two"].map(|name| fs::read(images_of(&c, name).join(part)).unwrap());
        assert!(one == two, "{part}");
    }
    assert_eq!(named("inspect", &[], &["two"]).json()["name"], "two");
    // Somebody else's word for the same checkpoint.
    named("export", &["--sign-key", &keys.path("other")], &["two", file]).ok();
    named("import", &["--verify-key", &own], &["three", file])
        .fails("is not signed by the key of --verify-key");
    // As often as it moves on.
    named("export", &[], &["two", file]).ok();
    named("import", &["--verify-key", &own], &["three", file]).ok();
    let flags = ["--detach", "--bundle", &bundle, "--checkpoint", "three", "--verify-key", &own];
    c.call_detached("restore", &flags).ok();
    counts_on(&c, before);

    // A signature that says what was in another archive, which is gone.
    c.call("checkpoint", &["--export", file, "--sign-key", &private]).ok();
    named("import", &["--verify-key", &own], &["four", file]).ok();
    let lost = "is signed together with config.dump, spec.dump of the archive that it came in, which are not kept: pass --sign-key";
    let elsewhere = place(&c).join("d.tar");
    named("export", &[], &["four", elsewhere.to_str().unwrap()]).fails(lost);
    assert!(!elsewhere.exists());
    named("export", &["--sign-key", &private], &["four", elsewhere.to_str().unwrap()]).ok();
    import(&c, &elsewhere, &["--verify-key", &own]).ok();
    counts_on(&c, before);
}

#[test]
fn what_cannot_be_signed_is_told_before_the_container_stops() {
    require!(Root, Criu, Program("openssl"), Program("ssh-keygen"));
    let c = counter(&Runtime::hiber(), Bundle::busybox());
    let keys = Keys::new(&c);
    let file = place(&c).join("c.tar");
    let own = keys.path("own");
    run("openssl", &["genpkey", "-algorithm", "ed448", "-out", &keys.path("ed448")]);
    let (public, ed448) = (keys.path("own.pub"), keys.path("ed448"));
    for (flags, why) in [
        (&["--sign-key", &public][..], "is a PUBLIC KEY; expected a private key of ed25519"),
        (&["--sign-key", &ed448], "is a key of another kind; expected a private key of ed25519"),
        (&["--sign-key", "/nowhere"], "No such file or directory"),
        (&["--sign-key", &own, "--no-hash"], "--sign-key and --no-hash exclude each other"),
    ] {
        export(&c, &file, flags).fails(why);
        assert!(!file.exists());
        assert_eq!(c.status(), "running");
    }
    let images = place(&c).join("images");
    let dir = ["--image-path", images.to_str().unwrap(), "--sign-key", &own];
    for (flags, why) in [
        (&["--pre-dump"][..], "--sign-key and --pre-dump exclude each other"),
        (&["--parent-path", "../x"], "--sign-key and --parent-path exclude each other"),
    ] {
        c.call("checkpoint", &[&dir, flags].concat()).fails(why);
    }
    import(&c, &file, &["--verify-key", &own]).fails("is a PRIVATE KEY; expected a public key of ed25519");
    assert!(Command::new("test").arg("!").arg("-e").arg(&images).status().unwrap().success());
    counts_on(&c, 3);
}
