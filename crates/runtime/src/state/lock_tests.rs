use super::*;
use crate::state::store::Store;

fn entry() -> (tempfile::TempDir, Entry, Lock, Entry) {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::new(&dir.path().join("root"));
    let id = "box".parse().unwrap();
    let (entry, lock) = store.create(&id).unwrap();
    let other = store.open(&id).unwrap();
    (dir, entry, lock, other)
}

#[test]
fn the_lock_is_seen_by_others_and_ends_with_its_holder() {
    let (_dir, entry, lock, other) = entry();
    assert!(other.is_locked().unwrap());
    drop(lock);
    assert!(!other.is_locked().unwrap());
    let lock = entry.lock().unwrap();
    entry.remove().unwrap();
    drop(lock);
    // deleted while one waited for it
    assert!(matches!(other.lock(), Err(Error::NotFound)));
}

#[test]
fn a_wait_ends_and_names_the_holder() {
    let (_dir, _entry, _lock, other) = entry();
    let began = Instant::now();
    let error = other.lock_within(Duration::from_millis(300)).unwrap_err().to_string();
    assert!(began.elapsed() >= Duration::from_millis(300));
    let own = std::process::id();
    assert!(error.contains(&format!("container box, which process {own} (")), "{error}");
    let program = std::env::current_exe().unwrap();
    assert!(error.contains(program.file_name().unwrap().to_str().unwrap()), "{error}");
}

#[test]
fn a_container_that_is_deleted_ends_the_wait_for_it() {
    let (_dir, entry, _lock, other) = entry();
    std::thread::scope(|scope| {
        let wait = scope.spawn(|| other.lock_within(Duration::from_secs(30)));
        std::thread::sleep(Duration::from_millis(100));
        entry.remove().unwrap();
        assert!(matches!(wait.join().unwrap(), Err(Error::NotFound)));
    });
}
