//! Configurations that are truncated, corrupted or made to harm.

use std::time::{Duration, Instant};

use fastrand::Rng;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde_json::{Value, json};

use crate::corpus::{Bundle, all};

/// A reader that asks for more memory is killed, so the test sees it.
fn limit_memory() {
    let limit = Rlimit { current: Some(2 << 30), ..getrlimit(Resource::As) };
    setrlimit(Resource::As, limit).unwrap();
}

/// The replacements for values.
fn odd(random: &mut Rng) -> Value {
    let values = [
        json!(null),
        json!(true),
        json!(0),
        json!(-1),
        json!(1),
        json!(65536),
        json!(u32::MAX),
        json!(i64::MIN),
        json!(i64::MAX),
        json!(u64::MAX),
        json!(1e300),
        json!(""),
        json!("/"),
        json!("../../../etc"),
        json!("/proc/self/fd/3"),
        json!("0-9999999999"),
        json!("0-1023"),
        json!("a\u{0}b"),
        json!("a".repeat(5000)),
        json!("\u{1f4a9}"),
        json!("CAP_SYS_ADMIN"),
        json!("SCMP_ACT_NOTIFY"),
        json!("SCMP_ACT_KILL_PROCESS"),
        json!("max"),
        json!([]),
        json!({}),
        json!([[]]),
        json!({"": ""}),
        json!(["rbind", "idmap", "remount", "shared"]),
    ];
    values[random.usize(..values.len())].clone()
}

/// A random place below `value`, itself included.
fn place<'a>(value: &'a mut Value, random: &mut Rng) -> &'a mut Value {
    let size = match &*value {
        Value::Object(members) => members.len(),
        Value::Array(elements) => elements.len(),
        _ => 0,
    };
    if size == 0 || random.usize(..6) == 0 {
        return value;
    }
    let at = random.usize(..size);
    let inner = match value {
        Value::Object(members) => members.values_mut().nth(at),
        Value::Array(elements) => elements.get_mut(at),
        _ => None,
    };
    place(inner.unwrap(), random)
}

/// Changes a configuration so that it is still JSON.
fn rearrange(config: &mut Value, random: &mut Rng) {
    let taken = place(&mut config.clone(), random).clone();
    let at = place(config, random);
    match (random.usize(..5), &mut *at) {
        (0, Value::Object(members)) => {
            let key = members.keys().nth(random.usize(..members.len().max(1))).cloned();
            members.remove(&key.unwrap_or_default());
        }
        (1, Value::Array(elements)) => {
            let copies = elements.iter().cloned().cycle().take((elements.len() * 20).min(2000)).collect();
            *elements = copies;
        }
        (2, _) => *at = taken,
        (3, Value::Number(n)) => *at = json!(n.as_i64().unwrap_or(0).wrapping_mul(-7)),
        _ => *at = odd(random),
    }
}

/// Changes the text as bad disks do.
fn corrupt(bytes: &mut Vec<u8>, random: &mut Rng) {
    let at = random.usize(..bytes.len().max(1));
    match random.usize(..5) {
        0 => bytes.truncate(at),
        1 => bytes[at] ^= 1 << random.usize(..8),
        2 => bytes[at] = b"\"{}[],:\\-0"[random.usize(..10)],
        3 => drop(bytes.drain(at..(at + 1 + random.usize(..40)).min(bytes.len()))),
        _ => {
            let part = bytes[at..(at + 100).min(bytes.len())].to_vec();
            bytes.splice(at..at, part);
        }
    }
}

/// Reads it; true if it was good.
fn read(bundle: &Bundle, text: &[u8]) -> bool {
    let start = Instant::now();
    let result = bundle.read(text);
    assert!(start.elapsed() < Duration::from_secs(10), "{}", String::from_utf8_lossy(text));
    if let Err(e) = &result {
        // FIELD: PROBLEM
        assert!(e.split_once(": ").is_some_and(|(field, _)| !field.contains(' ')), "no field is named: {e}");
    }
    result.is_ok()
}

#[test]
fn rearranged_configurations_are_read_or_refused() {
    limit_memory();
    let (bundle, mut random) = (Bundle::new(), Rng::with_seed(20_261_122));
    let corpus: Vec<Value> =
        all().iter().map(|(_, text)| foreign(serde_json::from_slice(text).unwrap())).collect();
    let (mut good, mut bad) = (0, 0);
    for _ in 0..1000 {
        let mut config = corpus[random.usize(..corpus.len())].clone();
        for _ in 0..=random.usize(..3) {
            rearrange(&mut config, &mut random);
        }
        if read(&bundle, config.to_string().as_bytes()) { good += 1 } else { bad += 1 }
    }
    assert!(good > 50 && bad > 50, "changes must be neither all seen nor all unseen: {good}, {bad}");
}

#[test]
fn corrupt_files_are_read_or_refused() {
    limit_memory();
    let (bundle, mut random) = (Bundle::new(), Rng::with_seed(20_261_123));
    let corpus = all();
    for _ in 0..1000 {
        let mut bytes = corpus[random.usize(..corpus.len())].1.clone();
        for _ in 0..=random.usize(..3) {
            corrupt(&mut bytes, &mut random);
        }
        read(&bundle, &bytes);
    }
    for depth in [100, 1000, 100_000] {
        read(&bundle, &[vec![b'['; depth], vec![b']'; depth]].concat());
        read(&bundle, &b"{\"linux\":".repeat(depth));
    }
}

/// Without what the machine that it was captured on had.
fn foreign(mut config: Value) -> Value {
    config["root"]["path"] = json!("rootfs");
    for namespace in config["linux"]["namespaces"].as_array_mut().unwrap() {
        namespace.as_object_mut().unwrap().remove("path");
    }
    config
}

#[test]
fn the_corpus_is_good() {
    let bundle = Bundle::new();
    for (name, text) in all() {
        let mut config = foreign(serde_json::from_slice(&text).unwrap());
        // what the kernel may lack
        for field in ["intelRdt", "netDevices", "resources"] {
            config["linux"].as_object_mut().unwrap().remove(field);
        }
        bundle.read(config.to_string().as_bytes()).unwrap_or_else(|e| panic!("{name}: {e}"));
    }
}
