//! The conversation of two ends of a migration. The first byte tells where the requests end and the answers begin.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let Some((at, stream)) = input.split_first() else { return };
    let (requests, answers) = stream.split_at(stream.len() * usize::from(*at) / 256);
    hiber_criu::page_relay::fuzz(requests, answers);
});
