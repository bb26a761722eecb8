//! D-Bus messages, byte for byte and damaged.

use super::*;

/// Hello, laid out by hand by the rules of the specification.
const HELLO: &[u8] = b"l\x01\x00\x01\x00\x00\x00\x00\x01\x00\x00\x00\x6d\x00\x00\x00\
    \x01\x01o\x00\x15\x00\x00\x00/org/freedesktop/DBus\x00\x00\x00\
    \x02\x01s\x00\x14\x00\x00\x00org.freedesktop.DBus\x00\x00\x00\x00\
    \x03\x01s\x00\x05\x00\x00\x00Hello\x00\x00\x00\
    \x06\x01s\x00\x14\x00\x00\x00org.freedesktop.DBus\x00\x00\x00\x00";

#[test]
fn a_call_byte_for_byte() {
    let name = "org.freedesktop.DBus";
    let mut hello = Message::call(name, "/org/freedesktop/DBus", name, "Hello", Vec::new());
    hello.serial = 1;
    assert_eq!(hello.encode(), HELLO);
    assert_eq!(Message::decode(HELLO).unwrap(), hello);
    assert_eq!(Message::rest(HELLO[..PROLOGUE].try_into().unwrap()).unwrap(), HELLO.len() - PROLOGUE);
}

fn every_type() -> Vec<Value> {
    let pair = |name: &str, value| Value::Struct(vec![Value::str(name), Value::Variant(Box::new(value))]);
    vec![
        Value::Byte(7),
        Value::Array(
            "(sv)".into(),
            vec![pair("Delegate", Value::Bool(true)), pair("CPUWeight", Value::U64(u64::MAX))],
        ),
        Value::Array("t".into(), Vec::new()),
        Value::I16(-2),
        Value::U16(3),
        Value::I32(-4),
        Value::U32(5),
        Value::I64(-6),
        Value::Double(1.5f64.to_bits()),
        Value::ObjectPath("/a".into()),
        Value::bytes(&[1, 2, 3]),
        Value::Array("(sa(sv))".into(), Vec::new()),
        Value::Signature("a(sv)".into()),
    ]
}

#[test]
fn what_is_written_is_read() {
    let message = Message { serial: 9, ..Message::call("d", "/p", "i", "m", every_type()) };
    assert_eq!(Message::decode(&message.encode()).unwrap(), message);
}

#[test]
fn both_byte_orders() {
    let bytes = b"B\x03\x00\x01\x00\x00\x00\x07\x00\x00\x00\x02\x00\x00\x00\x1d\
        \x05\x01u\x00\x00\x00\x00\x01\x04\x01s\x00\x00\x00\x00\x03a.b\x00\x00\x00\x00\x00\
        \x08\x01g\x00\x01s\x00\x00\x00\x00\x00\x02no\x00";
    // the length of the fields ends with the signature's terminator
    let message = Message::decode(bytes).unwrap();
    assert_eq!((message.kind, message.serial, message.reply_to), (Kind::Error, 2, 1));
    assert_eq!((message.error.as_str(), message.body), ("a.b", vec![Value::str("no")]));
}

#[test]
fn signals_with_unknown_types_are_read_without_their_body() {
    let body = vec![Value::str("x")];
    let signal = Message { kind: Kind::Signal, serial: 1, ..Message::call("", "/p", "i", "Changed", body) };
    let mut bytes = signal.encode();
    let at = bytes.windows(3).rposition(|w| w == b"\x01s\0").unwrap();
    bytes[at + 1] = b'h';
    assert_eq!(Message::decode(&bytes).unwrap().body, []);
}

#[test]
fn no_bytes_make_it_panic() {
    let whole = Message { serial: 9, ..Message::call("d", "/p", "i", "m", every_type()) }.encode();
    for length in 0..whole.len() {
        assert!(Message::decode(&whole[..length]).is_err(), "{length} bytes");
    }
    for at in 0..whole.len() {
        for byte in [0, 1, b'a', b'(', 0x7f, 0xff] {
            let mut bytes = whole.clone();
            bytes[at] = byte;
            let _ = Message::decode(&bytes);
        }
    }
    let endless = format!("l\x02\0\x01\0\0\0\0\x01\0\0\0{}", "\u{7f}".repeat(4));
    assert!(Message::rest(endless.as_bytes()[..PROLOGUE].try_into().unwrap()).is_err());
}

#[test]
fn structs_without_members_are_refused() {
    let body = vec![Value::Array("(t)".into(), vec![Value::Struct(vec![Value::U64(0)])])];
    let mut bytes = Message { serial: 9, ..Message::call("d", "/p", "i", "m", body) }.encode();
    assert!(Message::decode(&bytes).is_ok());
    let at = bytes.windows(4).position(|w| w == b"a(t)").unwrap();
    // Eight bytes of them would never end.
    bytes[at..at + 4].copy_from_slice(b"a()y");
    assert_eq!(Message::decode(&bytes), Err(Malformed("a struct without members")));
    bytes[at..at + 4].copy_from_slice(b"()yy");
    assert!(Message::decode(&bytes).is_err());
}
