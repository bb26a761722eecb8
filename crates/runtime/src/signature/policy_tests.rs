use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;

use super::*;

/// Public keys of ed25519.
const SSH: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4f";
const PEM: &str = "-----BEGIN PUBLIC KEY-----\n\
    MCowBQYDK2VwAyEAA6EHv/POEL4dcN0Y505KZYt+KvkuJXx3jVGlsVAJZ3A=\n-----END PUBLIC KEY-----\n";

/// A policy in a directory of its own.
fn file(text: &str) -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("trust.toml");
    std::fs::write(&path, text).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
    (dir, path)
}

fn error(path: &Path) -> String {
    let error = crate::error::chain(&named(Some(path.into())).unwrap_err());
    error.replace(&format!("{}: ", path.display()), "")
}

#[test]
fn a_policy_names_keys_or_nobody() {
    let (dir, path) = file("");
    let key = dir.path().join("ops.pub");
    std::fs::write(&key, PEM).unwrap();
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o644)).unwrap();
    let policy = format!(
        "# those on duty\nrequire-signature = true\nkeys = [\n  {:?},\n  '{SSH} me', # at home\n  '''{PEM}'''\n]\n",
        key.to_str().unwrap()
    );
    std::fs::write(&path, policy).unwrap();
    let demand = named(Some(path.clone())).unwrap().unwrap();
    let [ssh, pem] = [SSH, PEM].map(|text| VerifyingKey::of_text(text).unwrap());
    assert_eq!(demand.keys, [pem.clone(), ssh, pem]);
    assert_eq!(demand.by, path.display().to_string());
    // The keys are nobody's business then.
    std::fs::write(&path, "require-signature = false\nkeys = ['nobody']").unwrap();
    assert_eq!(named(Some(path)).unwrap(), None);
}

#[test]
fn a_policy_that_is_not_understood_is_none() {
    let expected = "; expected require-signature = true or false, and keys = [\"...\", ...]";
    let no_key = "is no key; expected a public key of ed25519 (`openssl pkey -pubout`, or ssh-ed25519), or the absolute path of a \
                  file with one";
    for (text, why) in [
        ("", format!("require-signature is missing{expected}")),
        ("keys = []\n", format!("require-signature is missing{expected}")),
        (
            "\nrequire-signature = true\nkeys = []",
            "line 2: a signature is required, and there is no key in keys; expected one at least, as \
             keys = [\"/etc/hiber/ops.pub\"]"
                .into(),
        ),
        (
            "require-signature = true\nkey = []",
            format!("line 2: unknown field `key`, expected `require-signature` or `keys`{expected}"),
        ),
        (
            "require-signature = \"yes\"",
            format!("line 1: invalid type: string \"yes\", expected a boolean{expected}"),
        ),
        (
            "require-signature = false\nrequire-signature = true\n",
            format!("line 2: duplicate key{expected}"),
        ),
        ("require-signature = yes\n", format!("line 1: string values must be quoted, expected literal string{expected}")),
        (
            "require-signature = true\n\nkeys = \"/etc\"",
            format!("line 3: invalid type: string \"/etc\", expected a sequence{expected}"),
        ),
        (
            "require-signature = true\nkeys = [\n'ops.pub']",
            format!("line 3: keys: \"ops.pub\" {no_key}"),
        ),
        (
            "require-signature = true\nkeys = ['/nowhere/ops.pub']",
            "line 2: keys: /nowhere/ops.pub: is missing; expected a public key of ed25519 (`openssl pkey -pubout`, or \
             ssh-ed25519)"
                .into(),
        ),
        (
            "require-signature = true\nkeys = ['ssh-rsa AAAA me']",
            "line 2: keys: \"ssh-rsa AAAA me\" is a key of the kind ssh-rsa; expected ssh-ed25519 (`ssh-keygen -t ed25519`), or \
             the absolute path of a file with one"
                .into(),
        ),
    ] {
        let (_dir, path) = file(text);
        assert_eq!(error(&path), format!("read the policy that says whom to trust: {why}"), "{text}");
    }
}

#[test]
fn a_policy_of_others_is_none() {
    let (dir, path) = file("require-signature = false");
    let mode = |path: &Path, mode| {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    };
    assert_eq!(named(Some(path.clone())).unwrap(), None);
    for wrong in [0o664, 0o646] {
        mode(&path, wrong);
        assert!(error(&path).contains("can be written by others than its owner"), "{}", error(&path));
    }
    mode(&path, 0o644);
    mode(dir.path(), 0o777);
    let shown = format!("{}: can be written by others", dir.path().display());
    assert!(error(&path).contains(&shown), "{}", error(&path));
    // As /tmp has it.
    mode(dir.path(), 0o1777);
    assert_eq!(named(Some(path.clone())).unwrap(), None);
    mode(dir.path(), 0o700);
    // Another name of the same file changes nothing.
    std::fs::hard_link(&path, dir.path().join("other")).unwrap();
    assert_eq!(named(Some(path.clone())).unwrap(), None);
    if rustix::process::geteuid().is_root() {
        std::os::unix::fs::chown(&path, Some(4711), None).unwrap();
        assert!(
            error(&path).contains("belongs to user 4711: expected root or the caller"),
            "{}",
            error(&path)
        );
    }
    std::fs::remove_file(&path).unwrap();
    assert!(error(&path).contains("is missing, and HIBER_TRUST names it"), "{}", error(&path));
    std::fs::create_dir(&path).unwrap();
    assert!(error(&path).contains("is no regular file but a Directory"), "{}", error(&path));
    std::fs::remove_dir(&path).unwrap();
    rustix::fs::mknodat(rustix::fs::CWD, &path, rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
    assert!(error(&path).contains("is no regular file but a Fifo"), "{}", error(&path));
    for relative in ["", "trust.toml"] {
        let why = of_file(Some(relative.into())).unwrap_err().to_string();
        assert_eq!(why, format!("HIBER_TRUST={relative}: expected the absolute path of a file"));
    }
}
