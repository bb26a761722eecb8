//! The default profiles of container engines, from files that list what they do. The runtime's tests use them, too.
//!
//! A line of a file is `ACTION [ERRNO] [+CAP_X | -CAP_X | arch=A,B | arch!=A,B]...: NAME...
//! [where CONDITION...]`; it goes on where the next line is indented. `+` and `-` tell what the
//! container's capabilities must, or must not have.

use oci_spec::runtime::LinuxSeccomp;
use serde_json::{Value, json};

pub(crate) const FILES: [(&str, &str); 3] = [
    ("podman", include_str!("profiles/podman.txt")),
    ("docker", include_str!("profiles/docker.txt")),
    ("containerd", include_str!("profiles/containerd.txt")),
];

/// The profile of a file for a container with `caps` on `machine` (as Go names it).
pub(crate) fn load(text: &str, caps: &[&str], machine: &str, archs: &[&str]) -> LinuxSeccomp {
    let joined = text.replace("\n    ", " ");
    let mut profile = json!({ "architectures": archs, "syscalls": [] });
    for line in joined.lines().filter(|l| !l.is_empty() && !l.starts_with('#')) {
        if let Some(default) = line.strip_prefix("default ") {
            let (action, errno) = action(&mut default.split(' ').peekable());
            profile["defaultAction"] = action;
            profile["defaultErrnoRet"] = errno;
            continue;
        }
        let (head, body) = line.split_once(": ").expect(line);
        let mut head = head.split(' ').peekable();
        let (action, errno) = action(&mut head);
        let applies = |word: &str| match word.split_at(1) {
            ("+", cap) => caps.contains(&cap),
            ("-", cap) => !caps.contains(&cap),
            _ => match word.split_once("!=") {
                Some((_, not)) => !not.split(',').any(|a| a == machine),
                None => word.strip_prefix("arch=").expect(line).split(',').any(|a| a == machine),
            },
        };
        if !head.all(applies) {
            continue;
        }
        let (names, conds) = body.split_once(" where ").unwrap_or((body, ""));
        let names: Vec<_> = names.split_whitespace().collect();
        let args: Vec<_> = conds.split_whitespace().map(condition).collect();
        let rule = json!({ "names": names, "action": action, "errnoRet": errno, "args": args });
        profile["syscalls"].as_array_mut().unwrap().push(rule);
    }
    serde_json::from_value(profile).unwrap()
}

fn action<'a>(words: &mut std::iter::Peekable<impl Iterator<Item = &'a str>>) -> (Value, Value) {
    let action = format!("SCMP_ACT_{}", words.next().unwrap().to_uppercase());
    let errno = words.next_if(|w| w.parse::<u32>().is_ok());
    (action.into(), errno.map(|w| w.parse::<u32>().unwrap()).into())
}

fn condition(text: &str) -> Value {
    let number = |t: &str| u64::from_str_radix(t.trim_start_matches("0x"), 16).unwrap();
    let (arg, rest) = text[1..].split_at(1);
    let split = rest.rfind(['=', '<', '>']).unwrap() + 1;
    let (op, value) = rest.split_at(split);
    let (op, value, two) = match op {
        "==" => ("EQ", number(value), 0),
        "!=" => ("NE", number(value), 0),
        "<" => ("LT", number(value), 0),
        "<=" => ("LE", number(value), 0),
        ">" => ("GT", number(value), 0),
        ">=" => ("GE", number(value), 0),
        masked => {
            let mask = masked.strip_prefix('&').unwrap().strip_suffix("==").unwrap();
            ("MASKED_EQ", number(mask), number(value))
        }
    };
    json!({ "index": arg.parse::<u32>().unwrap(), "value": value, "valueTwo": two, "op": format!("SCMP_CMP_{op}") })
}
