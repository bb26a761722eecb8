//! D-Bus messages as bytes (D-Bus specification 0.43, "Message Protocol"), as far as systemd's manager needs them.

use std::fmt::Write as _;

/// A value with its type.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Value {
    Byte(u8),
    Bool(bool),
    I16(i16),
    U16(u16),
    I32(i32),
    U32(u32),
    I64(i64),
    U64(u64),
    /// The bits of a double.
    Double(u64),
    Str(String),
    ObjectPath(String),
    Signature(String),
    /// The signature of an element, and the elements.
    Array(String, Vec<Value>),
    Struct(Vec<Value>),
    Variant(Box<Value>),
}

impl Value {
    pub(super) fn str(text: impl Into<String>) -> Self {
        Self::Str(text.into())
    }

    /// `ay`
    pub(super) fn bytes(bytes: &[u8]) -> Self {
        Self::Array("y".into(), bytes.iter().map(|b| Self::Byte(*b)).collect())
    }

    /// Its type: `a(sv)`.
    pub(super) fn signature(&self) -> String {
        match self {
            Self::Byte(_) => "y".into(),
            Self::Bool(_) => "b".into(),
            Self::I16(_) => "n".into(),
            Self::U16(_) => "q".into(),
            Self::I32(_) => "i".into(),
            Self::U32(_) => "u".into(),
            Self::I64(_) => "x".into(),
            Self::U64(_) => "t".into(),
            Self::Double(_) => "d".into(),
            Self::Str(_) => "s".into(),
            Self::ObjectPath(_) => "o".into(),
            Self::Signature(_) => "g".into(),
            Self::Array(element, _) => format!("a{element}"),
            Self::Struct(members) => format!("({})", members.iter().map(Self::signature).collect::<String>()),
            Self::Variant(_) => "v".into(),
        }
    }

    pub(super) fn as_str(&self) -> Option<&str> {
        match self {
            Self::Str(text) | Self::ObjectPath(text) => Some(text),
            Self::Variant(inner) => inner.as_str(),
            _ => None,
        }
    }
}

/// The type of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Call,
    Return,
    Error,
    Signal,
    /// A type of a later protocol; to be ignored.
    Other,
}

/// A message. Header fields that it does not have are empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Message {
    pub(super) kind: Kind,
    pub(super) serial: u32,
    pub(super) reply_to: u32,
    pub(super) destination: String,
    pub(super) path: String,
    pub(super) interface: String,
    pub(super) member: String,
    pub(super) error: String,
    pub(super) body: Vec<Value>,
}

/// Bytes that are no message, or one that this client cannot read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("malformed D-Bus message: {0}")]
pub(super) struct Malformed(&'static str);

type Result<T> = std::result::Result<T, Malformed>;

/// The length of the fixed part of a message, up to and including the length of the header fields.
pub(super) const PROLOGUE: usize = 16;
/// The protocol allows 128 MiB; what systemd answers here is below 1 KiB.
const LONGEST: usize = 1 << 20;
/// How deep containers may be nested: the protocol's limit of 64 in all.
const DEEPEST: usize = 64;

/// Type codes of header fields.
const PATH: u8 = 1;
const INTERFACE: u8 = 2;
const MEMBER: u8 = 3;
const ERROR_NAME: u8 = 4;
const REPLY_SERIAL: u8 = 5;
const DESTINATION: u8 = 6;
const SIGNATURE: u8 = 8;

impl Message {
    /// A method call.
    pub(super) fn call(
        destination: &str,
        path: &str,
        interface: &str,
        member: &str,
        body: Vec<Value>,
    ) -> Self {
        Self {
            kind: Kind::Call,
            serial: 0,
            reply_to: 0,
            destination: destination.into(),
            path: path.into(),
            interface: interface.into(),
            member: member.into(),
            error: String::new(),
            body,
        }
    }

    /// The message's bytes, little-endian.
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut body = Writer::default();
        self.body.iter().for_each(|value| body.value(value));
        let kind = match self.kind {
            Kind::Call => 1,
            Kind::Return => 2,
            Kind::Error => 3,
            Kind::Signal => 4,
            Kind::Other => 0,
        };
        let mut message = Writer(vec![b'l', kind, 0, 1]);
        message.value(&Value::U32(body.0.len() as u32));
        message.value(&Value::U32(self.serial));
        message.value(&Value::Array("(yv)".into(), self.fields()));
        message.align(8);
        message.0.extend(body.0);
        message.0
    }

    fn fields(&self) -> Vec<Value> {
        let mut signature = String::new();
        for value in &self.body {
            let _ = write!(signature, "{}", value.signature());
        }
        let text = |text: &String| Value::Str(text.clone());
        let fields = [
            (PATH, !self.path.is_empty(), Value::ObjectPath(self.path.clone())),
            (INTERFACE, !self.interface.is_empty(), text(&self.interface)),
            (MEMBER, !self.member.is_empty(), text(&self.member)),
            (ERROR_NAME, !self.error.is_empty(), text(&self.error)),
            (REPLY_SERIAL, self.reply_to != 0, Value::U32(self.reply_to)),
            (DESTINATION, !self.destination.is_empty(), text(&self.destination)),
            (SIGNATURE, !signature.is_empty(), Value::Signature(signature)),
        ];
        let set = fields.into_iter().filter(|(_, set, _)| *set);
        set.map(|(code, _, value)| Value::Struct(vec![Value::Byte(code), Value::Variant(Box::new(value))]))
            .collect()
    }

    /// How many bytes follow the first [`PROLOGUE`] ones.
    ///
    /// # Errors
    /// If the bytes do not begin a message, or the message is too long.
    pub(super) fn rest(prologue: &[u8; PROLOGUE]) -> Result<usize> {
        let mut reader = Reader::new(prologue)?;
        reader.at = 4;
        let body = reader.u32()? as usize;
        reader.at = 12;
        let fields = reader.u32()? as usize;
        if body > LONGEST || fields > LONGEST {
            return Err(Malformed("it is longer than 1 MiB"));
        }
        Ok(fields.next_multiple_of(8) + body)
    }

    /// Reads a whole message. The body of a signal other than systemd's `JobRemoved` is left out: it may hold types
    /// that this client does not know.
    ///
    /// # Errors
    /// If the message is malformed, or a reply has an unknown type.
    pub(super) fn decode(bytes: &[u8]) -> Result<Self> {
        let mut reader = Reader::new(bytes)?;
        reader.at = 1;
        let kind = match reader.u8()? {
            1 => Kind::Call,
            2 => Kind::Return,
            3 => Kind::Error,
            4 => Kind::Signal,
            _ => Kind::Other,
        };
        reader.at = 8;
        let mut message = Self { kind, serial: reader.u32()?, ..Self::call("", "", "", "", Vec::new()) };
        let Value::Array(_, fields) = reader.value("a(yv)", 0)? else {
            return Err(Malformed("no header fields"));
        };
        let mut signature = String::new();
        for field in fields {
            let Value::Struct(members) = field else { continue };
            let [Value::Byte(code), Value::Variant(value)] = members.as_slice() else { continue };
            match (*code, value.as_ref()) {
                (PATH, Value::ObjectPath(text)) => message.path.clone_from(text),
                (INTERFACE, Value::Str(text)) => message.interface.clone_from(text),
                (MEMBER, Value::Str(text)) => message.member.clone_from(text),
                (ERROR_NAME, Value::Str(text)) => message.error.clone_from(text),
                (REPLY_SERIAL, Value::U32(serial)) => message.reply_to = *serial,
                (DESTINATION, Value::Str(text)) => message.destination.clone_from(text),
                (SIGNATURE, Value::Signature(text)) => signature.clone_from(text),
                _ => {}
            }
        }
        reader.align(8)?;
        if kind != Kind::Signal || message.member == "JobRemoved" {
            let mut types = signature.as_str();
            while !types.is_empty() {
                let (one, rest) = split(types)?;
                message.body.push(reader.value(one, 0)?);
                types = rest;
            }
        }
        Ok(message)
    }
}

/// The alignment of a value.
fn alignment(signature: &str) -> usize {
    match signature.as_bytes().first() {
        Some(b'n' | b'q') => 2,
        Some(b'b' | b'i' | b'u' | b's' | b'o' | b'a') => 4,
        Some(b'x' | b't' | b'd' | b'(' | b'{') => 8,
        _ => 1,
    }
}

/// The first complete type of a signature, and what follows it.
fn split(signature: &str) -> Result<(&str, &str)> {
    let mut depth = 0usize;
    for (i, c) in signature.bytes().enumerate() {
        match c {
            b'(' | b'{' => depth += 1,
            b')' | b'}' => depth = depth.checked_sub(1).ok_or(Malformed("unbalanced signature"))?,
            b'a' => continue,
            _ => {}
        }
        if depth == 0 {
            return signature.split_at_checked(i + 1).ok_or(Malformed("signature"));
        }
    }
    Err(Malformed("incomplete signature"))
}

#[derive(Default)]
struct Writer(Vec<u8>);

impl Writer {
    fn align(&mut self, to: usize) {
        self.0.resize(self.0.len().next_multiple_of(to), 0);
    }

    fn text(&mut self, text: &str) {
        self.0.extend((text.len() as u32).to_le_bytes());
        self.0.extend(text.bytes());
        self.0.push(0);
    }

    fn value(&mut self, value: &Value) {
        self.align(alignment(&value.signature()));
        match value {
            Value::Byte(n) => self.0.push(*n),
            Value::Bool(b) => self.0.extend(u32::from(*b).to_le_bytes()),
            Value::I16(n) => self.0.extend(n.to_le_bytes()),
            Value::U16(n) => self.0.extend(n.to_le_bytes()),
            Value::I32(n) => self.0.extend(n.to_le_bytes()),
            Value::U32(n) => self.0.extend(n.to_le_bytes()),
            Value::I64(n) => self.0.extend(n.to_le_bytes()),
            Value::U64(n) | Value::Double(n) => self.0.extend(n.to_le_bytes()),
            Value::Str(text) | Value::ObjectPath(text) => self.text(text),
            Value::Signature(text) => self.signature(text),
            Value::Array(element, values) => {
                let length_at = self.0.len();
                self.0.extend([0; 4]);
                // The padding before the first element does not count, and is there without one, too.
                self.align(alignment(element));
                let start = self.0.len();
                values.iter().for_each(|v| self.value(v));
                let length = (self.0.len() - start) as u32;
                self.0[length_at..length_at + 4].copy_from_slice(&length.to_le_bytes());
            }
            Value::Struct(members) => members.iter().for_each(|v| self.value(v)),
            Value::Variant(inner) => {
                self.signature(&inner.signature());
                self.value(inner);
            }
        }
    }

    fn signature(&mut self, text: &str) {
        self.0.push(text.len() as u8);
        self.0.extend(text.bytes());
        self.0.push(0);
    }
}

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
    big_endian: bool,
}

impl<'a> Reader<'a> {
    fn new(bytes: &'a [u8]) -> Result<Self> {
        let big_endian = match (bytes.first(), bytes.get(3)) {
            (Some(b'l'), Some(1)) => false,
            (Some(b'B'), Some(1)) => true,
            _ => return Err(Malformed("it does not begin as one of protocol version 1")),
        };
        Ok(Self { bytes, at: 0, big_endian })
    }

    fn take(&mut self, count: usize) -> Result<&'a [u8]> {
        let end = self.at.checked_add(count).ok_or(Malformed("length"))?;
        let taken = self.bytes.get(self.at..end).ok_or(Malformed("it ends too soon"))?;
        self.at = end;
        Ok(taken)
    }

    fn align(&mut self, to: usize) -> Result<()> {
        self.take(self.at.next_multiple_of(to) - self.at).map(drop)
    }

    fn number<const N: usize>(&mut self) -> Result<[u8; N]> {
        self.align(N)?;
        let mut bytes = <[u8; N]>::try_from(self.take(N)?).map_err(|_| Malformed("number"))?;
        if self.big_endian {
            bytes.reverse();
        }
        Ok(bytes)
    }

    fn u8(&mut self) -> Result<u8> {
        Ok(self.number::<1>()?[0])
    }

    fn u32(&mut self) -> Result<u32> {
        Ok(u32::from_le_bytes(self.number()?))
    }

    fn text(&mut self, length: usize) -> Result<String> {
        let text = self.take(length)?;
        self.take(1)?;
        String::from_utf8(text.to_vec()).map_err(|_| Malformed("text that is not UTF-8"))
    }

    /// Reads one value; `signature` is one complete type.
    fn value(&mut self, signature: &str, depth: usize) -> Result<Value> {
        if depth > DEEPEST {
            return Err(Malformed("nested too deep"));
        }
        self.align(alignment(signature))?;
        let (code, rest) = signature.split_at_checked(1).ok_or(Malformed("empty signature"))?;
        Ok(match code {
            "y" => Value::Byte(self.u8()?),
            "b" => Value::Bool(self.u32()? != 0),
            "n" => Value::I16(i16::from_le_bytes(self.number()?)),
            "q" => Value::U16(u16::from_le_bytes(self.number()?)),
            "i" => Value::I32(i32::from_le_bytes(self.number()?)),
            "u" => Value::U32(self.u32()?),
            "x" => Value::I64(i64::from_le_bytes(self.number()?)),
            "t" => Value::U64(u64::from_le_bytes(self.number()?)),
            "d" => Value::Double(u64::from_le_bytes(self.number()?)),
            "s" | "o" => {
                let length = self.u32()? as usize;
                let text = self.text(length)?;
                if code == "s" { Value::Str(text) } else { Value::ObjectPath(text) }
            }
            "g" => {
                let length = self.u8()?.into();
                Value::Signature(self.text(length)?)
            }
            "v" => {
                let length = self.u8()?.into();
                let inner = self.text(length)?;
                Value::Variant(Box::new(self.value(&inner, depth + 1)?))
            }
            "a" => {
                let length = self.u32()? as usize;
                self.align(alignment(rest))?;
                let end = self.at.checked_add(length).ok_or(Malformed("length"))?;
                let mut values = Vec::new();
                while self.at < end {
                    values.push(self.value(rest, depth + 1)?);
                }
                Value::Array(rest.to_owned(), values)
            }
            "(" => {
                let mut types = rest.strip_suffix(')').ok_or(Malformed("unbalanced signature"))?;
                // The protocol has no empty structs; an array of them could have any number of elements in no bytes.
                if types.is_empty() {
                    return Err(Malformed("a struct without members"));
                }
                let mut members = Vec::new();
                while !types.is_empty() {
                    let (one, others) = split(types)?;
                    members.push(self.value(one, depth + 1)?);
                    types = others;
                }
                Value::Struct(members)
            }
            _ => return Err(Malformed("a type that is not known here")),
        })
    }
}

#[cfg(test)]
#[path = "marshal_tests.rs"]
mod tests;
