//! `start` and `delete`: short-lived commands by which containerd gets a shim and clears up after one.

use std::collections::BTreeMap;
use std::io::{IsTerminal, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::SystemTime;

use containerd_shim_protos::api::DeleteResponse;
use containerd_shim_protos::bootstrap_api::BootstrapParams;
use containerd_shim_protos::protobuf::Message;
use containerd_shim_protos::protobuf::well_known_types::any::Any;
use hiber::Runtime;
use hiber::id::ContainerId;
use hiber_sandbox::cgroup::{Cgroup, Layout, OnDenied};
use rustix::process::Pid;
use rustix::thread::CoreSchedulingScope;
use serde::Deserialize;

use crate::args::Args;
use crate::error::{Context, Error, Result, chain};
use crate::mount;
use crate::options::Options;

/// Where shims listen if containerd names no directory; short, because a socket's path is limited (unix(7)).
const SOCKETS: &str = "/run/containerd/s";
/// The file in the bundle by which containerd 1 finds the shim again.
const ADDRESS: &str = "address";
/// containerd from 1.7 on sets it, and reads an answer in JSON.
const UNDERSTANDS_JSON: &str = "MAX_SHIM_VERSION";
/// Annotations whose value is common to the containers of one shim; the first that is there counts.
const GROUPS: [&str; 2] = ["io.containerd.runc.v2.group", "io.kubernetes.cri.sandbox-id"];

/// Containerd's message on standard input.
#[derive(Debug, Default)]
struct Said {
    options: Option<Any>,
    socket_dir: Option<PathBuf>,
    /// containerd 2.3's bootstrap protocol.
    is_bootstrap: bool,
}

/// The part of config.json that groups containers.
#[derive(Deserialize)]
struct Annotated {
    #[serde(default)]
    annotations: BTreeMap<String, String>,
}

/// Starts a shim for the bundle in the working directory, or finds the one of its pod, and prints its address.
pub(crate) fn start(args: &Args) -> Result<()> {
    let said = read_stdin(args)?;
    let options = Options::from_any(said.options.as_ref())?;
    let group = group(args)?;
    // The name is the same for all containers of the group, and nobody else's.
    let name = blake3::hash(format!("{}\0{}\0{group}", args.address, args.namespace).as_bytes()).to_hex();
    let directory = said.socket_dir.clone().unwrap_or_else(|| SOCKETS.into());
    let path = directory.join(name.as_str());
    let address = format!("unix://{}", path.display());
    if let Some(listener) = listen(&path)? {
        let started = write_address(&address).and_then(|()| spawn(args, &path, listener, &options));
        if started.is_err() {
            let _ = std::fs::remove_file(&path);
        }
        started?;
    } else {
        write_address(&address)?;
    }
    let json = said.is_bootstrap || std::env::var_os(UNDERSTANDS_JSON).is_some();
    let answer = if json {
        serde_json::json!({"version": 3, "address": address, "protocol": "ttrpc"}).to_string()
    } else {
        address
    };
    std::io::stdout().write_all(answer.as_bytes()).context("print the address")
}

/// The options, alone or in containerd 2.3's message. Both are protobuf without a mark; the message names the task.
fn read_stdin(args: &Args) -> Result<Said> {
    let mut bytes = Vec::new();
    if !std::io::stdin().is_terminal() {
        std::io::stdin().read_to_end(&mut bytes).context("read standard input")?;
    }
    if bytes.is_empty() {
        return Ok(Said::default());
    }
    if let Ok(params) = BootstrapParams::parse_from_bytes(&bytes)
        && (params.instance_id.as_str(), params.namespace.as_str()) == (&args.id, &args.namespace)
    {
        let options = params.extensions.into_iter().filter_map(|extension| extension.value.into_option());
        return Ok(Said {
            // Others are for runtimes that know them.
            options: options.into_iter().find(|any| Options::from_any(Some(any)).is_ok()),
            socket_dir: params.socket_dir.filter(|dir| !dir.is_empty()).map(PathBuf::from),
            is_bootstrap: true,
        });
    }
    let any = Any::parse_from_bytes(&bytes).map_err(|e| Error::invalid("standard input", e.to_string()))?;
    Ok(Said { options: Some(any), ..Said::default() })
}

fn group(args: &Args) -> Result<String> {
    let json = std::fs::read("config.json").context("config.json")?;
    let spec: Annotated =
        serde_json::from_slice(&json).map_err(|e| Error::invalid("config.json", e.to_string()))?;
    let named = GROUPS.iter().find_map(|label| spec.annotations.get(*label));
    Ok(named.unwrap_or(&args.id).clone())
}

/// Listens at `path`; `None` if a shim does already.
fn listen(path: &Path) -> Result<Option<UnixListener>> {
    let what = || path.display().to_string();
    if let Some(directory) = path.parent() {
        std::fs::create_dir_all(directory).context(directory.display().to_string())?;
    }
    // Nobody else may connect, from the beginning on. This process has one thread.
    let before = nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o177));
    let bind = || UnixListener::bind(path);
    let bound = match bind() {
        Err(e) if e.kind() == std::io::ErrorKind::AddrInUse => {
            if UnixStream::connect(path).is_ok() {
                Ok(None)
            } else {
                // Of a shim that was killed.
                std::fs::remove_file(path).and_then(|()| bind()).map(Some)
            }
        }
        other => other.map(Some),
    };
    nix::sys::stat::umask(before);
    bound.context(what())
}

fn write_address(address: &str) -> Result<()> {
    let temporary = format!(".{ADDRESS}");
    let write = || std::fs::write(&temporary, address).and_then(|()| std::fs::rename(&temporary, ADDRESS));
    write().context(ADDRESS)
}

/// Starts this program as the shim, with the socket as its standard input.
fn spawn(args: &Args, socket: &Path, listener: UnixListener, options: &Options) -> Result<()> {
    let program = std::env::current_exe().context("find this program")?;
    let mut command = Command::new(program);
    command.args(["-namespace", &args.namespace, "-id", &args.id, "-address", &args.address]);
    command.arg("-publish-binary").arg(&args.publish_binary).arg("-socket").arg(socket);
    if args.debug {
        command.arg("-debug");
    }
    command.stdin(OwnedFd::from(listener)).stdout(Stdio::null()).stderr(Stdio::null()).process_group(0);
    if std::env::var_os("SCHED_CORE").is_some() {
        // Inherited; this process ends soon.
        let me = rustix::process::getpid();
        rustix::thread::create_core_scheduling_cookie(me, CoreSchedulingScope::ProcessGroup)
            .context("prctl PR_SCHED_CORE")?;
    }
    let mut child = command.spawn().context("start the shim")?;
    let moved = move_to_cgroup(&child, options);
    if moved.is_err() {
        let _ = child.kill();
        let _ = child.wait();
    }
    moved
}

/// The shim's cgroup, and its place in the order in which the kernel kills: after its containers, before containerd.
fn move_to_cgroup(child: &Child, options: &Options) -> Result<()> {
    if !options.shim_cgroup.is_empty() {
        let what = || format!("options.shim_cgroup {}", options.shim_cgroup);
        let layout = Layout::detect().context(what())?;
        let paths = layout.resolve(Some(Path::new(&options.shim_cgroup)), "").context(what())?;
        let cgroup = Cgroup::open(paths, OnDenied::Fail).context(what())?;
        cgroup.add_pid(child.id()).context(what())?;
    }
    let score = |pid: &str| format!("/proc/{pid}/oom_score_adj");
    let Some(parent) = rustix::process::getppid().map(Pid::as_raw_nonzero) else { return Ok(()) };
    let parents = std::fs::read_to_string(score(&parent.to_string())).unwrap_or_default();
    let Ok(parents) = parents.trim().parse::<i32>() else { return Ok(()) };
    let wanted = (parents + 1).min(1000).to_string();
    std::fs::write(score(&child.id().to_string()), wanted).context("oom_score_adj of the shim")
}

/// Clears up after a shim that is dead, and prints what containerd is to believe of the task's end.
pub(crate) fn delete(args: &Args) -> Result<()> {
    crate::log::to_stderr();
    let bundle = match &args.bundle {
        Some(bundle) => bundle.clone(),
        None => {
            let own = std::env::current_dir().context("the working directory")?;
            own.parent().unwrap_or(&own).join(&args.id)
        }
    };
    let id: ContainerId =
        args.id.parse().map_err(|e: hiber::id::InvalidId| Error::invalid("-id", e.to_string()))?;
    let options = Options::load(&bundle)?;
    let runtime = Runtime::new(&options.runtime_root(&args.namespace));
    let pid = runtime.open(&id).ok().and_then(|container| Some(container.facts().ok()?.pid));
    if let Err(e) = runtime.force_delete(&id) {
        tracing::warn!("delete container {id}: {}", chain(&e));
    }
    if let Err(e) = mount::unmount_all(&bundle.join("rootfs")) {
        tracing::warn!("{}", chain(&e));
    }
    remove_dead_socket(&bundle);
    let response = DeleteResponse {
        pid: pid.unwrap_or(0).unsigned_abs(),
        exit_status: 128 + 9,
        exited_at: Some(SystemTime::now().into()).into(),
        ..DeleteResponse::default()
    };
    let bytes = response.write_to_bytes().map_err(std::io::Error::other).context("encode the answer")?;
    std::io::stdout().write_all(&bytes).context("print the answer")
}

/// A shim that was killed leaves its socket.
fn remove_dead_socket(bundle: &Path) {
    let Ok(address) = std::fs::read_to_string(bundle.join(ADDRESS)) else { return };
    if let Some(path) = address.strip_prefix("unix://")
        && UnixStream::connect(path).is_err_and(|e| e.kind() == std::io::ErrorKind::ConnectionRefused)
    {
        let _ = std::fs::remove_file(path);
    }
}
