//! A checkpoint into an archive.

use std::io::{self, Read, Write};
use std::sync::Arc;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use derive_setters::Setters;
use hiber_criu::ImageDirectory;
use oci_spec::runtime::Spec;
use rustix::fs::FileType;

use super::bundle;
use super::layout::{BESIDE, CHECKPOINT, CONFIG, Described, SPEC};
use super::oci::{self, Origin};
use super::output::{Output, Place};
use super::rootfs::{Root, RootChanges};
use crate::age::{self, Recipients};
use crate::checkpoint::elsewhere::{STATISTICS, statistics};
use crate::checkpoint::manifest::{self, FileSum, Manifest};
use crate::checkpoint::signed;
use crate::checkpoint::staging::{Given, HandOver};
use crate::checkpoint::{CheckpointOptions, elsewhere, spec_as_created};
use crate::container::task::Task;
use crate::error::{Context, Error, Result};
use crate::host::in_memory::Room;
use crate::signature::{self, SigningKey};
use crate::state::scratch::Scratch;
use crate::state::store::Store;
use crate::tarball::{Compression, TarWriter};

/// How to export a checkpoint.
#[derive(Debug, Setters)]
#[non_exhaustive]
pub struct Export {
    /// Where the archive goes.
    #[setters(skip)]
    pub to: Place,
    /// How it is compressed.
    pub compress: Compression,
    /// For whom it is encrypted.
    pub encrypt_to: Recipients,
    /// The key that signs it.
    pub sign_key: Option<Arc<SigningKey>>,
    /// Whether what the container has changed in its root file system goes with it, and how that is found.
    #[setters(strip_option)]
    pub rootfs: Option<RootChanges>,
}

impl Export {
    /// There, and all else as usual.
    pub fn new(to: Place) -> Self {
        let (compress, encrypt_to) = (Compression::default(), Recipients::default());
        Self { to, compress, encrypt_to, sign_key: None, rootfs: None }
    }

    /// Opens the place, which can be read then by whoever reads such places.
    pub(super) fn open(&self) -> Result<Output> {
        if matches!(self.to, Place::Oci(_)) && !self.encrypt_to.is_empty() {
            let why = "--encrypt-to: an image in an OCI layout is not encrypted, for no engine would know its layer; export to a file";
            return Err(Error::Invalid(why.into()));
        }
        let output = Output::open(&self.to)?;
        output.image().map_or(Ok(()), |image| image.set_compression(self.compress))?;
        Ok(output)
    }
}

impl Task {
    /// Writes a checkpoint of the container into an archive, and nothing else to any disk. The archive is whole before the container
    /// is given up: a file has its name and is on the disk, the reader of a pipe has read all. On any failure before that the
    /// container runs on as it was, and no file is left.
    ///
    /// Images pass through memory. The memory of a container that ends does not, where CRIU leaves it to hiber and it is not copied
    /// while the container runs ([`PreCopyMode::On`]): it is read from its processes, which stand still. Where the images go, `options`
    /// does not say.
    ///
    /// # Errors
    /// Those of [`checkpoint`](Self::checkpoint), and why the archive cannot be written.
    pub fn export(&self, export: &Export, mut options: CheckpointOptions) -> Result<()> {
        elsewhere::check(&options, "--export", "an archive")?;
        options.sign_key.clone_from(&export.sign_key);
        let store = Store::of(self.container().entry());
        let mut output = export.open()?;
        let scratch = Scratch::new(&store, Room::MUCH)?;
        let sync = elsewhere::pass_through(&mut options, scratch.images());
        let to = output.to()?;
        let spec = self.container().spec()?;
        let spec = spec_as_created(self, &spec)?;
        let facts = self.facts()?;
        let shm = || bundle::shm_of(&spec, &facts.bundle);
        let root = export.rootfs.as_ref().map(|how| Root::find(&facts.rootfs, shm(), how)).transpose()?;
        let content = Content {
            id: self.container().id().as_str(),
            spec: &spec,
            created: Some(self.facts()?.created),
            passes: true,
        };
        let mut still = |to: &ImageDirectory| root.as_ref().map_or(Ok(()), |root| root.write(to));
        let hand_over = HandOver {
            images: scratch.images(),
            pages: None,
            to,
            still: Some(&mut still),
            give: &mut |given| {
                content.write(&given, &output, export).context("write the archive")?;
                output.publish(sync).context("write the archive")
            },
        };
        self.checkpoint_as(&options, None, Some(hand_over))
    }
}

/// The parts of an archive beside the images.
pub(super) struct Content<'a> {
    pub(super) id: &'a str,
    pub(super) spec: &'a Spec,
    pub(super) created: Option<SystemTime>,
    /// Whether the files of pages are of no use when they are in the archive.
    pub(super) passes: bool,
}

impl Content<'_> {
    /// Writes the archive of complete images.
    pub(super) fn write(&self, given: &Given<'_>, to: &Output, export: &Export) -> Result<()> {
        let images = given.images;
        let fail = |e: io::Error| Error::file(to.path(), &e);
        let manifest = Manifest::read_in(images)?;
        let as_signed =
            if export.sign_key.is_none() { AsSigned::of(images, manifest.as_ref())? } else { None };
        let now = SystemTime::now();
        let time = now.duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs());
        let saw = |bytes: &[u8]| to.image().into_iter().for_each(|image| image.saw(bytes));
        let sealed = Sealed::new(to, &export.encrypt_to).map_err(fail)?;
        let mut tar = TarWriter::new(sealed, export.compress, time).map_err(fail)?;
        if to.image().is_some() {
            tar.tap(&saw);
        }
        let described = self.describe(&mut tar, manifest.as_ref(), (now, to), fail)?;
        let names = images.names()?;
        let unwritten = |name: &str| given.unwritten.iter().any(|of| of.name == name);
        let files = names.iter().map(String::as_str).filter(|name| !unwritten(name));
        let files = files.filter(|name| is_exported(name, manifest.as_ref()));
        let (beside, within): (Vec<_>, Vec<_>) = files.partition(|name| BESIDE.contains(name));
        for name in beside {
            self.add(&mut tar, images, "", name, fail)?;
        }
        tar.directory(CHECKPOINT).map_err(fail)?;
        for name in within {
            self.add(&mut tar, images, CHECKPOINT, name, fail)?;
        }
        if let Some(AsSigned { manifest, signature }) = as_signed {
            return seal(tar, &[(manifest::FILE_NAME, manifest), (signature::FILE_NAME, signature)])
                .map_err(fail);
        }
        // Only now are hashes of the rest known.
        let Some(mut manifest) = manifest else {
            if export.sign_key.is_some() {
                let why = "has no hiber.json, which would be signed".into();
                return Err(Error::File { path: images.path().into(), why });
            }
            return seal(tar, &[]).map_err(fail);
        };
        let hashed = manifest.files.values().any(|file| file.blake3.is_some());
        let unhashed = |sum: FileSum| if hashed { sum } else { FileSum { blake3: None, ..sum } };
        manifest.archive =
            described.into_iter().map(|(name, sum)| (name.to_owned(), unhashed(sum))).collect();
        // Another engine has no such files among the images when it has unpacked the archive.
        for name in BESIDE {
            manifest.files.remove(name).and_then(|sum| manifest.archive.insert(name.to_owned(), sum));
        }
        let begun = Instant::now();
        for of in &given.unwritten {
            let mut content = Hashing { from: of.content(), hasher: hashed.then(blake3::Hasher::new) };
            tar.file(&format!("{CHECKPOINT}{}", of.name), of.size, &mut content).map_err(fail)?;
            let sum = content.hasher.map(|hasher| FileSum::of_hashed(&hasher));
            sum.map(|sum| manifest.files.insert(of.name.clone(), sum));
        }
        if self.passes && !names.iter().any(|name| name == STATISTICS) {
            let bytes = statistics(&manifest, given.frozen(), begun.elapsed())?;
            tar.file(STATISTICS, bytes.len() as u64, &*bytes).map_err(fail)?;
        }
        seal(tar, &signed(&manifest, images, export.sign_key.as_deref())?).map_err(fail)
    }

    /// Adds config.dump and spec.dump.
    fn describe(
        &self,
        tar: &mut TarWriter<'_, Sealed<&Output>>,
        manifest: Option<&Manifest>,
        (now, to): (SystemTime, &Output),
        fail: impl Fn(io::Error) -> Error,
    ) -> Result<Vec<(&'static str, FileSum)>> {
        let checkpointed = manifest.map_or_else(
            || humantime::format_rfc3339_seconds(now).to_string(),
            |manifest| manifest.created.clone(),
        );
        let described =
            Described { id: self.id, spec: self.spec, created: self.created, checkpointed: &checkpointed };
        if let Some(image) = to.image() {
            let criu = manifest.map(|manifest| &*manifest.criu);
            let (id, spec, created) = (self.id, self.spec, &*checkpointed);
            image.annotate(oci::annotations(&Origin { id, spec, image: described.image(), created, criu }));
        }
        let mut sums = Vec::new();
        for (name, json) in [(CONFIG, Ok(described.config())), (SPEC, serde_json::to_value(self.spec))] {
            let json = json.and_then(|json| serde_json::to_vec(&json));
            let json = json.map_err(|e| Error::internal(format!("encode {name}"), e))?;
            tar.file(name, json.len() as u64, &*json).map_err(&fail)?;
            sums.push((name, FileSum::of(&*json).map_err(&fail)?));
        }
        Ok(sums)
    }

    /// Adds a file of the images.
    fn add(
        &self,
        tar: &mut TarWriter<'_, Sealed<&Output>>,
        images: &ImageDirectory,
        place: &str,
        name: &str,
        fail: impl Fn(io::Error) -> Error,
    ) -> Result<()> {
        let failed = |e: io::Error| Error::file(&images.path().join(name), &e);
        let stat = images.stat_of(name).map_err(failed)?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Ok(());
        }
        // A log may grow meanwhile.
        let (file, size) = (images.file(name).map_err(failed)?, stat.st_size.cast_unsigned());
        tar.file(&format!("{place}{name}"), size, file).map_err(fail)?;
        if self.passes && name.starts_with("pages-") {
            images.remove(name).map_err(failed)?;
        }
        Ok(())
    }
}

/// The manifest and its signature, which go along as they are.
struct AsSigned {
    manifest: Vec<u8>,
    signature: Vec<u8>,
}

impl AsSigned {
    /// Those of a checkpoint that is signed.
    ///
    /// # Errors
    /// The manifest is of another archive, some files of which are not here.
    fn of(images: &ImageDirectory, manifest: Option<&Manifest>) -> Result<Option<Self>> {
        let (Some(json), Some(signature)) = signed::parts(images)? else { return Ok(None) };
        let missing: Vec<_> =
            manifest.iter().flat_map(|manifest| manifest.archive.keys().map(String::as_str)).collect();
        if missing.is_empty() {
            return Ok(Some(Self { manifest: json, signature }));
        }
        let why = format!(
            "is signed together with {} of the archive that it came in, which are not kept: pass --sign-key, to sign it anew",
            missing.join(", ")
        );
        Err(Error::File { path: images.path().into(), why })
    }
}

/// Whether a file belongs to the checkpoint: others may lie beside the images, such as logs of restores.
fn is_exported(name: &str, manifest: Option<&Manifest>) -> bool {
    let last = [manifest::FILE_NAME, signature::FILE_NAME];
    !last.contains(&name)
        && manifest.is_none_or(|manifest| manifest.files.contains_key(name) || BESIDE.contains(&name))
}

/// The manifest as a file, and its signature.
fn signed(
    manifest: &Manifest,
    images: &ImageDirectory,
    key: Option<&SigningKey>,
) -> Result<Vec<(&'static str, Vec<u8>)>> {
    let mut files = vec![(manifest::FILE_NAME, manifest.to_json()?)];
    if let Some(key) = key {
        if let Some(why) = signed::uncovered(manifest) {
            return Err(Error::File { path: images.path().into(), why: why.into() });
        }
        files.push((signature::FILE_NAME, key.sign(&files[0].1)));
    }
    Ok(files)
}

/// Completes an archive by its last files.
fn seal(mut tar: TarWriter<'_, Sealed<&Output>>, last: &[(&str, Vec<u8>)]) -> io::Result<()> {
    for (name, content) in last {
        tar.file(&format!("{CHECKPOINT}{name}"), content.len() as u64, &**content)?;
    }
    tar.finish().and_then(Sealed::finish)
}

/// An archive on its way, encrypted or not.
enum Sealed<W> {
    Plain(W),
    Encrypted(Box<age::Sealer<W>>),
}

impl<W: Write> Sealed<W> {
    fn new(to: W, recipients: &Recipients) -> io::Result<Self> {
        Ok(if recipients.is_empty() {
            Self::Plain(to)
        } else {
            Self::Encrypted(Box::new(age::encrypt(to, recipients)?))
        })
    }

    fn finish(self) -> io::Result<()> {
        match self {
            Self::Plain(_) => Ok(()),
            Self::Encrypted(sealer) => sealer.finish().map(drop),
        }
    }
}

impl<W: Write> Write for Sealed<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Plain(to) => to.write(bytes),
            Self::Encrypted(to) => to.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Plain(to) => to.flush(),
            Self::Encrypted(to) => to.flush(),
        }
    }
}

/// Hashes what is read, if it is to be hashed.
struct Hashing<R> {
    from: R,
    hasher: Option<blake3::Hasher>,
}

impl<R: Read> Read for Hashing<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.from.read(buffer)?;
        if let Some(hasher) = &mut self.hasher {
            hasher.update(&buffer[..read]);
        }
        Ok(read)
    }
}
