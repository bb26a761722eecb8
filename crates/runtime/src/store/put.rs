//! A checkpoint into a store.

use std::io::{self, Read};
use std::time::Instant;

use derive_setters::Setters;
use hiber_criu::ImageDirectory;
use hiber_store::{Compress, Like, Stored, Writer};
use rustix::fs::FileType;

use super::CheckpointStore;
use super::key::{StoreKey, sealing};
use super::similar::Earlier;
use crate::checkpoint::CheckpointOptions;
use crate::checkpoint::elsewhere::{self, STATISTICS, statistics};
use crate::checkpoint::manifest::{self, FileSum, Manifest};
use crate::checkpoint::signed;
use crate::checkpoint::staging::{Given, HandOver, To};
use crate::container::task::Task;
use crate::error::{Context, Error, Result};
use crate::helpers::lazy::stored::has_pages;
use crate::helpers::unfinished;
use crate::host::in_memory::Room;
use crate::id::{CheckpointError, CheckpointName};
use crate::signature::{self, SigningKey};
use crate::state::scratch::Scratch;
use crate::state::store::Store;
use crate::tarball::Compression;

/// Where a checkpoint goes in a store.
#[derive(Debug, Setters)]
#[non_exhaustive]
pub struct Put {
    /// The store.
    #[setters(skip)]
    pub store: CheckpointStore,
    /// The checkpoint's name.
    #[setters(skip)]
    pub name: CheckpointName,
    /// The key that seals it.
    pub key: Option<StoreKey>,
    /// How pages are compressed: by zstd, or not at all.
    pub compress: Compression,
}

impl Put {
    /// There, under this name, not sealed.
    pub fn new(store: CheckpointStore, name: CheckpointName) -> Self {
        Self { store, name, key: None, compress: Compression::default() }
    }
}

impl Task {
    /// Writes a checkpoint of the container into a store, and nothing else to any disk. The container is given up when the record of
    /// the checkpoint has its name there, and, with [`no_sync`](CheckpointOptions::no_sync) unset, the disk has all of it. On any
    /// failure before that the container runs on as it was, and the store has nothing of it but pages that the next collection removes.
    /// Where the images go, `options` does not say.
    ///
    /// # Errors
    /// Those of [`checkpoint`](Self::checkpoint); a checkpoint of that name is there; the store cannot be written.
    pub fn store(&self, put: &Put, mut options: CheckpointOptions) -> Result<Stored> {
        elsewhere::check(&options, "--store", "a store")?;
        let compress = compress(put.compress)?;
        let store = Store::of(self.container().entry());
        let (container, key) = (self.container().id(), sealing(put.key.as_ref()));
        let names = (container.as_str(), put.name.as_str());
        let mut writer =
            Writer::new(&put.store.store, names, &key, compress).map_err(|e| match e.why.kind() {
                io::ErrorKind::AlreadyExists => {
                    CheckpointError::Exists { name: put.name.clone(), container: names.0.into() }.into()
                }
                _ => Error::from(e),
            })?;
        let scratch = Scratch::new(&store, Room::MUCH)?;
        let sync = elsewhere::pass_through(&mut options, scratch.images());
        let earlier = Earlier::of(&mut writer);
        let to = to(&writer)?;
        let (mut writer, mut stored) = (Some(writer), None);
        let sign_key = options.sign_key.clone();
        let hand_over = HandOver {
            images: scratch.images(),
            pages: None,
            to,
            still: None,
            give: &mut |given| {
                let writer = writer.take().ok_or_else(|| Error::internal("write into the store", "done"))?;
                let written = write(writer, &given, (earlier.as_ref(), sign_key.as_deref()), sync);
                stored = Some(written.context("write the checkpoint into the store")?);
                Ok(())
            },
        };
        self.checkpoint_as(&options, None, Some(hand_over))?;
        stored.ok_or_else(|| Error::internal("write into the store", "nothing was given"))
    }
}

fn compress(how: Compression) -> Result<Compress> {
    match how {
        Compression::Zstd(level) => Ok(Compress::Zstd(level)),
        Compression::None => Ok(Compress::None),
        Compression::Lz4 => {
            Err(Error::Invalid("--compress lz4: a store has zstd, zstd:LEVEL or none".into()))
        }
    }
}

/// The file that the guard looks at: a checkpoint is there if the record has its name.
fn to(writer: &Writer) -> Result<To> {
    let (record, target) = writer.paths();
    let gone = || Error::internal("make the record", "it is gone");
    let identity = unfinished::identity(record).ok_or_else(gone)?;
    Ok(To::Archive {
        path: target.into(),
        unfinished: Some((record.into(), identity)),
        beside: writer.beside(),
    })
}

/// Writes complete images, and gives the checkpoint its name.
fn write(
    mut to: Writer,
    given: &Given<'_>,
    (earlier, key): (Option<&Earlier>, Option<&SigningKey>),
    sync: bool,
) -> Result<Stored> {
    let images = given.images;
    let likes = earlier.map(|earlier| earlier.likes(images)).transpose()?.unwrap_or_default();
    let like = |name: &str| likes.get(name).map_or(&[][..], Vec::as_slice);
    let none = || Error::File { path: images.path().into(), why: "has no hiber.json".into() };
    let mut manifest = Manifest::read_in(images)?.ok_or_else(none)?;
    let last = [manifest::FILE_NAME, signature::FILE_NAME];
    let unwritten = |name: &str| given.unwritten.iter().any(|of| of.name == name);
    let mut names = images.names()?;
    // CRIU writes its statistics of a container that runs on while this goes on.
    names.retain(|name| name != STATISTICS || given.let_go.is_none());
    for name in names.iter().filter(|name| !last.contains(&name.as_str()) && !unwritten(name)) {
        add(&mut to, images, name, like(name))?;
    }
    let begun = Instant::now();
    let is_hashed = manifest.files.values().any(|file| file.blake3.is_some());
    for of in &given.unwritten {
        let mut hasher = blake3::Hasher::new();
        let size = to.add(&of.name, like(&of.name), of.content(), |bytes| {
            if is_hashed {
                hasher.update(bytes);
            }
        })?;
        let sum = if is_hashed { FileSum::of_hashed(&hasher) } else { FileSum { size, blake3: None } };
        manifest.files.insert(of.name.clone(), sum);
    }
    if !names.iter().any(|name| name == STATISTICS) {
        to.add(STATISTICS, &[], &*statistics(&manifest, given.frozen(), begun.elapsed())?, |_| {})?;
    }
    let json = manifest.to_json()?;
    if let Some(key) = key {
        if let Some(why) = signed::uncovered(&manifest) {
            return Err(Error::File { path: images.path().into(), why: why.into() });
        }
        to.add(signature::FILE_NAME, &[], &*key.sign(&json), |_| {})?;
    }
    to.add(manifest::FILE_NAME, like(manifest::FILE_NAME), &*json, |_| {})?;
    Ok(to.finish(&manifest.created, sync)?)
}

/// Adds a file of the images. Memory has no room for its pages twice.
fn add(to: &mut Writer, images: &ImageDirectory, name: &str, like: &[Like]) -> Result<()> {
    let fail = |e: io::Error| Error::file(&images.path().join(name), &e);
    let stat = images.stat_of(name).map_err(fail)?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Ok(());
    }
    // A log may grow meanwhile.
    let content = images.file(name).map_err(fail)?.take(stat.st_size.cast_unsigned());
    to.add(name, like, content, |_| {})?;
    if has_pages(name) {
        images.remove(name).map_err(fail)?;
    }
    Ok(())
}
