//! The header: lines of text.

use std::io::{self, BufRead, Read};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD as BASE64;
use ring::hmac;

use super::failure::{Failure, ended};
use super::primitives::FileKey;

const VERSION: &str = "age-encryption.org/v1";
/// The largest header: some thousand recipients.
const MAX: u64 = 1 << 20;
/// The width of a stanza's body.
const COLUMNS: usize = 64;

/// The words by which one recipient gets the file's key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Stanza {
    /// The kind of the recipient.
    pub(super) kind: String,
    /// The words behind the kind.
    pub(super) arguments: Vec<String>,
    pub(super) body: Vec<u8>,
}

impl Stanza {
    /// The bytes of an argument, of which there must be so many.
    pub(super) fn argument<const N: usize>(&self, n: usize) -> Option<[u8; N]> {
        BASE64.decode(self.arguments.get(n)?).ok()?.try_into().ok()
    }
}

pub(super) fn base64(bytes: &[u8]) -> String {
    BASE64.encode(bytes)
}

/// A header, and what authenticates it.
pub(super) struct Header {
    pub(super) stanzas: Vec<Stanza>,
    /// Its text up to the `---` of the last line.
    text: String,
    mac: Vec<u8>,
}

impl Header {
    /// A header that nothing authenticates yet.
    pub(super) fn of(stanzas: Vec<Stanza>) -> Self {
        let mut text = format!("{VERSION}\n");
        for stanza in &stanzas {
            let line = std::iter::once(&stanza.kind).chain(&stanza.arguments);
            text += &line.fold("->".to_owned(), |line, word| line + " " + word);
            text += "\n";
            let body = BASE64.encode(&stanza.body);
            let mut rest = &*body;
            while rest.len() >= COLUMNS {
                let (line, after) = rest.split_at(COLUMNS);
                text += &format!("{line}\n");
                rest = after;
            }
            // The last line is a short one, and may be empty.
            text += &format!("{rest}\n");
        }
        text += "---";
        Self { stanzas, text, mac: Vec::new() }
    }

    /// Its bytes, authenticated by the file's key.
    pub(super) fn sealed(&self, key: &FileKey) -> Vec<u8> {
        let mac = hmac::sign(&key.mac(), self.text.as_bytes());
        format!("{} {}\n", self.text, BASE64.encode(mac)).into_bytes()
    }

    /// Whether the one who has written it knew the file's key.
    pub(super) fn check(&self, key: &FileKey) -> Result<(), Failure> {
        hmac::verify(&key.mac(), self.text.as_bytes(), &self.mac)
            .map_err(|_| Failure::Header("was changed".into()))
    }

    /// Reads a header, and not a byte more.
    pub(super) fn read(from: &mut impl BufRead) -> io::Result<Self> {
        let mut lines = Lines { from: from.take(MAX), text: String::new() };
        let first = lines.next()?;
        if first != VERSION {
            return bad(format!("says {first:?}; expected {VERSION}"));
        }
        let mut stanzas = Vec::new();
        loop {
            let line = lines.next()?;
            if let Some(mac) = line.strip_prefix("--- ") {
                let mac = BASE64.decode(mac).ok().filter(|mac| mac.len() == 32);
                let Some(mac) = mac else { return bad("ends in no authentication code") };
                if stanzas.is_empty() {
                    return bad("has no recipient");
                }
                let end = lines.text.len() - line.len() - 1 + "---".len();
                lines.text.truncate(end);
                return Ok(Self { stanzas, text: lines.text, mac });
            }
            let Some(words) = line.strip_prefix("-> ") else {
                return bad(format!(
                    "has the line {line:?}; expected a recipient's, which begins with \"-> \""
                ));
            };
            let mut words: Vec<_> = words.split(' ').map(str::to_owned).collect();
            if words.iter().any(String::is_empty) {
                return bad(format!("has the line {line:?}; expected words with one space between them"));
            }
            stanzas.push(Stanza { kind: words.remove(0), arguments: words, body: lines.body()? });
        }
    }
}

struct Lines<R> {
    from: io::Take<R>,
    /// All that was read.
    text: String,
}

impl<R: BufRead> Lines<R> {
    /// The next line, without its end.
    fn next(&mut self) -> io::Result<String> {
        let mut line = Vec::new();
        self.from.read_until(b'\n', &mut line)?;
        if line.pop() != Some(b'\n') {
            if self.from.limit() == 0 {
                return bad(format!("is longer than {MAX} bytes"));
            }
            return Err(ended(io::ErrorKind::UnexpectedEof.into()));
        }
        let text = String::from_utf8(line).ok();
        let plain = text.filter(|text| text.bytes().all(|b| b == b' ' || b.is_ascii_graphic()));
        let Some(line) = plain else { return bad("is no text") };
        self.text += &line;
        self.text.push('\n');
        Ok(line)
    }

    /// The body of a stanza: full lines and a shorter one.
    fn body(&mut self) -> io::Result<Vec<u8>> {
        let mut all = String::new();
        loop {
            let line = self.next()?;
            all += &line;
            if line.len() > COLUMNS {
                return bad(format!("has a line of {} columns; expected {COLUMNS} at most", line.len()));
            }
            if line.len() < COLUMNS {
                return BASE64.decode(all).or_else(|_| bad("has a recipient with a body that is no Base64"));
            }
        }
    }
}

fn bad<T>(why: impl Into<String>) -> io::Result<T> {
    Err(Failure::Header(why.into()).into())
}
