//! Images as protobuf's wire format has them, without a schema: every field of every message, also those that this project
//! does not know.

/// An image's magic numbers, and its entries.
pub(crate) fn entries<'a>(name: &str, bytes: &'a [u8]) -> (&'a [u8], Vec<&'a [u8]>) {
    let (head, mut rest) = bytes.split_at(if name == "inventory.img" { 4 } else { 8 });
    let mut entries = Vec::new();
    while let Some((length, after)) = rest.split_first_chunk() {
        let (entry, after) = after.split_at(u32::from_le_bytes(*length) as usize);
        entries.push(entry);
        rest = after;
    }
    (head, entries)
}

/// An image of entries.
pub(crate) fn file(head: &[u8], entries: &[impl AsRef<[u8]>]) -> Vec<u8> {
    let mut bytes = head.to_vec();
    for entry in entries {
        bytes.extend(u32::try_from(entry.as_ref().len()).unwrap().to_le_bytes());
        bytes.extend(entry.as_ref());
    }
    bytes
}

/// A field's value.
#[derive(Debug, Clone, PartialEq)]
enum Value {
    Number(u64),
    /// Of 4 or 8 bytes.
    Fixed(Vec<u8>),
    Bytes(Vec<u8>),
    Message(Vec<(u64, Value)>),
}

/// The change of one field.
#[derive(Debug, Clone)]
enum Act {
    Remove,
    Repeat,
    Number(u64),
    Bytes(Vec<u8>),
}

/// A field, by the positions on the way to it: entry, field, field of that …
#[derive(Debug, Clone)]
pub(crate) struct Change {
    path: Vec<usize>,
    act: Act,
}

/// All changes of an image.
pub(crate) fn changes(name: &str, bytes: &[u8]) -> Vec<Change> {
    let mut all = Vec::new();
    for (n, entry) in entries(name, bytes).1.into_iter().enumerate() {
        walk(&message(entry).unwrap(), &mut vec![n], name, &mut all);
    }
    all
}

/// Registers, and what else of a task is not of its rights.
fn is_apart(name: &str, path: &[usize], number: u64) -> bool {
    name.starts_with("core-") && path.len() == 1 && ![3, 5].contains(&number)
}

fn walk(fields: &[(u64, Value)], path: &mut Vec<usize>, name: &str, all: &mut Vec<Change>) {
    for (n, (number, value)) in fields.iter().enumerate() {
        if is_apart(name, path, *number) {
            continue;
        }
        path.push(n);
        let mut acts = vec![Act::Remove];
        match value {
            Value::Number(is) => {
                let values = [0, 1, is.wrapping_add(1), is ^ 0x1f, u64::from(u32::MAX)];
                acts.extend(values.into_iter().filter(|v| v != is).map(Act::Number));
            }
            Value::Fixed(_) => {}
            Value::Bytes(is) => {
                let values = [vec![], [b"/..", &is[..]].concat(), [&is[..], b"x"].concat()];
                acts.extend(values.into_iter().map(Act::Bytes));
            }
            Value::Message(fields) => {
                acts.push(Act::Repeat);
                walk(fields, path, name, all);
            }
        }
        all.extend(acts.into_iter().map(|act| Change { path: path.clone(), act }));
        path.pop();
    }
}

impl Change {
    /// The image with this change.
    pub(crate) fn apply(&self, name: &str, bytes: &[u8]) -> Vec<u8> {
        let (head, all) = entries(name, bytes);
        let mut all: Vec<_> = all.into_iter().map(<[u8]>::to_vec).collect();
        let (first, rest) = self.path.split_first().unwrap();
        let mut fields = message(&all[*first]).unwrap();
        self.change(&mut fields, rest);
        all[*first] = encode(&fields);
        file(head, &all)
    }

    fn change(&self, fields: &mut Vec<(u64, Value)>, path: &[usize]) {
        match path {
            [n] => match &self.act {
                Act::Remove => drop(fields.remove(*n)),
                Act::Repeat => fields.push(fields[*n].clone()),
                Act::Number(number) => fields[*n].1 = Value::Number(*number),
                Act::Bytes(bytes) => fields[*n].1 = Value::Bytes(bytes.clone()),
            },
            [n, rest @ ..] => match &mut fields[*n].1 {
                Value::Message(inner) => self.change(inner, rest),
                other => unreachable!("{other:?} has no fields"),
            },
            [] => unreachable!("a change is of a field"),
        }
    }
}

fn message(mut bytes: &[u8]) -> Option<Vec<(u64, Value)>> {
    let mut fields = Vec::new();
    while !bytes.is_empty() {
        let tag = varint(&mut bytes)?;
        let value = match tag & 7 {
            0 => Value::Number(varint(&mut bytes)?),
            1 => Value::Fixed(take(&mut bytes, 8)?.to_vec()),
            5 => Value::Fixed(take(&mut bytes, 4)?.to_vec()),
            2 => {
                let length = usize::try_from(varint(&mut bytes)?).ok()?;
                let inner = take(&mut bytes, length)?;
                let is_text = inner.iter().all(|b| b.is_ascii_graphic() || *b == b' ');
                match message(inner).filter(|_| !is_text) {
                    Some(fields) => Value::Message(fields),
                    None => Value::Bytes(inner.to_vec()),
                }
            }
            _ => return None,
        };
        if tag >> 3 == 0 {
            return None;
        }
        fields.push((tag >> 3, value));
    }
    Some(fields)
}

fn take<'a>(bytes: &mut &'a [u8], n: usize) -> Option<&'a [u8]> {
    let (taken, rest) = bytes.split_at_checked(n)?;
    *bytes = rest;
    Some(taken)
}

fn varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut number = 0u64;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = bytes.split_first()?;
        *bytes = rest;
        number |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(number);
        }
    }
    None
}

fn encode(fields: &[(u64, Value)]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (number, value) in fields {
        let (kind, content) = match value {
            Value::Number(n) => (0, write_varint(*n)),
            Value::Fixed(fixed) => (if fixed.len() == 8 { 1 } else { 5 }, fixed.clone()),
            Value::Bytes(inner) => (2, with_length(inner)),
            Value::Message(fields) => (2, with_length(&encode(fields))),
        };
        bytes.extend(write_varint(number << 3 | kind));
        bytes.extend(content);
    }
    bytes
}

fn with_length(bytes: &[u8]) -> Vec<u8> {
    [&write_varint(bytes.len() as u64)[..], bytes].concat()
}

fn write_varint(mut number: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    loop {
        let low = (number & 0x7f) as u8;
        number >>= 7;
        if number == 0 {
            bytes.push(low);
            return bytes;
        }
        bytes.push(low | 0x80);
    }
}
