//! hiber.json and kept.json, which lie beside a checkpoint's images.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|json: &[u8]| hiber::fuzzing::manifest(json));
