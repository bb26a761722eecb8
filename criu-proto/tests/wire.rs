//! Generated types against packets written by hand or recorded from CRIU.

use criu_proto::images::inventory::InventoryEntry;
use criu_proto::rpc::{CriuCgMode, CriuNetworkLockMethod, CriuOpts, CriuReq, CriuReqType, CriuResp};
use criu_proto::{Message as _, MessageField};

/// CRIU 4.1.1's answer to VERSION, byte for byte.
const VERSION_4_1_1: &[u8] = b"\x08\x0a\x10\x01R\x06\x08\x04\x10\x01 \x01";

#[test]
fn reads_a_recorded_version_response() {
    let response = CriuResp::parse_from_bytes(VERSION_4_1_1).unwrap();
    assert_eq!(response.type_, Some(CriuReqType::VERSION.into()));
    assert_eq!(response.success, Some(true));
    let version = response.version.as_ref().unwrap();
    assert_eq!((version.major_number, version.minor_number, version.sublevel), (Some(4), Some(1), Some(1)));
}

#[test]
fn writes_the_numbers_of_the_protocol() {
    let opts = CriuOpts {
        images_dir_fd: Some(-1),
        pid: Some(7),
        tcp_established: Some(true),
        manage_cgroups_mode: Some(CriuCgMode::STRICT.into()),
        external: vec!["mnt[/x]:y".into()],
        network_lock: Some(CriuNetworkLockMethod::SKIP.into()),
        log_to_stderr: Some(true),
        ..Default::default()
    };
    let request = CriuReq {
        type_: Some(CriuReqType::SINGLE_PRE_DUMP.into()),
        opts: MessageField::some(opts),
        ..Default::default()
    };
    let inner = [
        &b"\x08\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01"[..], // 1: -1 takes ten bytes
        b"\x10\x07",                                          // 2: 7
        b"\x28\x01",                                          // 5: true
        b"\x90\x02\x05",                                      // 34: STRICT
        b"\xaa\x02\x09mnt[/x]:y",                             // 37
        b"\x80\x04\x03",                                      // 64: SKIP
        b"\xb8\x04\x01",                                      // 71: true
    ]
    .concat();
    let mut expected = vec![0x08, 13, 0x12, u8::try_from(inner.len()).unwrap()];
    expected.extend(&inner);
    assert_eq!(request.write_to_bytes().unwrap(), expected);
}

#[test]
fn refuses_a_message_without_its_required_fields() {
    assert!(CriuReq::parse_from_bytes(b"\x18\x01").is_err());
    assert!(InventoryEntry::parse_from_bytes(b"").is_err());
}

#[test]
fn keeps_a_field_of_a_newer_criu() {
    let bytes = b"\x08\x02\x82\x7d\x03new"; // img_version 2, and field 2000
    let entry = InventoryEntry::parse_from_bytes(bytes).unwrap();
    assert_eq!(entry.img_version, Some(2));
    assert_eq!(entry.write_to_bytes().unwrap(), bytes);
}
