//! A store of checkpoints with one pack, its index and a record, each as long as a number before it says.
#![no_main]

use std::io::Read;
use std::path::Path;

use hiber_store::{Key, Store};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let mut rest = input;
    let mut part = || {
        let (length, after) = rest.split_first_chunk::<2>().unwrap_or((&[0; 2], &[]));
        let (part, after) = after.split_at(after.len().min(u16::from_le_bytes(*length).into()));
        rest = after;
        part
    };
    let (pack, index, record) = (part(), part(), part());
    let directory = tempfile::tempdir().expect("a directory");
    let store = Store::make(&directory.path().join("store")).expect("a store");
    let put = |path: &str, parts: &[&[u8]]| {
        let path = store.root().join(path);
        std::fs::create_dir_all(path.parent().expect("a parent")).expect("a directory");
        std::fs::write(path, parts.concat()).expect("a file");
    };
    let head = |magic: &[u8]| [magic, &[0; 16]].concat();
    // Nobody guesses a hash.
    put("packs/1.pack", &[&head(b"hiberPK1"), &[0; 32], pack]);
    let index = [&head(b"hiberIX1"), index].concat();
    put("packs/1.index", &[&index, blake3::hash(&index).as_bytes()]);
    put("checkpoints/c/n", &[&head(b"hiberRC1"), &[0; 32], record, blake3::hash(record).as_bytes()]);
    let _ = store.list(&[Key::default()]);
    if let Ok(opened) = store.get(("c", "n"), &[]) {
        for number in 0..opened.head().files.len().min(100) {
            let _ = std::io::copy(&mut opened.read(number).take(1 << 20), &mut std::io::sink());
        }
    }
    let _ = store.verify(&[]);
    let _ = store.gc(&[], None);
    assert_eq!(count(directory.path()), 1);
});

fn count(directory: &Path) -> usize {
    std::fs::read_dir(directory).expect("the directory").count()
}
