//! Device rules, as processes meet them.

use std::os::fd::AsFd;

use hiber_sandbox::cgroup::{Access, DeviceKind, DeviceRule, Layout, Limits, device_filter};
use hiber_sys::bpf;

use crate::host::*;

/// zero may be read and character devices made; full and block devices are out of reach.
fn check_devices(s: &mut Scratch) {
    let dir = tempfile::tempdir().unwrap();
    let script = format!(
        "cd {}; t() {{ \"$@\" >/dev/null 2>&1 && echo yes || echo no; }}
         t head -c1 /dev/zero; t head -c1 /dev/full; t mknod blk b 7 99; t mknod chr c 1 7; t head -c1 chr",
        dir.path().display()
    );
    let output = s.output(&script);
    assert_eq!(String::from_utf8(output.stdout).unwrap(), "yes\nno\nno\nyes\nno\n");
}

/// null (for redirections), zero, and making character devices; not full.
fn device_limits(layout: &Layout) -> Limits {
    let json = r#"{"devices":[{"allow":false,"access":"rwm"}]}"#;
    let rules = [
        DeviceRule::allow_char(None, None, Access::MKNOD),
        DeviceRule::allow_char(Some(1), Some(3), Access::ALL),
        DeviceRule::allow_char(Some(1), Some(5), Access::READ),
    ];
    Limits::from_spec(&serde_json::from_str(json).unwrap(), layout, Some(&rules)).unwrap()
}

#[test]
fn devices_v1() {
    let Some(layout) = v1_layout("devices") else { return };
    let mut s = create_at(&layout, &unique(), &device_limits(&layout));
    let text = s.file("devices", "devices.list");
    let mut list: Vec<_> = text.lines().collect();
    list.sort_unstable();
    assert_eq!(list, ["c *:* m", "c 1:3 rwm", "c 1:5 r"]);
    check_devices(&mut s);
    // An update takes zero and gives full.
    let mut changed = device_limits(&layout);
    let full = DeviceRule::allow_char(Some(1), Some(7), Access::READ);
    *changed.devices.as_mut().unwrap().last_mut().unwrap() = full;
    s.cgroup.apply(&changed).unwrap();
    assert!(s.output("head -c1 /dev/full >/dev/null && ! head -c1 /dev/zero").status.success());
}

#[test]
fn devices_v2() {
    let Some(layout) = v2_layout() else { return };
    let limits = device_limits(&layout);
    let mut s = create_at(&layout, &unique(), &limits);
    check_devices(&mut s);
    let dir = s.cgroup.birthplace().unwrap().unwrap().v2.unwrap();
    let before = bpf::query(dir.as_fd()).unwrap();
    assert_eq!(before.len(), 1);
    // An update replaces the program.
    let mut changed = limits;
    changed.devices.as_mut().unwrap().push(DeviceRule::allow_char(Some(1), Some(7), Access::READ));
    s.cgroup.apply(&changed).unwrap();
    let after = bpf::query(dir.as_fd()).unwrap();
    assert_eq!(after.len(), 1);
    assert_ne!(before, after);
    assert!(s.output("head -c1 /dev/full >/dev/null && head -c1 /dev/zero").status.success());
    // Several programs become one again.
    let all = DeviceRule { kind: DeviceKind::All, ..DeviceRule::allow_char(None, None, Access::ALL) };
    let extra = bpf::load_cgroup_device(&device_filter(&[all])).unwrap();
    bpf::attach(dir.as_fd(), extra.as_fd(), None).unwrap();
    assert_eq!(bpf::query(dir.as_fd()).unwrap().len(), 2);
    s.cgroup.apply(&changed).unwrap();
    assert_eq!(bpf::query(dir.as_fd()).unwrap().len(), 1);
}

#[test]
fn the_verifier_takes_every_filter() {
    if layout().is_none() {
        return;
    }
    let mut rules = DeviceRule::defaults();
    for n in 0..400u32 {
        let access = Access::parse(["r", "w", "m", "rw", "rwm"][n as usize % 5]).unwrap();
        let mut rule = DeviceRule::allow_char(Some(n), (n % 3 != 0).then_some(u32::MAX - n), access);
        rule.allow = n % 2 == 0;
        rules.push(rule);
        if n % 40 == 0 {
            bpf::load_cgroup_device(&device_filter(&rules)).unwrap();
        }
    }
    bpf::load_cgroup_device(&device_filter(&[])).unwrap();
    // And what it refuses is explained.
    let error = bpf::load_cgroup_device(&[bpf::Insn::exit()]).unwrap_err();
    assert!(error.args.contains("R0 !read_ok"), "{error}");
}
