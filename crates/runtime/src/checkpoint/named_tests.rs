//! Names, and directories of checkpoints that were not made by CRIU.

use super::*;

fn checkpoints(dir: &Path) -> Checkpoints {
    Checkpoints::new(&"box".parse().unwrap(), dir.join("checkpoints"))
}

fn name(name: &str) -> CheckpointName {
    name.parse().unwrap()
}

#[test]
fn names_as_in_docker() {
    for good in ["c1", "1.", "checkpoint-1_2.3", "AA", "0-"] {
        assert_eq!(good.parse::<CheckpointName>().unwrap().as_str(), good);
    }
    for bad in ["", "c", ".c", "-c", "_c", "c/d", "../c", "c d", "cä", "c\n"] {
        let error = bad.parse::<CheckpointName>().unwrap_err().to_string();
        let expected = format!("Invalid checkpoint ID ({bad}), only [a-zA-Z0-9][a-zA-Z0-9_.-]+ are allowed");
        assert_eq!(error, expected);
    }
    assert!(serde_json::from_str::<CheckpointName>("\"a/b\"").is_err());
}

#[test]
fn a_list_makes_the_directory_and_shows_what_is_whole() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    let all = checkpoints(dir.path());
    assert_eq!(all.names().unwrap(), []);
    let mode = std::fs::metadata(all.dir()).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o755);
    for made in ["bb", "aa", ".cc.12"] {
        std::fs::create_dir(all.dir().join(made)).unwrap();
    }
    std::fs::write(all.dir().join("file"), "").unwrap();
    assert_eq!(all.names().unwrap(), [name("aa"), name("bb")]);
}

#[test]
fn what_is_missing_or_no_directory_is_said() {
    let dir = tempfile::tempdir().unwrap();
    let all = checkpoints(dir.path());
    let missing = "checkpoint aa does not exist for container box";
    assert_eq!(all.get(&name("aa")).unwrap_err().to_string(), missing);
    assert_eq!(all.delete(&name("aa")).unwrap_err().to_string(), missing);
    all.names().unwrap();
    std::fs::write(all.dir().join("aa"), "").unwrap();
    let file = all.get(&name("aa")).unwrap_err();
    assert!(file.to_string().ends_with("checkpoints/aa exists and is not a directory"), "{file}");
    assert_eq!(file.kind(), crate::Kind::Invalid);
    assert!(all.delete(&name("aa")).is_err() && all.dir().join("aa").exists());
    // A link could lead anywhere.
    std::os::unix::fs::symlink("/", all.dir().join("bb")).unwrap();
    assert!(all.delete(&name("bb")).unwrap_err().to_string().contains("not a directory"));
}

#[test]
fn containerds_file_is_read_and_written() {
    let dir = tempfile::tempdir().unwrap();
    let all = checkpoints(dir.path());
    let path = all.dir().join("aa");
    std::fs::create_dir_all(&path).unwrap();
    let bare = all.get(&name("aa")).unwrap_err().to_string();
    assert!(bare.contains("aa/config.json") && bare.contains("no such file"), "{bare}");
    let text = r#"{"created": "2016-02-03T10:00:00Z", "name": "aa", "tcp": true, "unixSockets": false,
                   "shell": true, "exit": true, "emptyNS": ["network"]}"#;
    std::fs::write(path.join("config.json"), text).unwrap();
    let found = all.get(&name("aa")).unwrap();
    assert_eq!(
        (found.path.as_path(), found.config.created.as_str()),
        (path.as_path(), "2016-02-03T10:00:00Z")
    );
    assert!(found.config.tcp && found.config.exit && !found.config.unix_sockets);
    found.config.write(&ImageDirectory::open(&path).unwrap()).unwrap();
    assert_eq!(all.get(&name("aa")).unwrap(), found);
    for (bad, why) in [("{", "is malformed"), (&text.replace("network", "mount"), "expected network")] {
        std::fs::write(path.join("config.json"), bad).unwrap();
        let error = all.get(&name("aa")).unwrap_err().to_string();
        assert!(error.contains(why), "{error}");
    }
    all.delete(&name("aa")).unwrap();
    assert_eq!(std::fs::read_dir(all.dir()).unwrap().count(), 0);
}

#[test]
fn options_become_the_file() {
    let mut options = CheckpointOptions::default().leave_running(true);
    options.criu.tcp_established = Some(true);
    options.criu.empty_network = Some(true);
    let json = serde_json::to_value(CheckpointConfig::new(&name("aa"), &options)).unwrap();
    let (exit, tcp, shell) = (&json["exit"], &json["tcp"], &json["shell"]);
    assert_eq!((exit.as_bool(), tcp.as_bool(), shell.as_bool()), (Some(false), Some(true), Some(false)));
    assert_eq!(json["emptyNS"], serde_json::json!(["network"]));
    humantime::parse_rfc3339(json["created"].as_str().unwrap()).unwrap();
}
