//! Options against the fields of criu_opts.

use std::ffi::OsStr;
use std::fs::File;
use std::os::unix::ffi::OsStrExt as _;

use criu_proto::rpc::CriuCgMode;

use super::*;

fn null() -> OwnedFd {
    File::open("/dev/null").unwrap().into()
}

#[test]
fn defaults_send_only_what_is_needed() {
    let options = DumpOptions::new(42, null());
    let expected = CriuOpts {
        images_dir_fd: Some(options.common.images_dir.as_raw_fd()),
        pid: Some(42),
        log_file: Some("dump.log".into()),
        log_level: Some(4),
        notify_scripts: Some(true),
        ..Default::default()
    };
    assert_eq!(options.to_proto().unwrap(), expected);
}

#[test]
fn every_common_flag_has_its_own_field() {
    type Set = fn(&mut Common);
    type Get = fn(&CriuOpts) -> Option<bool>;
    let flags: [(Set, Get); 15] = [
        (|c| c.tcp_established = true, |o| o.tcp_established),
        (|c| c.tcp_close = true, |o| o.tcp_close),
        (|c| c.ext_unix_sk = true, |o| o.ext_unix_sk),
        (|c| c.shell_job = true, |o| o.shell_job),
        (|c| c.file_locks = true, |o| o.file_locks),
        (|c| c.link_remap = true, |o| o.link_remap),
        (|c| c.evasive_devices = true, |o| o.evasive_devices),
        (|c| c.force_irmap = true, |o| o.force_irmap),
        (|c| c.auto_dedup = true, |o| o.auto_dedup),
        (|c| c.auto_external_mounts = true, |o| o.auto_ext_mnt),
        (|c| c.lazy_pages = true, |o| o.lazy_pages),
        (|c| c.mnt_ns_compat_mode = true, |o| o.mntns_compat_mode),
        (|c| c.orphan_pts_master = true, |o| o.orphan_pts_master),
        (|c| c.empty_network_ns = true, |o| o.empty_ns.map(|ns| ns == 0x4000_0000)),
        (|c| c.cgroups = Some(CgroupMode::Full), |o| o.manage_cgroups),
    ];
    for (i, (set, _)) in flags.iter().enumerate() {
        let mut common = Common::new(null(), "x.log");
        set(&mut common);
        let proto = common.to_proto().unwrap();
        for (j, (_, get)) in flags.iter().enumerate() {
            assert_eq!(get(&proto), (i == j).then_some(true), "flag {i}, field {j}");
        }
    }
}

#[test]
fn a_dump_is_mapped_in_full() {
    let mut options = DumpOptions::new(42, null());
    options.leave_running = true;
    options.tcp_skip_in_flight = true;
    options.track_mem = true;
    options.parent_img = Some("../parent".into());
    options.freeze_cgroup = Some("/sys/fs/cgroup/freezer/c".into());
    options.common.work_dir = Some(null());
    options.common.status_fd = Some(null());
    options.common.config_file = Some("/etc/criu/hiber.conf".into());
    let by_path = options.to_proto().unwrap();
    assert_eq!(by_path.config_file.as_deref(), Some("/etc/criu/hiber.conf"));
    options.common.config_fd = Some(null());
    options.common.cgroups = Some(CgroupMode::Ignore);
    options.common.cgroup_props = Some("\"cpu\":".into());
    options.common.cgroup_roots =
        vec![CgroupRoot { controllers: Some("cpu,cpuacct".into()), path: "/a".into() }];
    options.common.external =
        vec![External::mount("/data", "data"), External::namespace("net", 4026531840, "extRootNetNS")];
    options.common.network_lock = Some(NetworkLock::Nftables);
    options.common.page_server =
        Some(PageServer { address: Some("::1".into()), port: 65535, connection: Some(SwrkFd(9)) });
    options.common.ghost_limit = Some(1);
    options.common.timeout = Some(2);
    let o = options.to_proto().unwrap();
    assert_eq!((o.leave_running, o.tcp_skip_in_flight, o.track_mem), (Some(true), Some(true), Some(true)));
    assert_eq!(o.parent_img.as_deref(), Some("../parent"));
    assert_eq!(o.freeze_cgroup.as_deref(), Some("/sys/fs/cgroup/freezer/c"));
    assert_eq!(o.work_dir_fd, options.common.work_dir.as_ref().map(std::os::fd::AsRawFd::as_raw_fd));
    assert_eq!(o.status_fd, options.common.status_fd.as_ref().map(std::os::fd::AsRawFd::as_raw_fd));
    let config = options.common.config_fd.as_ref().map(std::os::fd::AsRawFd::as_raw_fd).unwrap();
    assert_eq!(o.config_file, Some(format!("/proc/{}/fd/{config}", std::process::id())));
    assert_eq!(o.manage_cgroups, Some(false));
    assert_eq!(o.manage_cgroups_mode, Some(CriuCgMode::IGNORE.into()));
    assert_eq!(o.cgroup_props.as_deref(), Some("\"cpu\":"));
    assert_eq!(
        (o.cg_root[0].ctrl.as_deref(), o.cg_root[0].path.as_deref()),
        (Some("cpu,cpuacct"), Some("/a"))
    );
    assert_eq!(o.external, ["mnt[/data]:data", "net[4026531840]:extRootNetNS"]);
    assert_eq!(o.network_lock.map(|l| l.value()), Some(2));
    assert_eq!((o.ps.address.as_deref(), o.ps.port, o.ps.fd), (Some("::1"), Some(65535), Some(9)));
    assert_eq!((o.ghost_limit, o.timeout), (Some(1), Some(2)));
}

#[test]
fn a_restore_is_mapped_in_full() {
    let mut options = RestoreOptions::new(null());
    options.common.root = Some("/run/root".into());
    options.common.external = vec![External::mount_source("data", "/srv/data")];
    options.inherit_fds = vec![InheritFd { key: "pipe:[7]".into(), fd: SwrkFd(12) }];
    options.lsm_profile = Some("apparmor:p".into());
    options.lsm_mount_context = Some("c".into());
    options.common.cgroup_yard = Some("/sys/fs/cgroup".into());
    options.skip_file_rwx_check = true;
    let o = options.to_proto().unwrap();
    assert_eq!(o.pid, None);
    assert_eq!(o.log_file.as_deref(), Some("restore.log"));
    assert_eq!((o.rst_sibling, o.skip_file_rwx_check), (Some(true), Some(true)));
    assert_eq!(o.root.as_deref(), Some("/run/root"));
    assert_eq!(o.external, ["mnt[data]:/srv/data"]);
    assert_eq!((o.inherit_fd[0].key.as_deref(), o.inherit_fd[0].fd), (Some("pipe:[7]"), Some(12)));
    assert_eq!((o.lsm_profile.as_deref(), o.lsm_mount_context.as_deref()), (Some("apparmor:p"), Some("c")));
    assert_eq!(o.cgroup_yard.as_deref(), Some("/sys/fs/cgroup"));
    options.as_sibling = false;
    assert_eq!(options.to_proto().unwrap().rst_sibling, None);
}

#[test]
fn a_pre_dump_tracks_memory() {
    let mut options = PreDumpOptions::new(42, null());
    options.read_mode = true;
    let o = options.to_proto().unwrap();
    assert_eq!((o.pid, o.track_mem, o.pre_dump_mode.map(|m| m.value())), (Some(42), Some(true), Some(2)));
}

#[test]
fn keys_of_files_are_in_hexadecimal() {
    assert_eq!(External::file(255, 4096).to_string(), "file[ff:1000]");
    assert_eq!(External::terminal(0x8800, 0x16).to_string(), "tty[8800:16]");
    assert_eq!(External::other("veth[a]:b").to_string(), "veth[a]:b");
}

#[test]
fn what_cannot_be_right_is_named() {
    let problem = |e: CriuError| e.to_string();
    assert_eq!(
        problem(DumpOptions::new(0, null()).to_proto().unwrap_err()),
        "pid: 0: expected the number of a process"
    );
    let mut options = RestoreOptions::new(null());
    options.common.log_file = "a/b".into();
    assert_eq!(
        problem(options.to_proto().unwrap_err()),
        "log_file: \"a/b\": expected a file name without slashes"
    );
    options.common.log_file = "r.log".into();
    options.common.root = Some(OsStr::from_bytes(b"/\xff").into());
    assert!(problem(options.to_proto().unwrap_err()).starts_with("root: "));
}

#[test]
fn the_log_is_in_the_work_directory_if_there_is_one() {
    let (images, work) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let mut common = Common::new(File::open(images.path()).unwrap().into(), "d.log");
    assert_eq!(common.log_path(), Some(images.path().canonicalize().unwrap().join("d.log")));
    common.work_dir = Some(File::open(work.path()).unwrap().into());
    assert_eq!(common.log_path(), Some(work.path().canonicalize().unwrap().join("d.log")));
}
