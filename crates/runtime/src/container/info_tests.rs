use std::io::Read;
use std::os::unix::fs::symlink;
use std::process::{Child, Command, Stdio};
use std::time::SystemTime;

use super::*;
use crate::Runtime;
use crate::state::entry::Entry;
use crate::state::facts::FACTS_VERSION;

/// A container that has process `pid` for its first one.
struct Made {
    root: tempfile::TempDir,
    runtime: Runtime,
    id: ContainerId,
    entry: Entry,
}

fn made(pid: i32) -> Made {
    // in memory, as below /run: of this boot
    let root = tempfile::tempdir_in("/dev/shm").unwrap();
    let runtime = Runtime::new(root.path());
    let id: ContainerId = "box".parse().unwrap();
    let (entry, _lock) = runtime.store.create(&id).unwrap();
    entry.write_facts(&facts(pid)).unwrap();
    Made { root, runtime, id, entry }
}

fn facts(pid: i32) -> Facts {
    Facts {
        version: FACTS_VERSION,
        id: "box".into(),
        pid,
        start_time: procfs::stat(pid).map_or(0, |stat| stat.start_time),
        pidfd_inode: process::pidfd_inode(pid),
        bundle: "/b".into(),
        rootfs: "/b/rootfs".into(),
        created: SystemTime::UNIX_EPOCH,
        cgroup: Default::default(),
        resctrl: Default::default(),
        put_root: false,
        host_root: None,
        namespaces: Vec::new(),
        streams: Vec::new(),
        keyring: None,
    }
}

impl Made {
    /// The answer of a look, which must be that of a handle.
    fn status(&self) -> Status {
        let status = self.runtime.info(&self.id).unwrap().status().unwrap();
        assert_eq!(self.runtime.open(&self.id).unwrap().task().unwrap().status().unwrap(), status);
        status
    }
}

/// A process with another program than this one's.
struct Sleeper(Child);

impl Sleeper {
    fn new() -> Self {
        Self(Command::new("sleep").arg("1000").spawn().expect("sleep"))
    }

    fn pid(&self) -> i32 {
        self.0.id() as i32
    }
}

impl Drop for Sleeper {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn an_init_whose_maker_was_killed_does_not_run() {
    let made = made(std::process::id() as i32);
    assert_eq!(made.status(), Status::Stopped, "nobody listens, and it has this program");
    let lock = made.entry.lock().unwrap();
    assert_eq!(made.status(), Status::Running, "somebody is at it");
    drop(lock);
    made.entry.started();
    assert_eq!(made.status(), Status::Running, "a container's program may be this one");
}

#[test]
fn the_sockets_tell_how_far_init_is() {
    let process = Sleeper::new();
    let made = made(process.pid());
    assert_eq!(made.status(), Status::Running);
    let listener = made.entry.listen().unwrap();
    for _ in 0..40 {
        assert_eq!(made.status(), Status::Creating, "however often it is asked, while nobody accepts");
    }
    made.entry.publish_start_socket().unwrap();
    assert_eq!(made.status(), Status::Created);
    drop(listener);
    assert_eq!(made.status(), Status::Running, "nobody listens any more");
    drop(made.entry.listen().unwrap());
    assert_eq!(made.status(), Status::Running, "nor on what a start that was killed has left");
    // It removes one of the two sockets: there is never more than one but in this test.
    made.entry.started();
    made.entry.started();
    assert_eq!(made.status(), Status::Running);
    let info = made.runtime.info(&made.id).unwrap();
    assert_eq!(info.owner(), rustix::process::geteuid().as_raw());
    assert!(!info.oom_killed());
    let _listener = made.entry.listen().unwrap();
    assert_eq!(info.status().unwrap(), Status::Running, "it was started: nobody is asked");
    made.entry.write_facts(&facts(process.pid())).unwrap();
    assert_eq!(made.status(), Status::Creating, "a new state.json has to be marked again");
}

#[test]
fn another_process_of_that_number_is_not_it() {
    let process = Sleeper::new();
    let me = process.pid();
    let made = made(me);
    // Where no pidfd helps, the start time does.
    let first = facts(1).pidfd_inode;
    assert!(first.is_none() || first != facts(me).pidfd_inode);
    for pidfd_inode in [first, None] {
        let other = Facts { start_time: facts(me).start_time + 1, pidfd_inode, ..facts(me) };
        made.entry.write_facts(&other).unwrap();
        assert_eq!(made.status(), Status::Stopped);
    }
    made.entry.write_facts(&Facts { pidfd_inode: None, ..facts(me) }).unwrap();
    assert_eq!(made.status(), Status::Running);
    for pid in [i32::MAX, -1] {
        made.entry.write_facts(&facts(pid)).unwrap();
        assert_eq!(made.status(), Status::Stopped);
    }
}

/// Its line in procfs says that it is a zombie then.
#[test]
fn a_process_lives_on_without_its_first_thread() {
    const SCRIPT: &str = "import ctypes, threading, time\n\
        threading.Thread(target=time.sleep, args=(100,)).start()\n\
        print('.', flush=True)\n\
        ctypes.CDLL(None).syscall(ctypes.c_long(60 if __import__('os').uname().machine == 'x86_64' else 93), 0)\n";
    let mut child =
        Command::new("python3").args(["-c", SCRIPT]).stdout(Stdio::piped()).spawn().expect("python3");
    child.stdout.as_mut().unwrap().read_exact(&mut [0]).unwrap();
    let pid = child.id() as i32;
    for _ in 0..1000 {
        if procfs::stat(pid).unwrap().dead {
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    assert!(procfs::stat(pid).unwrap().dead, "its first thread has ended");
    let (known, unknown) = (made(pid), made(pid));
    unknown.entry.write_facts(&Facts { pidfd_inode: None, ..facts(pid) }).unwrap();
    let status = || [known.status(), unknown.status()];
    let alive = status();
    child.kill().unwrap();
    for _ in 0..1000 {
        if unknown.status() == Status::Stopped {
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    let zombie = status();
    child.wait().unwrap();
    assert_eq!([alive, zombie, status()], [[Status::Running; 2], [Status::Stopped; 2], [Status::Stopped; 2]]);
}

#[test]
fn what_is_broken_is_refused_in_the_same_words() {
    let made = made(std::process::id() as i32);
    let (dir, state) = (made.entry.path(), made.entry.path().join("state.json"));
    let words = |id: &ContainerId| {
        let looked = made.runtime.info(id).map(drop).unwrap_err().to_string();
        let opened = made.runtime.open(id).and_then(|container| container.task()?.facts().map(drop));
        (looked, opened.unwrap_err().to_string())
    };
    let same = |id: &ContainerId| {
        let (looked, opened) = words(id);
        assert_eq!(looked, opened);
        looked
    };
    assert_eq!(same(&"other".parse().unwrap()), Error::NotFound.to_string());
    let relative = |facts: &mut Facts| facts.cgroup.v2 = Some("a".into());
    let version = |facts: &mut Facts| facts.version += 1;
    for (change, expected) in [(relative as fn(&mut Facts), "cgroup"), (version, "version")] {
        let mut changed = facts(std::process::id() as i32);
        change(&mut changed);
        made.entry.write_facts(&changed).unwrap();
        assert!(same(&made.id).contains(expected), "{}", same(&made.id));
    }
    std::fs::write(&state, "{").unwrap();
    assert!(same(&made.id).contains("cannot be understood"));
    let moved = made.root.path().join("moved");
    std::fs::rename(&state, &moved).unwrap();
    assert_eq!(words(&made.id).0, Error::NotFound.to_string(), "nothing is written down");
    symlink(&moved, &state).unwrap();
    same(&made.id);
    symlink(dir, made.root.path().join("link")).unwrap();
    same(&"link".parse().unwrap());
    assert_eq!(made.runtime.ids().unwrap(), std::slice::from_ref(&made.id));
}
