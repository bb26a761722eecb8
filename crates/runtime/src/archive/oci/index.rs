//! index.json, of which all that others have put into it is kept.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};
use serde_json::{Value, json};

use super::{BLOBS, INDEX, INDEX_TYPE, LAYOUT, LAYOUT_VERSION, MAX_JSON, REF_NAME, hex_of};
use crate::error::{Error, Result};

/// Refuses what is no layout, or one of another version.
pub(super) fn check_layout(dir: &Path) -> Result<()> {
    let path = dir.join(LAYOUT);
    let found = read_json(&path)?["imageLayoutVersion"].as_str().map(str::to_owned);
    match found.as_deref() {
        Some(LAYOUT_VERSION) => Ok(()),
        Some(other) => {
            Err(Error::File { path, why: format!("has version {other:?}; expected {LAYOUT_VERSION}") })
        }
        None => Err(Error::File { path, why: "has no imageLayoutVersion".into() }),
    }
}

/// Opens a file that is one: a link or a device in a layout leads elsewhere.
pub(super) fn open_plain(path: &Path) -> Result<File> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = rustix::fs::open(path, flags, Mode::empty()).map_err(|e| match e {
        rustix::io::Errno::LOOP => {
            Error::File { path: path.into(), why: "is a symbolic link; expected a file".into() }
        }
        e => Error::file(path, &e.into()),
    })?;
    let file = File::from(file);
    match file.metadata() {
        Ok(meta) if meta.is_file() => Ok(file),
        Ok(_) => Err(Error::File { path: path.into(), why: "is no file".into() }),
        Err(e) => Err(Error::file(path, &e)),
    }
}

/// Reads a file that is not larger than any index or manifest.
pub(super) fn read_small(path: &Path) -> Result<Vec<u8>> {
    let fail = |e: std::io::Error| Error::file(path, &e);
    let file = open_plain(path)?;
    let mut bytes = Vec::new();
    file.take(MAX_JSON + 1).read_to_end(&mut bytes).map_err(fail)?;
    if bytes.len() as u64 > MAX_JSON {
        let why = format!("is larger than {} MiB, as no index or manifest is", MAX_JSON >> 20);
        return Err(Error::File { path: path.into(), why });
    }
    Ok(bytes)
}

pub(super) fn parse(bytes: &[u8], path: &Path) -> Result<Value> {
    let fail = |why: String| Error::File { path: path.into(), why };
    let value: Value = serde_json::from_slice(bytes).map_err(|e| fail(format!("is no JSON: {e}")))?;
    if value.is_object() { Ok(value) } else { Err(fail("is no JSON object".into())) }
}

fn read_json(path: &Path) -> Result<Value> {
    parse(&read_small(path)?, path)
}

/// The index of a layout; an empty one where there is none yet.
pub(super) fn read(dir: &Path) -> Result<Value> {
    let path = dir.join(INDEX);
    match read_json(&path) {
        Err(_) if !path.exists() => {
            Ok(json!({ "schemaVersion": 2, "mediaType": INDEX_TYPE, "manifests": [] }))
        }
        read => read,
    }
}

/// The images of an index.
pub(super) fn manifests<'a>(index: &'a Value, path: &Path) -> Result<&'a Vec<Value>> {
    let why = "has no list of manifests".to_owned();
    index["manifests"].as_array().ok_or_else(|| Error::File { path: path.into(), why })
}

/// The tag of an image.
pub(super) fn tag(descriptor: &Value) -> Option<&str> {
    descriptor["annotations"][REF_NAME].as_str()
}

/// Puts an image into an index, in the place of the one that has its tag.
pub(super) fn put(index: &mut Value, descriptor: Value, dir: &Path) -> Result<()> {
    let path = dir.join(INDEX);
    manifests(index, &path)?;
    if let Some(manifests) = index["manifests"].as_array_mut() {
        let name = tag(&descriptor).map(str::to_owned);
        manifests.retain(|other| tag(other).is_none() || tag(other) != name.as_deref());
        manifests.push(descriptor);
    }
    Ok(())
}

/// Where the blob of a descriptor is, its digest without the algorithm, and its size.
pub(super) fn blob(dir: &Path, descriptor: &Value, of: &Path) -> Result<(PathBuf, String, u64)> {
    let fail = |why: String| Error::File { path: of.into(), why };
    let digest = descriptor["digest"].as_str().ok_or_else(|| fail("names a blob without a digest".into()))?;
    // It becomes a path.
    let hex = hex_of(digest).ok_or_else(|| {
        fail(format!("names a blob by {}; expected sha256: and 64 digits", digest.escape_debug()))
    })?;
    let size = descriptor["size"].as_u64().ok_or_else(|| fail(format!("names {digest} without a size")))?;
    Ok((dir.join(BLOBS).join(hex), hex.to_owned(), size))
}
