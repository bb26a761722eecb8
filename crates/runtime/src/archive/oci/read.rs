//! An image that is read. Whatever the layout says of a blob is compared with what the blob is.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use ring::digest::{Context as Hash, SHA256};
use serde_json::Value;

use super::{INDEX, INDEX_TYPE, MANIFEST_TYPE, OciImage, hex, index, sha256};
use crate::error::{Error, Result};

/// The archive in an image. Its content is good only after [`finish`](Self::finish).
pub(in crate::archive) struct Opened {
    file: File,
    path: PathBuf,
    hash: Hash,
    /// Bytes that are still to come.
    left: u64,
    expected: String,
}

impl OciImage {
    /// Opens the layer that has the checkpoint.
    pub(in crate::archive) fn open(&self) -> Result<Opened> {
        index::check_layout(&self.dir)?;
        let (manifest, path) = self.manifest()?;
        let fail = |why: &str| Error::File { path: path.clone(), why: why.into() };
        let layers = manifest["layers"].as_array().ok_or_else(|| fail("has no list of layers"))?;
        let [layer] = &**layers else {
            return Err(fail(&format!("has {} layers; a checkpoint has one, its archive", layers.len())));
        };
        let (path, expected, left) = index::blob(&self.dir, layer, &path)?;
        let file = index::open_plain(&path)?;
        let size = file.metadata().map_err(|e| Error::file(&path, &e))?.len();
        if size != left {
            return Err(Error::File { path, why: format!("has {size} bytes; its manifest says {left}") });
        }
        Ok(Opened { file, path, hash: Hash::new(&SHA256), left, expected })
    }

    /// The manifest of the image, and its path.
    fn manifest(&self) -> Result<(Value, PathBuf)> {
        let mut path = self.dir.join(INDEX);
        let mut descriptor = self.choose(&index::parse(&index::read_small(&path)?, &path)?, &path)?;
        // An index of platforms has one more below it.
        for _ in 0..2 {
            let (blob, digest, size) = index::blob(&self.dir, &descriptor, &path)?;
            let bytes = index::read_small(&blob)?;
            if bytes.len() as u64 != size || sha256(&bytes) != digest {
                return Err(Error::File { path: blob, why: "is not what its digest and size say".into() });
            }
            let value = index::parse(&bytes, &blob)?;
            path = blob;
            match value["mediaType"].as_str().or(descriptor["mediaType"].as_str()) {
                Some(INDEX_TYPE) => {
                    descriptor = match &**index::manifests(&value, &path)? {
                        [one] => one.clone(),
                        several => {
                            let why = format!("has {} images; expected one", several.len());
                            return Err(Error::File { path, why });
                        }
                    };
                }
                Some(MANIFEST_TYPE) => return Ok((value, path)),
                other => {
                    let why = format!("is {}; expected {MANIFEST_TYPE}", other.unwrap_or("of no type"));
                    return Err(Error::File { path, why });
                }
            }
        }
        Err(Error::File { path, why: "is an index in an index; expected an image".into() })
    }

    fn choose(&self, index: &Value, path: &Path) -> Result<Value> {
        let all = index::manifests(index, path)?;
        let found: Vec<_> = match &self.tag {
            Some(tag) => all.iter().filter(|one| index::tag(one) == Some(tag)).collect(),
            None => all.iter().collect(),
        };
        if let [one] = &*found {
            return Ok((*one).clone());
        }
        let tags: Vec<_> =
            all.iter().filter_map(index::tag).map(|tag| tag.escape_debug().to_string()).collect();
        let there = if tags.is_empty() { "none".to_owned() } else { tags.join(", ") };
        let why = match &self.tag {
            Some(tag) => {
                format!("has {} images with the tag {tag}; expected one (tags: {there})", found.len())
            }
            None => format!("has {} images; expected one, or oci:DIR:TAG (tags: {there})", found.len()),
        };
        Err(Error::File { path: path.into(), why })
    }
}

impl Opened {
    /// Reads the rest, and compares all that was read with its digest.
    pub(in crate::archive) fn finish(mut self) -> Result<()> {
        io::copy(&mut self, &mut io::sink()).map_err(|e| Error::file(&self.path, &e))?;
        let found = hex(self.hash.finish());
        if self.left > 0 || found != self.expected {
            let why = format!("has the SHA-256 {found}; expected {}, by which it is called", self.expected);
            return Err(Error::File { path: self.path, why });
        }
        Ok(())
    }
}

impl Read for Opened {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = buffer.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
        let read = self.file.read(&mut buffer[..most])?;
        self.hash.update(&buffer[..read]);
        self.left -= read as u64;
        Ok(read)
    }
}
