//! Layouts as they should be, and hostile ones.

use std::io::{Read as _, Write as _};
use std::path::Path;

use serde_json::{Value, json};

use super::*;
use crate::error::chain;
use crate::tarball::Compression;

fn image(dir: &Path, tag: &str) -> OciImage {
    format!("oci:{}:{tag}", dir.display()).parse().unwrap()
}

/// Writes an image with this layer, which is not compressed.
fn written(dir: &Path, tag: &str, layer: &[u8]) {
    let mut image = Image::begin(&image(dir, tag)).unwrap();
    image.set_compression(Compression::None).unwrap();
    (&image).write_all(layer).unwrap();
    image.saw(layer);
    image.annotate([("org.criu.checkpoint.container.name".to_owned(), "c".to_owned())].into());
    image.publish(true).unwrap();
}

fn read(image: &OciImage) -> Result<Vec<u8>> {
    let (mut opened, mut bytes) = (image.open()?, Vec::new());
    opened.read_to_end(&mut bytes).unwrap();
    opened.finish().map(|()| bytes)
}

fn json_of(path: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

#[test]
fn places_are_words_of_skopeo() {
    let parse = |text: &str| text.parse::<OciImage>();
    assert_eq!(parse("oci:/a/b").unwrap(), OciImage { dir: "/a/b".into(), tag: None });
    assert_eq!(parse("oci:b:v1.0").unwrap(), OciImage { dir: "b".into(), tag: Some("v1.0".into()) });
    for (text, why) in [
        ("oci:", "names no directory"),
        ("oci::x", "names no directory"),
        ("oci:a:", "a tag has up to 128"),
        ("oci:a:-x", "a tag has up to 128"),
        ("oci:a:b:c", "a tag has up to 128"),
        ("oci:a:../x", "a tag has up to 128"),
    ] {
        let error = parse(text).unwrap_err().to_string();
        assert!(error.starts_with(&format!("{text}: {why}")), "{error}");
    }
}

#[test]
fn several_images_share_a_layout() {
    let dir = tempfile::tempdir().unwrap();
    let layout = dir.path().join("l");
    written(&layout, "a", b"first");
    written(&layout, "b", b"second");
    // The annotations of others stay.
    let mut index = json_of(&layout.join(INDEX));
    index["annotations"] = json!({"other": "x"});
    std::fs::write(layout.join(INDEX), index.to_string()).unwrap();
    written(&layout, "a", b"third");
    assert_eq!(read(&image(&layout, "a")).unwrap(), b"third");
    assert_eq!(read(&image(&layout, "b")).unwrap(), b"second");
    let index = json_of(&layout.join(INDEX));
    assert_eq!(index["annotations"]["other"], "x");
    assert_eq!(index["manifests"].as_array().unwrap().len(), 2);
    let any = OciImage { dir: layout.clone(), tag: None };
    let error = chain(&read(&any).unwrap_err());
    assert!(error.ends_with("has 2 images; expected one, or oci:DIR:TAG (tags: b, a)"), "{error}");
    let error = chain(&read(&image(&layout, "c")).unwrap_err());
    assert!(error.ends_with("has 0 images with the tag c; expected one (tags: b, a)"), "{error}");
    let left = std::fs::read_dir(layout.join(BLOBS)).unwrap().chain(std::fs::read_dir(&layout).unwrap());
    let hidden =
        left.filter(|entry| entry.as_ref().unwrap().file_name().as_encoded_bytes().starts_with(b"."));
    assert_eq!(hidden.count(), 0);
}

#[test]
fn many_writers_lose_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let layout = dir.path().join("l");
    std::thread::scope(|scope| {
        for n in 0..8 {
            let layout = &layout;
            scope.spawn(move || written(layout, &format!("t{n}"), format!("layer {n}").as_bytes()));
        }
    });
    for n in 0..8 {
        assert_eq!(read(&image(&layout, &format!("t{n}"))).unwrap(), format!("layer {n}").as_bytes());
    }
}

#[test]
fn of_an_image_that_is_given_up_nothing_stays() {
    let dir = tempfile::tempdir().unwrap();
    let layout = dir.path().join("l");
    let begun = Image::begin(&image(&layout, "a")).unwrap();
    (&begun).write_all(b"half").unwrap();
    drop(begun);
    assert!(!layout.exists());
    written(&layout, "a", b"whole");
    let before = std::fs::read_dir(layout.join(BLOBS)).unwrap().count();
    drop(Image::begin(&image(&layout, "b")).unwrap());
    assert_eq!(std::fs::read_dir(layout.join(BLOBS)).unwrap().count(), before);
    assert_eq!(read(&image(&layout, "a")).unwrap(), b"whole");
}

#[test]
fn what_is_no_layout_is_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("precious"), "x").unwrap();
    let error = chain(&Image::begin(&image(dir.path(), "a")).err().unwrap());
    assert!(error.ends_with("is neither empty nor an OCI image layout: it has no oci-layout"), "{error}");
    std::fs::write(dir.path().join(LAYOUT), r#"{"imageLayoutVersion": "2.0.0"}"#).unwrap();
    let error = chain(&Image::begin(&image(dir.path(), "a")).err().unwrap());
    assert!(error.ends_with("has version \"2.0.0\"; expected 1.0.0"), "{error}");
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 2);
}

/// Changes the only image's manifest, and makes the index agree.
fn rewrite(layout: &Path, change: impl FnOnce(&mut Value)) {
    let mut index = json_of(&layout.join(INDEX));
    let of = |value: &Value| layout.join(BLOBS).join(value.as_str().unwrap().trim_start_matches("sha256:"));
    let mut manifest = json_of(&of(&index["manifests"][0]["digest"]));
    change(&mut manifest);
    let bytes = manifest.to_string();
    let digest = sha256(bytes.as_bytes());
    std::fs::write(layout.join(BLOBS).join(&digest), &bytes).unwrap();
    index["manifests"][0]["digest"] = json!(format!("sha256:{digest}"));
    index["manifests"][0]["size"] = json!(bytes.len());
    std::fs::write(layout.join(INDEX), index.to_string()).unwrap();
}

#[test]
fn a_hostile_layout_is_refused_by_name() {
    let zero = format!("sha256:{}", "0".repeat(64));
    type Change = fn(&mut Value, &str);
    let changes: [(Change, &str); 7] = [
        (
            |m, _| m["layers"][0]["digest"] = json!("sha256:../../../../etc/passwd"),
            "expected sha256: and 64 digits",
        ),
        (|m, _| m["layers"][0]["digest"] = json!("md5:00"), "expected sha256: and 64 digits"),
        (|m, _| m["layers"][0]["size"] = json!(3), "has 5 bytes; its manifest says 3"),
        (|m, _| m["layers"][0]["size"] = json!(-3), "without a size"),
        (|m, zero| m["layers"][0]["digest"] = json!(zero), "no such file or directory"),
        (|m, _| m["layers"] = json!([]), "has 0 layers; a checkpoint has one, its archive"),
        (|m, _| m["mediaType"] = json!("x/y"), "is x/y; expected application/vnd.oci.image.manifest.v1+json"),
    ];
    for (change, why) in changes {
        let dir = tempfile::tempdir().unwrap();
        written(dir.path(), "a", b"layer");
        rewrite(dir.path(), |manifest| change(manifest, &zero));
        let error = chain(&read(&image(dir.path(), "a")).unwrap_err());
        assert!(error.contains(why), "{error}: {why}");
    }
}

/// Nothing of a layout is a way to another file, or holds anybody up.
#[test]
fn files_of_a_layout_that_are_none_are_refused() {
    for name in [LAYOUT, INDEX] {
        let dir = tempfile::tempdir().unwrap();
        written(dir.path(), "a", b"layer");
        let (path, elsewhere) = (dir.path().join(name), dir.path().join("elsewhere"));
        std::fs::rename(&path, &elsewhere).unwrap();
        let error = || chain(&read(&image(dir.path(), "a")).unwrap_err());
        std::os::unix::fs::symlink(&elsewhere, &path).unwrap();
        assert!(error().ends_with("is a symbolic link; expected a file"), "{}", error());
        std::fs::remove_file(&path).unwrap();
        rustix::fs::mknodat(rustix::fs::CWD, &path, rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
        assert!(error().ends_with("is no file"), "{}", error());
    }
}

#[test]
fn blobs_that_are_others_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    written(dir.path(), "a", b"layer");
    let layer = dir.path().join(BLOBS).join(sha256(b"layer"));
    std::fs::write(&layer, "lawyer").unwrap();
    let error = |of: &str| chain(&read(&image(dir.path(), of)).unwrap_err());
    assert!(error("a").contains("has 6 bytes; its manifest says 5"));
    std::fs::write(&layer, "liars").unwrap();
    assert!(error("a").contains("has the SHA-256"), "{}", error("a"));
    std::fs::remove_file(&layer).unwrap();
    std::os::unix::fs::symlink("/etc/passwd", &layer).unwrap();
    assert!(error("a").ends_with("is a symbolic link; expected a file"), "{}", error("a"));
    let index = json_of(&dir.path().join(INDEX));
    let manifest = index["manifests"][0]["digest"].as_str().unwrap().trim_start_matches("sha256:");
    std::fs::write(dir.path().join(BLOBS).join(manifest), "{}").unwrap();
    assert!(error("a").ends_with("is not what its digest and size say"), "{}", error("a"));
}
