//! Files that CRIU opens by name at a restore and compares with those of the dump.

use std::path::{Path, PathBuf};

use hiber_criu::inspect::{Contents, Mount, RegularFile};
use hiber_sandbox::rootfs::resolve::Root;

use super::Findings;
use super::table::ROOTFS;
use crate::container::prepared::Prepared;

/// A process's mode that counts: kind and permissions.
const MODE: u32 = 0o177_777;

/// Compares the files that can be seen from here: on the root and on binds, whose keys and sources are `external`.
pub(super) fn check(
    findings: &mut Findings,
    prepared: &Prepared,
    contents: &Contents,
    external: &[(String, PathBuf)],
) {
    let Some(rootfs) = prepared.plan.init.root.as_ref().map(|root| &root.path) else { return };
    for file in &contents.files {
        let mount = file.mount.and_then(|id| contents.mounts.iter().find(|m| m.id == id));
        let Some((top, inside)) = mount.and_then(|mount| in_host(mount, file, rootfs, external)) else {
            continue;
        };
        let Ok(root) = Root::open_path(&top) else { continue };
        if let Some(problem) = difference(&root, &inside, file) {
            let whose = contents.processes.iter().find(|p| {
                p.executable.as_deref() == Some(&file.path) || p.files.iter().any(|f| f.target == file.path)
            });
            let finding = findings.add(&ROOTFS, problem);
            finding.path = Some(file.path.clone());
            finding.process = whose.and_then(|p| {
                let command = p.arguments.as_ref().map(|a| a.join(" ")).unwrap_or_else(|| p.name.clone());
                Some(super::Process { pid: i32::try_from(p.pid).ok()?, host_pid: None, command })
            });
        }
    }
}

/// The directory of the host that has the mount's content, and the file's path in it; none for what a restore makes.
fn in_host(
    mount: &Mount,
    file: &RegularFile,
    rootfs: &Path,
    external: &[(String, PathBuf)],
) -> Option<(PathBuf, PathBuf)> {
    let absolute = Path::new("/").join(&file.path);
    if mount.mountpoint == "/" {
        return Some((rootfs.to_owned(), absolute));
    }
    let key = mount.external.as_deref()?;
    let (_, source) = external.iter().find(|(known, _)| known == key)?;
    let inside = absolute.strip_prefix(&mount.mountpoint).ok()?.to_owned();
    // A bind of a single file has nothing inside.
    if inside.as_os_str().is_empty() {
        return Some((source.parent()?.to_owned(), PathBuf::from(source.file_name()?)));
    }
    Some((source.clone(), inside))
}

/// Files that CRIU would refuse (files-reg.c, validate_file).
fn difference(root: &Root, inside: &Path, file: &RegularFile) -> Option<String> {
    let found = match root.find(inside) {
        Ok(Some(found)) => found,
        Ok(None) => return Some("a file that was open or mapped is missing".into()),
        Err(_) => return None,
    };
    let stat = rustix::fs::fstat(&found).ok()?;
    let size = u64::try_from(stat.st_size).ok()?;
    let regular = rustix::fs::FileType::from_raw_mode(stat.st_mode) == rustix::fs::FileType::RegularFile;
    match (file.size, file.mode) {
        (Some(was), _) if regular && was != size => {
            Some(format!("a file that was open or mapped has {size} bytes, and had {was}"))
        }
        (_, Some(was)) if was & MODE != stat.st_mode & MODE => {
            Some(format!("a file that was open or mapped has mode {:o}, and had {was:o}", stat.st_mode))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_compared_with_what_it_was() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("f"), "four").unwrap();
        let root = Root::open_path(dir.path()).unwrap();
        let mode = std::os::unix::fs::MetadataExt::mode(&std::fs::metadata(dir.path().join("f")).unwrap());
        let file = |size, mode| {
            let mut file = RegularFile::default();
            (file.path, file.size, file.mode) = ("/f".into(), size, mode);
            file
        };
        assert_eq!(difference(&root, Path::new("/f"), &file(Some(4), Some(mode))), None);
        let size = difference(&root, Path::new("/f"), &file(Some(5), Some(mode))).unwrap();
        assert!(size.contains("has 4 bytes, and had 5"), "{size}");
        assert!(difference(&root, Path::new("/f"), &file(None, Some(mode ^ 0o111))).is_some());
        assert!(difference(&root, Path::new("/g"), &file(None, None)).unwrap().contains("missing"));
    }
}
