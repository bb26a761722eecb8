//! The frames of a migration, and the steps of a root file system that come with them: none reaches what is outside.
#![no_main]

use libfuzzer_sys::fuzz_target;
use rustix::fs::{Mode, OFlags};

fuzz_target!(|conversation: &[u8]| {
    let Ok(dir) = tempfile::tempdir() else { return };
    let (root, outside) = (dir.path().join("root"), dir.path().join("outside"));
    std::fs::create_dir(&root).expect("a directory");
    std::fs::write(&outside, "as it was").expect("a file");
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    hiber::fuzzing::migration(conversation, rustix::fs::open(&root, flags, Mode::empty()).expect("the root"));
    let mut names: Vec<_> =
        std::fs::read_dir(&dir).expect("a list").map(|entry| entry.expect("a name").file_name()).collect();
    names.sort();
    assert_eq!(names, ["outside", "root"]);
    assert_eq!(std::fs::read_to_string(&outside).expect("the file"), "as it was");
});
