//! An image that is written. Several programs may write into one layout; hiber's wait for each other where they replace index.json.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use ring::digest::{Context as Hash, SHA256};
use rustix::fs::{CWD, FlockOperation, RenameFlags};
use rustix::io::Errno;
use serde_json::json;

use super::annotations::architecture;
use super::{
    BLOBS, CONFIG_TYPE, DEFAULT_TAG, INDEX, LAYER_TYPE, LAYOUT, LAYOUT_VERSION, MANIFEST_TYPE, OciImage,
    REF_NAME, hex, index, sha256,
};
use crate::error::{Error, Result};
use crate::helpers::unfinished::{self, Identity};
use crate::host::owned;
use crate::host::paths::open_dir;
use crate::tarball::Compression;

/// How long one waits for others that replace index.json, which takes them milliseconds.
const PATIENCE: Duration = Duration::from_secs(30);

/// An image on its way into a layout. Dropped before it is published, nothing of it stays.
pub(in crate::archive) struct Image {
    dir: PathBuf,
    tag: String,
    /// Shared by all who write into the layout, so that nobody removes an empty one under another's hands.
    shared: File,
    made: bool,
    /// The archive, and the next index.json, under hidden names.
    layer: Hidden,
    index: Hidden,
    hashes: Mutex<Hashes>,
    annotations: Mutex<BTreeMap<String, String>>,
    media_type: Mutex<String>,
    /// Blobs that this program has put there.
    blobs: Vec<PathBuf>,
    published: bool,
}

/// Digests of what has been written so far: of the layer as it is, and before it was compressed.
struct Hashes {
    layer: Hash,
    size: u64,
    content: Hash,
}

/// A file under a hidden name, which nobody's sweep removes while it is held.
struct Hidden {
    file: File,
    path: PathBuf,
}

impl Hidden {
    fn make(beside: &Path) -> Result<Self> {
        let (path, file) = unfinished::make_file(beside).map_err(|e| Error::file(beside, &e))?;
        Ok(Self { file, path })
    }

    fn sync(&self, sync: bool) -> Result<()> {
        let synced = if sync { self.file.sync_all() } else { Ok(()) };
        synced.map_err(|e| Error::file(&self.path, &e))
    }
}

impl Drop for Hidden {
    fn drop(&mut self) {
        // One that has its name by now is no longer there.
        let _ = rustix::fs::unlink(&self.path);
    }
}

fn locked<T>(of: &Mutex<T>) -> MutexGuard<'_, T> {
    of.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Image {
    /// Begins an image: what cannot be written is told before the container is stopped.
    pub(in crate::archive) fn begin(to: &OciImage) -> Result<Self> {
        let dir = std::path::absolute(&to.dir).map_err(|e| Error::file(&to.dir, &e))?;
        let made = prepare(&dir)?;
        let begin = || -> Result<(File, Hidden, Hidden)> {
            let shared = File::open(&dir).map_err(|e| Error::file(&dir, &e))?;
            rustix::fs::flock(&shared, FlockOperation::LockShared)
                .map_err(|e| Error::file(&dir, &e.into()))?;
            index::check_layout(&dir)?;
            index::manifests(&index::read(&dir)?, &dir.join(INDEX))?;
            let blobs = dir.join(BLOBS);
            make_dirs(&blobs)?;
            unfinished::sweep(&dir);
            unfinished::sweep(&blobs);
            Ok((shared, Hidden::make(&blobs.join("archive"))?, Hidden::make(&dir.join(INDEX))?))
        };
        let (shared, layer, index) = begin().inspect_err(|_| unmake(&dir, made))?;
        Ok(Self {
            tag: to.tag.clone().unwrap_or_else(|| DEFAULT_TAG.to_owned()),
            dir,
            shared,
            made,
            layer,
            index,
            hashes: Mutex::new(Hashes { layer: Hash::new(&SHA256), size: 0, content: Hash::new(&SHA256) }),
            annotations: Mutex::default(),
            media_type: Mutex::new(LAYER_TYPE.to_owned()),
            blobs: Vec::new(),
            published: false,
        })
    }

    /// The compression that engines read in a layer.
    ///
    /// # Errors
    /// LZ4.
    pub(in crate::archive) fn set_compression(&self, how: Compression) -> Result<()> {
        let suffix = match how {
            Compression::Zstd(_) => "+zstd",
            Compression::None => "",
            Compression::Lz4 => {
                return Err(Error::Invalid(
                    "--compress lz4: engines and registries read no layer of LZ4; expected zstd or none"
                        .into(),
                ));
            }
        };
        *locked(&self.media_type) = format!("{LAYER_TYPE}{suffix}");
        Ok(())
    }

    pub(in crate::archive) fn annotate(&self, annotations: BTreeMap<String, String>) {
        *locked(&self.annotations) = annotations;
    }

    /// Takes note of the archive's bytes before they are compressed.
    pub(in crate::archive) fn saw(&self, bytes: &[u8]) {
        locked(&self.hashes).content.update(bytes);
    }

    /// The place for messages.
    pub(in crate::archive) fn path(&self) -> &Path {
        &self.dir
    }

    /// The file that becomes index.json, with its present name and its identity; the name in the end; and other files that are
    /// nothing before.
    pub(in crate::archive) fn unfinished(&self) -> Result<(PathBuf, Identity, PathBuf, Vec<PathBuf>)> {
        let meta = self.index.file.metadata().map_err(|e| Error::file(&self.index.path, &e))?;
        let identity = (meta.dev(), meta.ino());
        Ok((self.index.path.clone(), identity, self.dir.join(INDEX), vec![self.layer.path.clone()]))
    }

    /// Makes it an image of the layout, when the disk has all of it if it is to wait for that.
    pub(in crate::archive) fn publish(&mut self, sync: bool) -> Result<()> {
        self.layer.sync(sync)?;
        let (layer, size, content) = {
            let hashes = locked(&self.hashes);
            (hex(hashes.layer.clone().finish()), hashes.size, hex(hashes.content.clone().finish()))
        };
        let annotations = locked(&self.annotations).clone();
        let media_type = locked(&self.media_type).clone();
        let created = annotations.get("org.opencontainers.image.created").cloned().unwrap_or_default();
        let config = json!({
            "created": created,
            "architecture": architecture(),
            "os": "linux",
            "config": {},
            "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{content}")]},
            "history": [{"created": created, "created_by": "hiber checkpoint"}],
        });
        let (config, config_size) = self.blob(&config, sync)?;
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": MANIFEST_TYPE,
            "config": {"mediaType": CONFIG_TYPE, "digest": format!("sha256:{config}"), "size": config_size},
            "layers": [{"mediaType": media_type, "digest": format!("sha256:{layer}"), "size": size}],
            "annotations": annotations,
        });
        let (manifest, manifest_size) = self.blob(&manifest, sync)?;
        self.settle(&self.layer.path.clone(), &layer)?;
        let mut on_it = annotations;
        on_it.insert(REF_NAME.to_owned(), self.tag.clone());
        let descriptor = json!({
            "mediaType": MANIFEST_TYPE,
            "digest": format!("sha256:{manifest}"),
            "size": manifest_size,
            "platform": {"architecture": architecture(), "os": "linux"},
            "annotations": on_it,
        });
        if sync {
            [self.dir.join(BLOBS), self.dir.join("blobs")].iter().try_for_each(|dir| sync_dir(dir))?;
        }
        let _exclusive = self.alone()?;
        let mut all = index::read(&self.dir)?;
        index::put(&mut all, descriptor, &self.dir)?;
        let bytes = serde_json::to_vec(&all).map_err(|e| Error::internal("encode index.json", e))?;
        (&self.index.file).write_all(&bytes).map_err(|e| Error::file(&self.index.path, &e))?;
        self.index.sync(sync)?;
        let target = self.dir.join(INDEX);
        std::fs::rename(&self.index.path, &target).map_err(|e| Error::file(&target, &e))?;
        self.published = true;
        if sync { sync_dir(&self.dir) } else { Ok(()) }
    }

    /// Writes a small blob; its digest and its size.
    fn blob(&mut self, value: &serde_json::Value, sync: bool) -> Result<(String, usize)> {
        let bytes =
            serde_json::to_vec(value).map_err(|e| Error::internal("encode an image's manifest", e))?;
        let digest = sha256(&bytes);
        let hidden = Hidden::make(&self.dir.join(BLOBS).join("json"))?;
        (&hidden.file).write_all(&bytes).map_err(|e| Error::file(&hidden.path, &e))?;
        hidden.sync(sync)?;
        self.settle(&hidden.path, &digest)?;
        Ok((digest, bytes.len()))
    }

    /// Gives a blob its name. One that is there is the same.
    fn settle(&mut self, from: &Path, digest: &str) -> Result<()> {
        let to = self.dir.join(BLOBS).join(digest);
        match rustix::fs::renameat_with(CWD, from, CWD, &to, RenameFlags::NOREPLACE) {
            Ok(()) => self.blobs.push(to),
            // Its writer may have been stopped before the disk had it.
            Err(Errno::EXIST) => std::fs::rename(from, &to).map_err(|e| Error::file(&to, &e))?,
            Err(e) => return Err(Error::file(&to, &e.into())),
        }
        Ok(())
    }

    /// Waits until no other hiber replaces index.json.
    fn alone(&self) -> Result<File> {
        let path = self.dir.join(LAYOUT);
        let file = File::open(&path).map_err(|e| Error::file(&path, &e))?;
        let end = Instant::now() + PATIENCE;
        loop {
            match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => return Ok(file),
                Err(Errno::WOULDBLOCK) if Instant::now() < end => {
                    std::thread::sleep(Duration::from_millis(5));
                }
                Err(Errno::WOULDBLOCK) => {
                    let why = format!("another program has locked it for {} s", PATIENCE.as_secs());
                    return Err(Error::File { path, why });
                }
                Err(e) => return Err(Error::file(&path, &e.into())),
            }
        }
    }
}

impl Write for &Image {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = (&self.layer.file).write(bytes)?;
        let mut hashes = locked(&self.hashes);
        hashes.layer.update(&bytes[..written]);
        hashes.size += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for Image {
    fn drop(&mut self) {
        if self.published {
            return;
        }
        for path in self.blobs.drain(..) {
            let _ = rustix::fs::unlink(&path);
        }
        let _ = rustix::fs::unlink(&self.layer.path);
        let _ = rustix::fs::unlink(&self.index.path);
        // Nobody else is at it.
        if rustix::fs::flock(&self.shared, FlockOperation::NonBlockingLockExclusive).is_ok() {
            unmake(&self.dir, self.made);
        }
    }
}

/// Makes a layout where nothing or an empty directory is; whether it was made.
fn prepare(dir: &Path) -> Result<bool> {
    let fail = |e: io::Error| Error::file(dir, &e);
    match std::fs::DirBuilder::new().mode(owned::PRIVATE_DIR.as_raw_mode()).create(dir) {
        Ok(()) => {}
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
            if dir.join(LAYOUT).exists() {
                return Ok(false);
            }
            let mut entries = std::fs::read_dir(dir).map_err(fail)?.flatten();
            // Another program may be making the same one.
            if entries.any(|entry| !entry.file_name().as_encoded_bytes().starts_with(b"."))
                && !dir.join(LAYOUT).exists()
            {
                let why = "is neither empty nor an OCI image layout: it has no oci-layout".into();
                return Err(Error::File { path: dir.into(), why });
            }
        }
        Err(e) => return Err(fail(e)),
    }
    let path = dir.join(LAYOUT);
    let hidden = Hidden::make(&path)?;
    let bytes = json!({ "imageLayoutVersion": LAYOUT_VERSION }).to_string();
    (&hidden.file).write_all(bytes.as_bytes()).map_err(|e| Error::file(&hidden.path, &e))?;
    hidden.sync(true)?;
    match rustix::fs::renameat_with(CWD, &hidden.path, CWD, &path, RenameFlags::NOREPLACE) {
        Ok(()) => Ok(true),
        Err(Errno::EXIST) => Ok(false),
        Err(e) => Err(Error::file(&path, &e.into())),
    }
}

/// Removes a layout that was made in vain, and that has nothing of anybody.
fn unmake(dir: &Path, made: bool) {
    let _ = std::fs::remove_dir(dir.join(BLOBS));
    let gone = std::fs::remove_dir(dir.join("blobs"));
    if made && gone.is_ok() && !dir.join(INDEX).exists() {
        let _ = std::fs::remove_file(dir.join(LAYOUT));
        let _ = std::fs::remove_dir(dir);
    }
}

fn make_dirs(path: &Path) -> Result<()> {
    let mode = owned::PRIVATE_DIR.as_raw_mode();
    std::fs::DirBuilder::new().recursive(true).mode(mode).create(path).map_err(|e| Error::file(path, &e))
}

fn sync_dir(path: &Path) -> Result<()> {
    rustix::fs::fsync(&open_dir(path)?).map_err(|e| Error::file(path, &e.into()))
}
