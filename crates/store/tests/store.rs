//! A store as its users see it.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use hiber_store::{CHUNK, Compress, Key, Like, Store, Stored, Writer};

const ZSTD: Compress = Compress::Zstd(1);

fn store() -> (tempfile::TempDir, Store) {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::make(&dir.path().join("store")).unwrap();
    (dir, store)
}

/// Pages of which no two are alike, and which can be compressed.
fn pages(seed: u64, count: usize) -> Vec<u8> {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut all = vec![0; count * CHUNK];
    all.chunks_mut(CHUNK).for_each(|page| page[..CHUNK / 2].fill_with(|| random.u8(..)));
    all
}

fn put(store: &Store, name: &str, key: &Key, files: &[(&str, &[u8])]) -> Stored {
    let mut writer = Writer::new(store, ("web", name), key, ZSTD).unwrap();
    for (file, content) in files {
        assert_eq!(writer.add(file, &[], *content, |_| {}).unwrap(), content.len() as u64);
    }
    writer.finish("2026-12-01T00:00:00Z", true).unwrap()
}

fn get(store: &Store, name: &str, keys: &[Key]) -> io::Result<BTreeMap<String, Vec<u8>>> {
    let opened = store.get(("web", name), keys).map_err(|e| io::Error::other(e.to_string()))?;
    let mut all = BTreeMap::new();
    for (number, (file, size)) in opened.head().files.iter().enumerate() {
        let mut content = Vec::new();
        opened.read(number).read_to_end(&mut content)?;
        assert_eq!(content.len() as u64, *size);
        all.insert(file.clone(), content);
    }
    Ok(all)
}

fn files(dir: &Path) -> Vec<PathBuf> {
    let mut all: Vec<_> = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    all.sort();
    all
}

#[test]
fn what_was_put_comes_back_and_what_is_known_costs_nothing() {
    let (_dir, store) = store();
    let none = Key::default();
    let mut memory = pages(1, 3000);
    memory.extend_from_slice(b"a shorter end");
    let first =
        put(&store, "one", &none, &[("pages-1.img", &memory), ("core-1.img", b"core"), ("empty.img", b"")]);
    assert_eq!(first.size, memory.len() as u64 + 4);
    assert!(first.added > memory.len() as u64 / 3 && first.added < memory.len() as u64 * 2 / 3, "{first:?}");
    let mut changed = memory.clone();
    changed[CHUNK * 7] ^= 1;
    changed[CHUNK * 2900] ^= 1;
    let second = put(&store, "two", &none, &[("pages-1.img", &changed)]);
    // Two pages, and the ids of all.
    assert!(second.added < 2 * CHUNK as u64 + 32 * 3001 + 2000, "{second:?}");
    assert_eq!(get(&store, "one", &[]).unwrap()["pages-1.img"], memory);
    assert_eq!(get(&store, "one", &[]).unwrap()["empty.img"], b"");
    assert_eq!(get(&store, "two", &[]).unwrap()["pages-1.img"], changed);
    let third = put(&store, "three", &none, &[("pages-1.img", &changed)]);
    assert!(third.added < 32 * 3001 + 1000, "{third:?}");
    assert_eq!(
        files(&store.root().join("packs")).len(),
        4,
        "a checkpoint without anything new needs no pack"
    );
    assert!(files(&store.root().join("unfinished")).is_empty());
    let names: Vec<_> = store.list(&[none]).unwrap().into_iter().map(|one| one.name).collect();
    assert_eq!(names, ["one", "three", "two"]);
    assert_eq!(store.newest("web", &[Key::default()]).unwrap().unwrap().name, "two");
    assert!(store.newest("db", &[Key::default()]).unwrap().is_none());
}

#[test]
fn parts_are_read_where_they_are_wanted() {
    let (dir, store) = store();
    let memory = pages(2, 700);
    put(&store, "one", &Key::default(), &[("a", b"x"), ("pages-1.img", &memory)]);
    let opened = store.get(("web", "one"), &[]).unwrap();
    let (file, size) = opened.file("pages-1.img").unwrap();
    assert_eq!((file, size), (1, memory.len() as u64));
    let mut cursor = opened.cursor();
    let mut random = fastrand::Rng::with_seed(3);
    for _ in 0..200 {
        let from = random.usize(..memory.len());
        let mut part = vec![0; random.usize(..20 * CHUNK).min(memory.len() - from)];
        cursor.read_at(file, from as u64, &mut part).unwrap();
        assert!(part == memory[from..from + part.len()]);
    }
    assert!(cursor.read_at(file, size - 1, &mut [0; 2]).is_err());
    let path = dir.path().join("copy");
    let copy = fs::File::create(&path).unwrap();
    let (from, to) = (3 * CHUNK, 650 * CHUNK);
    opened.copy(file, from as u64..to as u64, &copy).unwrap();
    let copied = fs::read(&path).unwrap();
    assert!(copied[from..] == memory[from..to] && copied[..from].iter().all(|byte| *byte == 0));
}

#[test]
fn a_key_shares_with_itself_alone() {
    let (_dir, store) = store();
    let (one, other) = (Key::of(&[1; 32]), Key::of(&[2; 32]));
    let memory = pages(4, 400);
    let whole = put(&store, "one", &one, &[("pages-1.img", &memory)]).added;
    assert!(put(&store, "again", &one, &[("pages-1.img", &memory)]).added < whole / 10);
    assert!(put(&store, "other", &other, &[("pages-1.img", &memory)]).added > whole * 9 / 10);
    assert!(put(&store, "plain", &Key::default(), &[("pages-1.img", &memory)]).added > whole * 9 / 10);
    for (name, key) in [("again", &one), ("other", &other)] {
        assert_eq!(get(&store, name, std::slice::from_ref(key)).unwrap()["pages-1.img"], memory);
    }
    let error = get(&store, "other", std::slice::from_ref(&one)).unwrap_err().to_string();
    assert!(error.ends_with("is sealed by a key that was not given"), "{error}");
    let listed = store.list(std::slice::from_ref(&one)).unwrap();
    let shown: Vec<_> = listed.iter().map(|one| (one.name.as_str(), one.head.is_some())).collect();
    assert_eq!(shown, [("other", false), ("plain", false), ("again", true), ("one", true)]);
    // Nothing of a page, of a name of a file or of a time is to be seen.
    for path in
        files(&store.root().join("packs")).into_iter().chain(files(&store.root().join("checkpoints/web")))
    {
        let bytes = fs::read(&path).unwrap();
        let is_plain = path.ends_with("plain") || bytes[8..24] == [0; 16];
        let has = |part: &[u8]| bytes.windows(part.len()).any(|window| window == part);
        assert!(is_plain || !has(&memory[..64]) && !has(b"pages-1") && !has(b"2026"), "{}", path.display());
    }
}

#[test]
fn a_name_is_given_once_and_what_is_not_finished_leaves_nothing() {
    let (_dir, store) = store();
    put(&store, "one", &Key::default(), &[("a", b"x")]);
    let error = Writer::new(&store, ("web", "one"), &Key::default(), ZSTD).unwrap_err();
    assert_eq!(error.why.kind(), io::ErrorKind::AlreadyExists);
    let begin = || Writer::new(&store, ("web", "two"), &Key::default(), ZSTD).unwrap();
    let (mut one, two) = (begin(), begin());
    one.add("pages-1.img", &[], &*pages(1, 100), |_| {}).unwrap();
    one.finish("", false).unwrap();
    assert_eq!(two.finish("", false).unwrap_err().why.kind(), io::ErrorKind::AlreadyExists);
    let mut dropped = Writer::new(&store, ("web", "three"), &Key::default(), ZSTD).unwrap();
    dropped.add("pages-1.img", &[], &*pages(2, 100), |_| {}).unwrap();
    drop(dropped);
    struct Failing;
    impl Read for Failing {
        fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
            Err(io::Error::other("the page is gone"))
        }
    }
    let mut failed = Writer::new(&store, ("web", "four"), &Key::default(), ZSTD).unwrap();
    let error = failed.add("pages-1.img", &[], pages(3, 2000).chain(Failing), |_| {}).unwrap_err();
    assert_eq!(error.to_string(), "pages-1.img: the page is gone");
    drop(failed);
    assert!(files(&store.root().join("unfinished")).is_empty());
    assert_eq!(store.list(&[]).unwrap().len(), 2);
    for (owner, name) in [("..", "a"), ("a", "b/c"), ("", "a"), ("a", ".b")] {
        assert_eq!(store.record(owner, name).unwrap_err().why.kind(), io::ErrorKind::InvalidInput);
    }
}

#[test]
fn garbage_is_what_nobody_needs() {
    let (_dir, store) = store();
    let (none, key) = (Key::default(), Key::of(&[9; 32]));
    let (kept, gone, half) = (pages(1, 200), pages(2, 200), pages(3, 400));
    let mut both = half[..150 * CHUNK].to_vec();
    put(&store, "kept", &none, &[("pages-1.img", &kept)]);
    put(&store, "gone", &none, &[("pages-1.img", &gone)]);
    put(&store, "half", &none, &[("pages-1.img", &half)]);
    both.extend_from_slice(&kept);
    put(&store, "both", &none, &[("pages-1.img", &both)]);
    put(&store, "sealed", &key, &[("pages-1.img", &kept)]);
    assert_eq!(store.gc(&[], Some(1)).unwrap().freed, 0);
    store.remove("web", "gone").unwrap();
    store.remove("web", "half").unwrap();
    assert_eq!(store.remove("web", "half").unwrap_err().why.kind(), io::ErrorKind::NotFound);
    fs::write(store.root().join("unfinished/1-1.pack"), [0; 1000]).unwrap();
    fs::write(store.root().join("packs/1-1.pack"), [0; 1000]).unwrap();
    // A writer that is still at it.
    let writer = Writer::new(&store, ("web", "new"), &none, ZSTD).unwrap();
    assert_eq!(store.gc(&[], Some(1)).unwrap_err().why.kind(), io::ErrorKind::ResourceBusy);
    drop(writer);
    let done = store.gc(&[], Some(1)).unwrap();
    assert_eq!((done.removed, done.rewritten), (1, 1), "{done:?}");
    assert!(done.freed > (200 + 250) * CHUNK as u64 / 2 && done.unknown.contains(&key.id()), "{done:?}");
    assert_eq!(get(&store, "kept", &[]).unwrap()["pages-1.img"], kept);
    assert_eq!(get(&store, "both", &[]).unwrap()["pages-1.img"], both);
    assert_eq!(get(&store, "sealed", std::slice::from_ref(&key)).unwrap()["pages-1.img"], kept);
    assert_eq!(store.gc(std::slice::from_ref(&key), Some(1)).unwrap(), Default::default());
    store.remove("web", "sealed").unwrap();
    assert_eq!(store.gc(&[], None).unwrap().removed, 1, "nobody needs it, whatever its key");
    assert!(store.verify(&[]).unwrap().0.is_empty());
    store.remove("web", "kept").unwrap();
    store.remove("web", "both").unwrap();
    store.gc(&[], None).unwrap();
    assert!(
        files(&store.root().join("packs")).is_empty() && files(&store.root().join("checkpoints")).is_empty()
    );
}

/// One byte of each file of a store, changed: reading fails or gives what was put, and never something else.
#[test]
fn no_changed_byte_is_taken_for_a_page() {
    for key in [Key::default(), Key::of(&[5; 32])] {
        let (_dir, store) = store();
        let memory = pages(6, 64);
        put(&store, "one", &key, &[("pages-1.img", &memory)]);
        let keys = [key];
        let mut random = fastrand::Rng::with_seed(7);
        let (packs, records) =
            (files(&store.root().join("packs")), files(&store.root().join("checkpoints/web")));
        let mut refused = 0;
        for path in packs.iter().chain(&records) {
            let whole = fs::read(path).unwrap();
            for _ in 0..60 {
                let mut bytes = whole.clone();
                let at = random.usize(..bytes.len());
                match random.bool() {
                    true => bytes[at] ^= 1 << random.u8(..8),
                    false => bytes.truncate(at),
                }
                fs::write(path, &bytes).unwrap();
                match get(&store, "one", &keys) {
                    Ok(all) => assert!(all["pages-1.img"] == memory, "{} at {at}", path.display()),
                    Err(_) => refused += 1,
                }
            }
            fs::write(path, &whole).unwrap();
        }
        assert!(refused > 150, "{refused}");
        assert_eq!(get(&store, "one", &keys).unwrap()["pages-1.img"], memory);
    }
}

#[test]
fn damage_is_told_by_checkpoint() {
    let (_dir, store) = store();
    let none = Key::default();
    let (one, two) = (pages(1, 64), pages(2, 64));
    put(&store, "one", &none, &[("pages-1.img", &one)]);
    put(&store, "two", &none, &[("pages-1.img", &two)]);
    let pack = files(&store.root().join("packs"))
        .into_iter()
        .find(|path| path.extension().unwrap() == "pack")
        .unwrap();
    let mut bytes = fs::read(&pack).unwrap();
    bytes[500] ^= 1;
    fs::write(&pack, bytes).unwrap();
    let (problems, unknown) = store.verify(&[]).unwrap();
    assert!(unknown.is_empty() && problems.len() == 1, "{problems:?}");
    assert_eq!(problems[0].name, "one");
    // How many chunks it spoils is zstd's to say.
    let why = &problems[0].why;
    assert!(why.starts_with("of 64 chunks 0 are missing and ") && !why.contains("and 0"), "{why}");
    let error = get(&store, "one", &[]).unwrap_err().to_string();
    assert!(error.contains("is damaged in its frame 0"), "{error}");
    assert_eq!(get(&store, "two", &[]).unwrap()["pages-1.img"], two);
    fs::write(store.root().join("checkpoints/web/two"), "rubbish").unwrap();
    assert_eq!(store.verify(&[]).unwrap().0.len(), 2);
    let error = store.gc(&[], None).unwrap_err().to_string();
    assert!(error.contains("checkpoints/web/two"), "{error}");
}

#[test]
fn what_is_no_store_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let error = |path: &Path| Store::make(path).unwrap_err().to_string();
    assert!(Store::open(&dir.path().join("none")).is_err());
    fs::write(dir.path().join("file"), "").unwrap();
    assert!(error(dir.path()).ends_with("is no store of checkpoints: it has no hiber-store.json"));
    fs::write(dir.path().join("hiber-store.json"), r#"{"version":9}"#).unwrap();
    assert!(error(dir.path()).ends_with("has version 9; this program knows 1"));
    fs::write(dir.path().join("hiber-store.json"), "{}").unwrap();
    assert!(error(dir.path()).contains("is malformed"));
}

/// A page of which a part was written is stored as what differs, and survives the checkpoint that has the rest.
#[test]
fn what_has_changed_little_costs_little() {
    for key in [Key::default(), Key::of(&[3; 32])] {
        let (_dir, store) = store();
        let keys = [key.clone()];
        let mut memory = pages(9, 500);
        let first = put(&store, "0", &key, &[("pages-1.img", &memory)]).added;
        let mut all = vec![memory.clone()];
        for round in 1..4 {
            // Ten pages more at the beginning, and a word in each of the others.
            let mut random = fastrand::Rng::with_seed(round);
            memory.chunks_mut(CHUNK).for_each(|page| page[random.usize(..CHUNK)] ^= 0xff);
            memory.splice(..0, pages(100 + round, 10));
            let name = round.to_string();
            let mut writer = Writer::new(&store, ("web", &name), &key, ZSTD).unwrap();
            let before = writer.earlier().unwrap().unwrap();
            assert_eq!(before.head().created, format!("2026-12-0{round}T00:00:00Z"));
            let length = (memory.len() / CHUNK) as u64;
            let like = [Like { chunks: 10..length, earlier: (before.file("pages-1.img").unwrap().0, 0) }];
            writer.add("pages-1.img", &like, &*memory, |_| {}).unwrap();
            let stored = writer.finish(&format!("2026-12-0{}T00:00:00Z", round + 1), false).unwrap();
            assert!(stored.added < first / 6, "{stored:?} after {first}");
            all.push(memory.clone());
        }
        for (n, memory) in all.iter().enumerate() {
            assert!(get(&store, &n.to_string(), &keys).unwrap()["pages-1.img"] == *memory);
        }
        for n in 0..3 {
            store.remove("web", &n.to_string()).unwrap();
            store.gc(&keys, Some(1)).unwrap();
            assert!(store.verify(&keys).unwrap().0.is_empty());
            for (n, memory) in all.iter().enumerate().skip(n + 1) {
                assert!(get(&store, &n.to_string(), &keys).unwrap()["pages-1.img"] == *memory);
            }
        }
    }
}

#[test]
fn what_is_no_file_is_not_read() {
    let (dir, store) = store();
    put(&store, "one", &Key::default(), &[("pages-1.img", &pages(1, 20))]);
    let mut all = files(&store.root().join("packs"));
    all.push(store.root().join("checkpoints/web/one"));
    all.push(store.root().join("hiber-store.json"));
    let whole = dir.path().join("whole");
    for path in all {
        fs::rename(&path, &whole).unwrap();
        let error = || {
            let opened = Store::open(store.root()).map_err(|e| io::Error::other(e.to_string()));
            opened.and_then(|store| get(&store, "one", &[])).unwrap_err().to_string()
        };
        std::os::unix::fs::symlink(&whole, &path).unwrap();
        assert!(error().contains("is a symbolic link; expected a file"), "{}", error());
        fs::remove_file(&path).unwrap();
        // Nobody writes to it: whoever waited for a writer would wait for ever.
        let fifo = rustix::fs::mknodat(rustix::fs::CWD, &path, rustix::fs::FileType::Fifo, 0o600.into(), 0);
        fifo.unwrap();
        assert!(error().contains("is no plain file"), "{}", error());
        fs::remove_file(&path).unwrap();
        fs::rename(&whole, &path).unwrap();
    }
    get(&store, "one", &[]).unwrap();
}

#[test]
fn several_make_it_at_once() {
    for _ in 0..50 {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("a/store");
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| Store::make(&root).unwrap());
            }
        });
        assert_eq!(files(&root).len(), 4);
    }
}

/// Several writers at once, of which each finds some of the others' pages and not all.
#[test]
fn several_write_at_once() {
    let (_dir, store) = store();
    let memory = pages(8, 3000);
    std::thread::scope(|scope| {
        for n in 0..4 {
            let (store, memory) = (&store, &memory);
            scope.spawn(move || {
                for round in 0..3 {
                    let from = (n + round) * 300 * CHUNK;
                    let part = &memory[from..from + 1000 * CHUNK];
                    put(store, &format!("{n}-{round}"), &Key::default(), &[("pages-1.img", part)]);
                }
            });
        }
    });
    for n in 0..4 {
        for round in 0..3 {
            let from = (n + round) * 300 * CHUNK;
            let found = get(&store, &format!("{n}-{round}"), &[]).unwrap();
            assert!(found["pages-1.img"] == memory[from..from + 1000 * CHUNK]);
        }
    }
    assert!(store.verify(&[]).unwrap().0.is_empty());
}
