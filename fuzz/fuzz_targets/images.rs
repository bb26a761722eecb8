//! CRIU's images, as `inspect`, a migration and a restore read them.
#![no_main]

use hiber_criu::inspect::Contents;
use hiber_criu::{Images, LazyMemory};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let files = hiber_fuzz::files(input);
    let log = files.get("config.dump").map(|log| String::from_utf8_lossy(log).into_owned());
    let _ = hiber_criu::diagnose_text(&log.unwrap_or_default());
    let Ok(images) = Images::from_memory("/images".as_ref(), files) else { return };
    if let Ok(contents) = Contents::read(&images) {
        let _ = serde_json::to_vec(&contents);
    }
    if let Ok(memory) = LazyMemory::of(&images) {
        let _ = memory.pages();
    }
    let _ = images.tasks();
    let _ = images.check_pages();
    let _ = images.own_cgroups().and_then(|cgroups| cgroups.unmoved(&images));
    let _ = images.with_null_pipes(&["pipe:[1]"].into());
    let _ = images.parent_death_signal();
    let _ = images.deleted_files();
    let _ = hiber_criu::amend::shared_inventory(
        &images,
        hiber_criu::amend::Shared { ipc: true, uts: true, cgroups: None },
    );
});
