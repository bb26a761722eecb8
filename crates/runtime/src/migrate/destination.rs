//! The end that gets the container.

use std::fs::File;
use std::io::Write;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::thread::JoinHandle;

use derive_setters::Setters;
use hiber_criu::ImageDirectory;
use hiber_criu::page_protocol::Memory;
use hiber_memory::images::Collector;

use super::addresses;
use super::connection::{Connection, Signs};
use super::following::follow;
use super::foresight;
use super::packing::KNOWN;
use super::resolve;
use super::rootfs::change::Change;
use super::rootfs::{NewBundle, Rootfs};
use super::word::{Frame, MAX_DATA, Offer, Word};
use crate::checkpoint::CriuOptions;
use crate::checkpoint::RestoreContainerOptions;
use crate::checkpoint::restore::{Gate, restore_through};
use crate::container::stdio::Stdio;
use crate::container::task::Task;
use crate::error::{Context, Error, Result, chain};
use crate::helpers;
use crate::id::ContainerId;
use crate::runtime::Runtime;
use crate::state::entry::Entry;
use crate::state::migration::{self, Decision, Incoming, Migration};

/// No checkpoint has more files than this: a process has a few dozen.
const MAX_FILES: u64 = 1 << 20;

/// How to receive. Each choice has a setter.
#[derive(Debug, Clone, Default, Setters)]
#[setters(into)]
#[non_exhaustive]
pub struct ReceiveOptions {
    /// The criu program; `None` looks it up ($HIBER_CRIU, PATH).
    pub criu: Option<PathBuf>,
    /// Have systemd make the cgroup.
    pub systemd_cgroup: bool,
    /// Whether sources may bring bundles. The config.json of such a bundle decides what runs here, and as whom.
    pub rootfs: Rootfs,
}

/// Receives a container over `connection`: it runs here when the source has given it up, and not before. The result is `None` if the
/// source only asked whether it could come, or about an earlier migration.
///
/// # Errors
/// Why nothing came: nothing is left then. Two errors are others: if the source is not to be heard after the container was whole,
/// that stays, frozen, and `resolve` ends the doubt; and [`Error::Lost`] if it ran here, and not all of its memory has followed it.
pub fn receive(
    runtime: &Runtime,
    mut connection: Connection,
    options: &ReceiveOptions,
) -> Result<Option<Task>> {
    helpers::check()?;
    migration::sweep(&runtime.store);
    let offer = match connection.hear()? {
        Word::Offer(offer) => offer,
        Word::Ask { token } => return resolve::answer(runtime, connection, &token).map(|()| None),
        Word::Decision { token, decision } => {
            return resolve::heed(runtime, connection, &token, decision).map(|()| None);
        }
        other => return Err(connection.unexpected(&other)),
    };
    let clock = foresight::clock().saturating_sub(offer.clock);
    let criu = CriuOptions { criu: options.criu.clone(), ..CriuOptions::default() };
    remove_half_of(runtime, &offer)?;
    let admitted = bundle_of(&offer, options).and_then(|bundle| {
        let path = bundle.as_ref().map_or(Path::new(&offer.bundle), NewBundle::path);
        let id = foresight::check(&runtime.store, &offer, path, &criu, options.systemd_cgroup)?;
        Ok((id, bundle))
    });
    let (id, bundle) = match admitted {
        Ok(admitted) => admitted,
        Err(e) => {
            connection.say(&Word::Refuse(chain(&e)))?;
            return Err(e);
        }
    };
    connection.say(&Word::Accept { compress: KNOWN.to_vec(), clock })?;
    if offer.dry_run {
        return Ok(None);
    }
    Receiving {
        runtime,
        connection,
        options,
        offer: &offer,
        id,
        criu,
        bundle,
        syncing: None,
        decided: None,
        behind: 0,
    }
    .run()
}

/// The bundle that is to be made, if the source brings one.
fn bundle_of(offer: &Offer, options: &ReceiveOptions) -> Result<Option<NewBundle>> {
    match offer.rootfs {
        None => Ok(None),
        Some(_) if options.rootfs != Rootfs::Sync => Err(Error::Invalid(
            "--rootfs sync: this receiver takes no bundles: it was not started with --rootfs sync".into(),
        )),
        Some(amount) => {
            NewBundle::begin(Path::new(&offer.bundle), &offer.config, &offer.token.to_hex(), amount).map(Some)
        }
    }
}

/// Removes what an earlier receiver has left that was killed before the container was whole.
fn remove_half_of(runtime: &Runtime, offer: &Offer) -> Result<()> {
    let Ok(id) = offer.id.parse::<ContainerId>() else { return Ok(()) };
    let Ok(entry) = runtime.store.open(&id) else { return Ok(()) };
    match Incoming::of(&entry)? {
        Some(Incoming { whole: false, .. }) if !entry.is_locked()? => runtime.force_delete(&id),
        _ => Ok(()),
    }
}

struct Receiving<'a> {
    runtime: &'a Runtime,
    connection: Connection,
    options: &'a ReceiveOptions,
    offer: &'a Offer,
    id: ContainerId,
    criu: CriuOptions,
    /// The bundle, if the source brings it.
    bundle: Option<NewBundle>,
    /// Brings the bundle to the disk.
    syncing: Option<JoinHandle<Result<()>>>,
    /// The source's decision, once there is one.
    decided: Option<Decision>,
    /// Bytes of memory that stay with the source until they are wanted.
    behind: u64,
}

impl Receiving<'_> {
    fn run(mut self) -> Result<Option<Task>> {
        let store = &self.runtime.store;
        let made = self.bundle.as_ref().map(|_| Path::new(&self.offer.bundle));
        let place = Migration::receive(store, &self.offer.token.to_hex(), self.id.as_str(), made)?;
        let restored = self.take(&place).and_then(|images| self.restore(images));
        match restored {
            Ok(task) => {
                self.bundle.take().into_iter().for_each(NewBundle::stay);
                let settled = self.settle(task);
                // The container runs already. Its images are kept until all of its memory is there, and so long the connection.
                if let Ok(Some(task)) = &settled {
                    let arrived = self.await_memory(task);
                    place.forget();
                    arrived?;
                } else {
                    place.forget();
                }
                settled
            }
            Err(e) => {
                self.bundle = None;
                place.forget();
                // The source may have gone by itself, and then does not listen.
                let _ = self.connection.say(&match self.decided {
                    Some(Decision::Aborted) => Word::Settled,
                    // After the decision.
                    Some(Decision::Committed) if self.behind > 0 => Word::Lost(chain(&e)),
                    _ => Word::Refuse(chain(&e)),
                });
                if self.decided == Some(Decision::Committed) && self.behind > 0 {
                    let what =
                        format!("container {} was this machine's, and its memory did not arrive", self.id);
                    return Err(Error::lost(what, e));
                }
                Err(e)
            }
        }
    }

    fn await_memory(&mut self, task: &Task) -> Result<()> {
        let signs = self.connection.signs();
        let arrived = task.wait_for_memory();
        drop(signs);
        if self.behind > 0 {
            // The source has it still, or has gone.
            let _ = self.connection.say(&match &arrived {
                Ok(()) => Word::Arrived,
                Err(e) => Word::Lost(chain(e)),
            });
        }
        arrived?;
        // Frames get lost.
        addresses::announce(task);
        Ok(())
    }

    /// Takes the files.
    fn take(&mut self, place: &Migration) -> Result<PathBuf> {
        let path = place.images()?;
        let images = ImageDirectory::open(&path)?;
        let (mut count, mut memory) = (0, Collector::new(images.clone()));
        loop {
            let word = match self.connection.next()? {
                Frame::Word(word) => word,
                Frame::Pages { memory: of, address, bytes } => {
                    let of =
                        Memory::of(of).ok_or_else(|| self.connection.failed("it sent memory of nobody"))?;
                    memory.put(of, address, &bytes).map_err(|e| Error::host("receive memory", e))?;
                    continue;
                }
                Frame::Data(_) => return Err(self.connection.failed("it sent bytes of a file out of turn")),
            };
            match word {
                Word::File { name, size } if count < MAX_FILES => {
                    count += 1;
                    self.take_file(&images, &name, size).context(format!("receive {name:?}"))?;
                }
                Word::File { .. } => return Err(self.connection.failed("it sends files without end")),
                Word::Changes(changes) => self.take_changes(&changes)?,
                Word::Sync => self.sync()?,
                Word::Complete { behind, .. } if behind > 0 && !self.offer.post_copy => {
                    return Err(self.connection.failed("it keeps memory, which was not offered"));
                }
                Word::Complete { files, behind } if files == count => {
                    self.behind = behind;
                    self.publish()?;
                    memory.complete().map_err(|e| Error::host("receive memory", e))?;
                    return Ok(path);
                }
                Word::Complete { files, .. } => {
                    return Err(self.connection.failed(format!("{count} of {files} files have come")));
                }
                Word::Abort(why) => {
                    self.decided = Some(Decision::Aborted);
                    return Err(self.connection.failed(format!("the source has given up: {why}")));
                }
                other => return Err(self.connection.unexpected(&other)),
            }
        }
    }

    /// Takes steps of the root file system, and the bytes that follow them.
    fn take_changes(&mut self, changes: &[Change]) -> Result<()> {
        let announced = changes.iter().try_fold(0_u64, |sum, change| sum.checked_add(change.bytes()?));
        let announced = announced.filter(|bytes| *bytes <= MAX_DATA as u64);
        let bytes = match announced {
            Some(0) => Vec::new(),
            Some(announced) => match self.connection.next()? {
                Frame::Data(bytes) if bytes.len() as u64 == announced => bytes,
                _ => return Err(self.connection.failed(format!("{announced} bytes of files were to come"))),
            },
            None => return Err(self.connection.failed("it announced more bytes of files than a frame has")),
        };
        match &mut self.bundle {
            Some(bundle) => bundle.apply(changes, &bytes),
            None => Err(self.connection.failed("it sent a root file system that was not offered")),
        }
    }

    /// Brings the root file system to the disk while the source waits.
    fn sync(&mut self) -> Result<()> {
        let signs = self.connection.signs();
        let sync = self.bundle.as_ref().map(NewBundle::syncing).transpose()?;
        sync.map_or(Ok(()), |sync| sync())?;
        drop(signs);
        self.connection.say(&Word::Synced)
    }

    /// Puts the bundle to its place. The disk gets the rest of it while the container is restored.
    fn publish(&mut self) -> Result<()> {
        let Some(bundle) = &mut self.bundle else { return Ok(()) };
        bundle.publish()?;
        self.syncing = Some(std::thread::spawn(bundle.syncing()?));
        Ok(())
    }

    fn take_file(&mut self, images: &ImageDirectory, name: &str, size: u64) -> Result<()> {
        // CRIU's names and ours: a restore looks for no others.
        let plain = |b: u8| b.is_ascii_alphanumeric() || b"-_.".contains(&b);
        if name.is_empty() || name.starts_with('.') || !name.bytes().all(plain) {
            return Err(self.connection.failed("it is no name of a file in a checkpoint"));
        }
        let fail = |e: std::io::Error| Error::file(&images.path().join(name), &e);
        let mut file: File = images.create(name).map_err(fail)?;
        let mut left = size;
        while left > 0 {
            match self.connection.next()? {
                Frame::Data(bytes) if !bytes.is_empty() && bytes.len() as u64 <= left => {
                    file.write_all(&bytes).map_err(fail)?;
                    left -= bytes.len() as u64;
                }
                Frame::Data(bytes) => {
                    let why = format!("{} bytes came where {left} were left", bytes.len());
                    return Err(self.connection.failed(why));
                }
                Frame::Word(Word::Abort(why)) => {
                    self.decided = Some(Decision::Aborted);
                    return Err(self.connection.failed(format!("the source has given up: {why}")));
                }
                Frame::Word(other) => return Err(self.connection.unexpected(&other)),
                Frame::Pages { .. } => return Err(self.connection.failed("it sent memory out of turn")),
            }
        }
        Ok(())
    }

    /// Restores up to the moment before the first instruction, and asks the source whether it may go on.
    fn restore(&mut self, images: PathBuf) -> Result<Task> {
        let open = |write: bool| File::options().read(!write).write(write).open("/dev/null");
        let null = || -> std::io::Result<[File; 3]> { Ok([open(false)?, open(true)?, open(true)?]) };
        let null = null().map_err(|e| Error::file("/dev/null".as_ref(), &e))?;
        let [stdin, stdout, stderr] = &null;
        let options = RestoreContainerOptions {
            criu: CriuOptions { image_path: images, ..self.criu.clone() },
            bundle: PathBuf::from(&self.offer.bundle),
            systemd_cgroup: self.options.systemd_cgroup,
            stdio: Stdio::Files([stdin.as_fd(), stdout.as_fd(), stderr.as_fd()]),
            own: true,
            background: self.behind > 0,
            ..RestoreContainerOptions::default()
        };
        let (store, id) = (self.runtime.store.clone(), self.id.clone());
        let signs = self.connection.signs();
        let mut question = Question { receiving: self, signs: Some(signs) };
        restore_through(&store, &id, &options, Some(&mut question))
    }

    fn settle(&mut self, task: Task) -> Result<Option<Task>> {
        if self.decided == Some(Decision::Committed) {
            addresses::announce(&task);
            Incoming::forget(task.container().entry())?;
            // Where nobody listens any more it runs all the same.
            let _ = self.connection.say(&Word::Running);
            return Ok(Some(task));
        }
        let id = &self.id;
        Err(self.connection.failed(format!(
            "the source is not to be heard, and only the source knows whose container {id} is now; it stays frozen here until \
             `hiber migrate --resolve {id}` is run at the source, or here with where the source is"
        )))
    }
}

/// The question to the source whether the restored container may run.
struct Question<'q, 'a> {
    receiving: &'q mut Receiving<'a>,
    /// Those that the restore goes on.
    signs: Option<Signs>,
}

impl Question<'_, '_> {
    fn incoming(&self, whole: bool) -> Incoming {
        let Receiving { offer, bundle, .. } = &*self.receiving;
        let bundle = bundle.as_ref().map(|bundle| bundle.path().to_owned());
        Incoming { token: offer.token.to_hex(), whole, bundle }
    }
}

impl Gate for Question<'_, '_> {
    fn begin(&self, entry: &Entry) -> Result<()> {
        self.incoming(false).write(entry)
    }

    fn whole(&self, entry: &Entry) -> Result<()> {
        self.incoming(true).write(entry)
    }

    /// Tells the source that all is here, and hears its decision. If the source cannot be heard, the container stays frozen.
    fn decide(&mut self) -> Result<bool> {
        // No other word comes in between from here on.
        if let Some(thread) = self.receiving.syncing.take() {
            thread.join().map_err(|panic| Error::panicked("syncfs", &panic))??;
        }
        let Receiving { connection, decided, behind, .. } = &mut *self.receiving;
        let follows = *behind > 0;
        self.signs.take_if(|_| !follows);
        connection.say(&Word::Restored)?;
        match connection.hear_result() {
            Ok(Word::Commit) => {
                *decided = Some(Decision::Committed);
                Ok(true)
            }
            Ok(Word::Abort(why)) => {
                *decided = Some(Decision::Aborted);
                Err(connection.failed(format!("the source has given up: {why}")))
            }
            // Without the source its memory cannot come, whatever that has decided.
            Ok(other) if follows => Err(connection.unexpected(&other)),
            Err(e) if follows => Err(e),
            Ok(other) => {
                tracing::warn!("{}", chain(&connection.unexpected(&other)));
                Ok(false)
            }
            Err(e) => {
                tracing::warn!("{}", chain(&e));
                Ok(false)
            }
        }
    }

    fn memory(&mut self) -> Result<Option<OwnedFd>> {
        let Receiving { connection, behind, .. } = &mut *self.receiving;
        (*behind > 0).then(|| follow(connection)).transpose()
    }
}
