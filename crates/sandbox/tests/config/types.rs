//! Each field with a value of a wrong type.

use hiber_sandbox::config;
use serde_json::{Value, json};

use crate::corpus::complete;

/// Every place in a value, as the path that errors have and as a JSON pointer.
fn places(value: &Value, path: &str, pointer: &str, all: &mut Vec<(String, String)>) {
    match value {
        Value::Object(members) => {
            for (name, member) in members {
                let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
                let pointer = format!("{pointer}/{name}");
                all.push((path.clone(), pointer.clone()));
                places(member, &path, &pointer, all);
            }
        }
        Value::Array(elements) => {
            for (at, element) in elements.iter().enumerate() {
                let (path, pointer) = (format!("{path}[{at}]"), format!("{pointer}/{at}"));
                all.push((path.clone(), pointer.clone()));
                places(element, &path, &pointer, all);
            }
        }
        _ => {}
    }
}

/// Values of other types; what Go takes for a missing member, null, is not among them.
fn others(value: &Value) -> Vec<Value> {
    let (number, text, list, object) = (json!(1), json!("x"), json!([]), json!({}));
    match value {
        Value::Bool(_) => vec![text, list],
        Value::Number(_) => vec![json!(1.5), text, object],
        Value::String(_) => vec![number, list],
        Value::Array(_) => vec![text, object],
        Value::Object(_) => vec![number, list],
        Value::Null => vec![],
    }
}

/// The fields of `original` for which a reader does not refuse a value of a wrong type by the field's name. `at` is where
/// config.json has it.
fn unnamed(original: &Value, at: &str, read: impl Fn(&Value) -> Result<(), String>) -> Vec<String> {
    read(original).unwrap();
    let mut all = Vec::new();
    places(original, at, "", &mut all);
    assert!(all.len() > 20, "{}", all.len());
    let mut wrong = Vec::new();
    for (path, pointer) in all {
        for other in others(original.pointer(&pointer).unwrap()) {
            let mut changed = original.clone();
            *changed.pointer_mut(&pointer).unwrap() = other.clone();
            match read(&changed) {
                Err(e) if e.starts_with(&format!("{path}: ")) => {}
                result => wrong.push(format!("{path} = {other}: {result:?}")),
            }
        }
    }
    wrong
}

#[test]
fn a_value_of_a_wrong_type_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("config.json");
    let wrong = unnamed(&complete(), "", |config| {
        std::fs::write(&file, config.to_string()).unwrap();
        config::load(&file).map(drop).map_err(|e| e.to_string())
    });
    assert!(wrong.is_empty(), "{} are not named:\n{}", wrong.len(), wrong.join("\n"));
}

/// `exec --process` and `update --resources` read parts.
#[test]
fn parts_are_named_as_in_the_whole() {
    let (dir, whole) = (tempfile::tempdir().unwrap(), complete());
    let file = dir.path().join("process.json");
    let mut wrong = unnamed(&whole["process"], "process", |process| {
        std::fs::write(&file, process.to_string()).unwrap();
        config::load_process(&file).map(drop).map_err(|e| e.to_string())
    });
    wrong.extend(unnamed(&whole["linux"]["resources"], "linux.resources", |resources| {
        config::load_resources(resources.to_string().as_bytes()).map(drop).map_err(|e| e.to_string())
    }));
    assert!(wrong.is_empty(), "{} are not named:\n{}", wrong.len(), wrong.join("\n"));
}
