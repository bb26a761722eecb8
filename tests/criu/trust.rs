//! The host's policy: a file that refuses checkpoints which nobody known has signed.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use nix::mount::{MsFlags, mount};

use crate::archives::{assert_no_scratch, export, import, place};
use crate::archives_encrypted::run;
use crate::migrate::migrate;
use crate::signed::Keys;
use crate::{count, counter, counts_on};
use hiber_tests::prelude::*;

/// A policy of a test's own.
struct Policy {
    file: PathBuf,
    _dir: tempfile::TempDir,
}

impl Policy {
    /// One by which nobody needs to sign.
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let policy = Self { file: dir.path().join("trust.toml"), _dir: dir };
        policy.write("require-signature = false\n");
        policy
    }

    fn write(&self, text: &str) {
        fs::write(&self.file, text).unwrap();
        fs::set_permissions(&self.file, fs::Permissions::from_mode(0o644)).unwrap();
    }

    /// Only this key's owner may sign.
    fn require(&self, key: &str) {
        self.write(&format!("require-signature = true\nkeys = [{key:?}]\n"));
    }

    fn runtime(&self) -> Runtime {
        Runtime::hiber_by(["env".to_owned(), format!("HIBER_TRUST={}", self.shown())])
    }

    fn shown(&self) -> String {
        self.file.to_str().unwrap().to_owned()
    }
}

/// `restore FLAGS`.
fn restore(c: &Container, flags: &[&str]) -> Output {
    let bundle = c.bundle_path();
    c.call_detached("restore", &[&["--detach", "--bundle", &bundle], flags].concat())
}

/// `checkpoints ACTION`.
fn named(c: &Container, action: &str, flags: &[&str], words: &[&str]) -> Output {
    let bundle = c.bundle_path();
    c.runtime().run(&[&["checkpoints", action, "--bundle", &bundle], flags, &[c.id()], words].concat())
}

#[test]
fn what_no_key_of_the_policy_has_signed_is_refused_wherever_it_is() {
    require!(Root, Criu, Program("openssl"), Program("ssh-keygen"));
    let policy = Policy::new();
    let c = counter(&policy.runtime(), Bundle::busybox());
    let keys = Keys::new(&c);
    let (own, other) = (keys.path("own"), keys.path("other"));
    let path = |name: &str| place(&c).join(name).to_str().unwrap().to_owned();
    let (images, tar, layout) = (path("images"), path("c.tar"), format!("oci:{}", path("layout")));
    let before = count(&c);
    for (signer, refusal) in [
        (None, "is not signed (there is no hiber.json.sig), and"),
        (Some(&other), "is not signed by the key of"),
    ] {
        let sign: Vec<&str> = signer.map_or_else(Vec::new, |key| vec!["--sign-key", key]);
        let running = [&["--leave-running"][..], &sign].concat();
        c.call("checkpoint", &[&["--image-path", &images], &*running].concat()).ok();
        c.call("checkpoint", &[&["--export", &tar, "--compress", "none"], &*running].concat()).ok();
        c.call("checkpoint", &[&["--export", &layout], &*running].concat()).ok();
        named(&c, "create", &running, &["one"]).ok();
        c.call("delete", &["--force"]).ok();
        policy.require(&format!("{own}.pub"));
        let words = format!("{refusal} {}", policy.shown());
        let words = words.trim_end();
        for trust in [&[][..], &["--trust-images"]] {
            restore(&c, &[&["--image-path", &images], trust].concat()).fails(refusal).fails(&policy.shown());
            restore(&c, &[&["--checkpoint", "one"], trust].concat()).fails(words);
            for from in [&tar, &layout] {
                let flags = [&["--import", from], trust].concat();
                restore(&c, &flags).fails(words);
            }
            assert_eq!(c.status(), "gone");
            assert_no_scratch(&c);
            c.assert_clean();
        }
        let bundle = c.bundle_path();
        c.call("restore", &["--prove", "--bundle", &bundle, "--image-path", &images]).fails(words);
        named(&c, "verify", &["--prove"], &["one"]).fails(words);
        named(&c, "import", &[], &["two", &tar]).fails(words);
        named(&c, "import", &[], &["two", &layout]).fails(words);
        assert!(!named(&c, "ls", &[], &[]).ok().contains("two"));
        let check =
            ["--check", "--format", "json", "--bundle", &bundle, "--image-path", &images, "--trust-images"];
        let report: Value = serde_json::from_str(&c.call("restore", &check).stdout).unwrap();
        let found = report["findings"].as_array().unwrap();
        let found = found.iter().find(|finding| finding["check"] == "signature");
        assert!(found.unwrap()["what"].as_str().unwrap().contains(words), "{report}");
        policy.write("require-signature = false\n");
        restore(&c, &["--image-path", &images]).ok();
        counts_on(&c, before);
        named(&c, "rm", &[], &["one"]).ok();
        run("rm", &["-r", &images]);
    }
}

#[test]
fn a_policy_adds_to_what_the_caller_wants() {
    require!(Root, Criu, Program("openssl"), Program("ssh-keygen"));
    let policy = Policy::new();
    let c = counter(&policy.runtime(), Bundle::busybox());
    let keys = Keys::new(&c);
    let (own, of_own, of_other) = (keys.path("own"), keys.path("own.pub"), keys.path("other.pub"));
    let file = place(&c).join("c.tar");
    let tar = file.to_str().unwrap();
    policy.require(&of_own);
    let before = count(&c);
    // The very one that the policy names, and its word on those that it does not.
    let warned = export(&c, &file, &["--compress", "none", "--leave-running"]);
    assert!(
        warned.stderr.contains("this host will not restore the checkpoint: it is not signed"),
        "{warned}"
    );
    let other = keys.path("other");
    let warned = export(&c, &file, &["--compress", "none", "--leave-running", "--sign-key", &other]);
    assert!(warned.stderr.contains("the key of --sign-key is none of those in"), "{warned}");
    let images = place(&c).join("x").to_str().unwrap().to_owned();
    let check = |flags: &[&str]| {
        let flags = [&["--check", "--format", "json", "--image-path", &images], flags].concat();
        c.call("checkpoint", &flags).json()["findings"].to_string().contains("\"unsigned\"")
    };
    assert!(check(&[]) && check(&["--sign-key", &other]) && !check(&["--sign-key", &own]));
    let quiet = export(&c, &file, &["--compress", "none", "--sign-key", &own]);
    assert!(quiet.status.success() && !quiet.stderr.contains("this host"), "{quiet}");
    import(&c, &file, &["--verify-key", &of_other]).fails("is not signed by the key of --verify-key");
    policy.require(&of_other);
    import(&c, &file, &["--verify-key", &of_own]).fails("is not signed by the key of /");
    policy.require(&of_own);
    named(&c, "import", &[], &["one", tar]).ok();
    restore(&c, &["--checkpoint", "one"]).ok();
    c.call("delete", &["--force"]).ok();
    // Such a host takes nothing that a signature does not cover.
    restore(&c, &["--checkpoint", "one", "--lazy-pages"])
        .fails("--lazy-pages: brings memory that no signature");
    import(&c, &file, &["--verify-key", &of_own]).ok();
    counts_on(&c, before);
    // Nobody signs what is tried, or moves: it was in no other hands.
    c.call("checkpoint", &["--prove", "--leave-running", "--image-path", &images]).ok();
    let there = policy.runtime().container(Bundle::busybox());
    migrate(&c, &there, &[]).ok();
    counts_on(&there, before);
}

#[test]
fn a_policy_that_is_not_understood_refuses_every_checkpoint() {
    require!(Root, Criu);
    let policy = Policy::new();
    let c = counter(&policy.runtime(), Bundle::busybox());
    let file = place(&c).join("c.tar");
    let tar = file.to_str().unwrap();
    let before = count(&c);
    named(&c, "create", &["--leave-running"], &["one"]).ok();
    policy.write("require-signature = false\n\nrequire_signature = true\n");
    let why = "trust.toml: line 3: unknown field `require_signature`, expected `require-signature` or `keys`";
    let exported = export(&c, &file, &[]);
    assert!(exported.stderr.contains(why), "{exported}");
    let refused = |why: &str| {
        import(&c, &file, &["--trust-images"]).fails(why);
        restore(&c, &["--checkpoint", "one"]).fails(why);
        named(&c, "import", &[], &["two", tar]).fails(why);
        assert_eq!(c.status(), "gone");
        assert_no_scratch(&c);
    };
    refused(why);
    policy.write("require-signature = false\n");
    fs::set_permissions(&policy.file, fs::Permissions::from_mode(0o666)).unwrap();
    refused("trust.toml: can be written by others than its owner");
    fs::remove_file(&policy.file).unwrap();
    refused("trust.toml: is missing, and HIBER_TRUST names it");
    policy.write("require-signature = false\n");
    import(&c, &file, &[]).ok();
    counts_on(&c, before);
}

#[test]
fn the_file_in_etc_is_the_policy_where_nobody_names_another() {
    require!(Root, Criu, Program("openssl"), Program("ssh-keygen"));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS).unwrap();
            let none = None::<&str>;
            mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).unwrap();
            let c = counter(&Runtime::hiber(), Bundle::busybox());
            let keys = Keys::new(&c);
            let (own, before) = (keys.path("own"), count(&c));
            let (signed, unsigned) = (place(&c).join("signed.tar"), place(&c).join("unsigned.tar"));
            export(&c, &unsigned, &["--leave-running"]).ok();
            export(&c, &signed, &["--sign-key", &own]).ok();
            mount(Some("tmpfs"), "/etc", Some("tmpfs"), MsFlags::empty(), Some("mode=755")).unwrap();
            let file = Path::new("/etc/hiber/trust.toml");
            fs::create_dir(file.parent().unwrap()).unwrap();
            import(&c, &unsigned, &[]).ok();
            c.call("delete", &["--force"]).ok();
            let key = fs::read_to_string(format!("{own}.pub")).unwrap();
            fs::write(file, format!("require-signature = true\nkeys = ['''{key}''']\n")).unwrap();
            import(&c, &unsigned, &[]).fails("and /etc/hiber/trust.toml wants a signature");
            assert_eq!(c.status(), "gone");
            import(&c, &signed, &[]).ok();
            counts_on(&c, before);
        });
    });
}
