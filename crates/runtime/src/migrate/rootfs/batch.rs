//! Steps that go over together, with their bytes.

use super::change::{Change, MAX_BYTES};
use crate::error::Result;

/// About how long the words of a batch may be in JSON: a quarter of what is allowed.
const MAX_WEIGHT: usize = 1 << 20;

/// Takes the steps of a batch and all their bytes, at most [`MAX_BYTES`].
pub(crate) type Send<'a> = &'a mut dyn FnMut(Vec<Change>, &[u8]) -> Result<()>;

/// Steps that were not sent yet.
pub(super) struct Batch<'a> {
    send: Send<'a>,
    changes: Vec<Change>,
    bytes: Vec<u8>,
    weight: usize,
}

impl<'a> Batch<'a> {
    pub(super) fn new(send: Send<'a>) -> Self {
        Self { send, changes: Vec::new(), bytes: Vec::new(), weight: 0 }
    }

    /// `bytes` are those of its ranges, less than [`MAX_BYTES`].
    pub(super) fn add(&mut self, change: Change, bytes: &[u8]) -> Result<()> {
        let weight = change.weight();
        if self.bytes.len() + bytes.len() > MAX_BYTES || self.weight + weight > MAX_WEIGHT {
            self.flush()?;
        }
        self.weight += weight;
        self.bytes.extend(bytes);
        self.changes.push(change);
        Ok(())
    }

    pub(super) fn flush(&mut self) -> Result<()> {
        self.weight = 0;
        let changes = std::mem::take(&mut self.changes);
        if changes.is_empty() {
            return Ok(());
        }
        let sent = (self.send)(changes, &self.bytes);
        self.bytes.clear();
        sent
    }
}
