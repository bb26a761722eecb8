//! `sleep_and_wake ROOT BUNDLE NAME`: runs a bundle's container, puts it to sleep in a checkpoint of that name, and wakes it.
#![forbid(unsafe_code)]
#![expect(clippy::print_stdout, reason = "an example shows what it does")]

use std::time::Duration;

use hiber::{CheckpointOptions, Condition, CreateOptions, RestoreContainerOptions, Runtime, Stdio};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    hiber::run_init_if_asked();
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [root, bundle, name] = args.as_slice() else {
        return Err("usage: sleep_and_wake ROOT BUNDLE NAME".into());
    };
    let runtime = Runtime::new(root.as_ref());
    let id = format!("nap-{}", std::process::id()).parse()?;
    let null = || std::fs::File::options().read(true).write(true).open("/dev/null");
    let files = [null()?, null()?, null()?];
    let stdio = Stdio::Files(files.each_ref().map(std::os::fd::AsFd::as_fd));

    let options = CreateOptions::new(bundle).stdio(stdio);
    let task = runtime.create(&id, &options)?;
    task.start()?;
    println!("running, process {:?}", task.pid());
    std::thread::sleep(Duration::from_millis(200));

    // Obstacles are reported beforehand, and nothing is stopped for this.
    let options = CheckpointOptions::default();
    for finding in task.check_checkpoint(&options)?.findings {
        println!("{finding}");
    }
    let asleep = task.wait(Condition::NextExit)?;
    let checkpoint = task.container().checkpoints()?.create(&task, &name.parse()?, options)?;
    println!("asleep in {}: {:?}", checkpoint.path.display(), asleep.get().ended);

    let options = RestoreContainerOptions::new(bundle).stdio(stdio);
    let task = runtime.start_from(&id, &checkpoint, options)?;
    println!("awake, process {:?}", task.pid());
    task.force_delete()?;
    Ok(())
}
