//! A client's options for one task: the `options` of Create, in the three shapes that containerd has.

use std::path::{Path, PathBuf};

use containerd_shim_protos::protobuf::well_known_types::any::Any;
use containerd_shim_protos::protobuf::{self, CodedInputStream, Message, UnknownValueRef};
use containerd_shim_protos::shim::oci;
use hiber_sandbox::ids;
use serde::{Deserialize, Serialize};

use crate::error::{Context, Error, Result};

/// Where containers are kept if nobody says otherwise: one directory per containerd namespace below it.
const DEFAULT_ROOT: &str = "/run/containerd/hiber";
/// The options' file in the bundle, for `delete`.
const FILE: &str = "options.json";

/// Options of a task. The names are those of containerd's configuration.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default, deny_unknown_fields)]
pub(crate) struct Options {
    pub(crate) no_pivot_root: bool,
    pub(crate) no_new_keyring: bool,
    /// A cgroup that the shim itself is put into.
    pub(crate) shim_cgroup: String,
    /// Owners of the pipes for standard input and output.
    pub(crate) io_uid: u32,
    pub(crate) io_gid: u32,
    /// For runc's shim; here the runtime is a library.
    pub(crate) binary_name: String,
    pub(crate) root: PathBuf,
    /// The criu program.
    pub(crate) criu_path: PathBuf,
    pub(crate) systemd_cgroup: bool,
    /// Restore from there.
    pub(crate) criu_image_path: PathBuf,
    pub(crate) criu_work_path: PathBuf,
    /// Of the message that carries the others; containerd 1.7 and newer pass them on.
    pub(crate) type_url: String,
    pub(crate) config_path: String,
    /// Of containerd 2's remote sandboxes, which this shim does not serve.
    pub(crate) task_api_address: String,
    pub(crate) task_api_version: u32,
}

impl Options {
    /// Reads the `Any` of a request; none at all are the defaults.
    pub(crate) fn from_any(any: Option<&Any>) -> Result<Self> {
        let Some(any) = any.filter(|any| !any.type_url.is_empty()) else { return Ok(Self::default()) };
        let field = |name: &str| format!("options ({}){name}", any.type_url);
        let options: Self = match type_name(any) {
            "containerd.runc.v1.Options" => {
                let options = oci::Options::parse_from_bytes(&any.value)
                    .map_err(|e| Error::invalid(field(""), e.to_string()))?;
                options.into()
            }
            "runtimeoptions.v1.Options" => {
                let options = RuntimeOptions::parse(&any.value).map_err(|e| Error::invalid(field(""), e))?;
                let text = if options.config_body.is_empty() && !options.config_path.is_empty() {
                    std::fs::read_to_string(&options.config_path).map_err(|e| {
                        Error::invalid(field(".config_path"), format!("{}: {e}", options.config_path))
                    })?
                } else {
                    options.config_body
                };
                toml::from_str(&text).map_err(|e| Error::invalid(field(".config"), one_line(&e)))?
            }
            "containerd.linux.runc.CreateOptions" => {
                Self::of_client_1(&any.value).map_err(|e| Error::invalid(field(""), e))?
            }
            _ => {
                let expected = "expected containerd.runc.v1.Options, runtimeoptions.v1.Options or \
                                containerd.linux.runc.CreateOptions";
                return Err(Error::invalid(field(""), expected));
            }
        };
        let owner = [(".io_uid", options.io_uid), (".io_gid", options.io_gid)];
        match owner.into_iter().find(|(_, id)| *id > ids::MAX) {
            Some((name, id)) => Err(Error::invalid(field(name), ids::no_id(id))),
            None => Ok(options),
        }
    }

    /// `containerd.linux.runc.CreateOptions`: the library of containerd 1's clients sends them in place of all others, for runtimes
    /// not called io.containerd.runc, where a client asks for something of them (`ctr run --uidmap`, `--no-pivot`).
    /// containerd-shim-protos lacks the message.
    fn of_client_1(bytes: &[u8]) -> std::result::Result<Self, String> {
        let mut options = Self::default();
        fields(bytes, |field, input| {
            match field {
                (1, VARINT) => options.no_pivot_root = input.read_bool()?,
                (8, VARINT) => options.no_new_keyring = input.read_bool()?,
                (9, BYTES) => options.shim_cgroup = input.read_string()?,
                (10, VARINT) => options.io_uid = input.read_uint32()?,
                (11, VARINT) => options.io_gid = input.read_uint32()?,
                (12, BYTES) => options.criu_work_path = input.read_string()?.into(),
                (13, BYTES) => options.criu_image_path = input.read_string()?.into(),
                _ => return Ok(false),
            }
            Ok(true)
        })?;
        Ok(options)
    }

    /// The directory of the containers of a containerd namespace.
    pub(crate) fn runtime_root(&self, namespace: &str) -> PathBuf {
        let root = if self.root.as_os_str().is_empty() { Path::new(DEFAULT_ROOT) } else { &self.root };
        root.join(namespace)
    }

    /// Writes them into the bundle.
    pub(crate) fn save(&self, bundle: &Path) -> Result<()> {
        let path = bundle.join(FILE);
        let write = || std::fs::write(&path, serde_json::to_vec(self)?);
        write().context(path.display().to_string())
    }

    /// Reads them back; defaults if there never were any.
    pub(crate) fn load(bundle: &Path) -> Result<Self> {
        let path = bundle.join(FILE);
        match std::fs::read(&path) {
            Ok(json) => serde_json::from_slice(&json).map_err(std::io::Error::from),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(Self::default()),
            Err(e) => Err(e),
        }
        .context(path.display().to_string())
    }
}

impl From<oci::Options> for Options {
    fn from(options: oci::Options) -> Self {
        // containerd 1 still sends field 8, which containerd 2 has taken out of the message.
        let criu_path = match options.special_fields.unknown_fields().get(8) {
            Some(UnknownValueRef::LengthDelimited(path)) => String::from_utf8_lossy(path).into_owned(),
            _ => String::new(),
        };
        Self {
            no_pivot_root: options.no_pivot_root,
            no_new_keyring: options.no_new_keyring,
            shim_cgroup: options.shim_cgroup,
            io_uid: options.io_uid,
            io_gid: options.io_gid,
            binary_name: options.binary_name,
            root: options.root.into(),
            criu_path: criu_path.into(),
            systemd_cgroup: options.systemd_cgroup,
            criu_image_path: options.criu_image_path.into(),
            criu_work_path: options.criu_work_path.into(),
            task_api_address: options.task_api_address,
            task_api_version: options.task_api_version,
            ..Self::default()
        }
    }
}

/// The message's name in an `Any`, whatever stands before it.
pub(crate) fn type_name(any: &Any) -> &str {
    any.type_url.rsplit('/').next().unwrap_or_default()
}

/// The names that people may use (docs/containerd.md); the others are containerd's own, for each other.
const NAMES: &[&str] = &[
    "Root",
    "CriuPath",
    "CriuImagePath",
    "CriuWorkPath",
    "SystemdCgroup",
    "NoPivotRoot",
    "NoNewKeyring",
    "IoUid",
    "IoGid",
    "ShimCgroup",
    "BinaryName",
];

fn one_line(e: &toml::de::Error) -> String {
    let text = e.to_string();
    let line = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect::<Vec<_>>().join(" ");
    match line.split_once(", expected one of ") {
        Some((unknown, _)) if unknown.contains("unknown field") => {
            format!("{unknown}, expected one of {}", NAMES.join(", "))
        }
        _ => line,
    }
}

/// `runtimeoptions.v1.Options`, which containerd sends for runtimes that it does not know: TOML, as it stands below
/// `options` in its configuration or in a file. containerd-shim-protos lacks the message.
#[derive(Debug, Default)]
struct RuntimeOptions {
    config_path: String,
    config_body: String,
}

impl RuntimeOptions {
    fn parse(bytes: &[u8]) -> std::result::Result<Self, String> {
        let mut options = Self::default();
        fields(bytes, |field, input| {
            match field {
                (1, BYTES) => drop(input.read_bytes()?), // type_url: what the others are
                (2, BYTES) => options.config_path = input.read_string()?,
                (3, BYTES) => options.config_body = input.read_string()?,
                _ => return Ok(false),
            }
            Ok(true)
        })?;
        Ok(options)
    }
}

/// Two of protobuf's wire types.
const VARINT: u32 = 0;
const BYTES: u32 = 2;

/// Has `take` read each field of a message, by number and wire type; one that it does not take is an error.
fn fields(
    bytes: &[u8],
    mut take: impl FnMut((u32, u32), &mut CodedInputStream<'_>) -> protobuf::Result<bool>,
) -> std::result::Result<(), String> {
    let mut input = CodedInputStream::from_bytes(bytes);
    while let Some(tag) = input.read_raw_tag_or_eof().map_err(|e| e.to_string())? {
        let field = tag >> 3;
        if !take((field, tag & 7), &mut input).map_err(|e| e.to_string())? {
            return Err(format!("has the unknown field {field}"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn any(type_url: &str, value: Vec<u8>) -> Any {
        Any { type_url: type_url.into(), value, ..Any::default() }
    }

    fn string(field: u8, text: &str) -> Vec<u8> {
        [&[field << 3 | 2, text.len() as u8], text.as_bytes()].concat()
    }

    #[test]
    fn options_of_runc() {
        let mut bytes = oci::Options { root: "/r".into(), io_uid: 7, ..oci::Options::default() }
            .write_to_bytes()
            .unwrap();
        bytes.extend(string(8, "/opt/criu"));
        let options = Options::from_any(Some(&any("types.containerd.io/containerd.runc.v1.Options", bytes)));
        let options = options.unwrap();
        assert_eq!((options.io_uid, options.criu_path.to_str()), (7, Some("/opt/criu")));
        assert_eq!(options.runtime_root("ns"), Path::new("/r/ns"));
        assert_eq!(Options::default().runtime_root("ns"), Path::new("/run/containerd/hiber/ns"));
        assert_eq!(Options::from_any(None).unwrap(), Options::default());
    }

    #[test]
    fn options_of_unknown_runtimes_are_toml() {
        let url = "runtimeoptions.v1.Options";
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("hiber.toml");
        std::fs::write(&file, "Root = \"/r\"\nNoPivotRoot = true\n").unwrap();
        let by_path = Options::from_any(Some(&any(url, string(2, file.to_str().unwrap())))).unwrap();
        assert_eq!((by_path.root.to_str(), by_path.no_pivot_root), (Some("/r"), true));
        let by_body =
            Options::from_any(Some(&any(url, string(3, "IoUid = 5\nTypeUrl = \"x\"\nConfigPath = \"\""))))
                .unwrap();
        assert_eq!(by_body.io_uid, 5);
        let error = |value| Options::from_any(Some(&any(url, value))).unwrap_err().to_string();
        assert!(
            error(string(3, "Rot = 5"))
                .ends_with(&format!("unknown field `Rot`, expected one of {}", NAMES.join(", "))),
            "{}",
            error(string(3, "Rot = 5"))
        );
        assert!(error(string(3, "IoGid = 4294967295")).contains("io_gid: 4294967295 is no id"));
        assert!(error(string(2, "/no/such")).contains("config_path: /no/such: "));
        assert!(error(string(9, "x")).contains("unknown field 9"));
        assert!(error(vec![0x12, 200]).starts_with("options (runtimeoptions.v1.Options): "));
    }

    #[test]
    fn options_of_the_clients_of_containerd_1() {
        let url = "containerd.linux.runc.CreateOptions";
        let value = [&[1 << 3, 1, 10 << 3, 7, 11 << 3, 8][..], &string(13, "/images")].concat();
        let options = Options::from_any(Some(&any(url, value))).unwrap();
        assert_eq!((options.no_pivot_root, options.io_uid, options.io_gid), (true, 7, 8));
        assert_eq!(options.criu_image_path.to_str(), Some("/images"));
        let error = Options::from_any(Some(&any(url, vec![2 << 3, 1]))).unwrap_err().to_string();
        assert!(error.contains("unknown field 2"), "{error}");
    }

    #[test]
    fn other_types_are_refused() {
        let error = Options::from_any(Some(&any("some.Thing", vec![]))).unwrap_err().to_string();
        assert!(error.starts_with("options (some.Thing): expected"), "{error}");
    }

    #[test]
    fn every_name_that_is_shown_is_known_and_documented() {
        let (guide, page) =
            (include_str!("../../../docs/containerd.md"), include_str!("../containerd-shim-hiber-v2.8"));
        for name in NAMES {
            assert!(guide.contains(&format!("`{name}`")) && page.contains(name), "{name}");
            let value = match *name {
                "IoUid" | "IoGid" => "7",
                name if name.starts_with("No") || name == "SystemdCgroup" => "true",
                _ => "\"/x\"",
            };
            let options: Options = toml::from_str(&format!("{name} = {value}")).unwrap();
            assert_ne!(options, Options::default(), "{name}");
        }
    }

    #[test]
    fn kept_in_the_bundle() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(Options::load(dir.path()).unwrap(), Options::default());
        let options = Options { root: "/x".into(), criu_path: "/criu".into(), ..Options::default() };
        options.save(dir.path()).unwrap();
        assert_eq!(Options::load(dir.path()).unwrap(), options);
    }
}
