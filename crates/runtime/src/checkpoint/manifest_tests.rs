//! Manifests: what they say, and what they notice.

use std::path::PathBuf;

use super::super::CheckpointOptions;
use super::*;
use crate::Address;

fn manifest(spec: &Spec, options: &CheckpointOptions) -> Manifest {
    Manifest { criu: "4.2".into(), ..Manifest::new("box", spec, options).unwrap() }
}

/// A directory with some files and their manifest.
fn checkpoint(hash: bool) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for (name, text) in
        [("pages-1.img", "memory"), ("core-1.img", "core"), ("dump.log", "log"), ("stats-dump", "s")]
    {
        std::fs::write(dir.path().join(name), text).unwrap();
    }
    std::os::unix::fs::symlink("../parent", dir.path().join("parent")).unwrap();
    manifest(&Spec::default(), &CheckpointOptions::default())
        .write(&ImageDirectory::open(dir.path()).unwrap(), hash, Heads::default(), BTreeMap::new())
        .unwrap();
    dir
}

fn problems(dir: &Path) -> Vec<String> {
    Manifest::read(dir)
        .unwrap()
        .unwrap()
        .compare(&sums(&ImageDirectory::open(dir).unwrap(), Hashed::All).unwrap())
}

#[test]
fn it_says_where_how_and_of_what_it_was_made() {
    let dir = checkpoint(true);
    let m = Manifest::read(dir.path()).unwrap().unwrap();
    assert_eq!((m.version, m.kind, m.container.as_str(), m.criu.as_str()), (1, Kind::Dump, "box", "4.2"));
    assert!(humantime::parse_rfc3339(&m.created).is_ok(), "{}", m.created);
    assert_eq!(m.kernel, std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap().trim());
    assert_eq!(m.cpu.architecture, std::env::consts::ARCH);
    assert!(m.cpu.features.len() > 5 && m.cpu.features.is_sorted(), "{:?}", m.cpu.features);
    assert_eq!(
        m.files.keys().collect::<Vec<_>>(),
        ["core-1.img", "pages-1.img"],
        "no logs, links, statistics"
    );
    // b3sum of "memory"
    let expected = "blake3:".len() + 64;
    assert_eq!(m.config.len(), expected, "{}", m.config);
    assert_eq!(m.files["pages-1.img"].size, 6);
    assert_eq!(m.files["pages-1.img"].blake3.as_deref(), Some(blake3::hash(b"memory").to_hex().as_str()));
    assert!(m.is_hashed() && problems(dir.path()).is_empty());
}

#[test]
fn each_change_is_noticed() {
    let (dir, file) = (checkpoint(true), "pages-1.img");
    let path = dir.path().join(file);
    std::fs::write(&path, "memorY").unwrap();
    assert_eq!(problems(dir.path()), ["pages-1.img: its content is not what was written"]);
    std::fs::write(&path, "memo").unwrap();
    assert_eq!(problems(dir.path()), ["pages-1.img: has 4 bytes, expected 6"]);
    std::fs::remove_file(&path).unwrap();
    assert_eq!(problems(dir.path()), ["pages-1.img: is missing"]);
    std::fs::write(&path, "memory").unwrap();
    std::fs::write(dir.path().join("core-2.img"), "").unwrap();
    std::fs::write(dir.path().join("restore.log"), "").unwrap();
    assert_eq!(problems(dir.path()), ["core-2.img: is not of this checkpoint"]);
}

#[test]
fn memory_that_a_page_server_wrote_is_no_stranger() {
    let dir = checkpoint(true);
    std::fs::write(dir.path().join("pages-2.img"), "sent").unwrap();
    assert_eq!(problems(dir.path()), ["pages-2.img: is not of this checkpoint"]);
    let mut m = Manifest::read(dir.path()).unwrap().unwrap();
    m.options.dump.page_server = Some("192.0.2.1:27".parse().unwrap());
    assert!(m.compare(&sums(&ImageDirectory::open(dir.path()).unwrap(), Hashed::All).unwrap()).is_empty());
}

#[test]
fn without_hashes_sizes_are_compared() {
    let dir = checkpoint(false);
    assert!(!Manifest::read(dir.path()).unwrap().unwrap().is_hashed());
    assert!(problems(dir.path()).is_empty());
    std::fs::write(dir.path().join("core-1.img"), "longer than before").unwrap();
    assert_eq!(problems(dir.path()), ["core-1.img: has 18 bytes, expected 4"]);
}

#[test]
fn manifests_of_other_versions_and_garbage_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    assert_eq!(Manifest::read(dir.path()).unwrap(), None);
    for (json, why) in [
        (r#"{"version": 2, "files": 7}"#, "hiber.json: has format version 2; this program knows 1"),
        (r#"{"version": 1}"#, "hiber.json: is malformed: missing field `kind`"),
        ("[]", "hiber.json: is no manifest"),
        ("", "hiber.json: is no manifest"),
    ] {
        std::fs::write(dir.path().join(FILE_NAME), json).unwrap();
        let error = Manifest::read(dir.path()).unwrap_err().to_string();
        assert!(error.contains(why), "{error}");
    }
}

#[test]
fn a_configuration_has_one_digest_however_it_is_written() {
    let read = |text: &str| serde_json::from_str::<Spec>(text).unwrap();
    let one = r#"{"ociVersion":"1.0","annotations":{"a":"1","b":"2"},"hostname":"h"}"#;
    let same = r#"{ "hostname":"h", "annotations":{"b":"2","a":"1"}, "ociVersion":"1.0"}"#;
    let other = r#"{"ociVersion":"1.0","annotations":{"a":"1","b":"3"},"hostname":"h"}"#;
    assert_eq!(config_digest(&read(one)).unwrap(), config_digest(&read(same)).unwrap());
    assert_ne!(config_digest(&read(one)).unwrap(), config_digest(&read(other)).unwrap());
    // capabilities are a set, whose order is another each time
    let caps =
        r#"["CAP_KILL","CAP_CHOWN","CAP_SETUID","CAP_SETGID","CAP_FOWNER","CAP_SYS_CHROOT","CAP_MKNOD"]"#;
    let process = format!(
        r#"{{"ociVersion":"1.0","process":{{"cwd":"/","user":{{"uid":0,"gid":0}},"capabilities":{{"bounding":{caps}}}}}}}"#
    );
    let digests: std::collections::HashSet<_> =
        (0..20).map(|_| config_digest(&read(&process)).unwrap()).collect();
    assert_eq!(digests.len(), 1);
}

#[test]
fn a_restore_does_as_the_dump_did_unless_told() {
    let dump = CheckpointOptions {
        criu: CriuOptions {
            tcp_established: Some(true),
            file_locks: Some(true),
            cgroups_mode: Some(hiber_criu::CgroupMode::Full),
            shell_job: Some(true),
            lazy_pages: true,
            ..CriuOptions::default()
        },
        ..CheckpointOptions::default()
    };
    let options = manifest(&Spec::default(), &dump).options.criu;
    let mut restore = CriuOptions::default();
    restore.follow(&options);
    assert_eq!((restore.tcp_established, restore.tcp_close), (Some(true), Some(false)));
    assert_eq!(restore.file_locks, Some(true));
    assert_eq!(
        (restore.cgroups_mode, restore.shell_job),
        (None, None),
        "the host's limits, and the caller's terminal"
    );
    assert!(!restore.lazy_pages, "where memory comes from is chosen each time");

    let mut told = CriuOptions {
        tcp_close: Some(true),
        file_locks: Some(false),
        cgroups_mode: Some(hiber_criu::CgroupMode::Full),
        ..CriuOptions::default()
    };
    told.follow(&options);
    assert_eq!((told.tcp_established, told.tcp_close), (None, Some(true)), "closing is not keeping");
    assert_eq!((told.file_locks, told.cgroups_mode), (Some(false), Some(hiber_criu::CgroupMode::Full)));
}

#[test]
fn the_options_are_written_as_by_earlier_versions() {
    let earlier = serde_json::json!({
        "tcpEstablished": true, "tcpClose": false, "tcpSkipInFlight": false, "extUnixSk": false, "shellJob": false,
        "fileLocks": false, "linkRemap": true, "lazyPages": false, "autoDedup": false, "emptyNetwork": false,
        "loopback": false, "leaveRunning": true, "cgroupsMode": "soft", "networkLock": null, "parentPath": "../before",
        "pageServer": "[::1]:27",
    });
    let chosen = CheckpointOptions {
        criu: CriuOptions {
            image_path: "/not/recorded".into(),
            tcp_established: Some(true),
            ..CriuOptions::default()
        },
        ..CheckpointOptions::default()
    }
    .link_remap(true)
    .leave_running(true)
    .parent_path(PathBuf::from("../before"))
    .page_server("[::1]:27".parse::<Address>().unwrap());
    let options = manifest(&Spec::default(), &chosen).options;
    assert_eq!(serde_json::to_value(&options).unwrap(), earlier);
    let read: Options = serde_json::from_value(earlier.clone()).unwrap();
    assert_eq!((read.criu.tcp_established, read.criu.tcp_close), (Some(true), Some(false)));
    assert_eq!(serde_json::to_value(&read).unwrap(), earlier);
    let nowhere = serde_json::json!({"parentPath": null, "pageServer": null});
    let read: Options = serde_json::from_value(nowhere).unwrap();
    assert_eq!((read.dump.parent_path, read.dump.page_server), (None, None));
    let sparse: Options =
        serde_json::from_str(r#"{"networkLock": "skip", "cgroupsMode": "ignore"}"#).unwrap();
    assert_eq!(sparse.criu.cgroups_mode, Some(hiber_criu::CgroupMode::Ignore));
    assert_eq!(
        (sparse.criu.network_lock, sparse.criu.file_locks),
        (Some(hiber_criu::NetworkLock::Skip), None)
    );
}
