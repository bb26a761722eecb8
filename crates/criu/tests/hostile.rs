//! Images that are truncated, corrupted or made to harm give an error or a description: never a crash, an endless
//! loop, or memory without bounds.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use fastrand::Rng;
use hiber_criu::Images;
use hiber_criu::inspect::{Contents, State};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

type Files = BTreeMap<String, Arc<[u8]>>;

fn corpus() -> Files {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus/redis");
    let read = |entry: std::io::Result<std::fs::DirEntry>| {
        let entry = entry.unwrap();
        (entry.file_name().into_string().unwrap(), std::fs::read(entry.path()).unwrap().into())
    };
    std::fs::read_dir(dir).unwrap().map(read).collect()
}

fn read(files: Files) -> Result<Contents, String> {
    let images = Images::from_memory(Path::new("corpus"), files).map_err(|e| e.to_string())?;
    Contents::read(&images).map_err(|e| e.to_string())
}

/// Changes a file as bad disks, broken copies and bad people do.
fn mutate(bytes: &mut Vec<u8>, random: &mut Rng) {
    let at = random.usize(..bytes.len().max(1));
    match random.usize(..7) {
        0 => bytes.truncate(at),
        1 => bytes[at] ^= 1 << random.usize(..8),
        2 => bytes[at] = [0, 0x7f, 0x80, 0xff][random.usize(..4)],
        // an entry's length, or a number in it
        3 => {
            let number = [0, 1, 0x7fff_ffff, 0x8000_0000, u32::MAX][random.usize(..5)];
            for (place, byte) in bytes[at..].iter_mut().zip(number.to_le_bytes()) {
                *place = byte;
            }
        }
        4 => drop(bytes.drain(at..(at + 1 + random.usize(..8)).min(bytes.len()))),
        5 => {
            let part = bytes[at..(at + 64).min(bytes.len())].to_vec();
            for _ in 0..=random.usize(..50) {
                bytes.splice(at..at, part.iter().copied());
            }
        }
        _ => bytes.splice(at..at, [0xff; 10]).for_each(drop),
    }
}

/// A reader that asks for more memory is killed, so the test sees it.
fn limit_memory() {
    let limit = Rlimit { current: Some(2 << 30), ..getrlimit(Resource::As) };
    setrlimit(Resource::As, limit).unwrap();
}

#[test]
fn the_corpus_is_read_whole() {
    let contents = read(corpus()).unwrap();
    let names: Vec<_> = contents.processes.iter().map(|p| p.name.as_str()).collect();
    assert_eq!(names, ["sh", "redis-server", "redis-cli", "cat", "sleep"]);
    assert!(contents.processes.iter().all(|p| p.state == State::Alive && p.files.len() > 2));
    assert_eq!((contents.sockets.len(), contents.mounts.len(), contents.cgroups.len()), (3, 25, 1));
    assert_eq!(
        contents.processes[1].memory.iter().map(|m| m.stored).sum::<u64>(),
        2_523_136,
        "the size of its pages"
    );
    assert_eq!(contents.statistics.unwrap().pages_written, 943);
}

#[test]
fn mutated_images_give_an_error_or_a_description() {
    limit_memory();
    let (original, mut random) = (corpus(), Rng::with_seed(20_261_122));
    let names: Vec<_> = original.keys().cloned().collect();
    let (mut good, mut bad) = (0, 0);
    for _ in 0..3000 {
        let mut files = original.clone();
        for _ in 0..=random.usize(..3) {
            let name = &names[random.usize(..names.len())];
            let mut bytes = files[name].to_vec();
            mutate(&mut bytes, &mut random);
            files.insert(name.clone(), bytes.into());
        }
        let start = Instant::now();
        match read(files) {
            Ok(_) => good += 1,
            Err(e) => {
                assert!(e.starts_with("corpus/"), "the file is not named: {e}");
                bad += 1;
            }
        }
        assert!(start.elapsed() < Duration::from_secs(10));
    }
    assert!(good > 100 && bad > 100, "mutations must be neither all seen nor all unseen: {good}, {bad}");
}

#[test]
fn each_file_truncated_anywhere_gives_an_error_or_a_description() {
    limit_memory();
    let original = corpus();
    for (name, bytes) in &original {
        for end in (0..bytes.len()).step_by(1 + bytes.len() / 25) {
            let mut files = original.clone();
            files.insert(name.clone(), bytes[..end].into());
            let _ = read(files);
        }
        let mut files = original.clone();
        files.remove(name);
        let _ = read(files);
    }
}

/// A file of magic numbers and entries.
fn image(magic: u32, entries: &[Vec<u8>]) -> Arc<[u8]> {
    let mut bytes = [0x5456_4319u32.to_le_bytes(), magic.to_le_bytes()].concat();
    for entry in entries {
        bytes.extend(u32::try_from(entry.len()).unwrap().to_le_bytes());
        bytes.extend(entry);
    }
    bytes.into()
}

fn refused(name: &str, file: Arc<[u8]>) -> String {
    let mut files = corpus();
    assert!(files.insert(name.into(), file).is_some(), "{name} is of the corpus");
    read(files).unwrap_err()
}

#[test]
fn images_that_would_cost_more_than_their_size_are_refused() {
    limit_memory();
    // an entry of 17 MiB, as a list of empty areas: fifty times that in memory
    let huge = [0x72, 0].repeat(17 << 19);
    assert!(
        refused("mm-1.img", image(0x5749_2820, &[huge])).contains("mm-1.img: has an entry of 17825792 bytes")
    );
    // task 1 twice, so that following parents or threads goes round
    let task = vec![8, 1, 16, 0, 24, 1, 32, 1, 40, 1];
    assert!(refused("pstree.img", image(0x5027_3030, &[task.clone(), task])).contains("names task 1 twice"));
    // runs of pages that all cover everything
    let run = [vec![8, 0, 16, 0, 40], vec![0xff; 4], vec![0xff, 0x3f]].concat();
    let pagemap = image(0x5608_4025, &[vec![8, 1], run.clone(), run]);
    assert!(refused("pagemap-1.img", pagemap).contains("overlap, are out of order, or end nowhere"));
    // cgroups in cgroups in cgroups
    let mut nested = vec![10, 0];
    for _ in 0..200 {
        let mut outer = vec![10, 0, 18, 0x80 | (nested.len() & 0x7f) as u8, (nested.len() >> 7) as u8];
        outer.extend(nested);
        nested = outer;
    }
    let controller =
        [vec![18, 0x80 | (nested.len() & 0x7f) as u8, (nested.len() >> 7) as u8], nested].concat();
    let entry = [vec![18, 0x80 | (controller.len() & 0x7f) as u8, (controller.len() >> 7) as u8], controller]
        .concat();
    assert!(
        refused("cgroup.img", image(0x5938_3330, &[entry])).contains("cgroup.img: has a malformed entry")
    );
}
