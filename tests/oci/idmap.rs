//! Id-mapped mounts: how the owners of files are shown and stored.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

use hiber_tests::prelude::*;

fn map(container: u32, host: u32, size: u32) -> Value {
    json!([{"containerID": container, "hostID": host, "size": size}])
}

/// A file `dir/f` of uid 100 and gid 211, below the bundle.
fn source(bundle: &Bundle, dir: &str) -> String {
    let dir = bundle.join(dir);
    std::fs::create_dir_all(&dir).unwrap();
    std::fs::write(dir.join("f"), "").unwrap();
    std::os::unix::fs::chown(dir.join("f"), Some(100), Some(211)).unwrap();
    dir.display().to_string()
}

fn run(bundle: Bundle, script: &str) -> Output {
    Runtime::hiber().container(bundle.args(["sh", "-c", script])).run(&[])
}

#[test]
fn own_maps_are_applied_without_a_user_namespace() {
    require!(Root);
    let bundle = Bundle::busybox();
    let s = source(&bundle, "s");
    let one = json!({"destination": "/one", "source": s, "options": ["bind"],
        "uidMappings": map(100, 1100, 10), "gidMappings": map(200, 1900, 20)});
    let two = json!({"destination": "/two", "source": s, "options": ["rbind"],
        "uidMappings": map(0, 100_000, 65_536), "gidMappings": map(0, 100_000, 65_536)});
    let output = run(bundle.mount(one).mount(two), "stat -c %u:%g /one/f /two/f");
    assert_eq!(output.ok(), "1100:1911\n100100:100211");
}

#[test]
fn what_is_written_is_stored_as_the_maps_say() {
    require!(Root);
    let bundle = Bundle::busybox().user_namespace(100_000);
    let s = source(&bundle, "s");
    std::os::unix::fs::chown(&s, Some(0), Some(0)).unwrap();
    let maps = bundle.config()["linux"]["uidMappings"].clone();
    let mounted = json!({"destination": "/m", "source": s, "options": ["bind"],
        "uidMappings": maps, "gidMappings": maps});
    let c = Runtime::hiber().container(bundle.mount(mounted).args([
        "sh",
        "-c",
        "touch /m/new; stat -c %u:%g /m/f",
    ]));
    assert_eq!(c.run(&[]).ok(), "100:211");
    let new = std::fs::metadata(Path::new(&s).join("new")).unwrap();
    assert_eq!((new.uid(), new.gid()), (0, 0));
}

#[test]
fn a_user_namespace_lends_its_maps_to_the_mount_or_the_tree() {
    require!(Root);
    for (option, below) in [("idmap", "65534:65534"), ("ridmap", "100:211")] {
        let bundle = Bundle::busybox().user_namespace(100_000);
        let s = source(&bundle, "s");
        let inner = source(&bundle, "inner");
        let point = Path::new(&s).join("below");
        std::fs::create_dir(&point).unwrap();
        // The bundle takes it along when it goes.
        rustix::mount::mount_bind(&inner, &point).unwrap();
        let mounted = json!({"destination": "/m", "source": s, "options": ["rbind", option]});
        let output = run(bundle.mount(mounted), "stat -c %u:%g /m/f /m/below/f");
        assert_eq!(output.ok(), format!("100:211\n{below}"), "{option}");
    }
}

/// A mount inside an id-mapped one must not spread to the source of the outer one, on the host.
#[test]
fn what_is_mounted_inside_does_not_reach_the_host() {
    require!(Root);
    for option in ["bind", "rbind"] {
        let bundle = Bundle::busybox();
        let outer = source(&bundle, "outer");
        let inner = source(&bundle, "inner");
        std::fs::create_dir(Path::new(&outer).join("below")).unwrap();
        // The bundle takes the mount along when it goes. Events of a shared mount go to all its peers.
        rustix::mount::mount_bind(&outer, &outer).unwrap();
        rustix::mount::mount_change(&outer, rustix::mount::MountPropagationFlags::SHARED).unwrap();
        let mounted = |destination: &str, source: &str| {
            json!({"destination": destination, "source": source, "options": [option],
                "uidMappings": map(100, 1100, 10), "gidMappings": map(200, 1900, 20)})
        };
        let bundle = bundle.mount(mounted("/m", &outer)).mount(mounted("/m/below", &inner));
        let c = Runtime::hiber().container(bundle.args(["sh", "-c", "stat -c %u:%g /m/below/f"]));
        let output = c.run(&[]);
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
        let below: Vec<_> = mounts.lines().filter(|line| line.contains(&format!("{outer}/below"))).collect();
        assert_eq!(output.ok(), "1100:1911", "{option}");
        assert!(below.is_empty(), "{option}: {below:?}");
    }
}

#[test]
fn maps_that_cannot_be_are_refused_by_name() {
    require!(Root);
    let refused = |given: Value| run(Bundle::busybox().mount(given), "true");
    refused(json!({"destination": "/m", "source": "/tmp", "options": ["bind", "idmap"]}))
        .fails("mounts[7].uidMappings: id-mapped mounts must have both uid and gid mappings");
    refused(json!({"destination": "/m", "type": "tmpfs", "uidMappings": map(0, 1, 1), "gidMappings": map(0, 1, 1)}))
        .fails("id-mapped mounts are only supported for bind-mounts");
    refused(json!({"destination": "/m", "source": "/tmp", "options": ["bind"], "uidMappings": map(0, 1, 1)}))
        .fails("mounts[7].gidMappings");
}
