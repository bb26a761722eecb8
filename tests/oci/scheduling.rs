//! Schedulers, I/O priority, CPUs and memory nodes of a container's processes.

use std::process::Command;

use hiber_tests::prelude::*;

fn sleeper(edit: impl FnOnce(&mut Value)) -> Container {
    let c = Runtime::hiber().container(Bundle::busybox().args(["sleep", "1000"]).edit(edit));
    c.run_detached().ok();
    c
}

/// `exec --process` with these members beside args and cwd.
fn exec(c: &Container, args: &[&str], members: Value) -> Output {
    let mut process = json!({"args": args, "cwd": "/", "env": ["PATH=/bin:/usr/bin"]});
    process.as_object_mut().unwrap().extend(members.as_object().unwrap().clone());
    let file = c.bundle().join("process.json");
    std::fs::write(&file, process.to_string()).unwrap();
    c.call("exec", &["--process", &file.display().to_string()])
}

/// Field 41 of /proc/PID/stat, the policy, and field 19, the nice value (proc_pid_stat(5)).
const POLICY: &str = "sed 's/.*) //' /proc/self/stat | cut -d' ' -f 39,17";

#[test]
fn a_scheduler_is_the_containers_and_its_execs() {
    require!(Root);
    let c = sleeper(|c| c["process"]["scheduler"] = json!({"policy": "SCHED_BATCH", "nice": 7}));
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", c.pid())).unwrap();
    let fields: Vec<_> = stat.rsplit_once(") ").unwrap().1.split(' ').collect();
    assert_eq!((fields[16], fields[38]), ("7", "3"));
    assert_eq!(c.sh(POLICY), "7 3");
    let output = exec(&c, &["sh", "-c", POLICY], json!({"scheduler": {"policy": "SCHED_IDLE"}}));
    assert!(output.ok().ends_with(" 5"), "{output}");
}

#[test]
fn deadlines_are_set_and_need_every_cpu() {
    require!(Root, Controller("cpuset"));
    let deadline = json!({"scheduler": {"policy": "SCHED_DEADLINE", "flags": ["SCHED_FLAG_RESET_ON_FORK"],
        "runtime": 42_000, "deadline": 1_000_000, "period": 1_000_000}});
    let c = sleeper(|_| ());
    let output = exec(&c, &["sh", "-c", POLICY], deadline.clone());
    // the pipeline's processes are forks, whose policy is reset; the shell itself is asked for its own
    output.ok();
    let own = exec(&c, &["cut", "-d", " ", "-f", "41", "/proc/self/stat"], deadline.clone());
    assert_eq!(own.ok(), "6");
    let c = sleeper(|c| c["linux"]["resources"]["cpu"] = json!({"cpus": "0"}));
    if std::thread::available_parallelism().unwrap().get() > 1 {
        exec(&c, &["true"], deadline).fails("process scheduler can't be used together with AllowedCPUs");
    }
    exec(&c, &["true"], json!({"scheduler": {"policy": "SCHED_OTHER", "nice": 20}}))
        .fails("process.scheduler.nice");
}

#[test]
fn io_priorities_are_set() {
    require!(Root);
    let c = sleeper(|c| c["process"]["ioPriority"] = json!({"class": "IOPRIO_CLASS_BE", "priority": 4}));
    let init = Command::new("ionice").args(["-p", &c.pid().to_string()]).output().unwrap();
    assert_eq!(String::from_utf8(init.stdout).unwrap().trim(), "best-effort: prio 4");
    assert_eq!(c.sh("ionice"), "best-effort: prio 4");
    let idle = exec(&c, &["ionice"], json!({"ioPriority": {"class": "IOPRIO_CLASS_IDLE"}}));
    assert!(idle.ok().starts_with("idle"), "{idle}");
    let wrong = json!({"ioPriority": {"class": "IOPRIO_CLASS_RT", "priority": 8}});
    exec(&c, &["true"], wrong).fails("process.ioPriority.priority: invalid ioPriority.Priority: 8");
}

const ALLOWED: [&str; 3] = ["grep", "Cpus_allowed_list:", "/proc/self/status"];

#[test]
fn an_exec_runs_on_the_cpus_it_asks_for() {
    require!(Root);
    let c = sleeper(|c| c["process"]["execCPUAffinity"] = json!({"initial": "0", "final": "0"}));
    assert_eq!(c.exec(&ALLOWED).ok(), "Cpus_allowed_list:\t0");
    let free = exec(&c, &ALLOWED, json!({"execCPUAffinity": {"initial": "0"}}));
    let all = std::fs::read_to_string(format!("/proc/{}/status", c.pid())).unwrap();
    assert!(all.contains(free.ok()), "without a final set it has the container's CPUs: {free}");
    exec(&c, &["true"], json!({"execCPUAffinity": {"initial": "4000"}}))
        .fails("process.execCPUAffinity.initial");
    exec(&c, &["true"], json!({"execCPUAffinity": {"final": "2-1"}})).fails("process.execCPUAffinity.final");
}

#[test]
fn the_callers_cpus_are_not_the_containers() {
    require!(Root);
    if std::thread::available_parallelism().unwrap().get() < 2 {
        return;
    }
    let c = Runtime::hiber().container(Bundle::busybox().args(ALLOWED));
    let own = c.command("run", &["--bundle", &c.bundle_path()]);
    let mut bound = Command::new("taskset");
    bound.args(["-c", "0"]).arg(own.get_program()).args(own.get_args());
    let output = hiber_tests::command::run(bound, b"");
    assert_ne!(output.ok(), "Cpus_allowed_list:\t0");
}

const POLICY_OF_MEMORY: &str = "head -n 1 /proc/self/numa_maps | cut -d ' ' -f 2";

#[test]
fn memory_policies_are_set() {
    require!(Root);
    if !std::path::Path::new("/proc/self/numa_maps").exists() {
        return;
    }
    let policy = json!({"mode": "MPOL_BIND", "nodes": "0", "flags": ["MPOL_F_STATIC_NODES"]});
    let c = sleeper(|c| c["linux"]["memoryPolicy"] = policy);
    assert_eq!(c.sh(POLICY_OF_MEMORY), "bind=static:0");
    let run = |policy: Value| {
        let bundle = Bundle::busybox().args(["sh", "-c", POLICY_OF_MEMORY]);
        Runtime::hiber().container(bundle.edit(|c| c["linux"]["memoryPolicy"] = policy)).run(&[])
    };
    assert_eq!(run(json!({"mode": "MPOL_INTERLEAVE", "nodes": "0"})).ok(), "interleave:0");
    assert_eq!(run(json!({"mode": "MPOL_DEFAULT"})).ok(), "default");
    run(json!({"mode": "MPOL_DEFAULT", "nodes": "0-7"})).fails("mode requires 0 nodes but got 8");
    run(json!({"mode": "INTERLEAVE"})).fails("invalid memory policy mode");
    run(json!({"nodes": "0"})).fails("invalid memory policy mode");
    run(json!({"mode": "MPOL_BIND", "nodes": "0", "flags": ["bad"]})).fails("invalid memory policy flag");
    run(json!({"mode": "MPOL_BIND", "nodes": "0-9876543210"})).fails("invalid memory policy node");
}

#[test]
fn intel_rdt_is_refused_by_name() {
    require!(Root);
    let bundle = Bundle::busybox().edit(|c| c["linux"]["intelRdt"] = json!({"closID": "x"}));
    Runtime::hiber().container(bundle).run(&[]).fails("linux.intelRdt");
}
