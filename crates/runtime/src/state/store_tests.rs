use std::time::SystemTime;

use super::*;
use crate::state::entry::{INIT_SOCKET, START_SOCKET};
use crate::state::facts::Facts;

fn store() -> (tempfile::TempDir, Store, ContainerId) {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::new(&dir.path().join("root"));
    (dir, store, "box".parse().unwrap())
}

fn facts() -> Facts {
    Facts {
        version: FACTS_VERSION,
        id: "box".into(),
        pid: 42,
        start_time: 4711,
        pidfd_inode: Some(1 << 40),
        bundle: "/b".into(),
        rootfs: "/b/rootfs".into(),
        created: SystemTime::now(),
        cgroup: Default::default(),
        namespaces: Vec::new(),
        resctrl: Default::default(),
        put_root: false,
        host_root: None,
        streams: vec!["pipe:[1]".into()],
        keyring: None,
    }
}

#[test]
fn an_id_is_claimed_once_and_free_again_after_removal() {
    let (_dir, store, id) = store();
    assert!(matches!(store.open(&id), Err(Error::NotFound)));
    let (entry, lock) = store.create(&id).unwrap();
    assert!(matches!(store.create(&id), Err(Error::Exists)));
    assert_eq!(store.ids().unwrap(), std::slice::from_ref(&id));
    entry.remove().unwrap();
    drop(lock);
    assert!(store.ids().unwrap().is_empty());
    store.create(&id).unwrap();
}

#[test]
fn facts_come_back_and_absent_ones_are_no_error() {
    let (_dir, store, id) = store();
    let (entry, _lock) = store.create(&id).unwrap();
    assert!(entry.facts().unwrap().is_none());
    let written = facts();
    entry.write_facts(&written).unwrap();
    assert_eq!(store.open(&id).unwrap().facts().unwrap().unwrap(), written);
}

#[test]
fn facts_of_another_version_or_none_at_all_are_told_by_file() {
    let (_dir, store, id) = store();
    let (entry, _lock) = store.create(&id).unwrap();
    let file = entry.path().join("state.json");
    for (content, words) in [("{", "cannot be understood"), ("", "cannot be understood")] {
        std::fs::write(&file, content).unwrap();
        let message = entry.facts().unwrap_err().to_string();
        assert!(message.contains("state.json") && message.contains(words), "{message}");
    }
    entry.write_facts(&Facts { version: FACTS_VERSION + 1, ..facts() }).unwrap();
    assert!(entry.facts().unwrap_err().to_string().contains("version"));
}

#[test]
fn sockets_work_below_paths_longer_than_an_address() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::new(&dir.path().join("d".repeat(120)));
    let (entry, _lock) = store.create(&"box".parse().unwrap()).unwrap();
    assert!(entry.connect(START_SOCKET).unwrap().is_none());
    let listener = entry.listen().unwrap();
    assert!(entry.connect(INIT_SOCKET).unwrap().is_some());
    entry.publish_start_socket().unwrap();
    assert!(entry.connect(START_SOCKET).unwrap().is_some() && entry.connect(INIT_SOCKET).unwrap().is_none());
    drop(listener);
    assert!(entry.connect(START_SOCKET).unwrap().is_none());
}

/// A container whose files are damaged is told of, or described: reading never panics.
#[test]
fn damaged_files_are_read_or_refused() {
    let (_dir, store, id) = store();
    let (entry, _lock) = store.create(&id).unwrap();
    entry.write_facts(&facts()).unwrap();
    let config =
        r#"{"ociVersion": "1.2.0", "annotations": {"a": "b"}, "hooks": {"poststop": [{"path": "/x"}]}}"#;
    std::fs::write(entry.path().join(CONFIG), config).unwrap();
    // xorshift64*: the same numbers each time
    let mut state = 20_261_122_u64;
    let mut below = |end: usize| {
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        (state.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) as usize % end
    };
    let (mut good, mut bad) = (0, 0);
    for name in [STATE, CONFIG] {
        let file = entry.path().join(name);
        let original = std::fs::read(&file).unwrap();
        for _ in 0..500 {
            let mut bytes = original.clone();
            let at = below(bytes.len());
            match below(4) {
                0 => bytes.truncate(at),
                1 => bytes[at] ^= 1 << below(8),
                2 => bytes[at] = b"\"{}[],:9"[below(8)],
                _ => bytes.splice(at..at, *b"9999999999").for_each(drop),
            }
            std::fs::write(&file, bytes).unwrap();
            let results =
                [entry.facts().map(drop), entry.config_summary().map(drop), entry.config().map(drop)];
            for result in results {
                match result {
                    Ok(()) => good += 1,
                    Err(e) => {
                        assert!(e.to_string().contains(name) || name == CONFIG, "{e}");
                        bad += 1;
                    }
                }
            }
        }
        std::fs::write(&file, original).unwrap();
    }
    assert!(good > 100 && bad > 100, "{good}, {bad}");
}

/// Of a removal that was killed, and of one that somebody is still at.
#[test]
fn what_a_removal_left_stands_in_nobodys_way() {
    let (_dir, store, id) = store();
    let other: ContainerId = "box2".parse().unwrap();
    let left = |id: &ContainerId| removed(&store.path(id));
    for id in [&id, &other] {
        std::fs::create_dir_all(left(id).join("below")).unwrap();
        std::fs::write(left(id).join("state.json"), "{").unwrap();
    }
    let (entry, _lock) = store.create(&id).unwrap();
    assert!(!left(&id).exists() && left(&other).exists(), "that of another id is another's");
    assert_eq!(store.ids().unwrap(), std::slice::from_ref(&id));
    std::fs::create_dir_all(left(&id).join("below")).unwrap();
    entry.remove().unwrap();
    assert!(!left(&id).exists() && !store.path(&id).exists());
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..200 {
                    match store.create(&id) {
                        Ok((entry, _lock)) => entry.remove().unwrap(),
                        Err(e) => assert!(matches!(e, Error::Exists | Error::NotFound), "{e}"),
                    }
                }
            });
        }
    });
    store.sweep(&id).unwrap();
    assert!(!left(&id).exists() && !store.path(&id).exists());
}
