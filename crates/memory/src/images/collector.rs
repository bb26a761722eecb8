//! Collects pages that somebody else reads, in any order and again and again, and completes the images in the end.

use std::collections::BTreeMap;
use std::io;

use hiber_criu::page_protocol::Memory;
use hiber_criu::pagemap::{self, PAGE};
use hiber_criu::{ImageDirectory, Images};

use super::finisher::Blocks;
use super::{Finisher, PageFile};
use crate::error::{Error, Result};

/// The pages of a checkpoint that is on its way here.
#[derive(Debug)]
pub struct Collector {
    dir: ImageDirectory,
    files: BTreeMap<Memory, PageFile>,
    blocks: Blocks,
}

impl Collector {
    /// None yet; their files will be in `dir`.
    pub fn new(dir: ImageDirectory) -> Self {
        Self { dir, files: BTreeMap::new(), blocks: Blocks::default() }
    }

    /// Keeps these pages, in the place of those that were there.
    ///
    /// # Errors
    /// If they are no whole pages, or cannot be written.
    pub fn put(&mut self, memory: Memory, address: u64, pages: &[u8]) -> Result<()> {
        let name = format!("memory-{}", memory.pagemap());
        let end = address.checked_add(pages.len() as u64);
        if end.is_none() || !address.is_multiple_of(PAGE) || !(pages.len() as u64).is_multiple_of(PAGE) {
            let why = format!("{} bytes at {address:#x} are no pages", pages.len());
            return Err(Error::Images(name, io::Error::new(io::ErrorKind::InvalidData, why)));
        }
        let file = match self.files.remove(&memory) {
            Some(file) => Ok(file),
            None => PageFile::create(&self.dir, &name, &Finisher::default()),
        };
        let file = self.files.entry(memory).or_insert(file.map_err(Error::images(&name))?);
        for (n, part) in pages.chunks(Blocks::BYTES).enumerate() {
            let mut block = self.blocks.take();
            block.bytes_mut()[..part.len()].copy_from_slice(part);
            let put = file.put(&block, &[(address + (n * Blocks::BYTES) as u64, 0..part.len())]);
            self.blocks.give_back(block);
            put.map_err(Error::images(&name))?;
        }
        Ok(())
    }

    /// Makes them the files of pages that the maps in the directory tell of, which are there by now. Memory of which there is no map
    /// is removed.
    ///
    /// # Errors
    /// If a page is missing, a map is malformed, or a file cannot be written.
    pub fn complete(self) -> Result<()> {
        let images = Images::in_directory(&self.dir).map_err(Error::Criu)?;
        for (memory, mut file) in self.files {
            let map = memory.pagemap();
            if !images.has(&map) {
                self.dir.remove(file.name()).map_err(Error::images(file.name()))?;
                continue;
            }
            let (number, runs) = pagemap::runs(&images, &map).map_err(Error::Criu)?;
            let runs = runs.collect::<Result<Vec<_>, _>>().map_err(Error::Criu)?;
            let name = format!("pages-{number}.img");
            file.rename(&self.dir, &name).map_err(Error::images(&name))?;
            file.settle(&runs).map_err(Error::images(&name))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hiber_criu::pagemap::{PRESENT, Run};

    fn collector() -> (tempfile::TempDir, ImageDirectory, Collector) {
        let path = tempfile::tempdir().unwrap();
        let dir = ImageDirectory::open(path.path()).unwrap();
        // The magic number, the length of the message, and its first member: version 2 of the images.
        let inventory = [0x16, 0x31, 0x31, 0x58, 2, 0, 0, 0, 8, 2];
        dir.write("inventory.img", &inventory).unwrap();
        (path, dir.clone(), Collector::new(dir))
    }

    fn pages(values: &[u8]) -> Vec<u8> {
        values.iter().flat_map(|value| [*value; PAGE as usize]).collect()
    }

    #[test]
    fn the_last_of_each_page_is_in_the_images() {
        let (path, dir, mut collector) = collector();
        collector.put(Memory::Task(7), 4 * PAGE, &pages(&[4, 5])).unwrap();
        collector.put(Memory::Task(7), PAGE, &pages(&[1])).unwrap();
        collector.put(Memory::Task(7), 5 * PAGE, &pages(&[6, 7])).unwrap();
        collector.put(Memory::Task(8), 0, &pages(&[9])).unwrap();
        let run = |start, end| Run { start: start * PAGE, end: end * PAGE, flags: PRESENT };
        pagemap::write(&dir, "pagemap-7.img", 3, &[run(1, 2), run(5, 7)]).unwrap();
        collector.complete().unwrap();
        assert_eq!(std::fs::read(path.path().join("pages-3.img")).unwrap(), pages(&[1, 6, 7]));
        assert_eq!(std::fs::read_dir(path.path()).unwrap().count(), 3, "of task 8 there is no map");
    }

    #[test]
    fn a_page_that_never_came_is_told() {
        let (_path, dir, mut collector) = collector();
        collector.put(Memory::Task(7), PAGE, &pages(&[1])).unwrap();
        pagemap::write(&dir, "pagemap-7.img", 3, &[Run { start: PAGE, end: 3 * PAGE, flags: PRESENT }])
            .unwrap();
        let error = collector.complete().unwrap_err().to_string();
        assert_eq!(error, "pages-3.img: the page at 0x2000 was not kept");
    }

    #[test]
    fn bytes_that_are_no_pages_are_refused() {
        let (_path, _dir, mut collector) = collector();
        for (address, length) in [(1, 4096), (PAGE, 4095), (u64::MAX - 4095, 8192)] {
            let error = collector.put(Memory::Task(7), address, &vec![0; length]).unwrap_err().to_string();
            assert!(error.contains("are no pages"), "{error}");
        }
    }
}
