//! The result of a look at the memory of a process.

use std::ops::Range;

use crate::images::Ranges;

/// The pages that were written since the last look.
#[derive(Debug, Default)]
pub struct Written {
    /// Pages that were. Later writes are reported the next time.
    pub pages: Ranges,
    /// Areas of which nothing is known any more: copies of what was there count no more.
    pub unknown: Vec<Range<u64>>,
}
