//! Images that are written, changed and read again.

use criu_proto::MessageField;
use criu_proto::images::cgroup::{CgControllerEntry, CgroupPerms, CgroupPropEntry};

use super::*;

/// An empty directory of images, which is removed with the first.
fn directory() -> (tempfile::TempDir, ImageDirectory) {
    let dir = tempfile::tempdir().unwrap();
    let images = ImageDirectory::open(dir.path()).unwrap();
    (dir, images)
}

fn mount(root: &str, key: Option<&str>) -> MntEntry {
    MntEntry {
        fstype: Some(criu_proto::images::mnt::mnt_entry::FsType::AUTO.into()),
        mnt_id: Some(1),
        root_dev: Some(7),
        parent_mnt_id: Some(0),
        flags: Some(0),
        mountpoint: Some(root.into()),
        source: Some("none".into()),
        options: Some(String::new()),
        root: Some(root.into()),
        deleted: Some(true),
        ext_key: key.map(str::to_owned),
        ..Default::default()
    }
}

#[test]
fn mounts_from_outside_are_not_gone_for_a_restore() {
    let (_dir, dir) = directory();
    let magic = [COMMON, Magic::MNTS.0];
    let first = [mount("/conf", Some("/etc/conf")), mount("/own", None)];
    write(&dir, "mountpoints-13.img", &magic, &first).unwrap();
    // A copy of it in a namespace inside the container's.
    write(&dir, "mountpoints-14.img", &magic, &[mount("/conf", None)]).unwrap();
    revive_external_mounts(&dir).unwrap();
    let deleted = |name: &str| {
        let mounts: Vec<MntEntry> = all(&dir, name, Magic::MNTS).unwrap();
        mounts.iter().map(|mount| mount.deleted.unwrap_or(false)).collect::<Vec<_>>()
    };
    assert_eq!(
        (deleted("mountpoints-13.img"), deleted("mountpoints-14.img")),
        (vec![false, true], vec![false])
    );
}

#[test]
fn mounts_get_their_events_from_the_groups_that_their_sources_are_in_now() {
    let (_dir, dir) = directory();
    let member = |root: &str, key: Option<&str>, shared, master| MntEntry {
        shared_id: Some(shared),
        master_id: Some(master),
        deleted: None,
        ..mount(root, key)
    };
    let first = [
        member("/", Some("/"), 0, 4),
        member("/a", Some("/a"), 9, 4),
        member("/b", Some("/b"), 0, 4),
        // A bind inside of part of /b, slaves of a group inside, one of nobody.
        member("/b/c", None, 0, 4),
        member("/d", None, 0, 9),
        member("/e", None, 0, 0),
    ];
    write(&dir, "mountpoints-13.img", &[COMMON, Magic::MNTS.0], &first).unwrap();
    let masters = |groups: &[(&str, u32)]| {
        let group = |key: &str| groups.iter().find(|(name, _)| *name == key).map(|(_, group)| *group);
        let changed = with_outer_groups(&dir, |key| Ok::<_, crate::CriuError>(group(key))).unwrap();
        let (other, images) = directory();
        for (name, bytes) in &changed {
            std::fs::write(other.path().join(name), bytes).unwrap();
        }
        let read = |(name, _): &(String, Vec<u8>)| all::<MntEntry>(&images, name, Magic::MNTS).unwrap();
        changed.iter().flat_map(read).map(|mount| mount.master_id()).collect::<Vec<_>>()
    };
    // One group then, and one now.
    assert_eq!(masters(&[("/", 1), ("/a", 1), ("/b", 1)]), [0; 0]);
    // All private, or but one.
    assert_eq!(masters(&[]), [0, 0, 0, 0, 9, 0]);
    assert_eq!(masters(&[("/b", 4)]), [0, 0, 10, 10, 9, 0]);
    // Two groups.
    assert_eq!(masters(&[("/", 9), ("/a", 7), ("/b", 9)]), [10, 11, 10, 10, 9, 0]);
}

fn cgroup(name: &str, property: (&str, &str)) -> CgroupDirEntry {
    let property = CgroupPropEntry {
        name: Some(property.0.into()),
        value: Some(property.1.into()),
        perms: MessageField::some(CgroupPerms {
            mode: Some(0o644),
            uid: Some(0),
            gid: Some(0),
            ..Default::default()
        }),
        ..Default::default()
    };
    CgroupDirEntry { dir_name: Some(name.into()), properties: vec![property], ..Default::default() }
}

#[test]
fn cgroups_are_the_containers_alone_and_run() {
    let (_dir, dir) = directory();
    let controller = |name: &str, children: Vec<CgroupDirEntry>, property| CgControllerEntry {
        cnames: vec![name.into()],
        dirs: vec![CgroupDirEntry { children, ..cgroup("c", property) }],
        ..Default::default()
    };
    let inner = || vec![cgroup("inner", ("cgroup.freeze", "1"))];
    let entry = CgroupEntry {
        controllers: vec![
            controller("freezer", inner(), ("freezer.state", "FROZEN")),
            controller("pids", inner(), ("pids.max", "7")),
        ],
        ..Default::default()
    };
    write(&dir, "cgroup.img", &[COMMON, Magic::CGROUP.0], &[entry]).unwrap();
    tidy_cgroups(&dir, |names| names == ["freezer"]).unwrap();
    let after: Vec<CgroupEntry> = all(&dir, "cgroup.img", Magic::CGROUP).unwrap();
    let [freezer, pids] = &after[0].controllers[..] else { panic!("{after:?}") };
    let values =
        |dir: &CgroupDirEntry| dir.properties.iter().map(|p| p.value.clone().unwrap()).collect::<Vec<_>>();
    assert_eq!(values(&freezer.dirs[0]), ["THAWED"]);
    assert_eq!(values(&freezer.dirs[0].children[0]), ["0"]);
    assert_eq!(pids.dirs, [CgroupDirEntry { dir_name: Some("c".into()), ..Default::default() }]);
    // Where there is nothing, nothing is made.
    let (_empty, empty) = directory();
    tidy_cgroups(&empty, |_| false).unwrap();
    assert_eq!(empty.names().unwrap(), [""; 0]);
}

#[test]
fn an_inventory_in_the_namespaces_that_are_shared() {
    let (_dir, dir) = directory();
    let ids = |number| TaskKobjIdsEntry {
        vm_id: Some(1),
        files_id: Some(1),
        fs_id: Some(1),
        sighand_id: Some(1),
        ipc_ns_id: Some(number),
        uts_ns_id: Some(number),
        net_ns_id: Some(number),
        ..Default::default()
    };
    let inventory =
        InventoryEntry { img_version: Some(2), root_ids: MessageField::some(ids(1)), ..Default::default() };
    write(&dir, INVENTORY_FILE, &[INVENTORY], &[inventory]).unwrap();
    let task = criu_proto::images::pstree::PstreeEntry {
        pid: Some(1),
        ppid: Some(0),
        pgid: Some(1),
        sid: Some(1),
        ..Default::default()
    };
    write(&dir, "pstree.img", &[COMMON, Magic::PSTREE.0], &[task]).unwrap();
    write(&dir, "ids-1.img", &[COMMON, Magic::IDS.0], &[ids(2)]).unwrap();
    let images = Images::in_directory(&dir).unwrap();
    let ipc = Shared { ipc: true, ..Shared::default() };
    assert_eq!(shared_inventory(&images, Shared::default()).unwrap(), None);
    let (name, changed) = shared_inventory(&images, ipc).unwrap().unwrap();
    dir.write(&name, &changed).unwrap();
    let images = Images::in_directory(&dir).unwrap();
    let root = &images.inventory().root_ids;
    assert_eq!((root.ipc_ns_id, root.uts_ns_id, root.net_ns_id), (Some(2), Some(1), Some(1)));
    assert_eq!(shared_inventory(&images, ipc).unwrap(), None);
    separate_network(&dir).unwrap();
    assert_eq!(Images::in_directory(&dir).unwrap().inventory().root_ids.net_ns_id, Some(u32::MAX));
}
