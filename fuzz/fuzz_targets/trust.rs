//! The input of a restore before it makes anything: a directory of images, compared with what config.json grants.
#![no_main]

use std::path::PathBuf;
use std::sync::LazyLock;

use hiber::fuzzing::Trust;
use libfuzzer_sys::fuzz_target;

struct Here {
    trust: Trust,
    images: PathBuf,
    _dir: tempfile::TempDir,
}

static HERE: LazyLock<Here> = LazyLock::new(|| {
    let base = if std::fs::metadata("/dev/shm").is_ok() { "/dev/shm".into() } else { std::env::temp_dir() };
    let dir = tempfile::Builder::new().prefix("hiber-fuzz-").tempdir_in(base).expect("a directory");
    let bundle = dir.path().join("bundle");
    std::fs::create_dir_all(bundle.join("rootfs")).expect("a bundle");
    let config = hiber::spec::default_config(hiber::spec::Kind::Root);
    hiber::spec::write(&bundle, &config).expect("config.json");
    Here { trust: Trust::new(&bundle), images: dir.path().join("images"), _dir: dir }
});

fuzz_target!(|input: &[u8]| {
    let here = &*HERE;
    let _ = std::fs::remove_dir_all(&here.images);
    std::fs::create_dir(&here.images).expect("a directory of images");
    for (name, content) in hiber_fuzz::files(input) {
        std::fs::write(here.images.join(name), content).expect("an image");
    }
    here.trust.check(&here.images);
    let _ = hiber::inspect(&here.images);
    let _ = hiber::verify(&here.images);
});
