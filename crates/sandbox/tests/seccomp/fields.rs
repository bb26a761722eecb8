//! Tests of compile() apart from the rules: its errors, and the other fields of a profile.

use hiber_sandbox::seccomp::{MAX_INSTRUCTIONS, Program, compile};
use serde_json::{Value, json};

fn try_compile(profile: &Value) -> Result<Program, String> {
    compile(&serde_json::from_value(profile.clone()).unwrap()).map_err(|e| e.to_string())
}

fn with_rule(rule: Value) -> Value {
    json!({ "defaultAction": "SCMP_ACT_ERRNO", "syscalls": [{ "names": ["read"], "action": "SCMP_ACT_ALLOW" }, rule] })
}

#[test]
fn errors_name_the_field() {
    let arg = |index: u64| json!([{ "index": index, "value": 0, "op": "SCMP_CMP_EQ" }]);
    let cases = [
        (json!({ "defaultAction": "SCMP_ACT_NOTIFY" }), "linux.seccomp.defaultAction: SCMP_ACT_NOTIFY"),
        (
            json!({ "defaultAction": "SCMP_ACT_ALLOW", "defaultErrnoRet": 1 }),
            "linux.seccomp.defaultErrnoRet: 1: SCMP_ACT_ALLOW takes no errno",
        ),
        (
            json!({ "defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 65536 }),
            "linux.seccomp.defaultErrnoRet: 65536: expected an errno of at most 65535",
        ),
        (
            json!({ "defaultAction": "SCMP_ACT_ALLOW", "listenerMetadata": "x" }),
            "linux.seccomp.listenerMetadata: set without",
        ),
        (
            with_rule(json!({ "names": ["open"], "action": "SCMP_ACT_ALLOW", "args": arg(6) })),
            "linux.seccomp.syscalls[1].args[0].index: 6: expected 0 to 5",
        ),
        (
            with_rule(json!({ "names": ["open", ""], "action": "SCMP_ACT_ALLOW" })),
            "linux.seccomp.syscalls[1].names[1]: empty",
        ),
        (
            with_rule(json!({ "names": ["open"], "action": "SCMP_ACT_KILL", "errnoRet": 2 })),
            "linux.seccomp.syscalls[1].errnoRet: 2: SCMP_ACT_KILL takes no errno",
        ),
        (
            with_rule(json!({ "names": ["write"], "action": "SCMP_ACT_NOTIFY" })),
            "linux.seccomp.syscalls[1].names[0]: SCMP_ACT_NOTIFY cannot be used for the write",
        ),
        (
            with_rule(json!({ "names": ["open"], "action": "SCMP_ACT_NOTIFY" })),
            "linux.seccomp.listenerPath: not set",
        ),
    ];
    for (profile, message) in cases {
        let error = try_compile(&profile).unwrap_err();
        assert!(error.starts_with(message), "{error}");
    }
}

#[test]
fn equal_conditions_with_different_actions() {
    let arg = |value: u64| json!({ "index": 0, "value": value, "op": "SCMP_CMP_EQ" });
    let rule =
        |value: u64, action: &str| json!({ "names": ["ioctl"], "action": action, "args": [arg(value)] });
    let profile = |second: Value| json!({ "defaultAction": "SCMP_ACT_ERRNO", "syscalls": [rule(1, "SCMP_ACT_ALLOW"), second] });
    let error = try_compile(&profile(rule(1, "SCMP_ACT_LOG"))).unwrap_err();
    assert_eq!(
        error,
        "linux.seccomp.syscalls[1]: another action than that of linux.seccomp.syscalls[0] \
         for what are equal conditions on SCMP_ARCH_X86_64"
    );
    try_compile(&profile(rule(2, "SCMP_ACT_LOG"))).unwrap();
}

#[test]
fn flags_and_listener() {
    let spec_allow = libc::SECCOMP_FILTER_FLAG_SPEC_ALLOW as u32;
    let program = try_compile(&json!({ "defaultAction": "SCMP_ACT_ALLOW" })).unwrap();
    assert_eq!((program.flags, program.notify), (spec_allow, false));
    let program = try_compile(&json!({ "defaultAction": "SCMP_ACT_ALLOW", "flags": [] })).unwrap();
    assert_eq!(program.flags, 0);
    let flags =
        ["SECCOMP_FILTER_FLAG_TSYNC", "SECCOMP_FILTER_FLAG_LOG", "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV"];
    let mut profile = json!({ "defaultAction": "SCMP_ACT_ALLOW", "flags": flags });
    let program = try_compile(&profile).unwrap();
    assert_eq!(program.flags, libc::SECCOMP_FILTER_FLAG_LOG as u32);
    assert!(program.warnings[0].contains("WAIT_KILLABLE_RECV has no effect"), "{:?}", program.warnings);
    profile["syscalls"] = json!([{ "names": ["open"], "action": "SCMP_ACT_NOTIFY" }]);
    profile["listenerPath"] = json!("/run/agent.sock");
    profile["listenerMetadata"] = json!("who");
    let program = try_compile(&profile).unwrap();
    let listener = libc::SECCOMP_FILTER_FLAG_NEW_LISTENER | libc::SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV;
    assert_eq!(program.flags, libc::SECCOMP_FILTER_FLAG_LOG as u32 | listener as u32);
    assert!(program.notify);
    // what init receives is what was compiled
    let sent = serde_json::to_vec(&program).unwrap();
    assert_eq!(serde_json::from_slice::<Program>(&sent).unwrap(), program);
}

#[test]
fn too_long() {
    let rules = |calls: usize, rules: u64| -> Value {
        let names = &["read", "write", "open", "close", "stat", "fstat", "lstat", "poll"][..calls];
        let rule = |value: u64| {
            let args = json!([{ "index": 0, "value": value << 32 | value, "op": "SCMP_CMP_EQ" }]);
            json!({ "names": names, "action": "SCMP_ACT_ALLOW", "args": args })
        };
        json!({ "defaultAction": "SCMP_ACT_ERRNO", "syscalls": (0..rules).map(rule).collect::<Vec<_>>() })
    };
    let program = try_compile(&rules(1, 900)).unwrap();
    assert!(program.filter.len() > 1800 && program.filter.len() <= MAX_INSTRUCTIONS);
    let error = try_compile(&rules(1, 1200)).unwrap_err();
    assert!(error.contains("at most 2048 comparisons for one system call"), "{error}");
    // the same rules on several calls are written once
    assert!(try_compile(&rules(8, 900)).unwrap().filter.len() < program.filter.len() + 16);
}
