//! A checkpoint out of a store.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use derive_setters::Setters;
use hiber_criu::ImageDirectory;
use hiber_store::Opened;

use super::CheckpointStore;
use super::key::{StoreKey, opening};
use crate::checkpoint::RestoreContainerOptions;
use crate::checkpoint::manifest::{self, FileSum, Manifest};
use crate::checkpoint::restore_options::demands;
use crate::checkpoint::signed;
use crate::error::{Context, Error, Result};
use crate::helpers::lazy::stored::{StoredMemory, has_pages};
use crate::host::in_memory::Room;
use crate::host::procfs;
use crate::id::{CheckpointName, ContainerId};
use crate::runtime::Runtime;
use crate::signature::VerifyingKey;
use crate::state::scratch::Scratch;

/// Six files for each process, and one more for each thread: no machine that is checkpointed has so many.
const MAX_FILES: usize = 1 << 17;

/// A checkpoint in a store that is to be restored.
#[derive(Debug, Setters)]
#[non_exhaustive]
pub struct Fetch {
    /// The store.
    #[setters(skip)]
    pub store: CheckpointStore,
    /// The container that it is a checkpoint of.
    #[setters(skip)]
    pub container: ContainerId,
    /// Its name; with none, the newest of the container.
    pub name: Option<CheckpointName>,
    /// Keys, of which one opens it if it is sealed.
    pub keys: Vec<StoreKey>,
    /// Keys, of which one must have signed it; with none, nobody needs to, but for the host's policy.
    pub verify_keys: Vec<VerifyingKey>,
    /// Whether files may be others than its manifest says.
    pub trust: bool,
}

impl Fetch {
    /// The newest of a container, which is not sealed.
    pub fn new(store: CheckpointStore, container: ContainerId) -> Self {
        Self { store, container, name: None, keys: Vec::new(), verify_keys: Vec::new(), trust: false }
    }
}

impl Fetch {
    /// The name of the newest one that one of the keys opens.
    fn newest(&self, keys: &[hiber_store::Key]) -> Result<CheckpointName> {
        let (store, container) = (&self.store.store, self.container.as_str());
        let none = || {
            let why = format!("has no checkpoint of {container} that can be opened");
            Error::File { path: store.root().into(), why }
        };
        Ok(store.newest(container, keys)?.ok_or_else(none)?.name.parse()?)
    }
}

/// A checkpoint that came out of a store, in memory until this is dropped; its pages are still in the store.
#[derive(Debug)]
pub struct Fetched {
    scratch: Scratch,
    record: PathBuf,
    memory: Arc<StoredMemory>,
    verify_keys: Vec<VerifyingKey>,
    /// Whether its pages were compared with its manifest.
    compared: bool,
}

impl Runtime {
    /// Takes a checkpoint out of a store: what describes it into memory, compared with its manifest unless it is trusted. Its pages
    /// stay in the store until a restore wants them, and each is compared with its hash then; where a signature is wanted, all of them
    /// are read and compared with the manifest now.
    ///
    /// # Errors
    /// There is none, it is sealed by another key, or it is not what its manifest says. Nothing is left of it then.
    pub fn fetch(&self, fetch: &Fetch) -> Result<Fetched> {
        let (store, container) = (&fetch.store.store, fetch.container.as_str());
        let keys = opening(&fetch.keys);
        let name = match &fetch.name {
            Some(name) => name.clone(),
            None => fetch.newest(&keys)?,
        };
        let record = fetch.store.record(&fetch.container, &name)?;
        let opened = fetch.store.opened(&fetch.container, &name, &keys)?;
        let available = procfs::available_memory().unwrap_or(u64::MAX);
        let (size, most) = (opened.head().size(), available / 2);
        if size > most {
            let why = format!("has {size} bytes, and may have {most}: half of the memory that is available");
            return Err(Error::File { path: record, why });
        }
        let room = Room { bytes: Some(available), files: Some(MAX_FILES as u64 + 16) };
        let scratch = Scratch::new(&self.store, room)?;
        let images = ImageDirectory::open(&scratch.images())?;
        let demands = demands(&fetch.verify_keys)?;
        let sums = lay_out(&opened, &images, !demands.is_empty()).context("read the checkpoint")?;
        let compared = !demands.is_empty();
        if !fetch.trust || compared {
            compare(&images, &sums, &record)?;
        }
        let memory = StoredMemory::new(store, container, name.as_str(), opened);
        let verify_keys = fetch.verify_keys.clone();
        Ok(Fetched { scratch, record, memory: memory.into(), verify_keys, compared })
    }
}

/// Writes the files into a directory where none is yet: those with pages have only their lengths. Returns
/// their sizes and hashes; those of pages if these are wanted.
fn lay_out(from: &Opened, into: &ImageDirectory, pages: bool) -> Result<BTreeMap<String, FileSum>> {
    let files = &from.head().files;
    let refuse = |name: &str, why: &str| {
        Err(Error::File { path: into.path().into(), why: format!("{}: {why}", name.escape_debug()) })
    };
    if files.len() > MAX_FILES {
        return refuse("the checkpoint", "has more files than any has");
    }
    let mut sums = BTreeMap::new();
    for (number, (name, size)) in files.iter().enumerate() {
        if name.contains('/') || name.starts_with('.') || name.is_empty() {
            return refuse(name, "is no name of an image");
        }
        let fail = |e: io::Error| Error::file(&into.path().join(name), &e);
        let mut file = match into.create(name) {
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => return refuse(name, "comes twice"),
            made => made.map_err(fail)?,
        };
        if has_pages(name) {
            file.set_len(*size).map_err(fail)?;
            let sum = if pages {
                FileSum::of(from.read(number)).map_err(fail)?
            } else {
                FileSum { size: *size, blake3: None }
            };
            sums.insert(name.clone(), sum);
            continue;
        }
        let mut content = Vec::new();
        from.read(number).read_to_end(&mut content).and_then(|_| file.write_all(&content)).map_err(fail)?;
        sums.insert(name.clone(), FileSum::of(&*content).map_err(fail)?);
    }
    Ok(sums)
}

fn compare(images: &ImageDirectory, sums: &BTreeMap<String, FileSum>, record: &Path) -> Result<()> {
    let Some(manifest) = Manifest::read_in(images)? else { return Ok(()) };
    let mut sums = sums.clone();
    sums.retain(|name, _| manifest::is_listed(name));
    let strange =
        || signed::strange(&manifest, &sums).map(|name| format!("{name}: is not of this checkpoint"));
    let problem = manifest.compare(&sums).into_iter().next().or_else(strange);
    problem.map_or(Ok(()), |problem| {
        let why = format!("{problem}; --trust-images restores it nevertheless");
        Err(Error::File { path: record.into(), why })
    })
}

impl Fetched {
    /// The images are where a restore with these options looks, and their pages come from the store.
    pub fn choose(&self, options: &mut RestoreContainerOptions<'_>) {
        options.criu.image_path = self.scratch.images();
        options.archive = Some(self.record.clone());
        options.stored = Some(Arc::clone(&self.memory));
        options.verify_keys.extend_from_slice(&self.verify_keys);
        options.compared = self.compared;
    }
}
