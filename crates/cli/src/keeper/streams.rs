//! The standard streams of a container, for the one that takes its place.
//!
//! A pipe lives as long as somebody has it open. The keeper opens the container's pipes once more, so that whoever is at their other ends
//! does not see the container's end, and a restored container gets them. Everything else is /dev/null: no file of the host can be a stream
//! of a container that has checkpoints, and /dev/null is the same everywhere.

use std::fs::File;
use std::os::unix::fs::OpenOptionsExt;
use std::process::Stdio;

use hiber::Task;
use rustix::fs::OFlags;

/// The three streams; none is /dev/null.
#[derive(Debug, Default)]
pub(crate) struct Streams([Option<File>; 3]);

impl Streams {
    /// Those of a running container which still are what they were at its start.
    pub(crate) fn of(task: &Task) -> Self {
        let (Some(pid), Ok(facts)) = (task.pid(), task.container().facts()) else { return Self::default() };
        Self(std::array::from_fn(|number| {
            let path = format!("/proc/{pid}/fd/{number}");
            let name = std::fs::read_link(&path).ok()?;
            let is_pipe = name.to_str().is_some_and(|name| name.starts_with("pipe:"));
            let same = facts.streams.get(number).is_some_and(|was| name.as_os_str() == was.as_str());
            if !is_pipe || !same {
                return None;
            }
            // Nobody is waited for: where the other end is gone the pipe cannot be kept.
            let mut options = File::options();
            options.read(number == 0).write(number != 0).custom_flags(OFlags::NONBLOCK.bits().cast_signed());
            let file = options.open(&path).ok()?;
            rustix::io::ioctl_fionbio(&file, false).ok()?;
            Some(file)
        }))
    }

    /// For a command that makes the container again.
    pub(crate) fn stdio(&self) -> [Stdio; 3] {
        std::array::from_fn(|number| {
            let copy = self.0[number].as_ref().and_then(|file| file.try_clone().ok());
            copy.map_or_else(Stdio::null, Into::into)
        })
    }
}
