//! All packs of a store.

use std::io;
use std::path::Path;

use crate::error::{Error, Result};
use crate::key::{Key, KeyId};
use crate::layout::{INDEX, Id, PACKS, Place};
use crate::pack::{Pack, is_pack};

/// The packs that were there when they were looked for.
#[derive(Default)]
pub(crate) struct Packs(pub(crate) Vec<Pack>);

impl Packs {
    /// Opens all that have an index, of all keys.
    pub(crate) fn load(root: &Path, keys: &[Key]) -> Result<Self> {
        let dir = root.join(PACKS);
        let mut paths = Vec::new();
        for entry in std::fs::read_dir(&dir).map_err(Error::at(&dir))? {
            let path = entry.map_err(Error::at(&dir))?.path();
            if is_pack(&path) && path.with_extension(INDEX).exists() {
                paths.push(path);
            }
        }
        // The newest pack is the likeliest to have a page.
        paths.sort_unstable_by(|a, b| b.cmp(a));
        Ok(Self(paths.iter().map(|path| Pack::open(path, keys)).collect::<Result<_>>()?))
    }

    /// Where a chunk of a key is.
    pub(crate) fn find(&self, key: KeyId, id: &Id) -> Result<Option<Place>> {
        for (pack, number) in self.0.iter().zip(0..) {
            let of_key = pack.key() == key;
            let found = if of_key { pack.index.find(id) } else { Ok(None) };
            let found = found.map_err(|e: io::Error| Error::new(&pack.path.with_extension(INDEX), e))?;
            if let Some(chunk) = found {
                return Ok(Some(Place { pack: number, chunk }));
            }
        }
        Ok(None)
    }

    pub(crate) fn get(&self, place: Place) -> &Pack {
        &self.0[place.pack as usize]
    }
}
