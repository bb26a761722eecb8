//! Checkpoints as images in OCI image layouts.

use std::fs;
use std::path::{Path, PathBuf};

use crate::archives::{Export, killed_at_every_step};
use crate::{count, counter, counts_on};
use hiber_tests::prelude::*;

fn layout(c: &Container) -> PathBuf {
    c.bundle().join("layout")
}

/// `oci:LAYOUT:TAG`.
fn image(c: &Container, tag: &str) -> String {
    format!("oci:{}:{tag}", layout(c).display())
}

fn import(c: &Container, from: &str) -> Output {
    let bundle = c.bundle_path();
    c.call_detached("restore", &["--detach", "--bundle", &bundle, "--import", from])
}

fn index(c: &Container) -> Value {
    serde_json::from_slice(&fs::read(layout(c).join("index.json")).unwrap()).unwrap()
}

/// Names of files that nobody was to see.
fn hidden(dir: &Path) -> Vec<String> {
    let entries = [dir.to_owned(), dir.join("blobs/sha256")];
    let entries = entries.iter().filter_map(|dir| fs::read_dir(dir).ok()).flatten();
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.filter(|name| name.starts_with('.')).collect()
}

#[test]
fn a_container_sleeps_in_an_image_and_wakes_from_it() {
    require!(Root, Criu);
    let c = counter(&Runtime::hiber(), Bundle::busybox());
    for (tag, how) in [("one", &[][..]), ("two", &["--compress", "none"])] {
        let before = count(&c);
        c.call("checkpoint", &[&["--export", &image(&c, tag)], how].concat()).ok();
        assert_eq!(c.status(), "gone");
        c.assert_clean();
        let inspect = |flags: &[&str]| c.runtime().run(&[&["inspect", &image(&c, tag)], flags].concat());
        let inspected = inspect(&["--format", "json"]).json();
        assert_eq!(inspected["manifest"]["container"], c.id());
        assert_eq!(inspected["path"], image(&c, tag));
        assert!(inspect(&["--verify"]).ok().contains("all as they were written"));
        import(&c, &image(&c, tag)).ok();
        counts_on(&c, before);
    }
    let index = index(&c);
    let annotations = &index["manifests"][0]["annotations"];
    for key in [
        "org.criu.checkpoint.container.name",
        "io.podman.annotations.checkpoint.name",
        "io.kubernetes.cri-o.annotations.checkpoint.name",
    ] {
        assert_eq!(annotations[key], c.id(), "{key}: {index}");
    }
    import(&c, &format!("oci:{}", layout(&c).display())).fails("has 2 images; expected one");
    import(&c, &image(&c, "three")).fails("has 0 images with the tag three");
    c.runtime().run(&["inspect", &image(&c, "three")]).fails("has 0 images with the tag three");
    c.runtime().run(&["inspect", "oci:"]).fails("names no directory; expected oci:DIR[:TAG]");
    assert_eq!(hidden(&layout(&c)), [""; 0]);
}

#[test]
fn what_cannot_be_an_image_is_told_and_the_container_runs_on() {
    require!(Root, Criu);
    let c = counter(&Runtime::hiber(), Bundle::busybox());
    let export = |to: &str, flags: &[&str]| c.call("checkpoint", &[&["--export", to], flags].concat());
    export(&image(&c, "a"), &["--compress", "lz4"]).fails("engines and registries read no layer of LZ4");
    assert!(!layout(&c).exists());
    export("oci:", &[]).fails("names no directory; expected oci:DIR[:TAG]");
    export(&image(&c, "../a"), &[]).fails("a tag has up to 128");
    let bundle = c.bundle_path();
    export(&format!("oci:{bundle}"), &[]).fails("is neither empty nor an OCI image layout");
    assert_eq!(c.status(), "running");
    counts_on(&c, count(&c));
}

/// A blob that somebody has changed is found out before anything of the container exists.
#[test]
fn an_image_that_was_changed_is_refused() {
    require!(Root, Criu);
    let c = counter(&Runtime::hiber(), Bundle::busybox());
    // Without hashes in the manifest the digest of the layer is all that tells.
    c.call("checkpoint", &["--export", &image(&c, "a"), "--compress", "none", "--no-hash"]).ok();
    let blobs = fs::read_dir(layout(&c).join("blobs/sha256")).unwrap().map(|entry| entry.unwrap().path());
    let layer = blobs.max_by_key(|path| fs::metadata(path).unwrap().len()).unwrap();
    let mut bytes = fs::read(&layer).unwrap();
    let find = |words: &[u8]| bytes.windows(words.len()).position(|at| at == words).unwrap();
    let at = find(b"checkpoint/pages-1.img") + 512 + 100;
    bytes[at] ^= 1;
    fs::write(&layer, &bytes).unwrap();
    import(&c, &image(&c, "a")).fails("has the SHA-256");
    c.runtime().run(&["inspect", &image(&c, "a")]).fails("has the SHA-256");
    assert_eq!(c.status(), "gone");
    c.assert_clean();
    bytes[at] ^= 1;
    fs::write(&layer, &bytes).unwrap();
    import(&c, &image(&c, "a")).ok();
    counts_on(&c, 3);
}

/// Devices that annotations ask for, and a tag that somebody has given to another image, too.
#[test]
fn what_a_layout_says_of_its_images_grants_nothing() {
    require!(Root, Criu);
    let c = counter(&Runtime::hiber(), Bundle::busybox());
    let devices = c.sh("ls /dev");
    c.call("checkpoint", &["--export", &image(&c, "a"), "--leave-running"]).ok();
    c.call("checkpoint", &["--export", &image(&c, "b")]).ok();
    let path = layout(&c).join("index.json");
    let honest = index(&c);
    let mut hostile = honest.clone();
    for (key, value) in [
        ("cdi.k8s.io/all", "vendor.com/device=all"),
        ("io.kubernetes.cri-o.Devices", "/dev/kmsg:/dev/kmsg:rwm"),
        ("io.podman.annotations.privileged", "TRUE"),
    ] {
        hostile["manifests"][0]["annotations"][key] = value.into();
    }
    fs::write(&path, hostile.to_string()).unwrap();
    import(&c, &image(&c, "a")).ok();
    assert_eq!(c.sh("ls /dev"), devices);
    c.call("delete", &["--force"]).ok();
    let mut poisoned = honest;
    poisoned["manifests"][1]["annotations"]["org.opencontainers.image.ref.name"] = "a".into();
    fs::write(&path, poisoned.to_string()).unwrap();
    import(&c, &image(&c, "a")).fails("has 2 images with the tag a; expected one");
    assert_eq!(c.status(), "gone");
}

#[test]
fn a_kill_leaves_the_container_or_the_image() {
    require!(Root, Criu, Program("cc"));
    let c = counter(&Runtime::hiber(), Bundle::busybox());
    let to = image(&c, "a");
    killed_at_every_step(
        &c,
        &Export {
            to: ["--export", &to],
            shows: &layout(&c).join("index.json"),
            forget: &|| drop(fs::remove_dir_all(layout(&c))),
            is_clean: &|| hidden(&layout(&c)).is_empty(),
            import: &|| import(&c, &to),
        },
    );
}
