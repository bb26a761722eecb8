//! The end that has the container.

use std::io::Read;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use derive_setters::Setters;
use hiber_criu::ImageDirectory;
use hiber_sandbox::cgroup::Layout;
use hiber_sys::signal::Signal;
use rustix::fs::FileType;

use super::addresses;
use super::connection::{Connection, Route, Sender};
use super::foresight;
use super::packing::Compress;
use super::place::Destination;
use super::progress::{Gauge, Phase, Stage};
use super::rootfs::{Amount, Rootfs, Tree, config_for};
use super::word::{Bytes, MAX_DATA, Offer, Word as Said};
use crate::checkpoint::CheckpointOptions;
use crate::checkpoint::preflight::Severity;
use crate::checkpoint::staging::{HandOver, To};
use crate::checkpoint::words::Word;
use crate::container::task::Task;
use crate::error::{Context, Error, Result, chain};
use crate::helpers;
use crate::helpers::lazy::Token;
use crate::host::procfs;
use crate::id::ContainerId;
use crate::state::migration::{self, Decision, Identity, Migration, Way};
use crate::state::store::Store;
use crate::status::Status;

/// The program that ssh runs at the other end.
pub const RECEIVER: &str = "hiber receive --stdio";

/// How often the root filesystem is looked through while the container runs, at most, and bytes that are few enough for the last look,
/// when it stands still.
const MAX_PASSES: u32 = 5;
const FEW: u64 = 4 << 20;

/// How to migrate. Each choice has a setter.
#[derive(Debug, Setters)]
#[setters(into)]
#[non_exhaustive]
pub struct MigrateOptions {
    /// The container's id there; as here if absent.
    pub id: Option<ContainerId>,
    /// The bundle's directory there; as here if absent.
    pub bundle: Option<PathBuf>,
    /// The bundle there.
    pub rootfs: Rootfs,
    /// The command that receives, at the other end of ssh.
    pub receiver: String,
    /// For TLS: `tls://` needs it.
    pub identity: Option<Identity>,
    /// How long the other end may neither send nor take anything.
    pub stall: Duration,
    /// Only ask whether it could be done.
    pub dry_run: bool,
    /// How long the container may stand still. Its memory is sent in rounds until the rest takes half of that: saving and restoring all
    /// else needs time, too.
    pub max_downtime: Duration,
    /// The choice if the rest of its memory takes longer than that after the last round.
    pub on_miss: OnMiss,
    /// Bytes of memory that are sent in a second, at most: compressed, where it is.
    pub bandwidth: Option<u64>,
    /// The frames that are compressed.
    pub compress: Compress,
    /// How the container is checkpointed. Where the images go, the migration says.
    pub checkpoint: CheckpointOptions,
}

impl Default for MigrateOptions {
    fn default() -> Self {
        Self {
            id: None,
            bundle: None,
            rootfs: Rootfs::Same,
            receiver: RECEIVER.into(),
            identity: None,
            stall: Duration::from_secs(10),
            dry_run: false,
            max_downtime: Duration::from_millis(300),
            on_miss: OnMiss::Abort,
            bandwidth: None,
            compress: Compress::Auto,
            checkpoint: CheckpointOptions::default(),
        }
    }
}

/// The choice where the container writes its memory faster than it can be sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum OnMiss {
    /// It runs on here.
    #[default]
    Abort,
    /// It is moved nevertheless, and stands still for as long as that takes.
    Force,
}

impl Word for OnMiss {
    const CHOICE: &'static str = "on-miss";
    const WORDS: &'static [&'static str] = &["abort", "force"];
    const MEANINGS: &'static [Self] = &[Self::Abort, Self::Force];
}

/// The cost of a migration.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Migrated {
    /// Bytes that were sent, compressed or not: files, and memory as often as it was written.
    pub bytes: u64,
    /// Rounds over its memory while it ran.
    pub rounds: u32,
    /// From the moment at which the container was stopped to the decision: it was the destination's afterwards.
    pub downtime: Duration,
    /// Of the whole.
    pub total: Duration,
    /// Whether the destination has said that the container runs there. If not, it has not heard the decision, or could not say:
    /// [`resolve`](super::resolve) tells it again.
    pub confirmed: bool,
}

impl Task {
    /// Where the container runs now, if it has ended here since it went to another machine. This is known until that machine has said
    /// that it runs there, and the container is removed here: ask at once when it has ended.
    pub fn migrated_to(&self) -> Option<String> {
        let container = self.container();
        let records = migration::unsettled(&Store::of(container.entry()), container.id());
        let (_, latest) = records.into_iter().next_back()?;
        (latest.decision == Decision::Committed).then_some(latest.way.destination)
    }

    /// Moves the container to another machine, where it runs on; here it ends then, and is removed. `tell` hears how far it is, from
    /// whichever thread is at it.
    ///
    /// # Errors
    /// Why it could not be moved; it runs on here then.
    pub fn migrate(
        &self,
        destination: &Destination,
        mut options: MigrateOptions,
        tell: impl FnMut(Phase) + Send + 'static,
    ) -> Result<Migrated> {
        helpers::check()?;
        check(&options)?;
        let began = Instant::now();
        let status = self.status()?;
        if status != Status::Running {
            return self.refuse(&format!("Container cannot be migrated in {status} state"), status);
        }
        if options.dry_run {
            self.check_here(&options.checkpoint)?;
        }
        let store = Store::of(self.container().entry());
        migration::sweep(&store);
        let token = Token::new()?;
        let tree = match options.rootfs {
            Rootfs::Same => None,
            Rootfs::Sync => Some(Tree::open(&self.facts()?.rootfs)?),
        };
        let amount = tree.as_ref().map(Tree::measure).transpose()?;
        let offer = self.offer(&token, &options, amount)?;
        let (receiver, identity) = (options.receiver.as_str(), options.identity.as_ref());
        let mut connection = Connection::to(&Route { destination, receiver, identity }, options.stall)?;
        connection.measure(Gauge::new(Box::new(tell)));
        connection.say(&Said::Offer(Box::new(offer)))?;
        match connection.hear_result()? {
            Said::Accept { compress, clock } => {
                connection.compress(options.compress, &compress)?;
                foresight::warn_of_clock(clock);
                connection.tell(Phase::Accepted { clock });
            }
            Said::Refuse(why) => return Err(connection.refused(&why)),
            other => return Err(connection.unexpected(&other)),
        }
        if options.dry_run {
            connection.close();
            return Ok(Migrated { total: began.elapsed(), ..Migrated::default() });
        }
        let way = Way {
            destination: destination.to_string(),
            receiver: options.receiver.clone(),
            identity: options.identity.clone(),
        };
        let migration = Migration::begin(&store, &token.to_hex(), self.container().id().as_str(), way)?;
        let mut giving = Giving {
            task: self,
            connection,
            migration,
            migrated: Migrated::default(),
            pages: None,
            tree,
            closes: options.checkpoint.criu.tcp_close == Some(true),
            complete: false,
        };
        giving.connection.limit(options.bandwidth);
        let given = giving.copy_tree(amount).and_then(|()| giving.dump(&mut options, destination));
        giving
            .end(&store, &token.to_hex(), given)
            .map(|migrated| Migrated { total: began.elapsed(), ..migrated })
    }

    /// Refuses what a checkpoint would fail by. One that is made does so by itself.
    fn check_here(&self, options: &CheckpointOptions) -> Result<()> {
        let report = self.check_checkpoint(options)?;
        // Room is needed on no disk.
        let mut found = report.findings.iter().filter(|f| f.severity <= Severity::Loss && f.check != "space");
        found.next().map_or(Ok(()), |f| Err(Error::Invalid(format!("{}: {f}: {}", f.check, f.advice))))
    }

    fn offer(&self, token: &Token, options: &MigrateOptions, rootfs: Option<Amount>) -> Result<Offer> {
        let container = self.container();
        let bundle = options
            .bundle
            .clone()
            .unwrap_or_else(|| self.facts().map(|f| f.bundle.clone()).unwrap_or_default());
        let criu = options.checkpoint.criu.find_criu()?.launch().start()?.version()?;
        Ok(Offer {
            token: token.clone(),
            id: options.id.as_ref().unwrap_or_else(|| container.id()).to_string(),
            bundle: bundle
                .to_str()
                .map(str::to_owned)
                .ok_or_else(|| Error::Invalid(format!("--bundle {}: expected UTF-8", bundle.display())))?,
            config: match rootfs {
                Some(_) => config_for(&*container.spec()?),
                None => serde_json::to_string(&*container.spec()?),
            }
            .map_err(|e| Error::internal("encode config.json", e))?,
            rootfs,
            criu: [criu.major, criu.minor, criu.sublevel],
            memory: foresight::memory_of(self)?,
            processor: foresight::processor(),
            clock: foresight::clock(),
            cgroups: foresight::cgroups(Layout::detect()?.kind()).into(),
            numbers: foresight::numbers_of(self)?,
            dry_run: options.dry_run,
        })
    }
}

fn check(options: &MigrateOptions) -> Result<()> {
    let with = &options.checkpoint;
    let found = [
        ("--pre-dump", with.pre_dump),
        ("--parent-path", with.dump.parent_path.is_some()),
        ("--leave-running", with.dump.leave_running),
        ("--lazy-pages", with.criu.lazy_pages),
        ("--page-server", with.dump.page_server.is_some()),
        ("--prove", with.prove),
    ];
    let found = found.iter().find(|(_, given)| *given);
    found.map_or(Ok(()), |(flag, _)| Err(Error::Invalid(format!("{flag} cannot be used for a migration"))))
}

/// A migration under way, at its source.
struct Giving<'a> {
    task: &'a Task,
    connection: Connection,
    migration: Migration,
    migrated: Migrated,
    /// The sender of memory, while all else waits.
    pages: Option<Arc<Mutex<Sender>>>,
    /// The root filesystem, if it goes along.
    tree: Option<Tree>,
    /// Whether connections end here, of which their other ends hear from here.
    closes: bool,
    /// Whether the destination has all files: it may have a whole container from then on.
    complete: bool,
}

impl Giving<'_> {
    /// Sends the root filesystem while the container runs: all of it, and then what was written meanwhile, until that is little.
    fn copy_tree(&mut self, amount: Option<Amount>) -> Result<()> {
        let Some(Amount { bytes, files }) = amount else { return Ok(()) };
        self.connection.tell(Phase::Rootfs { bytes, files });
        let mut last = u64::MAX;
        for pass in 1..=MAX_PASSES {
            self.connection.begin(Stage::Rootfs(pass), (pass == 1).then_some(bytes));
            let before = self.connection.sent();
            self.pass()?;
            let sent = self.connection.sent() - before;
            if sent < FEW || sent > last / 2 {
                break;
            }
            last = sent;
        }
        self.connection.say(&Said::Sync)?;
        match self.connection.hear_result()? {
            Said::Synced => Ok(()),
            Said::Refuse(why) => Err(self.connection.refused(&why)),
            other => Err(self.connection.unexpected(&other)),
        }
    }

    fn pass(&mut self) -> Result<()> {
        let Some(tree) = &mut self.tree else { return Ok(()) };
        let mapped = self.task.pids()?.into_iter().flat_map(procfs::mapped_to_write);
        let connection = &mut self.connection;
        tree.pass(mapped, &mut |changes, bytes| {
            connection.say(&Said::Changes(changes))?;
            if bytes.is_empty() { Ok(()) } else { connection.send(Bytes::Rootfs(bytes)) }
        })
        .context("send the root filesystem")
    }

    fn dump(&mut self, options: &mut MigrateOptions, destination: &Destination) -> Result<()> {
        self.connection.tell(Phase::Dumping);
        let pages = Arc::new(Mutex::new(self.connection.sender()));
        let pre_copy = &mut options.checkpoint.pre_copy;
        pre_copy.max_frozen = options.max_downtime / 2;
        pre_copy.at_most = (options.on_miss == OnMiss::Abort).then_some(options.max_downtime);
        let options = &mut options.checkpoint;
        let images = self.migration.images()?;
        options.criu.image_path.clone_from(&images);
        // Nobody reads hashes of what goes over an authenticated connection, and memory is no disk.
        (options.no_hash, options.no_sync) = (true, true);
        let (task, record) = (self.task, self.migration.record_path());
        self.pages = Some(Arc::clone(&pages));
        let hand_over = HandOver {
            images,
            pages: Some(pages),
            to: To::Machine { destination: destination.to_string(), record },
            still: None,
            give: &mut |given| self.give(given.images, given.stopped),
        };
        task.checkpoint_as(options, None, Some(hand_over))
    }

    /// Sends the images, and decides when the destination has restored them. The container stands still meanwhile.
    fn give(&mut self, images: &ImageDirectory, stopped: Instant) -> Result<()> {
        // CRIU may have linked files that had lost their names.
        self.pass()?;
        let files = files(images)?;
        let bytes = files.iter().map(|(_, size)| size).sum();
        self.connection.tell(Phase::Sending { bytes });
        for (name, size) in &files {
            self.send(images, name, *size).context(format!("send {name}"))?;
        }
        self.migrated.bytes = self.connection.sent();
        self.migrated.rounds = self.connection.rounds();
        self.complete = true;
        self.connection.say(&Said::Complete { files: files.len() as u64 })?;
        self.connection.tell(Phase::Restoring);
        match self.connection.hear_result()? {
            Said::Restored => {}
            Said::Refuse(why) => {
                self.complete = false;
                return Err(self.connection.refused(&why));
            }
            other => return Err(self.connection.unexpected(&other)),
        }
        self.migration.decide(Decision::Committed)?;
        if !self.closes {
            addresses::silence(self.task);
        }
        // From here on there is no way back. The processes are killed before the destination hears of the decision: if this program
        // were killed next, CRIU would let them run.
        if let Err(e) = self.task.cgroup().kill(Signal::KILL) {
            tracing::warn!("{}", chain(&e));
        }
        if let Err(e) = self.connection.say(&Said::Commit) {
            tracing::warn!("{}", chain(&e));
        }
        self.migrated.downtime = stopped.elapsed();
        self.connection.tell(Phase::Committed);
        Ok(())
    }

    fn send(&mut self, images: &ImageDirectory, name: &str, size: u64) -> Result<()> {
        self.connection.say(&Said::File { name: name.to_owned(), size })?;
        let fail = |e: std::io::Error| Error::file(&images.path().join(name), &e);
        let mut file = images.file(name).map_err(fail)?;
        let (mut buffer, mut left) = (vec![0; MAX_DATA], size);
        while left > 0 {
            let part = buffer.len().min(usize::try_from(left).unwrap_or(usize::MAX));
            file.read_exact(&mut buffer[..part]).map_err(fail)?;
            self.connection.send(Bytes::File(&buffer[..part]))?;
            left -= part as u64;
        }
        Ok(())
    }

    /// Tells the destination what has become of it, and cleans up here.
    fn end(mut self, store: &Store, token: &str, given: Result<()>) -> Result<Migrated> {
        // It has the stream open, at whose end the destination waits.
        self.pages = None;
        let committed = migration::is_committed(&self.migration.record_path());
        if !committed {
            let failure = given.err().unwrap_or_else(|| Error::internal("migrate", "there is no checkpoint"));
            if self.migrated.bytes > 0 {
                // All had been sent: switches may have heard of the copy.
                addresses::announce(self.task);
            }
            return match self.connection.give_up(&failure) {
                // It has nothing any more, and its reason is the first one.
                Some(Said::Refuse(why)) => {
                    self.migration.forget();
                    Err(self.connection.refused(&why))
                }
                answer if self.complete && answer != Some(Said::Settled) => {
                    // It may have a whole container, which waits for this.
                    self.migration.decide(Decision::Aborted)?;
                    Err(failure)
                }
                _ => {
                    self.migration.forget();
                    Err(failure)
                }
            };
        }
        if let Err(e) = given {
            tracing::warn!("the container is the destination's now; here: {}", chain(&e));
        }
        let confirmed = match self.connection.hear_result() {
            Ok(Said::Running) => {
                // Its memory may still be on its way to its place. The container has gone, whatever is heard of that.
                while let Ok(Said::Working) = self.connection.hear() {}
                true
            }
            Ok(other) => {
                tracing::warn!("{}", chain(&self.connection.unexpected(&other)));
                false
            }
            Err(e) => {
                tracing::warn!("{}", chain(&e));
                false
            }
        };
        let Self { connection, migration, migrated, .. } = self;
        connection.close();
        drop(migration);
        if confirmed {
            migration::settled(store, token);
        }
        Ok(Migrated { confirmed, ..migrated })
    }
}

/// The files of a checkpoint, by name, and their sizes. Directories and links are not sent.
fn files(images: &ImageDirectory) -> Result<Vec<(String, u64)>> {
    let mut files = Vec::new();
    for name in images.names()? {
        let stat = images.stat_of(&name).map_err(|e| Error::file(&images.path().join(&name), &e))?;
        if FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile {
            files.push((name, u64::try_from(stat.st_size).unwrap_or_default()));
        }
    }
    Ok(files)
}
