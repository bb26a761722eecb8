//! Archives: podman's layout, and hostile ones.

use std::io::Write;

use super::*;

/// A checkpoint's directory with an inventory, one zombie and a manifest.
fn checkpoint(dir: &Path) {
    std::fs::create_dir(dir).unwrap();
    let common = 0x5456_4319u32.to_le_bytes();
    let image = |magic: u32, entry: &[u8]| {
        [&common[..], &magic.to_le_bytes(), &u32::try_from(entry.len()).unwrap().to_le_bytes(), entry]
            .concat()
    };
    let write = |name: &str, bytes: Vec<u8>| std::fs::write(dir.join(name), bytes).unwrap();
    write("inventory.img", image(0x5831_3116, &[8, 2])[4..].to_vec());
    write("pstree.img", image(0x5027_3030, &[8, 1, 16, 0, 24, 1, 32, 1, 40, 1]));
    let task = [8, 2, 16, 0, 24, 0, 32, 0, 40, 0, 50, 3, b'f', b'o', b'o'];
    write("core-1.img", image(0x5505_3847, &[&[8, 1, 26, 15][..], &task].concat()));
    write("pages-1.img", vec![7; 10_000]);
    let spec = oci_spec::runtime::Spec::default();
    let mut manifest = Manifest::new("c", &spec, &crate::CheckpointOptions::default()).unwrap();
    manifest.criu = "4.2".into();
    manifest.write(&ImageDirectory::open(dir).unwrap(), true, Default::default(), BTreeMap::new()).unwrap();
}

/// The directory as tar, below `checkpoint/`.
fn tar(dir: &Path) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    tar.append_dir_all("checkpoint", dir).unwrap();
    tar.into_inner().unwrap()
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(bytes).unwrap();
    gzip.finish().unwrap()
}

fn zstd(bytes: &[u8]) -> Vec<u8> {
    zstd::bulk::compress(bytes, 1).unwrap()
}

#[test]
fn a_directory_and_its_archives_are_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let plain = dir.path().join("c");
    checkpoint(&plain);
    let archive = tar(&plain);
    for bytes in [None, Some(archive.clone()), Some(gzip(&archive)), Some(zstd(&archive))] {
        let path = match bytes {
            Some(bytes) => {
                let path = dir.path().join("archive");
                std::fs::write(&path, bytes).unwrap();
                path
            }
            None => plain.clone(),
        };
        let inspection = inspect(&path).unwrap();
        assert_eq!(inspection.contents.processes[0].name, "foo");
        assert_eq!((inspection.files, inspection.manifest.unwrap().container.as_str()), (4, "c"));
        assert!(inspection.size > 10_000);
        assert_eq!(verify(&path).unwrap().problems, Vec::<String>::new());
    }
    let mut changed = archive;
    let at = changed.windows(9).position(|w| w == [7; 9]).unwrap();
    changed[at + 500] = 8;
    let path = dir.path().join("archive");
    std::fs::write(&path, changed).unwrap();
    assert_eq!(verify(&path).unwrap().problems, ["pages-1.img: its content is not what was written"]);
}

#[test]
fn mutated_archives_give_an_error_or_a_description() {
    let dir = tempfile::tempdir().unwrap();
    checkpoint(&dir.path().join("c"));
    let tar = tar(&dir.path().join("c"));
    let path = dir.path().join("archive");
    let mut state = 20_261_122u64;
    let mut random = |end: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 16) as usize % end
    };
    let mut refused = 0;
    for original in [gzip(&tar), zstd(&tar), tar.clone()] {
        for round in 0..300 {
            let mut bytes = original.clone();
            for _ in 0..=random(3) {
                let at = random(bytes.len());
                bytes[at] = [0, 0xff, b'7', bytes[at] ^ 1][random(4)];
            }
            if round % 3 == 0 {
                bytes.truncate(random(bytes.len()));
            }
            std::fs::write(&path, &bytes).unwrap();
            refused += usize::from(inspect(&path).is_err());
            let _ = verify(&path);
        }
    }
    assert!(refused > 300, "{refused}");
}

#[test]
fn what_is_no_archive_or_holds_no_checkpoint_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a");
    let told = |bytes: &[u8]| {
        std::fs::write(&path, bytes).unwrap();
        inspect(&path).unwrap_err().to_string()
    };
    assert!(told(b"").contains("no readable archive: truncated"));
    assert!(told(&[b'x'; 600]).contains("expected tar, by itself or with gzip, zstd or lz4"));
    assert!(told(&[0; 1024]).contains("no inventory.img"));
    assert!(inspect(&dir.path().join("nothing")).unwrap_err().to_string().contains("nothing"));
    // a long name of 4 GiB
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(tar::EntryType::GNULongName);
    header.set_size(4 << 30);
    header.set_cksum();
    assert!(told(header.as_bytes()).contains("an extended header of 4294967296 bytes"));
    // an image that claims to be larger than what is kept
    let mut header = tar::Header::new_ustar();
    header.set_path("checkpoint/core-1.img").unwrap();
    header.set_size(1 << 30);
    header.set_cksum();
    assert!(told(header.as_bytes()).contains("larger than 256 MiB"));
}
