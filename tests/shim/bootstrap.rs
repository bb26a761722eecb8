//! `start` and `delete` as containerd calls them.

use crate::Shim;
use crate::shim::{NAMESPACE, any, command, connect, soon};
use containerd_shim_protos::api::*;
use containerd_shim_protos::bootstrap_api::{BootstrapParams, Extension};
use containerd_shim_protos::protobuf::Message as _;
use containerd_shim_protos::shim::oci::Options;
use containerd_shim_protos::types::introspection::RuntimeInfo;
use hiber_tests::command::run;
use hiber_tests::prelude::*;
use rustix::process::{Pid, Signal, kill_process};

#[test]
fn the_answer_is_what_containerd_understands() {
    require!(Root);
    let shim = Shim::start(Bundle::busybox());
    assert_eq!(std::fs::read_to_string(shim.bundle.join("address")).unwrap(), shim.address);
    assert!(shim.address.starts_with("unix:///run/containerd/s/"), "{}", shim.address);
    // a second start finds the shim that is there, and containerd from 1.7 on reads JSON
    let mut json = command(&shim.bundle, "start");
    json.env("MAX_SHIM_VERSION", "2");
    let answer = run(json, b"").json();
    assert_eq!(answer, json!({"version": 3, "address": shim.address, "protocol": "ttrpc"}));
    shim.shut_down();
}

#[test]
fn the_bootstrap_protocol_names_a_directory() {
    require!(Root);
    let bundle = Bundle::busybox();
    let directory = bundle.join("s");
    let value = any(&Options { root: "/nowhere".into(), ..Options::default() });
    let params = BootstrapParams {
        instance_id: bundle.name().into(),
        namespace: NAMESPACE.into(),
        extensions: vec![Extension { value, ..Extension::default() }],
        socket_dir: Some(directory.display().to_string()),
        ..BootstrapParams::default()
    };
    let answer = run(command(&bundle, "start"), &params.write_to_bytes().unwrap()).json();
    let address = answer["address"].as_str().unwrap();
    assert!(address.starts_with(&format!("unix://{}/", directory.display())), "{address}");
    let client = connect(address);
    client.shutdown(soon(), &ShutdownRequest::default()).unwrap();
    wait_for("the shim to end", || std::fs::read_dir(&directory).unwrap().next().is_none());
}

#[test]
fn delete_clears_up_after_a_dead_shim() {
    require!(Root);
    let shim = Shim::start(Bundle::busybox().shell("sleep 100"));
    let pid = shim.create();
    shim.try_start("").unwrap();
    kill_process(Pid::from_raw(shim.pid).unwrap(), Signal::KILL).unwrap();
    wait_for("the shim to end", || !shim.is_alive());
    let mut delete = command(&shim.bundle, "delete");
    delete.arg("-bundle").arg(shim.bundle.path());
    let output = delete.output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let response = DeleteResponse::parse_from_bytes(&output.stdout).unwrap();
    assert_eq!((response.pid, response.exit_status), (pid, 137));
    assert!(!shim.socket().exists());
    let (name, parent) = (shim.bundle.name(), shim.bundle.cgroup_parent());
    hiber_tests::leaks::assert_none(name, &parent, &shim.bundle.join("state"));
}

#[test]
fn a_signal_ends_the_shim_and_not_the_container() {
    require!(Root);
    let shim = Shim::start(Bundle::busybox().shell("sleep 100"));
    let pid = shim.create();
    shim.try_start("").unwrap();
    kill_process(Pid::from_raw(shim.pid).unwrap(), Signal::TERM).unwrap();
    wait_for("the shim to end", || !shim.is_alive());
    assert!(!shim.socket().exists());
    let state = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    assert!(state.contains(") S ") || state.contains(") R "), "{state}");
}

#[test]
fn mistakes() {
    require!(Root);
    let bundle = Bundle::busybox();
    std::fs::write(bundle.join("config.json"), "{").unwrap();
    run(command(&bundle, "start"), b"").exited(1).fails("config.json: EOF while parsing");
    std::fs::remove_file(bundle.join("config.json")).unwrap();
    run(command(&bundle, "start"), b"").exited(1).fails("config.json: no such file");
    run(command(&bundle, "start"), b"\x0a\xff").exited(1).fails("standard input");
    run(command(&bundle, "stop"), b"").exited(1).fails("unknown action \"stop\"");
}

#[test]
fn what_the_runtime_can_do() {
    require!(Root);
    let bundle = Bundle::busybox();
    let mut info = command(&bundle, "-info");
    let options = any(&Options { root: "/x".into(), ..Options::default() });
    std::fs::write(bundle.join("options"), options.write_to_bytes().unwrap()).unwrap();
    info.stdin(std::fs::File::open(bundle.join("options")).unwrap());
    let output = info.output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let info = RuntimeInfo::parse_from_bytes(&output.stdout).unwrap();
    assert_eq!((info.name.as_str(), &info.options), ("io.containerd.hiber.v2", &options));
    let features: Value = serde_json::from_slice(&info.features.value).unwrap();
    assert_eq!(features["linux"]["mountExtensions"]["idmap"]["enabled"], true);
}
