//! The frames of a migration: a kind, a length, and a payload.
//!
//! ```text
//! u8 kind | u32 length, little-endian | payload
//! 'W': a word, JSON of at most 4 MiB;  'D': bytes of the file that was named last, at most 1 MiB
//! 'P': u64 memory | u64 address | pages, at most 1 MiB
//! 'C': u8 algorithm | u8 kind, D or P | u32 length of its last part | its first part | its last part, compressed
//! ```

use std::io::{self, Read, Write};
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::packing::Packing;
use super::rootfs::change::{Amount, Change, MAX_BYTES};
use crate::helpers::lazy::Token;
use crate::state::migration::Decision;

/// Of the conversation; a peer with another one is refused by name.
pub(super) const PROTOCOL: u32 = 6;
/// Bytes of a frame before its payload.
const HEAD: usize = 5;
const WORD: u8 = b'W';
const DATA: u8 = b'D';
const PAGES: u8 = b'P';
const PACKED: u8 = b'C';
/// Bytes of a compressed frame before its parts: algorithm, kind and length.
const PACKED_HEAD: usize = 6;
/// Bytes of a frame of pages before these: whose they are, and where.
const PLACE: usize = 16;
const MAX_WORD: usize = 4 << 20;
/// Bytes of a file, or of memory, in a frame.
pub(super) const MAX_DATA: usize = MAX_BYTES;

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
    Accept {
        /// The algorithms by which frames may be compressed.
        compress: Vec<Packing>,
        /// Milliseconds by which the clock there was ahead when the offer came.
        clock: i64,
    },
    /// Destination: it may not, or what came cannot be restored.
    Refuse(String),
    /// Source: a file of the checkpoint; its bytes follow.
    File { name: String, size: u64 },
    /// Source: steps of the root file system; then the bytes of all their ranges, if there are any.
    Changes(Vec<Change>),
    /// Source: that is to be on the disk before more comes.
    Sync,
    /// Destination: it is.
    Synced,
    /// Source: those were all files, and so many bytes of memory stay with it until they are wanted.
    Complete { files: u64, behind: u64 },
    /// Both: it is still at work.
    Working,
    /// Destination: send these pages.
    Want(Want),
    /// Destination: it has all pages, and the container runs with them.
    Arrived,
    /// Both, after the decision: no more memory goes over.
    Lost(String),
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

/// Pages that are wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Want {
    /// Whose, as frames of pages have it.
    pub(super) memory: u64,
    pub(super) address: u64,
    pub(super) pages: u64,
    /// Whether somebody waits for them, so that they come before others.
    pub(super) waited: bool,
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
    /// Milliseconds since 1970.
    pub(super) clock: i64,
    /// The cgroups of the machine: `v1`, `v2` or `hybrid`.
    pub(super) cgroups: String,
    /// The numbers of its processes and threads, if it has them in the machine's pid namespace.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) numbers: Vec<i32>,
    /// The addresses that its connections use, if these are to go on and its network does not come along.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) addresses: Vec<IpAddr>,
    /// The bundle is to come, too, with so much in its root.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) rootfs: Option<Amount>,
    /// Some of its memory may come only when it runs there.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(super) post_copy: bool,
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
pub(super) fn write_word(to: &mut dyn Write, word: &Word) -> io::Result<()> {
    let json = serde_json::to_vec(word).map_err(|e| invalid(e.to_string()))?;
    if json.len() > MAX_WORD {
        return Err(invalid(format!("a word of {} bytes; at most {MAX_WORD} can be said", json.len())));
    }
    write_frame(to, WORD, &json)
}

/// Bytes of a file, or of memory.
#[derive(Debug, Clone, Copy)]
pub(super) enum Bytes<'a> {
    /// At most [`MAX_DATA`].
    File(&'a [u8]),
    /// As [`File`](Self::File), of the root file system.
    Rootfs(&'a [u8]),
    /// From an address on; pages of at most [`MAX_DATA`] bytes.
    Pages { memory: u64, address: u64, bytes: &'a [u8] },
}

impl Bytes<'_> {
    /// So many.
    pub(super) fn len(self) -> usize {
        let (Self::File(bytes) | Self::Rootfs(bytes) | Self::Pages { bytes, .. }) = self;
        bytes.len()
    }
}

/// Writes bytes, compressed if they become smaller by it; how many the frame has.
pub(super) fn write_bytes(
    to: &mut dyn Write,
    bytes: Bytes<'_>,
    packing: Option<Packing>,
) -> io::Result<usize> {
    let (kind, place, content) = match bytes {
        Bytes::File(content) | Bytes::Rootfs(content) => (DATA, Vec::new(), content),
        Bytes::Pages { memory, address, bytes } => {
            (PAGES, [memory.to_le_bytes(), address.to_le_bytes()].concat(), bytes)
        }
    };
    let packed = packing.map(|packing| packing.pack(content).map(|packed| (packing, packed))).transpose()?;
    let packed = packed.filter(|(_, packed)| packed.len() + PACKED_HEAD < content.len());
    let mut head = Vec::with_capacity(HEAD + PACKED_HEAD + PLACE);
    let content = match &packed {
        Some((packing, packed)) => {
            head.extend(frame_head(PACKED, PACKED_HEAD + place.len() + packed.len())?);
            let [_, length @ ..] = frame_head(kind, content.len())?;
            head.extend([packing.mark(), kind]);
            head.extend(length);
            packed
        }
        None => {
            head.extend(frame_head(kind, place.len() + content.len())?);
            content
        }
    };
    head.extend(place);
    to.write_all(&head)?;
    to.write_all(content)?;
    Ok(head.len() + content.len())
}

fn write_frame(to: &mut dyn Write, kind: u8, payload: &[u8]) -> io::Result<()> {
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
        PACKED => PACKED_HEAD + PLACE + MAX_DATA,
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
    match kind {
        DATA => Ok(Some(Frame::Data(payload))),
        PAGES => {
            let (memory, address, bytes) = placed(&payload)?;
            Ok(Some(Frame::Pages { memory, address, bytes: bytes.to_vec() }))
        }
        PACKED => unpack(&payload).map(Some),
        _ => serde_json::from_slice(&payload)
            .map(|word| Some(Frame::Word(word)))
            .map_err(|e| invalid(format!("a word that is not known: {e}"))),
    }
}

/// Whose pages they are, where, and the rest.
fn placed(payload: &[u8]) -> io::Result<(u64, u64, &[u8])> {
    let (memory, rest) = payload.split_first_chunk().ok_or_else(|| invalid("pages of nobody".into()))?;
    let (address, bytes) =
        rest.split_first_chunk().ok_or_else(|| invalid("pages without an address".into()))?;
    Ok((u64::from_le_bytes(*memory), u64::from_le_bytes(*address), bytes))
}

/// A compressed frame. Its length bounds what it may become.
fn unpack(payload: &[u8]) -> io::Result<Frame> {
    let short = || invalid("a compressed frame that is too short".into());
    let ([mark, kind, length @ ..], packed) = payload.split_first_chunk::<PACKED_HEAD>().ok_or_else(short)?;
    let unknown = || invalid(format!("compression of unknown kind {mark:#04x}"));
    let packing = Packing::of_mark(*mark).ok_or_else(unknown)?;
    let length = u32::from_le_bytes(*length) as usize;
    if length > MAX_DATA {
        return Err(invalid(format!("{length} compressed bytes; at most {MAX_DATA} are allowed")));
    }
    match *kind {
        DATA => Ok(Frame::Data(packing.unpack(packed, length)?)),
        PAGES => {
            let (memory, address, packed) = placed(packed)?;
            Ok(Frame::Pages { memory, address, bytes: packing.unpack(packed, length)? })
        }
        other => Err(invalid(format!("a compressed frame of unknown kind {other:#04x}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::migrate::packing::KNOWN;

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
        let page = [7; 4096];
        let pages = |bytes| Bytes::Pages { memory: 7 << 8 | 1, address: 0x1000, bytes };
        write_bytes(&mut bytes, Bytes::File(b"pages"), None).unwrap();
        write_bytes(&mut bytes, pages(b"of memory"), None).unwrap();
        for packing in KNOWN {
            let sent = write_bytes(&mut bytes, Bytes::File(&page), Some(*packing)).unwrap();
            assert!(sent < 100, "{packing:?}: {sent}");
            assert!(write_bytes(&mut bytes, pages(&page), Some(*packing)).unwrap() < 100);
            // Nothing that would become larger.
            assert_eq!(write_bytes(&mut bytes, Bytes::File(b"short"), Some(*packing)).unwrap(), 10);
        }
        let mut from = &bytes[..];
        for word in words {
            assert_eq!(read_frame(&mut from).unwrap(), Some(Frame::Word(word)));
        }
        assert_eq!(read_frame(&mut from).unwrap(), Some(Frame::Data(b"pages".to_vec())));
        let pages = Frame::Pages { memory: 7 << 8 | 1, address: 0x1000, bytes: b"of memory".to_vec() };
        assert_eq!(read_frame(&mut from).unwrap(), Some(pages));
        for _ in KNOWN {
            assert_eq!(read_frame(&mut from).unwrap(), Some(Frame::Data(page.to_vec())));
            let pages = Frame::Pages { memory: 7 << 8 | 1, address: 0x1000, bytes: page.to_vec() };
            assert_eq!(read_frame(&mut from).unwrap(), Some(pages));
            assert_eq!(read_frame(&mut from).unwrap(), Some(Frame::Data(b"short".to_vec())));
        }
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
        assert!(refused(b"C\x17\x00\x10\x00").contains("at most 1048598 are allowed"));
        assert!(refused(b"C\x03\0\0\0zD\0").contains("too short"));
        assert!(refused(b"C\x06\0\0\0?D\0\0\0\0").contains("unknown kind 0x3f"));
        assert!(refused(b"C\x06\0\0\0zW\0\0\0\0").contains("unknown kind 0x57"));
        assert!(refused(b"C\x06\0\0\0zP\0\0\0\0").contains("pages of nobody"));
        assert!(refused(b"C\x06\0\0\0zD\x01\0\x10\0").contains("1048577 compressed bytes; at most 1048576"));
        assert!(refused(b"C\x07\0\0\0lD\x05\0\0\0\0").contains("announced"));
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
