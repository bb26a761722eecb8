//! An OCI image layout with the image of a checkpoint: index.json, a manifest and a layer, with zero bytes between them.
#![no_main]

use std::path::Path;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|parts: &[u8]| {
    let mut parts = parts.splitn(3, |byte| *byte == 0);
    let mut part = || parts.next().unwrap_or_default();
    let (index, manifest, layer) = (part(), part(), part());
    let directory = tempfile::tempdir().expect("a directory");
    let (layout, images) = (directory.path().join("layout"), directory.path().join("images"));
    std::fs::create_dir_all(layout.join("blobs/sha256")).expect("directories");
    std::fs::create_dir(&images).expect("a directory");
    std::fs::write(layout.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).expect("a file");
    // Nobody guesses a digest: marks stand for digests and sizes.
    let manifest = named(manifest, "@L", "@l", layer);
    for blob in [&manifest[..], layer] {
        let path = layout.join("blobs/sha256").join(hiber::fuzzing::sha256(blob));
        std::fs::write(path, blob).expect("a blob");
    }
    std::fs::write(layout.join("index.json"), named(index, "@M", "@m", &manifest)).expect("a file");
    let before = count(directory.path());
    let _ = hiber::fuzzing::layout(&layout, &images);
    assert_eq!(count(directory.path()), before);
    for entry in std::fs::read_dir(&images).expect("the directory") {
        assert!(entry.expect("an entry").file_type().expect("its kind").is_file());
    }
});

/// Puts a blob's digest and size where the marks are.
fn named(text: &[u8], digest: &str, size: &str, blob: &[u8]) -> Vec<u8> {
    let Ok(text) = std::str::from_utf8(text) else { return text.to_owned() };
    let text = text.replace(digest, &format!("sha256:{}", hiber::fuzzing::sha256(blob)));
    text.replace(size, &blob.len().to_string()).into_bytes()
}

fn count(directory: &Path) -> usize {
    std::fs::read_dir(directory).expect("the directory").count()
}
