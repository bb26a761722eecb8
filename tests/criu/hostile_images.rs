//! Images that ask for more than config.json grants: a real checkpoint with one field changed is refused, or comes up with
//! nothing more. "More" is measured from outside.

mod cases;
mod cgroups;
mod oracle;
mod wire;

use criu_proto::Message;
use hiber_tests::prelude::*;
use oracle::Portrait;
use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use crate::count;

/// How long the changes that nobody thought of are tried; `HIBER_EVERY_FIELD` in the environment lets all of them be.
const BUDGET: Duration = Duration::from_secs(20);

/// A checkpoint that can be restored again and again, and what its container looked like.
struct Victim {
    c: Container,
    /// Its images as they were written.
    whole: PathBuf,
    before: Portrait,
}

/// How a try ended.
#[derive(Debug)]
enum End {
    Refused(String),
    /// It runs, with nothing more.
    Restored,
}

/// Confined in every way that this machine has: the process says if it could make a directory all the same.
fn bundle() -> Bundle {
    let script = format!("while :; do mkdir /dev/shm/made 2>/dev/null; sleep 0.05; done & {}", crate::COUNT);
    let bundle = Bundle::busybox().shell(&script);
    fs::create_dir(bundle.join("data")).unwrap();
    let options = json!(["rbind", "ro", "nosuid", "nodev", "noexec"]);
    bundle.mount(json!({"destination": "/data", "type": "bind", "source": "data", "options": options})).edit(
        |c| {
            c["root"]["readonly"] = json!(true);
            c["process"]["oomScoreAdj"] = json!(100);
            c["linux"]["seccomp"] = json!({
                "defaultAction": "SCMP_ACT_ALLOW",
                "syscalls": [{"names": ["mkdir", "mkdirat", "modify_ldt"], "action": "SCMP_ACT_ERRNO", "errnoRet": 18}]
            });
            c["linux"]["resources"]["pids"] = json!({"limit": 50});
        },
    )
}

impl Victim {
    fn new(bundle: Bundle) -> Self {
        for path in ["data", "dev", "proc", "sys", "tmp"] {
            fs::create_dir_all(bundle.rootfs().join(path)).unwrap();
        }
        let c = Runtime::hiber().container(bundle);
        c.run_detached().ok();
        wait_for("a count of 3", || count(&c) >= 3);
        let before = Portrait::of(&c);
        // Hashes would tell every change; whoever writes images writes those, too.
        c.checkpoint(&["--no-hash"]).ok();
        let whole = c.bundle().join("whole");
        fs::rename(c.images(), &whole).unwrap();
        Self { c, whole, before }
    }

    /// Restores the images with other contents in some files.
    fn restore(&self, what: &str, changed: &[(&str, Vec<u8>)]) -> End {
        let images = self.c.images();
        let _ = fs::remove_dir_all(&images);
        fs::create_dir(&images).unwrap();
        for entry in fs::read_dir(&self.whole).unwrap() {
            let entry = entry.unwrap();
            fs::copy(entry.path(), images.join(entry.file_name())).unwrap();
        }
        let manifest = images.join("hiber.json");
        let mut listed: Value = serde_json::from_slice(&fs::read(&manifest).unwrap()).unwrap();
        for (name, bytes) in changed {
            fs::write(images.join(name), bytes).unwrap();
            if *name != "hiber.json" {
                listed["files"][name]["size"] = json!(bytes.len());
                fs::write(&manifest, listed.to_string()).unwrap();
            }
        }
        let output = self.c.restore(&[]);
        if !output.status.success() {
            assert_eq!(self.c.status(), "gone", "{output}");
            return End::Refused(output.stderr.clone());
        }
        // A change may have taken its life.
        let from = self.shown();
        let end = Instant::now() + Duration::from_secs(2);
        while from.is_some() && self.shown().is_some_and(|now| Some(now) <= from) && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(20));
        }
        if self.shown().is_some() {
            let more = Portrait::of(&self.c).more_than(&self.before);
            assert!(more.is_empty() || self.shown().is_none(), "{what} gave it more: {more:#?}");
        }
        self.c.delete(&["--force"]).ok();
        End::Restored
    }

    /// The count that the container shows; `None` if it does not run.
    fn shown(&self) -> Option<u64> {
        let state = self.c.state();
        let file = format!("/proc/{}/root/dev/shm/count", state["pid"]);
        let text = fs::read_to_string(file).unwrap_or_default();
        (state["status"] == "running").then(|| text.trim().parse().unwrap_or(0))
    }

    fn read(&self, name: &str) -> Vec<u8> {
        fs::read(self.whole.join(name)).unwrap_or_else(|e| panic!("{name}: {e}"))
    }

    /// The one file of a kind.
    fn file(&self, prefix: &str) -> String {
        let names = fs::read_dir(&self.whole).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap());
        let mut all: Vec<_> = names.filter(|name| name.starts_with(prefix)).collect();
        assert_eq!(all.len(), 1, "{all:?}");
        all.remove(0)
    }

    /// A file with its entries changed.
    fn with<M: Message>(&self, name: &str, change: impl FnOnce(&mut Vec<M>)) -> (String, Vec<u8>) {
        let bytes = self.read(name);
        let (head, entries) = wire::entries(name, &bytes);
        let mut messages: Vec<M> = entries.iter().map(|e| M::parse_from_bytes(e).unwrap()).collect();
        change(&mut messages);
        let entries: Vec<_> = messages.iter().map(|m| m.write_to_bytes().unwrap()).collect();
        (name.to_owned(), wire::file(head, &entries))
    }

    #[track_caller]
    fn refuses(&self, what: &str, (name, bytes): (String, Vec<u8>), why: &str) {
        match self.restore(what, &[(&name, bytes)]) {
            End::Refused(said) => {
                assert!(said.contains(why) && said.contains("--trust-images"), "{what}: {said}");
                let images = self.c.images().display().to_string();
                let check = self.c.call(
                    "restore",
                    &["--check", "--image-path", &images, "--bundle", &self.c.bundle_path()],
                );
                assert!(check.exited(1).stdout.contains(why), "{what}: {check}");
            }
            End::Restored => panic!("{what}: it was restored"),
        }
    }
}

#[test]
fn an_unchanged_checkpoint_comes_up_as_it_was() {
    require!(Root, Criu);
    let victim = Victim::new(bundle());
    for _ in 0..2 {
        assert!(matches!(victim.restore("nothing", &[]), End::Restored));
    }
    victim.c.assert_clean();
}

#[test]
fn what_was_changed_after_the_dump_is_refused() {
    require!(Root, Criu);
    let c = crate::counter(&Runtime::hiber(), Bundle::busybox());
    c.checkpoint(&[]).ok();
    let mut files = fs::read_dir(c.images()).unwrap().map(|e| e.unwrap().path());
    let name = files.find(|p| p.file_name().unwrap().to_string_lossy().starts_with("utsns-")).unwrap();
    let kept = fs::read(&name).unwrap();
    let mut changed = kept.clone();
    *changed.last_mut().unwrap() ^= 1;
    fs::write(&name, changed).unwrap();
    c.restore(&[]).fails("its content is not what was written");
    fs::write(&name, kept).unwrap();
    c.restore(&[]).ok();
}

/// Every number, text and message of the images that this is about, changed in some ways without a thought.
#[test]
fn no_change_of_one_field_gives_more() {
    require!(Root, Criu);
    let v = Victim::new(bundle());
    let everything = std::env::var_os("HIBER_EVERY_FIELD").is_some();
    let files = ["inventory.img", "core-1.img", "seccomp.img", "cgroup.img"].map(str::to_owned);
    let mut changes: Vec<(String, wire::Change)> = Vec::new();
    for name in files.into_iter().chain([v.file("ids-1.img"), v.file("mountpoints-")]) {
        changes.extend(wire::changes(&name, &v.read(&name)).into_iter().map(|change| (name.clone(), change)));
    }
    let total = changes.len();
    fastrand::Rng::with_seed(0x0dd).shuffle(&mut changes);
    let (start, mut tried, mut restored) = (Instant::now(), 0, 0);
    for (name, change) in changes {
        if !everything && start.elapsed() > BUDGET {
            break;
        }
        tried += 1;
        let bytes = change.apply(&name, &v.read(&name));
        let end = v.restore(&format!("{name}: {change:?}"), &[(&name, bytes)]);
        restored += usize::from(matches!(end, End::Restored));
    }
    assert!(tried > 20 && restored > 0, "{tried} of {total}, {restored} restored");
    v.c.assert_clean();
}
