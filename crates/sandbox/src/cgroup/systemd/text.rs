//! Values of unit properties as annotations give them: GVariant's text format, as busctl and gdbus print it.

use super::marshal::Value;

/// Reads one value; numbers without a type are of type `i`, as everywhere with this format.
///
/// # Errors
/// A description of the mistake in the text.
pub(super) fn parse(text: &str) -> Result<Value, String> {
    let mut parser = Parser { text, at: 0, depth: 0 };
    let value = parser.value()?;
    parser.blanks();
    if parser.at < text.len() {
        return Err(format!("unexpected {:?} after the value", &text[parser.at..]));
    }
    Ok(value)
}

/// A property whose name ends in `Sec`, as systemd's manual has it, under the name and in the unit of systemd's
/// D-Bus interface: `TimeoutStopSec` is `TimeoutStopUSec`, in microseconds.
///
/// # Errors
/// The value is no number, or too large.
pub(super) fn in_microseconds(name: &str, value: Value) -> Result<(String, Value), String> {
    let stem = name.strip_suffix("Sec").filter(|stem| stem.ends_with(|c: char| c.is_ascii_lowercase()));
    let Some(stem) = stem else { return Ok((name.to_owned(), value)) };
    let whole = match value {
        Value::Byte(n) => n.into(),
        Value::U16(n) => n.into(),
        Value::U32(n) => n.into(),
        Value::U64(n) => n.into(),
        Value::I16(n) => n.into(),
        Value::I32(n) => n.into(),
        Value::I64(n) => n.into(),
        Value::Double(bits) => {
            let micro = f64::from_bits(bits) * 1e6;
            if !(0.0..1.8e19).contains(&micro) {
                return Err("expected a number of seconds".into());
            }
            return Ok((format!("{stem}USec"), Value::U64(micro as u64)));
        }
        _ => return Err("expected a number of seconds".into()),
    };
    let micro = i128::checked_mul(whole, 1_000_000).and_then(|micro| u64::try_from(micro).ok());
    Ok((format!("{stem}USec"), Value::U64(micro.ok_or("expected a number of seconds")?)))
}

/// The deepest nesting of arrays, as in D-Bus.
const DEEPEST: usize = 32;

struct Parser<'a> {
    text: &'a str,
    at: usize,
    /// The number of arrays around the next value.
    depth: usize,
}

impl Parser<'_> {
    fn blanks(&mut self) {
        self.at += self.rest().len() - self.rest().trim_start().len();
    }

    fn rest(&self) -> &str {
        &self.text[self.at..]
    }

    /// The next character that is not part of a word.
    fn eat(&mut self, c: char) -> bool {
        self.blanks();
        let found = self.rest().starts_with(c);
        self.at += if found { c.len_utf8() } else { 0 };
        found
    }

    fn word(&mut self) -> String {
        self.blanks();
        let end = self.rest().find(|c: char| c.is_whitespace() || ",]['\"".contains(c));
        let word = self.rest()[..end.unwrap_or(self.rest().len())].to_owned();
        self.at += word.len();
        word
    }

    fn value(&mut self) -> Result<Value, String> {
        self.blanks();
        match self.rest().chars().next() {
            None => Err("expected a value".into()),
            Some('[') => self.array(None),
            Some('\'' | '"') => Ok(Value::Str(self.string()?)),
            Some('@') => {
                let signature = self.word();
                match signature.strip_prefix("@a") {
                    Some(element) => self.array(Some(element)),
                    None => self.typed(&signature[1..]),
                }
            }
            Some(_) => {
                let word = self.word();
                let signature = match word.as_str() {
                    "true" | "false" => return Ok(Value::Bool(word == "true")),
                    "boolean" => "b",
                    "byte" => "y",
                    "int16" => "n",
                    "uint16" => "q",
                    "int32" => "i",
                    "uint32" => "u",
                    "int64" => "x",
                    "uint64" => "t",
                    "double" => "d",
                    "string" => "s",
                    "objectpath" => "o",
                    "signature" => "g",
                    _ if word.contains('.') => return number("d", &word),
                    _ => return number("i", &word),
                };
                self.typed(signature)
            }
        }
    }

    /// A value whose type is known.
    fn typed(&mut self, signature: &str) -> Result<Value, String> {
        match signature {
            "s" => Ok(Value::Str(self.quoted()?)),
            "o" => Ok(Value::ObjectPath(self.quoted()?)),
            "g" => Ok(Value::Signature(self.quoted()?)),
            "b" => match self.word().as_str() {
                "true" => Ok(Value::Bool(true)),
                "false" => Ok(Value::Bool(false)),
                word => Err(format!("{word:?}: expected true or false")),
            },
            _ => {
                let word = self.word();
                number(signature, &word)
            }
        }
    }

    fn array(&mut self, element: Option<&str>) -> Result<Value, String> {
        if !self.eat('[') {
            return Err("expected \"[\"".into());
        }
        self.depth += 1;
        if self.depth > DEEPEST {
            return Err(format!("arrays are nested deeper than {DEEPEST}"));
        }
        let mut values = Vec::new();
        while !self.eat(']') {
            if !values.is_empty() && !self.eat(',') {
                return Err("expected \",\" or \"]\" in an array".into());
            }
            let value = match element {
                Some(signature) => self.typed(signature)?,
                None => self.value()?,
            };
            values.push(value);
        }
        self.depth -= 1;
        let found = values.first().map(Value::signature);
        let Some(signature) = element.map(str::to_owned).or(found) else {
            return Err("an empty array needs a type, such as \"@as []\"".into());
        };
        match values.iter().find(|v| v.signature() != signature) {
            Some(other) => {
                Err(format!("an array holds values of types {signature:?} and {:?}", other.signature()))
            }
            None => Ok(Value::Array(signature, values)),
        }
    }

    fn quoted(&mut self) -> Result<String, String> {
        self.blanks();
        self.string()
    }

    fn string(&mut self) -> Result<String, String> {
        let mut chars = self.rest().char_indices();
        let quote = chars
            .next()
            .map(|(_, c)| c)
            .filter(|c| matches!(c, '\'' | '"'))
            .ok_or("expected a quoted string")?;
        let mut text = String::new();
        while let Some((i, c)) = chars.next() {
            match c {
                _ if c == quote => {
                    self.at += i + 1;
                    return Ok(text);
                }
                '\\' => match chars.next().map(|(_, c)| c) {
                    Some('n') => text.push('\n'),
                    Some('t') => text.push('\t'),
                    Some(c @ ('\\' | '\'' | '"')) => text.push(c),
                    other => return Err(format!("unknown escape \\{}", other.unwrap_or(' '))),
                },
                '\0' => return Err("a string holds NUL".into()),
                c => text.push(c),
            }
        }
        Err("a string does not end".into())
    }
}

fn number(signature: &str, word: &str) -> Result<Value, String> {
    let bad = || format!("{word:?}: expected a value of type {signature:?}");
    let whole = || match word.strip_prefix("0x") {
        Some(digits) => i128::from_str_radix(digits, 16).map_err(|_| bad()),
        None => word.parse::<i128>().map_err(|_| bad()),
    };
    Ok(match signature {
        "y" => Value::Byte(whole()?.try_into().map_err(|_| bad())?),
        "n" => Value::I16(whole()?.try_into().map_err(|_| bad())?),
        "q" => Value::U16(whole()?.try_into().map_err(|_| bad())?),
        "i" => Value::I32(whole()?.try_into().map_err(|_| bad())?),
        "u" => Value::U32(whole()?.try_into().map_err(|_| bad())?),
        "x" => Value::I64(whole()?.try_into().map_err(|_| bad())?),
        "t" => Value::U64(whole()?.try_into().map_err(|_| bad())?),
        "d" => Value::Double(word.parse::<f64>().map_err(|_| bad())?.to_bits()),
        _ => return Err(format!("type {signature:?} is not supported")),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arrays_are_nested_only_so_deep() {
        let nested = |depth: usize| format!("{}1{}", "[".repeat(depth), "]".repeat(depth));
        assert_eq!(parse(&nested(DEEPEST)).unwrap().signature(), "a".repeat(DEEPEST) + "i");
        for deep in [nested(DEEPEST + 1), nested(1_000_000), "[".repeat(1_000_000)] {
            assert_eq!(parse(&deep).unwrap_err(), "arrays are nested deeper than 32");
        }
        assert!(parse("[[1], [2], [3]]").is_ok());
        let row = format!("[{}1]", "[1], ".repeat(100));
        assert!(parse(&row).unwrap_err().contains("values of types"));
    }

    #[test]
    fn values() {
        let strings = |list: &[&str]| Value::Array("s".into(), list.iter().map(|s| Value::str(*s)).collect());
        let cases = [
            ("true", Value::Bool(true)),
            (" 5 ", Value::I32(5)),
            ("-0", Value::I32(0)),
            ("0x10", Value::I32(16)),
            ("2.5", Value::Double(2.5f64.to_bits())),
            ("uint64 123456789000", Value::U64(123_456_789_000)),
            ("byte 0xff", Value::Byte(255)),
            ("'inactive-or-failed'", Value::str("inactive-or-failed")),
            (r#""it's \"so\"\n""#, Value::str("it's \"so\"\n")),
            ("objectpath '/a'", Value::ObjectPath("/a".into())),
            ("['a.service', \"b\"]", strings(&["a.service", "b"])),
            ("@as []", strings(&[])),
            ("@as ['a']", strings(&["a"])),
            ("@t 7", Value::U64(7)),
            ("[uint32 1,uint32 2]", Value::Array("u".into(), vec![Value::U32(1), Value::U32(2)])),
            (
                "[[1], [2]]",
                Value::Array(
                    "ai".into(),
                    vec![
                        Value::Array("i".into(), vec![Value::I32(1)]),
                        Value::Array("i".into(), vec![Value::I32(2)]),
                    ],
                ),
            ),
        ];
        for (text, value) in cases {
            assert_eq!(parse(text), Ok(value), "{text}");
        }
    }

    #[test]
    fn what_is_no_value_is_told() {
        let cases = [
            ("", "expected a value"),
            ("maybe", r#""maybe": expected a value of type "i""#),
            ("byte 256", r#""256": expected a value of type "y""#),
            ("5 6", r#"unexpected "6" after the value"#),
            ("'a", "a string does not end"),
            (r"'\q'", r"unknown escape \q"),
            ("[]", r#"an empty array needs a type, such as "@as []""#),
            ("[1, 'a']", r#"an array holds values of types "i" and "s""#),
            ("[1 2]", r#"expected "," or "]" in an array"#),
            ("[1", r#"expected "," or "]" in an array"#),
            ("@(ss) ('a','b')", r#"type "(ss)" is not supported"#),
            ("uint64", r#""": expected a value of type "t""#),
            ("@", r#"type "" is not supported"#),
        ];
        for (text, problem) in cases {
            assert_eq!(parse(text).unwrap_err(), problem, "{text}");
        }
    }

    #[test]
    fn seconds_are_microseconds_on_the_bus() {
        let micro = |name: &str, text: &str| in_microseconds(name, parse(text).unwrap());
        let stop = |micro| Ok(("TimeoutStopUSec".to_owned(), Value::U64(micro)));
        assert_eq!(micro("TimeoutStopSec", "5"), stop(5_000_000));
        assert_eq!(micro("TimeoutStopSec", "uint64 5"), stop(5_000_000));
        assert_eq!(micro("TimeoutStopSec", "0.5"), stop(500_000));
        assert_eq!(micro("TimeoutStopUSec", "7"), Ok(("TimeoutStopUSec".into(), Value::I32(7))));
        for bad in ["'5s'", "-1", "uint64 18446744073709551615"] {
            assert_eq!(micro("TimeoutStopSec", bad).unwrap_err(), "expected a number of seconds", "{bad}");
        }
    }
}
