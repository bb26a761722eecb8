//! config.json, up to the plan that init gets and the limits of every layout of cgroups.
#![no_main]

use std::sync::LazyLock;

use hiber_sandbox::cgroup::{DeviceRule, Layout, Limits, Unit};
use hiber_sandbox::plan::{Options, Plan};
use libfuzzer_sys::fuzz_target;
use oci_spec::runtime::LinuxResources;

const V1: &str = "\
32 31 0:29 / /cg/cpu rw - cgroup cgroup rw,cpu
34 31 0:31 / /cg/cpuset rw - cgroup cgroup rw,cpuset
35 31 0:32 / /cg/memory rw - cgroup cgroup rw,memory
36 31 0:33 / /cg/devices rw - cgroup cgroup rw,devices
38 31 0:35 / /cg/blkio rw - cgroup cgroup rw,blkio
39 31 0:36 / /cg/pids rw - cgroup cgroup rw,pids
43 31 0:40 / /cg/rdma rw - cgroup cgroup rw,rdma
";
const V2: &str = "41 31 0:38 / /cg/unified rw - cgroup2 cgroup2 rw\n";
const OWN: &str = "1:cpu,cpuset,memory,devices,blkio,pids,rdma:/\n0::/\n";

static LAYOUTS: LazyLock<Vec<Layout>> = LazyLock::new(|| {
    let all = "cpuset cpu io memory hugetlb pids rdma misc";
    [(V1.to_owned(), ""), (V2.to_owned(), all), (V1.to_owned() + V2, "hugetlb")]
        .iter()
        .map(|(mounts, controllers)| Layout::from_text(mounts, OWN, controllers).expect("a layout"))
        .collect()
});

fuzz_target!(|json: &[u8]| {
    let _ = hiber_sandbox::config::read_process(json);
    let _ = hiber_sandbox::config::load_resources(json);
    let Ok(loaded) = hiber_sandbox::fuzzing::config(json) else { return };
    let spec = &loaded.spec;
    for (rootless, in_user_namespace) in [(false, false), (true, false), (true, true)] {
        let options = Options {
            id: "box".into(),
            bundle: "/bundle".into(),
            rootless,
            in_user_namespace,
            ..Options::default()
        };
        if let Ok(plan) = Plan::new(spec, &options) {
            hiber_sandbox::fuzzing::plan(&plan);
        }
    }
    let linux = spec.linux().clone().unwrap_or_default();
    let resources = linux.resources().clone().unwrap_or_else(LinuxResources::default);
    let defaults = DeviceRule::defaults();
    for layout in &*LAYOUTS {
        let _ = Limits::from_spec(&resources, layout, Some(&defaults));
        let _ = layout.resolve(linux.cgroups_path().as_deref(), "box");
    }
    let _ = Unit::new(linux.cgroups_path().as_deref(), "box", spec.annotations().as_ref());
});
