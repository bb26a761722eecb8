//! Requests of containerd's task service, up to the options, streams and objects in them. The first byte chooses the
//! request.
#![no_main]
#![allow(dead_code, unused_imports, reason = "the shim's modules are used in part")]

#[path = "../../crates/shim/src/error.rs"]
mod error;
#[path = "../../crates/shim/src/options.rs"]
mod options;
#[path = "../../crates/shim/src/io/uri.rs"]
mod uri;

use containerd_shim_protos::api;
use containerd_shim_protos::protobuf::Message;
use containerd_shim_protos::protobuf::well_known_types::any::Any;
use hiber_sandbox::config;
use hiber_sandbox::plan::HostOptions;
use libfuzzer_sys::fuzz_target;

fn object(any: Option<&Any>) {
    if let Some(any) = any {
        let _ = config::read_process(&any.value);
        let _ = config::load_resources(any.value.as_slice());
    }
}

fn streams(fields: [&str; 3]) {
    fields.into_iter().for_each(|uri| drop(uri::Target::parse("stdout", uri)));
}

fn request(kind: u8, bytes: &[u8]) -> Option<()> {
    match kind % 4 {
        0 => {
            let request = api::CreateTaskRequest::parse_from_bytes(bytes).ok()?;
            let options = options::Options::from_any(request.options.as_ref()).ok();
            if let Some(options) = options {
                let _ = options.runtime_root("namespace");
            }
            streams([&request.stdin, &request.stdout, &request.stderr]);
            request
                .rootfs
                .iter()
                .for_each(|mount| drop(HostOptions::new(mount.options.iter().map(String::as_str))));
        }
        1 => {
            let request = api::ExecProcessRequest::parse_from_bytes(bytes).ok()?;
            object(request.spec.as_ref());
            streams([&request.stdin, &request.stdout, &request.stderr]);
        }
        2 => object(api::UpdateTaskRequest::parse_from_bytes(bytes).ok()?.resources.as_ref()),
        _ => {
            let request = api::CheckpointTaskRequest::parse_from_bytes(bytes).ok()?;
            let _ = request.options.as_ref().map(options::type_name);
        }
    }
    Some(())
}

fuzz_target!(|input: &[u8]| {
    if let Some((kind, bytes)) = input.split_first() {
        request(*kind, bytes);
    }
});
