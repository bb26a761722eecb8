//! The end that has the container.

use std::io::Read;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use hiber_criu::ImageDirectory;
use hiber_memory::images::Behind;
use hiber_sandbox::cgroup::Layout;
use hiber_sys::signal::Signal;
use rustix::fs::FileType;

use super::addresses;
use super::behind::{Followed, Service};
use super::connection::{Connection, Route};
use super::foresight;
use super::options::{MigrateOptions, Migrated, OnMiss, PostCopied, check};
use super::outgoing::Sender;
use super::place::Destination;
use super::progress::{Gauge, Phase, Stage};
use super::rootfs::{Amount, Rootfs, Tree, config_for};
use super::word::{Bytes, MAX_DATA, Offer, Word as Said};
use crate::checkpoint::preflight::Severity;
use crate::checkpoint::staging::{Given, HandOver, To};
use crate::checkpoint::{CheckpointOptions, Leaves};
use crate::container::task::Task;
use crate::error::{Context, Error, Result, chain};
use crate::helpers;
use crate::helpers::lazy::Token;
use crate::host::procfs;
use crate::state::migration::{self, Decision, Migration, Way};
use crate::state::store::Store;
use crate::status::Status;

/// How often the root filesystem is looked through while the container runs, at most, and bytes that are few enough for the last look,
/// when it stands still.
const MAX_PASSES: u32 = 5;
const FEW: u64 = 4 << 20;

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
    /// Why it could not be moved; it runs on here then. Where memory follows ([`MigrateOptions::post_copy`]), [`Error::Lost`] if not
    /// all of it has arrived: then the container has ended there, and is removed here. If all of it was sent, but the destination has
    /// not said that it has arrived, another error says so: the container is the destination's.
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
            follows: options.post_copy,
            complete: false,
            followed: None,
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
            addresses: match options.checkpoint.criu.tcp_established {
                Some(true) => addresses::used_of_others(self)?,
                _ => Vec::new(),
            },
            post_copy: options.leaves() != Leaves::Never,
            dry_run: options.dry_run,
        })
    }
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
    /// Whether memory was to follow in any case.
    follows: bool,
    /// Whether the destination has all files: it may have a whole container from then on.
    complete: bool,
    /// How the rest of its memory went over, if it went over after the decision.
    followed: Option<Followed>,
}

/// The decision, and all that has to be done for it.
struct Deciding<'a> {
    task: &'a Task,
    migration: &'a mut Migration,
    to: Sender,
    /// Whether the processes have memory that the destination wants.
    follows: bool,
    closes: bool,
    stopped: Instant,
}

impl Deciding<'_> {
    /// Gives the container up; how long it has stood still. Nothing fails after the decision.
    fn decide(&mut self) -> Result<Duration> {
        let cgroup = self.task.cgroup();
        if self.follows {
            // Were CRIU killed next, it would let them run: they would come no further than to here.
            cgroup.freeze().context("keep the processes frozen whose memory follows")?;
            self.migration.commit_following().inspect_err(|_| drop(cgroup.thaw()))?;
        } else {
            self.migration.decide(Decision::Committed)?;
        }
        if !self.closes {
            addresses::silence(self.task);
        }
        // From here on there is no way back. The processes are killed before the destination hears of the decision: if this program
        // were killed next, CRIU would let them run. Where they still have memory, the guard kills them then, before CRIU notices.
        if !self.follows
            && let Err(e) = cgroup.kill(Signal::KILL)
        {
            tracing::warn!("{}", chain(&e));
        }
        if !self.to.say(&Said::Commit) {
            tracing::warn!("the destination cannot be told of the decision");
        }
        let downtime = self.stopped.elapsed();
        self.to.tell(Phase::Committed);
        Ok(downtime)
    }
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
        let leaves = options.leaves();
        let pre_copy = &mut options.checkpoint.pre_copy;
        pre_copy.max_frozen = options.max_downtime / 2;
        pre_copy.at_most = (options.on_miss != OnMiss::Force).then_some(options.max_downtime);
        pre_copy.leaves = leaves;
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
            give: &mut |given| self.give(given),
        };
        task.checkpoint_as(options, None, Some(hand_over))
    }

    /// Sends the images, and decides when the destination has restored them. The container stands still meanwhile.
    fn give(&mut self, given: Given<'_>) -> Result<()> {
        let Given { images, behind, stopped, .. } = given;
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
        let left = behind.iter().map(Behind::bytes).sum();
        self.connection.say(&Said::Complete { files: files.len() as u64, behind: left })?;
        self.connection.tell(Phase::Restoring);
        if left > 0 {
            return self.follow(behind, stopped);
        }
        if self.follows {
            tracing::warn!("no memory could stay here to follow later: all of it was sent before");
        }
        match self.connection.hear_result()? {
            Said::Restored => {}
            Said::Refuse(why) => {
                self.complete = false;
                return Err(self.connection.refused(&why));
            }
            other => return Err(self.connection.unexpected(&other)),
        }
        let (to, closes) = (self.connection.sender(), self.closes);
        let (task, migration) = (self.task, &mut self.migration);
        let mut deciding = Deciding { task, migration, to, follows: false, closes, stopped };
        self.migrated.downtime = deciding.decide()?;
        Ok(())
    }

    /// As the rest of [`give`](Self::give), with memory that the processes still have.
    fn follow(&mut self, behind: Vec<Behind>, stopped: Instant) -> Result<()> {
        let mut service = Service::new(behind, self.connection.sender(), self.connection.peer());
        self.connection.begin(Stage::PostCopy, Some(service.left()));
        let (to, closes, signs) = (self.connection.sender(), self.closes, self.connection.signs());
        let (task, migration) = (self.task, &mut self.migration);
        let mut deciding = Deciding { task, migration, to, follows: true, closes, stopped };
        let mut decided = None;
        let followed = service.run(&mut self.connection, &mut || {
            let downtime = deciding.decide()?;
            decided = Some((downtime, Instant::now()));
            Ok(())
        });
        drop(signs);
        self.complete &= !service.refused;
        let followed = followed?;
        // Nobody wants their memory any more.
        if let Err(e) = task.cgroup().kill(Signal::KILL) {
            tracing::warn!("{}", chain(&e));
        }
        let before = std::mem::replace(&mut self.migrated.bytes, self.connection.sent());
        let (downtime, since) = decided.unwrap_or_else(|| (stopped.elapsed(), Instant::now()));
        self.migrated.downtime = downtime;
        self.migrated.post_copy =
            Some(PostCopied { bytes: self.migrated.bytes - before, time: since.elapsed() });
        if followed.lost.is_none() {
            self.connection.tell(Phase::Arrived);
        }
        self.followed = Some(followed);
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
        if let Some(followed) = self.followed.take() {
            return self.followed(store, token, followed);
        }
        let confirmed = match self.connection.hear_result() {
            Ok(Said::Running) => {
                self.connection.said_all();
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

impl Giving<'_> {
    /// The end of a migration whose memory went over after the decision.
    fn followed(self, store: &Store, token: &str, followed: Followed) -> Result<Migrated> {
        let Self { connection, migration, migrated, .. } = self;
        drop(migration);
        if followed.running || followed.lost.is_none() {
            migration::settled(store, token);
        }
        let Some(e) = followed.lost else {
            connection.close();
            return Ok(Migrated { confirmed: true, ..migrated });
        };
        if followed.sent {
            return Err(e).context(
                "the container is the destination's, and all of its memory was sent, but the destination has not said that it has arrived",
            );
        }
        let what = "the container was the destination's, and has ended there, since not all of its memory has arrived";
        Err(Error::lost(what, e))
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
