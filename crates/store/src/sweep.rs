//! Looking after a store: chunks that no checkpoint has any more, and those that are damaged.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::path::Path;
use std::sync::Arc;

use crate::chunks::ChunkReader;
use crate::error::{Error, Result};
use crate::key::{Key, KeyId};
use crate::layout::{FRAME, INDEX, Id, PACKS, UNFINISHED};
use crate::pack::{Pack, is_pack};
use crate::packs::Packs;
use crate::parallel::in_parallel;
use crate::record::{Record, key_of};
use crate::store::{Store, sync_dir};
use crate::writer::PackWriter;

/// The report of a collection.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Collected {
    /// How many bytes the store has less.
    pub freed: u64,
    /// How many packs were removed.
    pub removed: usize,
    /// How many packs were written anew without what nobody needs.
    pub rewritten: usize,
    /// Keys of checkpoints that none of the given keys opens: their packs stay as they are.
    pub unknown: BTreeSet<KeyId>,
}

/// A checkpoint that cannot be restored as it was.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Problem {
    /// Its container.
    pub owner: String,
    /// Its name.
    pub name: String,
    /// The reason.
    pub why: String,
}

/// Which chunks of a pack are needed.
struct Needed {
    chunks: Vec<bool>,
    count: usize,
}

impl Store {
    /// Removes what no checkpoint needs, and what killed writers have left. A pack of which more than half is needed stays.
    ///
    /// # Errors
    /// The store is in use, or a record is damaged: nobody knows then what it needs.
    pub fn gc(&self, keys: &[Key], level: Option<i32>) -> Result<Collected> {
        let _held = self.seize()?;
        let keys = with_none(keys);
        let (mut done, packs) = (Collected::default(), Arc::new(Packs::load(self.root(), &keys)?));
        let mut needed: Vec<_> = packs.0.iter().map(Needed::none).collect();
        for (_, _, path) in self.records()? {
            let id = key_of(&path)?;
            let Some(key) = keys.iter().find(|key| key.id() == id) else {
                done.unknown.insert(id);
                continue;
            };
            let mut reader = ChunkReader::new(&packs, key);
            for chunk in Record::read(&path, key)?.ids() {
                need(&chunk, &packs, &mut reader, id, &mut needed)?;
            }
        }
        for (pack, needed) in packs.0.iter().zip(&needed) {
            let key = keys.iter().find(|key| key.id() == pack.key());
            if done.unknown.contains(&pack.key()) || 2 * needed.count > pack.index.chunks as usize {
                continue;
            }
            let mut bytes = pack.bytes();
            if needed.count > 0 {
                let Some(key) = key else { continue };
                bytes = bytes.saturating_sub(self.rewrite(pack, &packs, needed, (key, level))?);
                done.rewritten += 1;
            } else {
                done.removed += 1;
            }
            remove(pack)?;
            done.freed += bytes;
        }
        done.freed += self.clear()?;
        Ok(done)
    }

    /// Writes the needed chunks of a pack into a new one; its size. Differences become whole chunks.
    fn rewrite(
        &self,
        pack: &Pack,
        packs: &Arc<Packs>,
        needed: &Needed,
        (key, level): (&Key, Option<i32>),
    ) -> Result<u64> {
        let mut to = PackWriter::new(self, key)?;
        let mut reader = ChunkReader::new(packs, key);
        let ids = pack.index.ids().map_err(Error::at(&pack.path))?;
        let wanted = ids.iter().zip(&needed.chunks).filter(|(_, needed)| **needed);
        for id in wanted.filter_map(|(id, _)| id.as_ref()) {
            to.add(*id, &reader.read(id)?, None);
            to.write_full(level)?;
        }
        to.finish(level, &self.root().join(PACKS), true)
    }

    /// Removes what killed writers have left; how many bytes.
    fn clear(&self) -> Result<u64> {
        let mut freed = 0;
        let mut each = |dir: &Path, is_left: &dyn Fn(&Path) -> bool| -> Result<()> {
            for entry in std::fs::read_dir(dir).map_err(Error::at(dir))? {
                let path = entry.map_err(Error::at(dir))?.path();
                if is_left(&path) {
                    freed += std::fs::metadata(&path).map_or(0, |meta| meta.len());
                    std::fs::remove_file(&path).map_err(Error::at(&path))?;
                }
            }
            Ok(())
        };
        each(&self.root().join(UNFINISHED), &|_| true)?;
        each(&self.root().join(PACKS), &|path| is_pack(path) && !path.with_extension(INDEX).exists())?;
        Ok(freed)
    }

    /// Reads every chunk, and compares it with its id. The problems of checkpoints that the keys open; and the keys of the others.
    ///
    /// # Errors
    /// The store cannot be read.
    pub fn verify(&self, keys: &[Key]) -> Result<(Vec<Problem>, BTreeSet<KeyId>)> {
        let _held = self.share()?;
        let keys = with_none(keys);
        let packs = Arc::new(Packs::load(self.root(), &keys)?);
        let mut damaged: BTreeMap<KeyId, HashSet<Id>> = BTreeMap::new();
        for pack in &packs.0 {
            if let Some(key) = keys.iter().find(|key| key.id() == pack.key()) {
                damaged.entry(pack.key()).or_default().extend(of_pack(pack, &packs, key)?);
            }
        }
        let (mut problems, mut unknown) = (Vec::new(), BTreeSet::new());
        for (owner, name, path) in self.records()? {
            let mut note =
                |why: String| problems.push(Problem { owner: owner.clone(), name: name.clone(), why });
            let id = match key_of(&path) {
                Ok(id) => id,
                Err(e) => {
                    note(e.to_string());
                    continue;
                }
            };
            let Some(key) = keys.iter().find(|key| key.id() == id) else {
                unknown.insert(id);
                continue;
            };
            match Record::read(&path, key) {
                Ok(record) => of_record(&record, (&packs, id), damaged.get(&id), note)?,
                Err(e) => note(e.to_string()),
            }
        }
        Ok((problems, unknown))
    }
}

/// The keys, and that of what is not sealed.
fn with_none(keys: &[Key]) -> Vec<Key> {
    keys.iter().cloned().chain([Key::default()]).collect()
}

/// The chunks of a pack that are damaged, or whose base is.
fn of_pack(pack: &Pack, packs: &Arc<Packs>, key: &Key) -> Result<Vec<Id>> {
    let ids = pack.index.ids().map_err(Error::at(&pack.path))?;
    let ids: Vec<Id> = ids.into_iter().flatten().collect();
    in_parallel(&ids, |part| {
        let mut reader = ChunkReader::new(packs, key);
        Ok(part.iter().filter(|id| reader.read(id).is_err()).copied().collect())
    })
}

/// Notes chunks that a record needs, and that are missing or damaged.
fn of_record(
    record: &Record,
    (packs, key): (&Packs, KeyId),
    damaged: Option<&HashSet<Id>>,
    mut note: impl FnMut(String),
) -> Result<()> {
    let (mut missing, mut bad, mut all) = (0u64, 0u64, 0u64);
    for id in record.ids() {
        all += 1;
        if packs.find(key, &id)?.is_none() {
            missing += 1;
        } else if damaged.is_some_and(|damaged| damaged.contains(&id)) {
            bad += 1;
        }
    }
    if missing + bad > 0 {
        note(format!("of {all} chunks {missing} are missing and {bad} are damaged"));
    }
    Ok(())
}

/// Marks a chunk, and the bases that it is a difference from.
fn need(id: &Id, packs: &Packs, reader: &mut ChunkReader, key: KeyId, needed: &mut [Needed]) -> Result<()> {
    let mut next = Some(*id);
    while let Some(id) = next
        && let Some(place) = packs.find(key, &id)?
        && needed[place.pack as usize].add(place.chunk as usize)
    {
        next = reader.base_of(&id)?;
    }
    Ok(())
}

impl Needed {
    fn none(pack: &Pack) -> Self {
        Self { chunks: vec![false; FRAME * pack.index.ends.len()], count: 0 }
    }

    /// Whether it was not marked yet.
    fn add(&mut self, chunk: usize) -> bool {
        let is_new = !std::mem::replace(&mut self.chunks[chunk], true);
        self.count += usize::from(is_new);
        is_new
    }
}

/// First the index, without which a pack is nothing.
fn remove(pack: &Pack) -> Result<()> {
    let index = pack.path.with_extension(INDEX);
    std::fs::remove_file(&index).map_err(Error::at(&index))?;
    pack.path.parent().map_or(Ok(()), sync_dir)?;
    std::fs::remove_file(&pack.path).map_err(Error::at(&pack.path))
}
