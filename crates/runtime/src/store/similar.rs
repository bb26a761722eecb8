//! Memory of a container in its last checkpoint, by task and address: pages that were written since are often little different.

use std::collections::BTreeMap;
use std::io::Read;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use hiber_criu::pagemap::{self, PAGE, Run};
use hiber_criu::{ImageDirectory, Images};
use hiber_store::{Like, Opened, Writer};

use crate::error::{Error, Result};
use crate::helpers::lazy::stored::has_pages;

/// An earlier checkpoint.
pub(super) struct Earlier {
    opened: Opened,
    /// By the name of the map of a task's pages.
    maps: BTreeMap<String, Map>,
}

/// The pages of a task: the file that they are in, and where in it.
struct Map {
    file: String,
    runs: Vec<(Run, u64)>,
}

impl Earlier {
    /// The checkpoint that a new one follows, if it can be read. A damaged one is similar to nothing.
    pub(super) fn of(writer: &mut Writer) -> Option<Self> {
        let mut find = || -> Result<Option<Self>> {
            let Some(opened) = writer.earlier()? else { return Ok(None) };
            let maps = maps(&described(&opened)?)?;
            Ok(Some(Self { opened, maps }))
        };
        find().inspect_err(|e| tracing::debug!("nothing is compared with an earlier checkpoint: {e}")).ok()?
    }

    /// Where the parts of each new file are in the earlier checkpoint.
    pub(super) fn likes(&self, images: &ImageDirectory) -> Result<BTreeMap<String, Vec<Like>>> {
        let mut all: BTreeMap<String, Vec<Like>> = BTreeMap::new();
        for (name, map) in maps(&Images::in_directory(images)?)? {
            let earlier = self.maps.get(&name).and_then(|map| Some((map, self.opened.file(&map.file)?.0)));
            if let Some((earlier, number)) = earlier {
                all.entry(map.file.clone()).or_default().extend(map.like(earlier, number));
            }
        }
        all.values_mut().for_each(|likes| likes.sort_by_key(|like| like.chunks.start));
        for name in images.names()?.into_iter().filter(|name| !has_pages(name)) {
            if let Some((number, size)) = self.opened.file(&name) {
                all.insert(name, vec![Like { chunks: 0..size.div_ceil(PAGE), earlier: (number, 0) }]);
            }
        }
        Ok(all)
    }
}

impl Map {
    /// The parts that the earlier one has, too.
    fn like(&self, earlier: &Self, number: usize) -> Vec<Like> {
        let mut all = Vec::new();
        let mut others = earlier.runs.iter().peekable();
        for (run, offset) in &self.runs {
            while let Some((other, at)) = others.peek().filter(|(other, _)| other.start < run.end) {
                let Range { start, end } = run.start.max(other.start)..run.end.min(other.end);
                if start < end {
                    let first = (offset + (start - run.start)) / PAGE;
                    let chunks = first..first + (end - start) / PAGE;
                    all.push(Like { chunks, earlier: (number, (at + (start - other.start)) / PAGE) });
                }
                if other.end > run.end {
                    break;
                }
                others.next();
            }
        }
        all
    }
}

/// The images of a checkpoint in a store, without its pages.
fn described(opened: &Opened) -> Result<Images> {
    let mut files = BTreeMap::new();
    for (number, (name, _)) in
        opened.head().files.iter().enumerate().filter(|(_, (name, _))| !has_pages(name))
    {
        let mut content = Vec::new();
        opened.read(number).read_to_end(&mut content).map_err(|e| Error::file(Path::new(name), &e))?;
        files.insert(name.clone(), Arc::from(content));
    }
    Ok(Images::from_memory(Path::new("store"), files)?)
}

fn maps(images: &Images) -> Result<BTreeMap<String, Map>> {
    let mut all = BTreeMap::new();
    for name in images.names()?.into_iter().filter(|name| name.starts_with("pagemap-")) {
        let (number, runs) = pagemap::runs(images, &name)?;
        let (mut offset, mut present) = (0, Vec::new());
        for run in runs {
            let run = run?;
            if run.is_present() {
                present.push((run, offset));
                offset += run.len();
            }
        }
        all.insert(name, Map { file: format!("pages-{number}.img"), runs: present });
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use hiber_criu::pagemap::PRESENT;

    use super::*;

    fn map(runs: &[(u64, u64)]) -> Map {
        let mut offset = 0;
        let place = |(start, end): &(u64, u64)| {
            let run = Run { start: start * PAGE, end: end * PAGE, flags: PRESENT };
            offset += run.len();
            (run, offset - run.len())
        };
        Map { file: "pages-1.img".into(), runs: runs.iter().map(place).collect() }
    }

    #[test]
    fn pages_are_like_those_at_the_same_address() {
        let (earlier, now) = (map(&[(0, 10), (20, 30), (50, 60)]), map(&[(5, 25), (26, 27), (55, 70)]));
        let like = |chunks, at| Like { chunks, earlier: (3, at) };
        assert_eq!(
            now.like(&earlier, 3),
            [like(0..5, 5), like(15..20, 10), like(20..21, 16), like(21..26, 25)]
        );
        assert!(now.like(&map(&[(100, 200)]), 3).is_empty());
    }

    /// Against a page at a time.
    #[test]
    fn it_is_as_if_each_page_were_looked_for() {
        let mut random = fastrand::Rng::with_seed(1);
        let mut any = || {
            let (mut at, mut runs) = (0, Vec::new());
            while at < 200 {
                let start = at + random.u64(0..9);
                at = start + random.u64(1..20);
                runs.push((start, at));
            }
            map(&runs)
        };
        for _ in 0..200 {
            let (earlier, now) = (any(), any());
            let page = |map: &Map, address: u64| {
                let (run, offset) =
                    map.runs.iter().find(|(run, _)| (run.start..run.end).contains(&address))?;
                Some((offset + (address - run.start)) / PAGE)
            };
            let mut expected = BTreeMap::new();
            for address in (0..300).map(|n| n * PAGE) {
                if let (Some(old), Some(new)) = (page(&earlier, address), page(&now, address)) {
                    expected.insert(new, old);
                }
            }
            let found = now.like(&earlier, 0).into_iter();
            let found = found.flat_map(|like| like.chunks.zip(like.earlier.1..)).collect::<BTreeMap<_, _>>();
            assert_eq!(found, expected);
        }
    }
}
