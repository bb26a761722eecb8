//! Images that are refused, and images that are not.

use hiber_criu::inspect::{CapabilitySet, Credentials, Seccomp, State, Thread};
use hiber_sandbox::plan;

use hiber_sandbox::plan::Plan;

use super::*;

/// The plan of a config.json with these `process` fields beside the necessary ones.
fn plan(fields: serde_json::Value) -> Plan {
    let mut process = serde_json::json!({"cwd": "/", "args": ["sh"], "user": {"uid": 1000, "gid": 100}});
    process.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
    let spec = serde_json::json!({
        "ociVersion": "1.2.0", "root": {"path": "/usr"}, "process": process,
        "linux": {"namespaces": [{"type": "mount"}, {"type": "pid"}]},
    });
    let options = plan::Options { id: "c".into(), bundle: "/".into(), ..Default::default() };
    Plan::new(&serde_json::from_value(spec).unwrap(), &options).unwrap()
}

fn thread(change: impl FnOnce(&mut Credentials)) -> Thread {
    let mut credentials = Credentials::default();
    (credentials.uids, credentials.gids) = ([1000; 4], [100; 4]);
    credentials.bounding = CapabilitySet(1 << 5); // CAP_KILL
    (credentials.no_new_privileges, credentials.seccomp) = (true, Seccomp::Filter);
    change(&mut credentials);
    let mut thread = Thread::default();
    (thread.tid, thread.state, thread.seccomp_filter) = (1, Some(State::Alive), Some(0));
    thread.credentials = Some(credentials);
    thread
}

fn excess(fields: serde_json::Value, change: impl FnOnce(&mut Credentials)) -> String {
    let (plan, thread) = (plan(fields), thread(change));
    let credentials = thread.credentials.as_ref().unwrap();
    let grant = grant(&plan);
    grant.capabilities(credentials).and_then(|()| grant.identity(credentials)).err().unwrap_or_default()
}

fn grant(plan: &Plan) -> Grant<'_> {
    Grant { plan, externals: &[], lsm_profile: None, cgroups: true, marked_network: false }
}

fn confined() -> serde_json::Value {
    serde_json::json!({"noNewPrivileges": true, "capabilities": {"bounding": ["CAP_KILL"]}})
}

#[test]
fn what_config_json_grants_is_restored() {
    assert_eq!(excess(confined(), |_| ()), "");
    // gained by executing a program of root's
    let kill = |c: &mut Credentials| c.effective = CapabilitySet(1 << 5);
    let bounding = serde_json::json!({"bounding": ["CAP_KILL"]});
    assert_eq!(excess(serde_json::json!({"capabilities": bounding}), kill), "");
    assert!(
        excess(confined(), kill).contains("has CAP_KILL in its effective set"),
        "with noNewPrivileges it is not"
    );
}

#[test]
fn more_capabilities_are_refused_set_by_set() {
    let sys_admin = CapabilitySet(1 << 21);
    type Set = fn(&mut Credentials) -> &mut CapabilitySet;
    let sets: [(&str, Set); 5] = [
        ("bounding", |c| &mut c.bounding),
        ("permitted", |c| &mut c.permitted),
        ("effective", |c| &mut c.effective),
        ("inheritable", |c| &mut c.inheritable),
        ("ambient", |c| &mut c.ambient),
    ];
    for (name, set) in sets {
        let why = excess(confined(), |c| *set(c) = sys_admin);
        assert_eq!(why, format!("has CAP_SYS_ADMIN in its {name} set, which config.json does not grant"));
    }
}

#[test]
fn another_user_needs_a_way_to_become_it() {
    let root = |c: &mut Credentials| c.uids[3] = 0;
    assert!(excess(confined(), root).contains("runs as user 0; config.json says 1000"));
    assert!(excess(confined(), |c| c.groups = vec![100, 0]).contains("is in group 0; config.json says 100"));
    let set = ["CAP_KILL", "CAP_SETUID"];
    let setuid =
        serde_json::json!({"noNewPrivileges": true, "capabilities": {"bounding": set, "permitted": set}});
    assert_eq!(excess(setuid, root), "");
    let programs = serde_json::json!({"capabilities": {"bounding": ["CAP_KILL"]}});
    assert_eq!(excess(programs, root), "", "by a program of root's");
}

#[test]
fn what_is_no_id_is_refused() {
    // CRIU would call setresuid(2) with it, and the task stay root.
    for change in [
        |c: &mut Credentials| c.uids[1] = u32::MAX,
        |c: &mut Credentials| c.gids[0] = u32::MAX,
        |c: &mut Credentials| c.groups = vec![1, u32::MAX],
    ] {
        let error = excess(serde_json::json!({"capabilities": {"bounding": ["CAP_KILL"]}}), change);
        assert_eq!(error, "has 4294967295 among its users and groups, which is no id");
    }
}
