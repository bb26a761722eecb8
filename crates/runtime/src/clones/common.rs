//! Things of a checkpoint that no two containers should use at the same time.

use hiber_criu::{ImageDirectory, Images};

use crate::checkpoint::RestoreContainerOptions;
use crate::error::{Error, Result};

/// How many of each kind an error names.
const NAMED: usize = 3;

/// Refuses them, unless `share` has them shared. Connections are closed in clones, or refused.
pub(super) fn check(
    images: &ImageDirectory,
    restore: &mut RestoreContainerOptions<'_>,
    share: bool,
) -> Result<()> {
    let common = Images::in_directory(images)?.common()?;
    let mut problems = Vec::new();
    if restore.criu.tcp_close == Some(true) {
        // Whatever the dump has recorded.
        restore.criu.tcp_established = Some(false);
    } else if let Some(connections) = some("TCP connection", &common.connections) {
        problems.push(format!("{connections} (pass --tcp-close to have them closed)"));
    }
    if !share {
        let kinds =
            [("device", &common.devices), ("file of the host that is open for writing:", &common.files)];
        let shared: Vec<_> = kinds.iter().filter_map(|(kind, names)| some(kind, names)).collect();
        let locks = common.locks.then(|| "locks on files of the host".to_owned());
        problems.extend(
            shared.into_iter().chain(locks).map(|what| format!("{what} (pass --share to have it shared)")),
        );
    }
    if problems.is_empty() {
        return Ok(());
    }
    Err(Error::Invalid(format!("each clone would have {}", problems.join("; "))))
}

fn some(kind: &str, names: &[String]) -> Option<String> {
    let named = names.iter().take(NAMED).cloned().collect::<Vec<_>>().join(", ");
    match names.len() {
        0 => None,
        count if count > NAMED => Some(format!("{kind} {named} and {} more", count - NAMED)),
        _ => Some(format!("{kind} {named}")),
    }
}
