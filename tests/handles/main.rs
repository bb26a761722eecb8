//! The library's handles on containers of the test's own, as root on the running kernel.
//!
//! The library makes containers of its caller's program, executed again: this one has a `main` that lets it.
#![forbid(unsafe_code)]

mod checkpoints;
mod events;
mod examples;
mod exec;
mod lifecycle;
mod migrations;
mod waits;

use std::path::Path;

use hiber::id::ContainerId;
use hiber::{CreateOptions, Start, Stdio, Task};
use hiber_tests::prelude::*;
use libtest_mimic::{Arguments, Trial};

/// A list of tests by their functions' names.
macro_rules! trials {
    ($($test:path),+ $(,)?) => {
        vec![$(Trial::test(stringify!($test).replace(' ', ""), || { $test(); Ok(()) })),+]
    };
}

fn main() {
    hiber::run_init_if_asked();
    let trials = trials![
        checkpoints::a_named_checkpoint_starts_the_container_again,
        checkpoints::a_failed_create_leaves_nothing,
        checkpoints::options_that_contradict_each_other_are_refused,
        checkpoints::what_was_executed_does_not_hold_a_checkpoint_up,
        events::a_stream_tells_what_others_do,
        events::a_late_reader_hears_of_exit_codes,
        events::the_past_and_the_end,
        events::many_streams_in_one_loop,
        examples::a_command_is_run_and_its_code_passed_on,
        examples::a_container_is_put_to_sleep_and_woken,
        examples::many_are_watched_to_their_end,
        examples::dockers_states_and_waiters_follow_a_container,
        exec::pipes_and_the_end_of_input,
        exec::a_terminal_and_its_size,
        exec::processes_are_found_again_by_their_ids,
        exec::fifos_and_summaries,
        exec::wrong_ids_and_streams_are_named,
        lifecycle::from_create_to_delete,
        lifecycle::a_start_of_ones_own,
        lifecycle::a_start_at_once,
        lifecycle::a_handle_stays_with_its_container,
        lifecycle::limits_change_and_show,
        lifecycle::operations_are_refused_by_state,
        lifecycle::a_full_disk_is_no_mistake_of_the_callers,
        migrations::a_lost_container_is_an_error_of_its_own,
        waits::conditions,
        waits::a_container_of_another_process,
        waits::out_of_memory,
        waits::a_thousand_containers,
    ];
    libtest_mimic::run(&Arguments::from_args(), trials).exit();
}

/// A directory of containers, and bundles that may not outlive what is made of them.
struct Here {
    runtime: hiber::Runtime,
    bundle: Bundle,
    /// Dropped last.
    root: tempfile::TempDir,
}

impl Here {
    fn new(bundle: Bundle) -> Self {
        let root = tempfile::tempdir().unwrap();
        Self { runtime: hiber::Runtime::new(root.path()), bundle, root }
    }

    /// One whose process sleeps.
    fn sleeping() -> Self {
        Self::new(Bundle::busybox().args(["sleep", "1000"]))
    }

    fn id(&self) -> ContainerId {
        self.bundle.name().parse().unwrap()
    }

    fn root(&self) -> &Path {
        self.root.path()
    }

    fn create(&self) -> Task {
        self.create_on(null())
    }

    fn create_on(&self, files: [std::fs::File; 3]) -> Task {
        self.create_with(files, Start::ByAnybody)
    }

    fn create_with(&self, files: [std::fs::File; 3], start: Start) -> Task {
        self.try_create_with(files, start).unwrap()
    }

    fn try_create_with(
        &self,
        [input, output, errors]: [std::fs::File; 3],
        start: Start,
    ) -> hiber::Result<Task> {
        let stdio = Stdio::Files([&input, &output, &errors].map(std::os::fd::AsFd::as_fd));
        let bundle = self.bundle.path().to_owned();
        let options = CreateOptions::new(bundle).stdio(stdio).start(start);
        self.runtime.create(&self.id(), &options)
    }

    fn run(&self) -> Task {
        let task = self.create();
        task.start().unwrap();
        task
    }

    /// The same container in the hands of the built binary.
    fn command(&self, args: &[&str]) -> std::process::Command {
        let mut command = Runtime::hiber().bare_command();
        command.arg("--root").arg(self.root()).args(args);
        command
    }

    /// Runs the built binary on it.
    #[track_caller]
    fn call(&self, args: &[&str]) -> hiber_tests::command::Output {
        hiber_tests::command::run(self.command(args), b"")
    }

    #[track_caller]
    fn assert_clean(&self) {
        hiber_tests::leaks::assert_none(self.bundle.name(), &self.bundle.cgroup_parent(), self.root());
    }
}

impl Drop for Here {
    fn drop(&mut self) {
        let _ = self.runtime.force_delete(&self.id());
    }
}

/// /dev/null three times.
fn null() -> [std::fs::File; 3] {
    std::array::from_fn(|_| std::fs::File::options().read(true).write(true).open("/dev/null").unwrap())
}

/// A process of the container's configuration with other arguments.
fn process(task: &Task, args: &[&str]) -> oci_spec::runtime::Process {
    let mut process = task.container().spec().unwrap().process().clone().unwrap();
    process.set_args(Some(args.iter().map(ToString::to_string).collect()));
    process
}

/// All that comes out of a pipe until its end.
fn read(pipe: std::os::fd::OwnedFd) -> String {
    std::io::read_to_string(std::fs::File::from(pipe)).unwrap()
}
