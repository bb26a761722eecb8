//! The names in an archive, and the parts of it that engines read before they look at images.

use std::path::Path;
use std::time::SystemTime;

use oci_spec::runtime::Spec;
use serde_json::json;

use crate::checkpoint::elsewhere::STATISTICS;

/// The directory of the images.
pub(super) const CHECKPOINT: &str = "checkpoint/";
/// The engine's description of the container, and its config.json.
pub(super) const CONFIG: &str = "config.dump";
pub(super) const SPEC: &str = "spec.dump";
/// Beside the directory of the images: CRIU's log, its statistics, and the changes of the root file system.
pub(super) const BESIDE: [&str; 5] = [LOG, STATISTICS, DIFF, DELETED, SHM];
/// Added and changed files of the root file system.
pub(super) const DIFF: &str = "rootfs-diff.tar";
/// Removed ones: a list in JSON.
pub(super) const DELETED: &str = "deleted.files";
/// The content of the container's /dev/shm, which engines keep outside of it.
pub(super) const SHM: &str = "devshm-checkpoint.tar";
const LOG: &str = "dump.log";

/// Annotations in which engines keep the name of a container's image.
const IMAGE_NAMES: [&str; 4] = [
    IMAGE_NAME,
    "io.kubernetes.cri.image-name",
    "io.kubernetes.cri-o.ImageName",
    "org.opencontainers.image.ref.name",
];
/// In a configuration that is made from an archive, the image as the archive called it.
pub(super) const IMAGE_NAME: &str = "org.criu.checkpoint.rootfsImageName";
pub(super) const IMAGE_ID: &str = "org.criu.checkpoint.rootfsImageID";

/// The part of config.dump that is read.
#[derive(Debug, Default, serde::Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct ConfigDump {
    pub(super) rootfs_image_name: String,
    #[serde(rename = "rootfsImageID")]
    pub(super) rootfs_image_id: String,
    pub(super) rootfs_image_ref: String,
}

/// The container, as config.dump has it.
pub(super) struct Described<'a> {
    pub(super) id: &'a str,
    pub(super) spec: &'a Spec,
    pub(super) created: Option<SystemTime>,
    /// In RFC 3339.
    pub(super) checkpointed: &'a str,
}

impl Described<'_> {
    /// The name of its image; empty if no annotation tells.
    pub(super) fn image(&self) -> &str {
        self.annotation(&IMAGE_NAMES)
    }

    fn annotation(&self, names: &[&str]) -> &str {
        let annotations = self.spec.annotations().as_ref();
        names.iter().find_map(|name| annotations?.get(*name)).map_or("", String::as_str)
    }

    /// The content of config.dump: the members that podman, CRI-O and containerd have in common.
    pub(super) fn config(&self) -> serde_json::Value {
        // Go's zero time stands for none.
        let created = self.created.map_or_else(
            || "0001-01-01T00:00:00Z".to_owned(),
            |time| humantime::format_rfc3339_nanos(time).to_string(),
        );
        json!({
            "id": self.id,
            "name": self.id,
            "rootfsImageName": self.image(),
            "rootfsImage": self.image(),
            // podman's and the others' name for the same.
            "rootfsImageID": self.annotation(&[IMAGE_ID]),
            "rootfsImageRef": self.annotation(&[IMAGE_ID]),
            "runtime": "hiber",
            "createdTime": created,
            "checkpointedTime": self.checkpointed,
            "restoredTime": "0001-01-01T00:00:00Z",
            "restored": false,
        })
    }
}

/// Where an entry belongs.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Part<'a> {
    /// Among the images, under this name.
    Image(&'a str),
    /// config.json.
    Spec,
    /// The engine's description.
    Config,
    /// Files of the container's: [`DIFF`], [`DELETED`] or [`SHM`].
    Files(&'static str),
    /// Somewhere else, where a restore does not look.
    Other,
}

/// The part that a file with this path is.
///
/// # Errors
/// Why nothing may have that path.
pub(super) fn part(path: &str) -> Result<Part<'_>, &'static str> {
    let path = path.strip_prefix("./").unwrap_or(path);
    if Path::new(path).is_absolute() || path.split('/').any(|name| name == "..") {
        return Err("leads out of the archive");
    }
    if path.len() > 1024 || path.chars().any(char::is_control) {
        return Err("is no name of a file in a checkpoint");
    }
    match path.strip_prefix(CHECKPOINT) {
        Some(name) if is_image(name) => Ok(Part::Image(name)),
        Some(_) => Err("is no name of a file in a checkpoint"),
        None if path == SPEC => Ok(Part::Spec),
        None if path == CONFIG => Ok(Part::Config),
        None => {
            Ok([DIFF, DELETED, SHM].into_iter().find(|name| *name == path).map_or(Part::Other, Part::Files))
        }
    }
}

/// CRIU's names and ours: a restore looks for no others.
fn is_image(name: &str) -> bool {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-_.".contains(&b);
    !name.is_empty() && name.len() < 256 && !name.starts_with('.') && name.bytes().all(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_of_one_part_or_of_none() {
        for (path, name) in
            [("checkpoint/pages-1.img", "pages-1.img"), ("./checkpoint/hiber.json", "hiber.json")]
        {
            assert_eq!(part(path), Ok(Part::Image(name)));
        }
        assert_eq!(part("spec.dump"), Ok(Part::Spec));
        assert_eq!(part("./rootfs-diff.tar"), Ok(Part::Files(DIFF)));
        assert_eq!(part("./spec.dump"), Ok(Part::Spec));
        for path in ["volumes/a.tar", "x/spec.dump", "checkpoint"] {
            assert_eq!(part(path), Ok(Part::Other), "{path}");
        }
        for path in ["/etc/passwd", "../x", "checkpoint/../spec.dump", "a/..", "checkpoint/..", ".."] {
            assert_eq!(part(path), Err("leads out of the archive"), "{path}");
        }
        let long = format!("checkpoint/{}", "x".repeat(256));
        for path in ["checkpoint/", "checkpoint/a/b", "checkpoint/.x", "checkpoint/a b", "a\nb", &*long] {
            assert_eq!(part(path), Err("is no name of a file in a checkpoint"), "{path}");
        }
    }
}
