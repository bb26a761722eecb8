//! Directories that were not made by CRIU, with manifests of their own.

use std::collections::BTreeMap;
use std::path::Path;

use super::super::CheckpointOptions;
use super::super::image_hasher::Heads;
use super::*;

/// A checkpoint with that file, hashed.
fn made(dir: &Path) -> (Checkpoints, CheckpointName, ImageDirectory) {
    let (id, name) = ("box".parse().unwrap(), "aa".parse::<CheckpointName>().unwrap());
    std::fs::create_dir(dir.join("aa")).unwrap();
    let images = ImageDirectory::open(&dir.join("aa")).unwrap();
    images.write(INVENTORY, b"whole").unwrap();
    CheckpointConfig::new(&name, &CheckpointOptions::default()).write(&images).unwrap();
    let mut manifest =
        Manifest::new("box", &oci_spec::runtime::Spec::default(), &CheckpointOptions::default()).unwrap();
    manifest.write(&images, true, Heads::default(), BTreeMap::new()).unwrap();
    (Checkpoints::new(&id, dir), name, images)
}

#[test]
fn a_verification_is_kept_until_a_file_changes() {
    let dir = tempfile::tempdir().unwrap();
    let (all, name, images) = made(dir.path());
    let described = all.describe(&name).unwrap();
    assert!(described.whole && described.verified.is_none() && !described.is_damaged());
    assert!(described.created().is_some() && described.size > 5);
    assert!(all.verify(&name).unwrap().problems.is_empty());
    let verified = all.describe(&name).unwrap().verified.expect("it is kept");
    assert!(verified.problems.is_empty() && humantime::parse_rfc3339(&verified.time).is_ok());
    assert_eq!(all.describe(&name).unwrap().size, described.size, "the note is no part of it");
    assert!(all.verify(&name).unwrap().problems.is_empty(), "nor does it make it wrong");

    // The same size, and the time of modification is put back.
    let path = dir.path().join("aa").join(INVENTORY);
    let modified = std::fs::metadata(&path).unwrap().modified().unwrap();
    std::thread::sleep(Duration::from_millis(20));
    std::fs::write(&path, "Whole").unwrap();
    std::fs::File::options().write(true).open(&path).unwrap().set_modified(modified).unwrap();
    assert_eq!(all.describe(&name).unwrap().verified, None);
    let expected = ["inventory.img: its content is not what was written"];
    assert_eq!(all.verify(&name).unwrap().problems, expected);
    let described = all.describe(&name).unwrap();
    assert!(described.is_damaged() && described.whole, "{described:?}");
    assert_eq!(described.verified.unwrap().problems, expected);

    images.write("verified.json", b"{").unwrap();
    assert_eq!(all.describe(&name).unwrap().verified, None, "what cannot be understood is none");
    images.remove(INVENTORY).unwrap();
    assert!(!all.describe(&name).unwrap().whole);
}

#[test]
fn a_copy_counts_as_not_verified() {
    let dir = tempfile::tempdir().unwrap();
    let (all, name, _images) = made(dir.path());
    all.verify(&name).unwrap();
    let copy = dir.path().join("bb");
    std::fs::create_dir(&copy).unwrap();
    for entry in std::fs::read_dir(dir.path().join("aa")).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), copy.join(entry.file_name())).unwrap();
    }
    let described = all.describe(&"bb".parse().unwrap()).unwrap();
    assert!(copy.join("verified.json").exists() && described.verified.is_none());
    assert!(described.whole);
}
