//! config.json, process.json and resources as files, read as tolerantly as runc reads them.
//!
//! The types are those of oci-spec. They refuse a whole file for some things that Go programs ignore, and accept some things that
//! Go programs refuse. Most files have neither and are read directly. Otherwise the file is read as plain JSON first, and these
//! are removed or changed:
//!
//! - `null` members, which Go takes for absent ones;
//! - capabilities with unknown names, with a warning that names them: they may be newer than hiber;
//! - a process without `user`, who is root;
//! - members whose names have letters in another case (`CPU`, `pagesize`): Go takes a name in any case;
//! - scheduler flags under the specification's names, where oci-spec has others;

use std::collections::BTreeSet;
use std::io::Read;
use std::path::Path;
use std::sync::Arc;

use oci_spec::runtime::{Capability, LinuxResources, Process, Spec};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::{Error, Result, SysError};

mod names;
mod plain;

use names::below;
use plain::as_it_is;

/// A configuration, with warnings about the parts that were left out.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Loaded {
    /// The configuration.
    pub spec: Arc<Spec>,
    /// The bytes of the file, if oci-spec alone can read them.
    pub json: Option<Vec<u8>>,
    /// One sentence for each part without effect, with its field.
    pub warnings: Vec<String>,
}

/// Reads a config.json of version 1.x of the runtime specification.
///
/// # Errors
/// The file cannot be read (`JSON specification file config.json not found`, as runc says), is no
/// JSON (with line and column), or has a field (named by its path) that does not fit.
pub fn load(path: &Path) -> Result<Loaded> {
    read(read_file(path)?, path)
}

/// As [`load`], of a file that is read already.
pub(crate) fn read(json: Vec<u8>, path: &Path) -> Result<Loaded> {
    let Parsed { value: spec, plain, warnings } = parse::<Spec>(&json, path, "", Some("process"))?;
    check_version(spec.version())?;
    Ok(Loaded { spec: Arc::new(spec), json: plain.then_some(json), warnings })
}

/// Reads the file of `exec --process`: the object that config.json has at `process`. Returns
/// it with warnings as in [`Loaded`].
///
/// # Errors
/// As [`load`].
pub fn load_process(path: &Path) -> Result<(Process, Vec<String>)> {
    let Parsed { value, warnings, .. } = parse(&read_file(path)?, path, "process", Some(""))?;
    Ok((value, warnings))
}

/// As [`load_process`], of a process that is no file.
///
/// # Errors
/// As [`load`], without a file's name.
pub fn read_process(json: &[u8]) -> Result<(Process, Vec<String>)> {
    let Parsed { value, warnings, .. } = parse(json, Path::new("process"), "process", Some(""))?;
    Ok((value, warnings))
}

/// Reads the object that config.json has at `linux.resources`, for `update --resources`.
///
/// # Errors
/// As [`load`], without a file's name.
pub fn load_resources(mut reader: impl Read) -> Result<LinuxResources> {
    let mut bytes = Vec::new();
    reader.read_to_end(&mut bytes).map_err(|e| SysError::io("read", "resources", &e))?;
    Ok(parse(&bytes, Path::new("resources"), "linux.resources", None)?.value)
}

fn read_file(path: &Path) -> Result<Vec<u8>> {
    std::fs::read(path).map_err(|e| {
        let error = Error::from(SysError::io("open", path.display().to_string(), &e));
        if e.kind() != std::io::ErrorKind::NotFound {
            return error;
        }
        let name = path.file_name().unwrap_or(path.as_os_str()).to_string_lossy();
        let what = format!("JSON specification file {name} not found");
        Error::While { what, source: Box::new(error) }
    })
}

/// The value, whether the file was read unchanged, and the warnings.
struct Parsed<T> {
    value: T,
    plain: bool,
    warnings: Vec<String>,
}

/// Reads JSON that config.json has at `at` (empty: the whole of it), and that has a process at
/// member `process` (empty: it is one). `file` is for messages.
fn parse<T: DeserializeOwned + Serialize>(
    bytes: &[u8],
    file: &Path,
    at: &str,
    process: Option<&str>,
) -> Result<Parsed<T>> {
    if let Some(value) = as_it_is(bytes) {
        return Ok(Parsed { value, plain: true, warnings: Vec::new() });
    }
    let mut value: Value = serde_json::from_slice(bytes)
        .map_err(|e| Error::invalid(file.display().to_string(), format!("malformed JSON: {e}")))?;
    let mut warnings = Vec::new();
    drop_nulls(&mut value);
    let name = |path: &str| match (at, path) {
        ("", "") => file.display().to_string(),
        (at, "") => at.to_string(),
        ("", path) => path.to_string(),
        (at, path) => format!("{at}.{path}"),
    };
    names::respell(&mut value).map_err(|(path, one, other)| {
        Error::invalid(
            name(&path),
            format!("has the member {one} also as {other}, with another value; expected one of the two"),
        )
    })?;
    drop_empty_pids(&mut value);
    let process = match process {
        Some("") => Some(&mut value),
        Some(member) => value.get_mut(member),
        None => None,
    };
    if let Some(Value::Object(process)) = process {
        process.entry("user").or_insert_with(|| json!({ "uid": 0, "gid": 0 }));
        if let Some(capabilities) = process.get_mut("capabilities") {
            drop_unknown_capabilities(capabilities, &mut warnings);
        }
        if let Some(flags) = process.get_mut("scheduler").and_then(|s| s.get_mut("flags")) {
            rename_scheduler_flags(flags);
        }
    }
    if let Some((path, text)) = text_with_nul(&value) {
        return Err(Error::invalid(name(&path), format!("{text:?} contains a NUL byte")));
    }
    let parsed: T = serde_path_to_error::deserialize(&value).map_err(|e| {
        let field = name(e.path().to_string().trim_matches('.'));
        let known = KNOWN_WORDS.iter().find(|(prefix, _)| field.starts_with(prefix));
        let words = known.map_or(String::new(), |(_, words)| format!("{words}: "));
        Error::invalid(field, format!("{words}{}", e.into_inner()))
    })?;
    let understood = serde_json::to_value(&parsed)
        .map_err(|e| Error::invalid(file.display().to_string(), e.to_string()))?;
    match list_for_object(&value, &understood) {
        Some(path) => Err(Error::invalid(name(&path), "invalid type: sequence, expected an object")),
        None => Ok(Parsed { value: parsed, plain: false, warnings }),
    }
}

/// The first text with a NUL byte, and its path: no system call takes such a text. Members that only other programs read may have
/// NUL bytes.
fn text_with_nul(value: &Value) -> Option<(String, &str)> {
    match value {
        Value::String(text) => text.contains('\0').then(|| (String::new(), text.as_str())),
        Value::Array(all) => all.iter().enumerate().find_map(|(at, element)| {
            text_with_nul(element).map(|(inner, text)| (below(inner, format!("[{at}]")), text))
        }),
        Value::Object(members) => members
            .iter()
            .filter(|(name, _)| !["annotations", "listenerMetadata"].contains(&name.as_str()))
            .find_map(|(name, member)| {
                text_with_nul(member).map(|(inner, text)| (below(inner, name.clone()), text))
            }),
        _ => None,
    }
}

/// The path of a list that stands in place of an object, if there is one: serde would take its elements for the members in their
/// order.
fn list_for_object(given: &Value, understood: &Value) -> Option<String> {
    match (given, understood) {
        (Value::Array(_), Value::Object(_)) => Some(String::new()),
        (Value::Array(given), Value::Array(understood)) => given
            .iter()
            .zip(understood)
            .enumerate()
            .find_map(|(at, (a, b))| list_for_object(a, b).map(|inner| below(inner, format!("[{at}]")))),
        (Value::Object(given), Value::Object(understood)) => given.iter().find_map(|(name, a)| {
            list_for_object(a, understood.get(name)?).map(|inner| below(inner, name.clone()))
        }),
        _ => None,
    }
}

/// The words in runc's message about a field, for which clients look.
const KNOWN_WORDS: [(&str, &str); 2] = [
    ("linux.memoryPolicy.flags", "invalid memory policy flag"),
    ("linux.memoryPolicy", "invalid memory policy mode"),
];

/// oci-spec 0.10 derives these names from those of its variants, and so differs from the specification.
fn rename_scheduler_flags(flags: &mut Value) {
    for flag in flags.as_array_mut().into_iter().flatten() {
        match flag.as_str() {
            Some("SCHED_FLAG_RESET_ON_FORK") => *flag = json!("SCHED_RESET_ON_FORK"),
            Some("SCHED_FLAG_DL_OVERRUN") => *flag = json!("SCHED_FLAG_D_L_OVERRUN"),
            _ => {}
        }
    }
}

/// `"pids": {}` limits nothing; oci-spec takes it for a limit of 0.
fn drop_empty_pids(value: &mut Value) {
    let Value::Object(members) = value else { return };
    members.retain(|name, member| name != "pids" || *member != json!({}));
    members.values_mut().for_each(drop_empty_pids);
}

fn drop_nulls(value: &mut Value) {
    match value {
        Value::Object(members) => {
            members.retain(|_, v| !v.is_null());
            members.values_mut().for_each(drop_nulls);
        }
        Value::Array(elements) => elements.iter_mut().for_each(drop_nulls),
        _ => {}
    }
}

fn drop_unknown_capabilities(capabilities: &mut Value, warnings: &mut Vec<String>) {
    let mut unknown = BTreeSet::new();
    for names in capabilities.as_object_mut().into_iter().flat_map(|sets| sets.values_mut()) {
        let Some(names) = names.as_array_mut() else { continue };
        names.retain(|name| {
            let known = !name.is_string() || serde_json::from_value::<Capability>(name.clone()).is_ok();
            if !known {
                unknown.extend(name.as_str().map(str::to_owned));
            }
            known
        });
    }
    if !unknown.is_empty() {
        // runc's words, for which others look
        let names = Vec::from_iter(unknown).join(" ");
        warnings
            .push(format!("process.capabilities: ignoring unknown or unavailable capabilities: [{names}]"));
    }
}

/// The version is semver's MAJOR.MINOR.PATCH, with anything after `-` or `+`.
fn check_version(version: &str) -> Result<()> {
    let core = version.split(['-', '+']).next().unwrap_or_default();
    let numbers: Vec<_> = core.split('.').map(str::parse::<u32>).collect();
    match numbers[..] {
        [Ok(1), Ok(_), Ok(_)] => Ok(()),
        _ => Err(Error::invalid(
            "ociVersion",
            format!("{version:?}: expected a version 1.x of the runtime specification, such as 1.0.2"),
        )),
    }
}

#[cfg(test)]
mod tests {
    use std::error::Error as _;

    use super::*;

    fn load_text(text: &str) -> Result<Loaded> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config.json");
        std::fs::write(&path, text).unwrap();
        load(&path)
    }

    fn config(process: &Value) -> String {
        json!({ "ociVersion": "1.2.0", "process": process, "root": { "path": "rootfs" } }).to_string()
    }

    fn user() -> Value {
        json!({ "uid": 1000, "gid": 1000 })
    }

    #[test]
    fn fits() {
        let loaded = load_text(&config(&json!({ "user": user(), "cwd": "/", "unheard": 1 }))).unwrap();
        assert_eq!(loaded.spec.process().as_ref().unwrap().user().uid(), 1000);
        assert!(loaded.warnings.is_empty());
    }

    #[test]
    fn unknown_capabilities_are_left_out() {
        let sets = json!({ "bounding": ["CAP_KILL", "CAP_NEW"], "ambient": ["CAP_NEWER", "CAP_NEW"] });
        let loaded =
            load_text(&config(&json!({ "user": user(), "cwd": "/", "capabilities": sets }))).unwrap();
        let process = loaded.spec.process().as_ref().unwrap();
        let capabilities = process.capabilities().as_ref().unwrap();
        assert_eq!(capabilities.bounding(), &Some([Capability::Kill].into()));
        assert_eq!(capabilities.ambient(), &Some([].into()));
        let words = "process.capabilities: ignoring unknown or unavailable capabilities: [CAP_NEW CAP_NEWER]";
        assert_eq!(loaded.warnings, [words]);
    }

    #[test]
    fn nulls_and_no_user() {
        let text = r#"{ "ociVersion": "1.0.2-dev", "process": { "cwd": "/", "user": null, "args": ["a"] },
            "mounts": [{ "destination": "/proc", "options": null, "type": null }] }"#;
        let loaded = load_text(text).unwrap();
        assert_eq!(loaded.spec.process().as_ref().unwrap().user().uid(), 0);
        assert_eq!(loaded.spec.mounts().as_ref().unwrap()[0].options(), &None);
        assert!(loaded.warnings.is_empty());
    }

    #[test]
    fn errors_name_the_field() {
        let rlimit = json!({ "type": "RLIMIT_X", "hard": 1, "soft": 1 });
        let cases = [
            (config(&json!({ "cwd": "/", "rlimits": [rlimit] })), "process.rlimits[0].type: unknown variant"),
            (config(&json!({ "cwd": "/", "args": "sh" })), "process.args: invalid type: string"),
            (
                config(&json!({ "cwd": "/", "capabilities": { "bounding": [1] } })),
                "process.capabilities.bounding[0]: invalid type",
            ),
            (
                json!({ "ociVersion": "1.0.0", "linux": { "seccomp": {
                    "defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_Z80"] } } })
                .to_string(),
                "linux.seccomp.architectures[0]: unknown variant",
            ),
            (r#"{ "ociVersion": "2.0.0" }"#.into(), "ociVersion: \"2.0.0\": expected a version 1.x"),
            (r#"{ "ociVersion": "1.0" }"#.into(), "ociVersion: \"1.0\": expected"),
            ("{}".into(), "ociVersion: \"\": expected"),
        ];
        for (text, message) in cases {
            let error = load_text(&text).unwrap_err().to_string();
            assert!(error.starts_with(message), "{error}");
        }
    }

    #[test]
    fn scheduler_flags_have_the_specifications_names() {
        let names = [
            "RESET_ON_FORK",
            "RECLAIM",
            "DL_OVERRUN",
            "KEEP_POLICY",
            "KEEP_PARAMS",
            "UTIL_CLAMP_MIN",
            "UTIL_CLAMP_MAX",
        ];
        let flags: Vec<_> = names.iter().map(|n| format!("SCHED_FLAG_{n}")).collect();
        let scheduler = json!({ "policy": "SCHED_DEADLINE", "flags": flags });
        let loaded =
            load_text(&config(&json!({ "user": user(), "cwd": "/", "scheduler": scheduler }))).unwrap();
        let process = loaded.spec.process().as_ref().unwrap();
        assert_eq!(process.scheduler().as_ref().unwrap().flags().as_ref().unwrap().len(), names.len());
    }

    #[test]
    fn malformed() {
        let error = load_text("{\n  \"ociVersion\": 1.0.2\n}").unwrap_err().to_string();
        assert!(error.contains("config.json: malformed JSON: "), "{error}");
        assert!(error.ends_with("at line 2 column 20"), "{error}");
        let error = load_text("null").unwrap_err().to_string();
        assert!(error.contains("config.json: invalid type: null"), "{error}");
        let error = load_text("[]").unwrap_err().to_string();
        assert!(error.ends_with("config.json: invalid type: sequence, expected an object"), "{error}");
    }

    #[test]
    fn missing_file() {
        let error = load(Path::new("/nonexistent/config.json")).unwrap_err();
        assert_eq!(error.to_string(), "JSON specification file config.json not found");
        let source = error.source().unwrap().to_string();
        assert_eq!(source, "open /nonexistent/config.json: no such file or directory");
    }

    #[test]
    fn process_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("process.json");
        let capabilities = json!({ "bounding": ["CAP_NEW"] });
        std::fs::write(&path, json!({ "cwd": "/", "capabilities": capabilities }).to_string()).unwrap();
        let (process, warnings) = load_process(&path).unwrap();
        assert_eq!((process.user().uid(), process.cwd().as_path()), (0, Path::new("/")));
        assert_eq!(warnings.len(), 1);
        std::fs::write(&path, r#"{ "cwd": 1 }"#).unwrap();
        let error = load_process(&path).unwrap_err().to_string();
        assert!(error.starts_with("process.cwd: invalid type"), "{error}");
    }

    #[test]
    fn page_sizes_by_either_name() {
        for name in ["pageSize", "pagesize"] {
            let text = json!({ "hugepageLimits": [{ name: "2MB", "limit": 1 }] }).to_string();
            let resources = load_resources(text.as_bytes()).unwrap();
            assert_eq!(resources.hugepage_limits().as_ref().unwrap()[0].page_size(), "2MB", "{name}");
        }
    }

    #[test]
    fn members_in_another_case() {
        let text = r#"{ "OCIVersion": "1.0.2", "Process": { "Cwd": "/", "ARGS": ["a"], "capabilities": { "Bounding": ["CAP_KILL"] } },
            "Hooks": { "PreStart": [{ "Path": "/a" }] }, "Linux": { "sysctl": { "Path": "b" }, "Resources": { "Pids": {} } } }"#;
        let loaded = load_text(text).unwrap();
        let process = loaded.spec.process().as_ref().unwrap();
        assert_eq!(process.args().as_deref(), Some(&["a".to_owned()][..]));
        assert_eq!(process.capabilities().as_ref().unwrap().bounding(), &Some([Capability::Kill].into()));
        assert!(loaded.spec.hooks().is_some() && loaded.json.is_none());
        let linux = loaded.spec.linux().as_ref().unwrap();
        assert_eq!(linux.sysctl().as_ref().unwrap()["Path"], "b");
        assert_eq!(linux.resources().as_ref().unwrap().pids(), &None);
        let (process, _) = read_process(br#"{ "CWD": "/", "User": { "UID": 7, "gid": 8 } }"#).unwrap();
        assert_eq!(process.user().uid(), 7);
        let resources = load_resources(&br#"{ "CPU": { "Cpus": "0-1", "QUOTA": 5 } }"#[..]).unwrap();
        let cpu = resources.cpu().as_ref().unwrap();
        assert_eq!((cpu.cpus().as_deref(), cpu.quota()), (Some("0-1"), Some(5)));
        let error = load_resources(&br#"{ "CPU": { "Quota": "5" } }"#[..]).unwrap_err().to_string();
        assert!(error.starts_with("linux.resources.cpu.quota: invalid type"), "{error}");
        let error = load_resources(&br#"{ "CPU": { "quota": 5 }, "cpu": { "quota": 6 } }"#[..])
            .unwrap_err()
            .to_string();
        let words =
            "linux.resources: has the member cpu also as CPU, with another value; expected one of the two";
        assert_eq!(error, words);
    }

    #[test]
    fn resources() {
        let resources = load_resources(&br#"{ "memory": { "limit": 4096 }, "pids": null }"#[..]).unwrap();
        assert_eq!(resources.memory().as_ref().unwrap().limit(), Some(4096));
        let error = load_resources(&br#"{ "memory": { "limit": "1G" } }"#[..]).unwrap_err().to_string();
        assert!(error.starts_with("linux.resources.memory.limit: invalid type"), "{error}");
    }
}
