//! The process of `exec`, from flags on top of config.json's.

use anyhow::{Context, anyhow};
use oci_spec::runtime::{Capabilities, Capability, LinuxCapabilities, Process, Spec};

use super::args::ExecArgs;

/// config.json's process, changed by flags.
pub(crate) fn from_flags(spec: &Spec, args: &ExecArgs) -> anyhow::Result<Process> {
    let mut process = spec.process().clone().context("config.json has no process")?;
    process.set_args(Some(args.args.clone()));
    process.set_terminal(Some(args.tty));
    process.set_console_size(None);
    if let Some(cwd) = &args.cwd {
        process.set_cwd(cwd.clone());
    }
    if let Some(label) = &args.selinux_label {
        process.set_selinux_label(Some(label.clone()));
    }
    if let Some(profile) = &args.apparmor {
        process.set_apparmor_profile(Some(profile.clone()));
    }
    if let Some(no_new_privs) = args.no_new_privs {
        process.set_no_new_privileges(Some(no_new_privs));
    }
    let mut env = process.env().clone().unwrap_or_default();
    env.extend(args.env.iter().cloned());
    process.set_env(Some(env));
    let mut user = process.user().clone();
    if let Some((uid, gid)) = args.user {
        user.set_uid(uid);
        if let Some(gid) = gid {
            user.set_gid(gid);
        }
    }
    if !args.additional_gids.is_empty() {
        let mut gids = user.additional_gids().clone().unwrap_or_default();
        gids.extend_from_slice(&args.additional_gids);
        user.set_additional_gids(Some(gids));
    }
    process.set_user(user);
    if !args.caps.is_empty() {
        let caps = process.capabilities().clone().unwrap_or_default();
        process.set_capabilities(Some(add_capabilities(caps, &args.caps)?));
    }
    Ok(process)
}

/// `--cap` adds to all sets but the ambient one, which it enters only where it is inheritable already (runc
/// since CVE-2022-29162).
fn add_capabilities(caps: LinuxCapabilities, names: &[String]) -> anyhow::Result<LinuxCapabilities> {
    let mut added = Capabilities::new();
    for name in names {
        let value = serde_json::Value::String(name.to_uppercase());
        let capability: Capability = serde_json::from_value(value)
            .map_err(|_| anyhow!("--cap {name}: no such capability; expected one such as CAP_NET_ADMIN"))?;
        added.insert(capability);
    }
    let union = |set: &Option<Capabilities>| Some(set.iter().flatten().chain(&added).copied().collect());
    let mut all = caps.clone();
    all.set_bounding(union(caps.bounding()));
    all.set_effective(union(caps.effective()));
    all.set_permitted(union(caps.permitted()));
    let inheritable = caps.inheritable().clone().unwrap_or_default();
    let ambient = caps.ambient().iter().flatten().copied();
    let more = added.iter().copied().filter(|c| inheritable.contains(c));
    all.set_ambient(Some(ambient.chain(more).collect()));
    Ok(all)
}
