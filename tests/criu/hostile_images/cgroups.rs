//! Cgroups in images: those of others, owners, values.

use super::{End, Victim, bundle};
use criu_proto::images::cgroup::{
    CgControllerEntry, CgroupDirEntry, CgroupEntry, CgroupPerms, CgroupPropEntry,
};
use hiber_tests::prelude::*;

type Change = fn(&mut CgroupEntry);

fn pids(entry: &mut CgroupEntry) -> &mut CgControllerEntry {
    entry.controllers.iter_mut().find(|c| c.cnames.iter().any(|n| n == "pids" || n.is_empty())).unwrap()
}

fn property(name: &str, value: &str) -> CgroupPropEntry {
    let perms = CgroupPerms { mode: Some(0o644), uid: Some(0), gid: Some(0), ..Default::default() };
    CgroupPropEntry {
        name: Some(name.into()),
        value: Some(value.into()),
        perms: Some(perms).into(),
        ..Default::default()
    }
}

fn child(name: &str, properties: Vec<CgroupPropEntry>) -> CgroupDirEntry {
    CgroupDirEntry { dir_name: Some(name.into()), properties, ..Default::default() }
}

const CASES: [(&str, Change, &str); 11] = [
    (
        "another's value",
        |c| {
            pids(c).dirs[0].children.push(child("x", vec![property("../../sentinel/pids.max", "777")]));
        },
        "which config.json does not give",
    ),
    ("another's name", |c| pids(c).dirs[0].children.push(child("../../sentinel", vec![])), "no plain name"),
    ("a cgroup elsewhere", |c| pids(c).dirs.push(child("sentinel", vec![])), "side by side"),
    (
        "processes elsewhere",
        |c| {
            for member in c.sets.iter_mut().flat_map(|set| &mut set.ctls) {
                (member.path, member.cgns_prefix) = (Some("/".into()), None);
            }
        },
        "in which is no process",
    ),
    (
        "a namespace elsewhere",
        |c| {
            c.sets.iter_mut().flat_map(|set| &mut set.ctls).for_each(|m| m.cgns_prefix = Some(1));
        },
        "has a cgroup namespace in another cgroup",
    ),
    (
        "a new hierarchy",
        |c| pids(c).cnames = vec!["name=hiber-test".into()],
        "of which this machine has none",
    ),
    (
        "a path in place of a controller",
        |c| pids(c).cnames = vec!["../..".into()],
        "of which this machine has none",
    ),
    (
        "an owner",
        |c| {
            pids(c).dirs[0].dir_perms.as_mut().unwrap().uid = Some(7);
        },
        "to 7:0",
    ),
    (
        "a group",
        |c| {
            pids(c).dirs[0].dir_perms.as_mut().unwrap().gid = Some(7);
        },
        "to 0:7",
    ),
    (
        "a value's owner",
        |c| {
            let all = &mut pids(c).dirs[0].properties;
            // On v2 CRIU saves other values.
            let at = all.iter().position(|p| p.name() == "pids.max").unwrap_or(0);
            all[at].perms.as_mut().unwrap().uid = Some(7);
        },
        "to 7:0",
    ),
    (
        "a mode",
        |c| {
            pids(c).dirs[0].dir_perms.as_mut().unwrap().mode = Some(0o40777);
        },
        "with mode 777",
    ),
];

#[test]
fn cgroups_of_others_are_refused_and_limits_are_config_jsons() {
    require!(Root, Criu, Controller("pids"));
    let v = Victim::new(bundle());
    for (what, change, why) in CASES {
        v.refuses(what, v.with::<CgroupEntry>("cgroup.img", |all| change(&mut all[0])), why);
    }
    // The container's own values are left as config.json has them, whatever the manifest says of modes.
    let (_, raised) = v.with::<CgroupEntry>("cgroup.img", |all| {
        for controller in &mut all[0].controllers {
            for property in controller.dirs.iter_mut().flat_map(|dir| &mut dir.properties) {
                if property.name() == "pids.max" {
                    property.value = Some("777".into());
                }
            }
        }
    });
    for mode in ["soft", "full", "props", "none"] {
        let mut manifest: Value = serde_json::from_slice(&v.read("hiber.json")).unwrap();
        manifest["options"]["cgroupsMode"] = json!(mode);
        manifest["files"]["cgroup.img"]["size"] = json!(raised.len());
        let manifest = manifest.to_string().into_bytes();
        let end = v.restore(mode, &[("cgroup.img", raised.clone()), ("hiber.json", manifest)]);
        assert!(matches!(end, End::Restored), "{mode}: {end:?}");
    }
    v.c.assert_clean();
}
