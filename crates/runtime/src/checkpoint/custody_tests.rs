//! Directories that are refused, and directories that are not.

use std::os::unix::fs::{PermissionsExt, symlink};

use super::*;

fn set(path: &Path, mode: u32) {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
}

#[test]
fn what_others_can_change_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("core-1.img");
    std::fs::write(&file, "").unwrap();
    set(&file, 0o644);
    let open = ImageDirectory::open(dir.path()).unwrap();
    for (mode, good) in [(0o700, true), (0o755, true), (0o711, true), (0o770, false), (0o757, false)] {
        set(dir.path(), mode);
        assert_eq!(check_writers(&open).is_ok(), good, "{mode:o}");
        assert_eq!(check_work(&open).is_ok(), good, "{mode:o}");
    }
    let error = check_writers(&open).unwrap_err();
    assert!(error.contains("others can write to it (mode 757)"), "{error}");
    set(dir.path(), 0o1777);
    check_work(&open).unwrap();
    set(dir.path(), 0o700);
    set(&file, 0o660);
    let error = check_writers(&open).unwrap_err();
    assert!(error.contains("core-1.img: others can write to it (mode 660)"), "{error}");
    set(&file, 0o600);
    let second = dir.path().join("second.img");
    std::fs::hard_link(&file, &second).unwrap();
    let error = check_writers(&open).unwrap_err();
    assert!(error.contains("core-1.img: has another name elsewhere (a hard link)"), "{error}");
    std::fs::remove_file(second).unwrap();
    check_writers(&open).unwrap();
    if rustix::process::geteuid().is_root() {
        std::os::unix::fs::chown(&file, Some(1), None).unwrap();
        let error = check_writers(&open).unwrap_err();
        assert!(error.contains("belongs to user 1, who can change it"), "{error}");
    }
}

#[test]
fn nothing_but_a_parent_is_a_link_and_all_else_is_a_file() {
    let dir = tempfile::tempdir().unwrap();
    let open = ImageDirectory::open(dir.path()).unwrap();
    let at = |name: &str| dir.path().join(name);
    symlink("../other", at("parent")).unwrap();
    std::fs::write(at("pages-1.img"), "").unwrap();
    std::fs::create_dir(at("work")).unwrap();
    check_kinds(&open).unwrap();
    for name in ["restore.log", "stats-restore", "pages-2.img"] {
        symlink("/nowhere", at(name)).unwrap();
        let error = check_kinds(&open).unwrap_err().to_string();
        assert!(error.contains(&format!("{name}: is a symbolic link")), "{error}");
        assert_eq!(check_work(&open).is_ok(), name == "pages-2.img", "{name}");
        std::fs::remove_file(at(name)).unwrap();
    }
    let socket = std::os::unix::net::UnixListener::bind(at("other.socket")).unwrap();
    let error = check_kinds(&open).unwrap_err().to_string();
    assert!(error.contains("other.socket: is neither a file nor a directory"), "{error}");
    std::fs::rename(at("other.socket"), at(LAZY_SOCKET)).unwrap();
    check_kinds(&open).unwrap();
    drop(socket);
}

#[test]
fn what_is_asked_of_is_what_was_opened() {
    let top = tempfile::tempdir().unwrap();
    let at = |name: &str| top.path().join(name);
    std::fs::create_dir(at("images")).unwrap();
    set(&at("images"), 0o700);
    std::fs::write(at("images/pages-1.img"), "ours").unwrap();
    let open = ImageDirectory::open(&at("images")).unwrap();
    std::fs::rename(at("images"), at("old")).unwrap();
    std::fs::create_dir(at("images")).unwrap();
    set(&at("images"), 0o777);
    check_writers(&open).unwrap();
    let read = std::io::read_to_string(open.file("pages-1.img").unwrap()).unwrap();
    assert_eq!((read.as_str(), open.names().unwrap().len()), ("ours", 1));
}

#[test]
fn a_configuration_of_others_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("criu.conf");
    let refused = |path: &Path| open_config(path).unwrap_err().to_string();
    assert!(refused(&path).contains("criu.conf: cannot configure CRIU: "), "{}", refused(&path));
    std::fs::write(&path, "").unwrap();
    set(&path, 0o644);
    open_config(&path).unwrap();
    set(&path, 0o664);
    assert!(refused(&path).contains("others can write to it (mode 664)"), "{}", refused(&path));
    set(&path, 0o600);
    if rustix::process::geteuid().is_root() {
        std::os::unix::fs::chown(&path, Some(1), None).unwrap();
        assert!(refused(&path).contains("belongs to user 1"), "{}", refused(&path));
    }
    assert!(refused(dir.path()).contains("is not a file"), "{}", refused(dir.path()));
}
