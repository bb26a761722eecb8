//! AppArmor profiles of a test's own.

use crate::bundle::unique_name;
use crate::command;
use std::process::Command;

/// A profile in the kernel. It allows what `rules` do not forbid; removed when dropped.
#[derive(Debug)]
pub struct Profile {
    name: String,
    text: String,
}

impl Profile {
    /// Loads a profile of a unique name.
    ///
    /// # Panics
    /// If it cannot be loaded.
    #[track_caller]
    pub fn load(rules: &str) -> Self {
        let name = format!("ht-profile-{}", unique_name());
        let all = "file, network, capability, mount, umount, pivot_root, ptrace, signal, unix, dbus,";
        let text =
            format!("profile {name} flags=(attach_disconnected,mediate_deleted) {{ {all} {rules} }}\n");
        command::run(parser("--replace"), text.as_bytes()).ok();
        Self { name, text }
    }

    /// The profile's name.
    pub fn name(&self) -> &str {
        &self.name
    }
}

impl Drop for Profile {
    fn drop(&mut self) {
        command::run(parser("--remove"), self.text.as_bytes());
    }
}

fn parser(action: &str) -> Command {
    let mut parser = Command::new("apparmor_parser");
    parser.args([action, "--skip-cache"]);
    parser
}
