//! An archive of which the images are to be restored.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|archive: &[u8]| {
    let directory = tempfile::tempdir().expect("a directory");
    let before = count(directory.path());
    let inside = directory.path().join("images");
    std::fs::create_dir(&inside).expect("a directory");
    let _ = hiber::fuzzing::unpack(archive, &inside);
    // Whatever it is, nothing is made elsewhere, and nothing but files.
    assert_eq!(count(directory.path()), before + 1);
    for entry in std::fs::read_dir(&inside).expect("the directory") {
        assert!(entry.expect("an entry").file_type().expect("its kind").is_file());
    }
});

fn count(directory: &std::path::Path) -> usize {
    std::fs::read_dir(directory).expect("the directory").count()
}
