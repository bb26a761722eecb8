//! Checkpoint: containerd's options in the runtime's words.

use std::path::{Path, PathBuf};

use containerd_shim_protos::api::CheckpointTaskRequest;
use containerd_shim_protos::protobuf::Message;
use containerd_shim_protos::shim::oci::CheckpointOptions as Asked;
use hiber::{CgroupMode, CheckpointOptions, UnknownWord, Word};

use crate::error::{Context, Error, Result};
use crate::options::type_name;
use crate::task::Task;

/// Where CRIU's log of a failed dump is kept in the bundle, as runc's shim has it.
const LOG: &str = "criu-dump.log";

/// Checkpoints a task; returns where the images are.
pub(crate) fn checkpoint(task: &Task, request: &CheckpointTaskRequest) -> Result<PathBuf> {
    let asked = asked(request)?;
    let images = images(request, &asked)?;
    let own_work = task.bundle.join("criu-work");
    let work = match asked.work_path.as_str() {
        "" => cri_directory(&task.bundle, task.id.as_str()).unwrap_or_else(|| own_work.clone()),
        path => path.into(),
    };
    let on = |flag: bool| flag.then_some(true);
    let options = CheckpointOptions::default()
        .criu_program(task.criu())
        .image_path(&images)
        .work_path(work.clone())
        .tcp_established(on(asked.open_tcp))
        .ext_unix_sk(on(asked.external_unix_sockets))
        .shell_job(on(asked.terminal))
        .file_locks(on(asked.file_locks))
        .cgroups_mode(cgroups_mode(&asked.cgroups_mode)?)
        .empty_network(on(empty_network(&asked.empty_namespaces)?))
        .leave_running(!asked.exit);
    let done = task.running()?.clone().checkpoint(&options).context("OCI runtime checkpoint failed");
    if asked.work_path.is_empty() {
        if done.is_err() {
            // Of a dump that never began there is none.
            let _ = std::fs::copy(work.join("dump.log"), task.bundle.join(LOG));
        }
        let _ = std::fs::remove_dir_all(&own_work);
    }
    done.map(|()| images)
}

/// Where containerd's CRI plugin looks for CRIU's log and statistics, for containers of that plugin.
///
/// The plugin names this directory to runc's shim alone. It lies in containerd's root directory, as does the bundle's
/// working directory, ROOT/io.containerd.runtime.v2.task/NAMESPACE/ID. containerd 2.1.0 takes the two files from the
/// container's own directory; later patch releases make another one in there before each checkpoint.
fn cri_directory(bundle: &Path, id: &str) -> Option<PathBuf> {
    let work = std::fs::read_link(bundle.join("work")).ok()?;
    let container = work.ancestors().nth(3)?.join("io.containerd.grpc.v1.cri/containers").join(id);
    [container.join("ctrd-checkpoint"), container].into_iter().find(|directory| directory.is_dir())
}

fn asked(request: &CheckpointTaskRequest) -> Result<Asked> {
    let Some(any) = request.options.as_ref().filter(|any| !any.type_url.is_empty()) else {
        return Ok(Asked::default());
    };
    let is_swapped = match type_name(any) {
        "containerd.runc.v1.CheckpointOptions" => false,
        // The library of containerd 1's clients sends this one for runtimes not called io.containerd.runc; two fields have
        // each other's number.
        "containerd.linux.runc.CheckpointOptions" => true,
        other => {
            let problem = format!(
                "{other:?}: expected containerd.runc.v1.CheckpointOptions or containerd.linux.runc.CheckpointOptions"
            );
            return Err(Error::invalid("options", problem));
        }
    };
    let mut asked =
        Asked::parse_from_bytes(&any.value).map_err(|e| Error::invalid("options", e.to_string()))?;
    if is_swapped {
        std::mem::swap(&mut asked.image_path, &mut asked.work_path);
    }
    Ok(asked)
}

/// The option counts before the request's own field: containerd puts it there itself for runc alone.
fn images(request: &CheckpointTaskRequest, asked: &Asked) -> Result<PathBuf> {
    let (field, path) = if asked.image_path.is_empty() {
        ("path", &request.path)
    } else {
        ("options.image_path", &asked.image_path)
    };
    if !Path::new(path).is_absolute() {
        return Err(Error::invalid(field, format!("{path:?} is not an absolute path")));
    }
    Ok(path.into())
}

fn cgroups_mode(mode: &str) -> Result<Option<CgroupMode>> {
    let wrong = |e: UnknownWord| {
        Error::invalid("options.cgroups_mode", format!("{mode:?}: expected {}", e.expected.join(" or ")))
    };
    (!mode.is_empty()).then(|| CgroupMode::of_word(mode)).transpose().map_err(wrong)
}

fn empty_network(namespaces: &[String]) -> Result<bool> {
    match namespaces.iter().find(|kind| *kind != "network") {
        Some(kind) => {
            let problem = format!("{kind:?} cannot be empty after a restore: expected network");
            Err(Error::invalid("options.empty_namespaces", problem))
        }
        None => Ok(!namespaces.is_empty()),
    }
}

#[cfg(test)]
mod tests {
    use containerd_shim_protos::protobuf::MessageField;
    use containerd_shim_protos::protobuf::well_known_types::any::Any;

    use super::*;

    #[test]
    fn the_clients_of_containerd_1_have_a_message_of_their_own() {
        let asked = |name: &str| {
            let value =
                Asked { exit: true, image_path: "/8".into(), work_path: "/9".into(), ..Asked::default() };
            let any = Any { type_url: name.into(), value: value.write_to_bytes().unwrap(), ..Any::default() };
            asked(&CheckpointTaskRequest { options: MessageField::some(any), ..Default::default() })
        };
        let runc = asked("containerd.runc.v1.CheckpointOptions").unwrap();
        assert_eq!((runc.exit, runc.image_path.as_str(), runc.work_path.as_str()), (true, "/8", "/9"));
        let others = asked("types.containerd.io/containerd.linux.runc.CheckpointOptions").unwrap();
        assert_eq!((others.exit, others.image_path.as_str(), others.work_path.as_str()), (true, "/9", "/8"));
        let error = asked("some.Thing").unwrap_err().to_string();
        assert!(error.starts_with("options: \"some.Thing\": expected containerd.runc.v1"), "{error}");
    }

    #[test]
    fn mistakes_name_the_option() {
        let mode = cgroups_mode("hard").unwrap_err().to_string();
        assert_eq!(mode, "options.cgroups_mode: \"hard\": expected soft or full or strict or ignore");
        let kinds = ["network", "pid"].map(String::from);
        let kind = empty_network(&kinds).unwrap_err().to_string();
        assert_eq!(
            kind,
            "options.empty_namespaces: \"pid\" cannot be empty after a restore: expected network"
        );
        assert!(empty_network(&kinds[..1]).unwrap());
        let request = CheckpointTaskRequest { path: "x".into(), ..Default::default() };
        let path = images(&request, &Asked::default()).unwrap_err().to_string();
        assert_eq!(path, "path: \"x\" is not an absolute path");
        let asked = Asked { image_path: "/i".into(), ..Default::default() };
        assert_eq!(images(&request, &asked).unwrap(), PathBuf::from("/i"));
    }
}
