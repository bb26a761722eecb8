//! What the fuzz targets share: a directory of files in one input.
//!
//! An input is a row of files, each as the index of its name in [`NAMES`] (a byte), its length (a little-endian `u16`),
//! and its content. What is cut off is shorter; an index is taken modulo the number of names. So every input is a
//! directory, and one file can be changed without those before it.

use std::collections::BTreeMap;
use std::sync::Arc;

/// The files that hiber reads of a checkpoint. Only to be added to at the end: seeds name them by index.
pub const NAMES: &[&str] = &[
    "inventory.img",
    "pstree.img",
    "core-1.img",
    "mm-1.img",
    "pagemap-1.img",
    "files.img",
    "fdinfo-2.img",
    "mountpoints-12.img",
    "cgroup.img",
    "seccomp.img",
    "userns-13.img",
    "netns-10.img",
    "pidns-11.img",
    "ids-1.img",
    "fs-1.img",
    "remap-fpath.img",
    "memfd.img",
    "tty-info.img",
    "stats-dump",
    "pages-1.img",
    "descriptors.json",
    "hiber.json",
    "kept.json",
    "core-2.img",
    "pagemap-shmem-5.img",
    "tmpfs-dev-33.tar.gz.img",
    "utsns-11.img",
    "ipcns-var-10.img",
    "timens-0.img",
    "config.dump",
    "ids-2.img",
    "mm-2.img",
    "pagemap-2.img",
    "fs-2.img",
    "fdinfo-3.img",
    "pages-2.img",
];

/// The size of a page.
const PAGE: usize = 4096;
/// Files of memory, of which nobody here reads the content: an input has how many pages there are, in one byte.
const PAGES: &str = "pages-";

/// The files of an input by name.
pub fn files(mut input: &[u8]) -> BTreeMap<String, Arc<[u8]>> {
    let mut files = BTreeMap::new();
    while let [name, a, b, rest @ ..] = input {
        let length = usize::from(u16::from_le_bytes([*a, *b])).min(rest.len());
        let (content, others) = rest.split_at(length);
        let name = NAMES[usize::from(*name) % NAMES.len()];
        let content = match content.first() {
            Some(pages) if name.starts_with(PAGES) => vec![0; usize::from(*pages) * PAGE].into(),
            _ => content.into(),
        };
        files.insert(name.to_owned(), content);
        input = others;
    }
    files
}

/// The input of a file, without a name that is in [`NAMES`] nothing.
pub fn packed(name: &str, content: &[u8]) -> Vec<u8> {
    let pages = [u8::try_from(content.len() / PAGE).unwrap_or(u8::MAX)];
    let content = if name.starts_with(PAGES) { &pages } else { content };
    let index = NAMES.iter().position(|known| *known == name).and_then(|index| u8::try_from(index).ok());
    match (index, u16::try_from(content.len())) {
        (Some(index), Ok(length)) => [&[index][..], &length.to_le_bytes(), content].concat(),
        _ => Vec::new(),
    }
}
