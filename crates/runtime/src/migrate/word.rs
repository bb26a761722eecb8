//! The frames of a migration: a kind, a length, and a payload.
//!
//! ```text
//! u8 kind | u32 length, little-endian | payload
//! 'W': a word, JSON of at most 4 MiB;  'D': bytes of the file that was named last, at most 1 MiB
//! 'P': u64 memory | u64 address | pages, at most 1 MiB
//! ```

use std::io::{self, Read, Write};

use serde::{Deserialize, Serialize};

use crate::helpers::lazy::Token;
use crate::state::migration::Decision;

/// Of the conversation; a peer with another one is refused by name.
pub(super) const PROTOCOL: u32 = 2;
/// Bytes of a frame before its payload.
const HEAD: usize = 5;
const WORD: u8 = b'W';
const DATA: u8 = b'D';
const PAGES: u8 = b'P';
/// Bytes of a frame of pages before these: whose they are, and where.
const PLACE: usize = 16;
const MAX_WORD: usize = 4 << 20;
/// Bytes of a file, or of memory, in a frame.
pub(super) const MAX_DATA: usize = 1 << 20;

/// A message from one end to the other.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "word", content = "of", rename_all = "kebab-case", deny_unknown_fields)]
pub(super) enum Word {
    /// Both, first of all.
    Hello {
        protocol: u32,
        /// The program and its version, for messages.
        program: String,
    },
    /// Source: this container is to come.
    Offer(Box<Offer>),
    /// Destination: it may come.
    Accept,
    /// Destination: it may not, or what came cannot be restored.
    Refuse(String),
    /// Source: a file of the checkpoint; its bytes follow.
    File { name: String, size: u64 },
    /// Source: those were all files.
    Complete { files: u64 },
    /// Destination: it is still at work.
    Working,
    /// Destination: the container is restored, and stands still.
    Restored,
    /// Source: it is yours; run it.
    Commit,
    /// Source: it is not; drop it.
    Abort(String),
    /// Destination: it runs.
    Running,
    /// Either, in a later connection: what has become of this migration?
    Ask { token: Token },
    /// The source's answer, or in a later connection by itself.
    Decision { token: Token, decision: Decision },
    /// The destination has done what the decision says.
    Settled,
}

/// A container that is to come.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Offer {
    /// Of this migration alone.
    pub(super) token: Token,
    /// Its id there.
    pub(super) id: String,
    /// The bundle's directory there.
    pub(super) bundle: String,
    /// Its config.json here.
    pub(super) config: String,
    /// The CRIU that dumps it.
    pub(super) criu: [u32; 3],
    /// About how many bytes of memory it has.
    pub(super) memory: u64,
    /// The features of the processor, as /proc/cpuinfo has them; empty where it tells none.
    pub(super) processor: Vec<String>,
    /// Nothing will come: only the answer is wanted.
    pub(super) dry_run: bool,
}

/// A frame.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Frame {
    Word(Word),
    Data(Vec<u8>),
    /// Pages of the memory with this `id` of CRIU's, from an address on.
    Pages {
        memory: u64,
        address: u64,
        bytes: Vec<u8>,
    },
}

fn invalid(why: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why)
}

/// Writes a word.
pub(super) fn write_word(to: &mut impl Write, word: &Word) -> io::Result<()> {
    let json = serde_json::to_vec(word).map_err(|e| invalid(e.to_string()))?;
    if json.len() > MAX_WORD {
        return Err(invalid(format!("a word of {} bytes; at most {MAX_WORD} can be said", json.len())));
    }
    write_frame(to, WORD, &json)
}

/// Writes bytes of a file, at most [`MAX_DATA`].
pub(super) fn write_data(to: &mut impl Write, bytes: &[u8]) -> io::Result<()> {
    write_frame(to, DATA, bytes)
}

/// Writes pages of a memory, at most [`MAX_DATA`] bytes.
pub(super) fn write_pages(to: &mut impl Write, memory: u64, address: u64, bytes: &[u8]) -> io::Result<()> {
    let mut head = Vec::with_capacity(HEAD + PLACE);
    head.extend(frame_head(PAGES, PLACE + bytes.len())?);
    head.extend(memory.to_le_bytes());
    head.extend(address.to_le_bytes());
    to.write_all(&head)?;
    to.write_all(bytes)
}

fn write_frame(to: &mut impl Write, kind: u8, payload: &[u8]) -> io::Result<()> {
    to.write_all(&frame_head(kind, payload.len())?)?;
    to.write_all(payload)
}

fn frame_head(kind: u8, length: usize) -> io::Result<[u8; HEAD]> {
    let length = u32::try_from(length).map_err(|_| invalid("a frame beyond 4 GiB".into()))?;
    let [a, b, c, d] = length.to_le_bytes();
    Ok([kind, a, b, c, d])
}

/// Reads a frame; none at the end of the stream between two of them.
pub(super) fn read_frame(from: &mut impl Read) -> io::Result<Option<Frame>> {
    let mut head = [0; HEAD];
    let first = loop {
        match from.read(&mut head[..1]) {
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            other => break other?,
        }
    };
    if first == 0 {
        return Ok(None);
    }
    from.read_exact(&mut head[1..])?;
    let [kind, length @ ..] = head;
    let length = u32::from_le_bytes(length) as usize;
    let limit = match kind {
        WORD => MAX_WORD,
        DATA => MAX_DATA,
        PAGES => PLACE + MAX_DATA,
        other => {
            return Err(invalid(format!(
                "a frame of unknown kind {other:#04x}: it does not speak this protocol"
            )));
        }
    };
    if length > limit {
        return Err(invalid(format!("a frame of {length} bytes; at most {limit} are allowed")));
    }
    let mut payload = vec![0; length];
    from.read_exact(&mut payload)?;
    if kind == DATA {
        return Ok(Some(Frame::Data(payload)));
    }
    if kind == PAGES {
        let Some((memory, rest)) = payload.split_first_chunk::<8>() else {
            return Err(invalid("pages of nobody".into()));
        };
        let Some((address, bytes)) = rest.split_first_chunk::<8>() else {
            return Err(invalid("pages without an address".into()));
        };
        let (memory, address) = (u64::from_le_bytes(*memory), u64::from_le_bytes(*address));
        return Ok(Some(Frame::Pages { memory, address, bytes: bytes.to_vec() }));
    }
    serde_json::from_slice(&payload)
        .map(|word| Some(Frame::Word(word)))
        .map_err(|e| invalid(format!("a word that is not known: {e}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_come_back() {
        let words = [
            Word::Hello { protocol: PROTOCOL, program: "hiber 1".into() },
            Word::Refuse("no".into()),
            Word::File { name: "pages-1.img".into(), size: 5 },
            Word::Restored,
            Word::Decision { token: Token::new().unwrap(), decision: Decision::Committed },
        ];
        let mut bytes = Vec::new();
        words.iter().for_each(|word| write_word(&mut bytes, word).unwrap());
        write_data(&mut bytes, b"pages").unwrap();
        write_pages(&mut bytes, 7 << 8 | 1, 0x1000, b"of memory").unwrap();
        let mut from = &bytes[..];
        for word in words {
            assert_eq!(read_frame(&mut from).unwrap(), Some(Frame::Word(word)));
        }
        assert_eq!(read_frame(&mut from).unwrap(), Some(Frame::Data(b"pages".to_vec())));
        let pages = Frame::Pages { memory: 7 << 8 | 1, address: 0x1000, bytes: b"of memory".to_vec() };
        assert_eq!(read_frame(&mut from).unwrap(), Some(pages));
        assert_eq!(read_frame(&mut from).unwrap(), None);
    }

    #[test]
    fn frames_that_are_none_are_refused() {
        let refused = |bytes: &[u8]| read_frame(&mut &*bytes).unwrap_err().to_string();
        assert!(refused(b"ssh: connect").contains("unknown kind 0x73"));
        assert!(refused(b"W\xff\xff\xff\xff").contains("at most 4194304 are allowed"));
        assert!(refused(b"D\x01\x00\x10\x00").contains("at most 1048576 are allowed"));
        assert!(refused(b"P\x11\x00\x10\x00").contains("at most 1048592 are allowed"));
        assert!(refused(b"P\x08\0\0\0seven..8").contains("without an address"));
        assert!(refused(b"W\x02\0\0\0{}").contains("not known"));
        assert!(refused(br#"W&"#).contains("fill whole buffer"));
        let unknown = br#"{"word":"dance"}"#;
        let mut bytes = vec![b'W', unknown.len() as u8, 0, 0, 0];
        bytes.extend(unknown);
        assert!(refused(&bytes).contains("dance"));
    }

    #[test]
    fn every_cut_of_a_conversation_is_told() {
        let mut bytes = Vec::new();
        write_word(&mut bytes, &Word::Restored).unwrap();
        for cut in 1..bytes.len() {
            assert!(read_frame(&mut &bytes[..cut]).is_err(), "{cut}");
        }
    }
}
