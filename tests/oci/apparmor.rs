//! AppArmor profiles are put on, and enforced.

use hiber_tests::apparmor::Profile;
use hiber_tests::prelude::*;

fn sleeper(profile: &str) -> Container {
    let bundle = Bundle::busybox().args(["sleep", "1000"]);
    let c = Runtime::hiber().container(bundle.edit(|c| c["process"]["apparmorProfile"] = json!(profile)));
    c.run_detached().ok();
    c
}

#[test]
fn a_profile_is_enforced_on_the_container_and_on_what_joins_it() {
    require!(Root, AppArmor);
    let profile = Profile::load("deny /kept/** wl,");
    let c = sleeper(profile.name());
    let shown = format!("{} (enforce)", profile.name());
    assert_eq!(c.sh("cat /proc/1/attr/current"), shown);
    assert_eq!(c.sh("cat /proc/self/attr/current"), shown);
    c.sh("mkdir /kept; echo x >/other");
    c.exec(&["sh", "-c", "echo x >/kept/file"]).fails("Permission denied");
}

#[test]
fn an_exec_can_have_a_profile_of_its_own() {
    require!(Root, AppArmor);
    let profile = Profile::load("deny /kept/** wl,");
    let c = Runtime::hiber().container(Bundle::busybox().args(["sleep", "1000"]));
    c.run_detached().ok();
    let current = |flags: &[&str]| c.exec_with(flags, &["cat", "/proc/self/attr/current"]).ok().to_owned();
    assert_eq!(current(&[]), "unconfined");
    assert_eq!(current(&["--apparmor", profile.name()]), format!("{} (enforce)", profile.name()));
}

#[test]
fn a_profile_that_is_not_loaded_is_told() {
    require!(Root, AppArmor);
    let bundle = Bundle::busybox().edit(|c| c["process"]["apparmorProfile"] = json!("no-such-profile"));
    let c = Runtime::hiber().container(bundle);
    c.run(&[]).fails("no-such-profile");
    c.assert_clean();
}
