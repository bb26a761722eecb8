//! AppArmor profiles are kept over a restore.

use crate::{counter, counts_on, sleep_and_wake};
use hiber_tests::apparmor::Profile;
use hiber_tests::prelude::*;

#[test]
fn a_profile_is_kept_and_enforced() {
    require!(Root, Criu, AppArmor);
    let profile = Profile::load("deny /kept/** wl,");
    let bundle = Bundle::busybox().edit(|c| c["process"]["apparmorProfile"] = json!(profile.name()));
    let c = counter(&Runtime::hiber(), bundle);
    sleep_and_wake(&c, &[], &[]);
    assert_eq!(c.sh("cat /proc/1/attr/current"), format!("{} (enforce)", profile.name()));
    counts_on(&c, 3);
    c.sh("mkdir /kept");
    c.exec(&["sh", "-c", "echo x >/kept/file"]).fails("Permission denied");
}

#[test]
fn another_profile_can_be_asked_for() {
    require!(Root, Criu, AppArmor);
    let (first, second) = (Profile::load("deny /first/** wl,"), Profile::load("deny /second/** wl,"));
    let bundle = Bundle::busybox().edit(|c| c["process"]["apparmorProfile"] = json!(first.name()));
    let c = counter(&Runtime::hiber(), bundle);
    let flag = format!("apparmor:{}", second.name());
    sleep_and_wake(&c, &[], &["--lsm-profile", &flag]);
    assert_eq!(c.sh("cat /proc/1/attr/current"), format!("{} (enforce)", second.name()));
    counts_on(&c, 3);
}
