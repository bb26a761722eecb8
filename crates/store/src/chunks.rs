//! Reading chunks by their ids.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::error::{Error, Result};
use crate::key::{Chunks, Key};
use crate::layout::{FRAME, Id, PACKS, Place};
use crate::pack::{Frame, difference};
use crate::packs::Packs;

/// How many frames are remembered: pages in a row may be in several packs.
const REMEMBERED: usize = 8;

/// A base is whole when a difference is made. Another writer may have stored the base as a difference at the same time.
const MAX_DEPTH: u32 = 8;

/// Reads chunks, and remembers frames. Each thread has its own.
pub(crate) struct ChunkReader {
    packs: Arc<Packs>,
    key: Key,
    ids: Chunks,
    frames: VecDeque<((u32, usize), Frame)>,
}

impl std::fmt::Debug for ChunkReader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ChunkReader({:?})", self.key)
    }
}

impl ChunkReader {
    pub(crate) fn new(packs: &Arc<Packs>, key: &Key) -> Self {
        Self { packs: Arc::clone(packs), key: key.clone(), ids: key.chunks(), frames: VecDeque::new() }
    }

    /// A chunk, compared with its id.
    ///
    /// # Errors
    /// It is missing or damaged.
    pub(crate) fn read(&mut self, id: &Id) -> Result<Vec<u8>> {
        self.read_within(id, MAX_DEPTH)
    }

    /// As [`read`](Self::read), of a chunk behind no more than so many differences.
    fn read_within(&mut self, id: &Id, depth: u32) -> Result<Vec<u8>> {
        let (place, mut chunk, base) = self.stored(id)?;
        let mut whole = true;
        if let Some(base) = base {
            let content = if depth > 0 { self.read_within(&base, depth - 1)? } else { Vec::new() };
            whole = content.len() == chunk.len();
            chunk = difference(&chunk, &content);
        }
        if whole && self.ids.id(&chunk) == *id {
            return Ok(chunk);
        }
        let number = place.chunk as usize / FRAME;
        Err(Error::bad(&self.packs.get(place).path, format!("is damaged in its frame {number}")))
    }

    /// The chunk that differences from this one are to be differences from: the chunk itself, or its own base.
    pub(crate) fn base(&mut self, id: &Id) -> Result<(Id, Vec<u8>)> {
        let base = self.base_of(id)?.unwrap_or(*id);
        Ok((base, self.read(&base)?))
    }

    /// The base of a chunk that is a difference.
    pub(crate) fn base_of(&mut self, id: &Id) -> Result<Option<Id>> {
        Ok(self.stored(id)?.2)
    }

    /// A chunk as it is in its pack.
    fn stored(&mut self, id: &Id) -> Result<(Place, Vec<u8>, Option<Id>)> {
        let packs = &self.packs;
        let missing =
            || Error::bad(PACKS.as_ref(), format!("a chunk is missing: {}", blake3::Hash::from_bytes(*id)));
        let place = packs.find(self.key.id(), id)?.ok_or_else(missing)?;
        let number = (place.pack, place.chunk as usize / FRAME);
        let at = match self.frames.iter().position(|(is, _)| *is == number) {
            Some(at) => at,
            None => {
                let frame = packs.get(place).frame(number.1)?;
                self.frames.truncate(REMEMBERED - 1);
                self.frames.push_front((number, frame));
                0
            }
        };
        let (chunk, base) = self.frames[at].1.chunk(place.chunk as usize % FRAME).ok_or_else(missing)?;
        Ok((place, chunk.to_vec(), base))
    }
}
