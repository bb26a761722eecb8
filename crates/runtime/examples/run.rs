//! `run ROOT BUNDLE COMMAND [ARGUMENT...]`: runs a command in a new container, shows what it prints, and ends with its
//! exit code.
#![forbid(unsafe_code)]
#![expect(clippy::print_stdout, reason = "an example shows what it does")]

use std::fs::File;
use std::process::ExitCode;

use hiber::{Condition, CreateOptions, Runtime, Stdio};

fn main() -> Result<ExitCode, Box<dyn std::error::Error>> {
    // The library makes containers of this very program, executed again: before anything else.
    hiber::run_init_if_asked();
    let mut args = std::env::args().skip(1);
    let (Some(root), Some(bundle)) = (args.next(), args.next()) else {
        return Err("usage: run ROOT BUNDLE COMMAND [ARGUMENT...]".into());
    };
    let command: Vec<String> = args.collect();
    let id = format!("run-{}", std::process::id()).parse()?;

    // The process sleeps, and what is asked for is executed beside it: so the bundle's config.json stays as it is.
    let runtime = Runtime::new(root.as_ref());
    let options = CreateOptions::new(bundle).stdio(Stdio::Pipes);
    let task = runtime.create(&id, &options)?;
    task.start()?;
    let mut process = task.container().spec()?.process().clone().ok_or("config.json has no process")?;
    process.set_args(Some(command));
    let options = hiber::ExecOptions::default().stdio(Stdio::Pipes);
    let process = task.exec(&process, &options)?;
    print!("{}", std::io::read_to_string(File::from(process.take_stdout().ok_or("no standard output")?))?);
    let status = process.wait()?.get();

    // The end of the first process is the end of the container.
    let ended = task.wait(Condition::NextExit)?;
    task.kill(hiber::Signal::KILL)?;
    println!("the container ended: {:?}", ended.get().ended);
    task.delete()?;
    Ok(ExitCode::from(u8::try_from(status.code()).unwrap_or(u8::MAX)))
}
