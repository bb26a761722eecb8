//! A file of pages that is written nowhere here: most of its pages are still in a task that stands still, and are read in order when
//! somebody wants the file. So a gigabyte needs no gigabyte more.

use std::io::{self, Read};
use std::ops::Range;

use hiber_criu::pagemap::Run;

use super::finisher::Blocks;
use super::{Batch, Pages, Ranges};

/// Such a file.
#[derive(Debug)]
pub struct Unwritten {
    /// Its name.
    pub name: String,
    /// In bytes.
    pub size: u64,
    /// The task.
    pub(super) pid: i32,
    /// All that it has, in order.
    pub(super) runs: Vec<Run>,
    /// Pages that are here already, and where these are what the memory is.
    pub(super) pages: Pages,
    pub(super) clean: Ranges,
}

impl Unwritten {
    /// Its content. The task must stand still until all of it is read.
    pub fn content(&self) -> impl Read {
        let at = self.runs.first().map_or(0, |run| run.start);
        Content { of: self, run: 0, at, block: vec![0; Blocks::BYTES], ready: 0..0 }
    }
}

struct Content<'a> {
    of: &'a Unwritten,
    /// The run, and the address in it, that come next.
    run: usize,
    at: u64,
    block: Vec<u8>,
    /// The part of the block that is still to be given.
    ready: Range<usize>,
}

impl Content<'_> {
    /// Fills the block with what comes next; how many bytes that are, none at the end.
    fn fill(&mut self) -> io::Result<usize> {
        let mut batch = Batch::default();
        while let Some(run) = self.of.runs.get(self.run) {
            if self.at >= run.end {
                self.run += 1;
                self.at = self.of.runs.get(self.run).map_or(0, |run| run.start);
                continue;
            }
            match here(&self.of.pages, &self.of.clean, self.at, run.end) {
                Ok(_) if !batch.is_empty() => break,
                Ok(here) => {
                    let length = Blocks::BYTES.min((here - self.at) as usize);
                    self.of.pages.read(self.at, &mut self.block[..length])?;
                    self.at += length as u64;
                    return Ok(length);
                }
                Err(until) => {
                    let mut range = self.at..until;
                    let full = batch.add(&mut range);
                    self.at = range.start;
                    if full {
                        break;
                    }
                }
            }
        }
        let (pieces, missing) = batch.read(self.of.pid, &mut self.block);
        match missing.first() {
            Some(range) => {
                let why = format!("the page at {:#x} of process {} cannot be read", range.start, self.of.pid);
                Err(io::Error::other(why))
            }
            None => Ok(pieces.last().map_or(0, |(_, part)| part.end)),
        }
    }
}

impl Read for Content<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.ready.is_empty() {
            self.ready = 0..self.fill()?;
        }
        let part = buffer.len().min(self.ready.len());
        buffer[..part].copy_from_slice(&self.block[self.ready.start..self.ready.start + part]);
        self.ready.start += part;
        Ok(part)
    }
}

/// Up to where pages from an address on are among these and current; else up to where they are not.
pub(super) fn here(pages: &Pages, clean: &Ranges, at: u64, end: u64) -> Result<u64, u64> {
    let clean = clean.at(at).map_err(|next| next.unwrap_or(end).min(end))?;
    match pages.at(&(at..clean.end.min(end))) {
        Ok(here) => Ok(here.end),
        Err(not_here) => Err(not_here.end),
    }
}

#[cfg(test)]
mod tests {
    use hiber_criu::ImageDirectory;
    use hiber_criu::page_protocol::Memory;
    use hiber_criu::pagemap::{PAGE, PRESENT};

    use super::super::{Finisher, Place};
    use super::*;

    /// Of this process, which is read as any other.
    #[test]
    fn pages_come_from_the_task_and_from_the_file_in_their_order() {
        let memory: Vec<u8> = (0..400 * PAGE).map(|n| (n / PAGE) as u8).collect();
        let first = (memory.as_ptr() as u64).next_multiple_of(PAGE);
        let page = |n: u64| first + n * PAGE;
        let dir = tempfile::tempdir().unwrap();
        let place = Place::Here(ImageDirectory::open(dir.path()).unwrap(), Finisher::default());
        let mut pages = Pages::create(&place, "pages-1.img", Memory::Task(1)).unwrap();
        let mut blocks = Blocks::default();
        // Pages 10 to 19 are copied, of which the last five are old.
        let mut block = blocks.take();
        block.bytes_mut()[..10 * PAGE as usize].fill(0xee);
        pages.put(&block, &[(page(10), 0..10 * PAGE as usize)]).unwrap();
        let clean: Ranges = std::iter::once(page(10)..page(15)).collect();
        let run = |from, to| Run { start: page(from), end: page(to), flags: PRESENT };
        let runs = vec![run(0, 2), run(5, 300), run(302, 303)];
        let size = runs.iter().map(|run| run.end - run.start).sum();
        let pid = std::process::id().cast_signed();
        let unwritten = Unwritten { name: "pages-1.img".into(), size, pid, runs, pages, clean };
        let mut found = Vec::new();
        unwritten.content().read_to_end(&mut found).unwrap();
        assert_eq!(found.len() as u64, size);
        let from = (first - memory.as_ptr() as u64) as usize;
        let mut expected = Vec::new();
        for n in (0..2).chain(5..300).chain(302..303) {
            match n {
                10..15 => expected.extend([0xee; PAGE as usize]),
                _ => expected.extend(&memory[from + n * PAGE as usize..from + (n + 1) * PAGE as usize]),
            }
        }
        assert!(found == expected);
    }

    #[test]
    fn a_page_that_is_gone_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let place = Place::Here(ImageDirectory::open(dir.path()).unwrap(), Finisher::default());
        let pages = Pages::create(&place, "pages-1.img", Memory::Task(1)).unwrap();
        let runs = vec![Run { start: PAGE, end: 2 * PAGE, flags: PRESENT }];
        let pid = std::process::id().cast_signed();
        let clean = Ranges::default();
        let unwritten = Unwritten { name: "pages-1.img".into(), size: PAGE, pid, runs, pages, clean };
        let error = unwritten.content().read(&mut [0; 10]).unwrap_err().to_string();
        assert_eq!(error, format!("the page at 0x1000 of process {pid} cannot be read"));
    }
}
