//! A program that cannot be its containers' init, as this one, whose `main` is the test harness's.
#![forbid(unsafe_code)]

use hiber::{CreateOptions, Error, Kind, RestoreContainerOptions, Runtime};

#[test]
fn a_program_without_run_init_if_asked_is_refused_beforehand() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("root");
    let runtime = Runtime::new(&root);
    let id = "box".parse().unwrap();
    let refused = |e: Error| {
        assert_eq!(e.kind(), Kind::Internal);
        let text = hiber_sandbox::error::chain(&e);
        assert!(text.contains("hiber::run_init_if_asked()"), "{text}");
    };
    let bundle = dir.path().join("bundle");
    refused(runtime.create(&id, &CreateOptions::new(&bundle)).unwrap_err());
    let restore = || RestoreContainerOptions::new(&bundle);
    refused(runtime.restore(&id, &restore()).unwrap_err());
    refused(runtime.try_restore(&id, None, restore()).unwrap_err());
    assert!(!root.exists());
}
