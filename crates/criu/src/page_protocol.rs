//! The words of CRIU's protocol for pages (criu/page-xfer.c), spoken by page servers, dumps that send their pages, and daemons.
//!
//! Each is 32 bytes: {u16 command, u16 flags, u32 padding, u64 pages, u64 address, u64 id}. Pages follow an [`ADD_F`]. An
//! [`OPEN2`] is answered with one byte, whether there is a parent; a [`CLOSE`] and a [`FORCE_CLOSE`] with a status of 4.

/// Bytes of a word.
pub const WORD: usize = 32;

/// Opens the memory `id`, to which what is added belongs from then on.
pub const OPEN2: u16 = 4;
/// Adds pages at an address, with the flags of [`pagemap`](crate::pagemap); the pages follow if they are present.
pub const ADD_F: u16 = 6;
/// Asks for pages.
pub const GET: u16 = 7;
/// Takes leave.
pub const CLOSE: u16 = 0x1023;
/// Takes leave of one who is to end.
pub const FORCE_CLOSE: u16 = 0x1024;

/// The content of a word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Word {
    /// The command.
    pub command: u16,
    /// Of the pages that are added.
    pub flags: u16,
    /// How many pages.
    pub pages: u64,
    /// The address of the first.
    pub address: u64,
    /// Whose memory: a task's number where pages are asked for, and a [`Memory`] where they are sent.
    pub id: u64,
}

impl Word {
    /// Reads a word from its bytes.
    pub fn of(bytes: &[u8; WORD]) -> Self {
        let word =
            |at: usize| bytes[at..at + 8].iter().rev().fold(0, |word, byte| word << 8 | u64::from(*byte));
        let half = |at: usize| u16::from_le_bytes([bytes[at], bytes[at + 1]]);
        Self { command: half(0), flags: half(2), pages: word(8), address: word(16), id: word(24) }
    }

    /// The bytes that say it.
    pub fn bytes(&self) -> [u8; WORD] {
        let mut bytes = [0; WORD];
        bytes[..2].copy_from_slice(&self.command.to_le_bytes());
        bytes[2..4].copy_from_slice(&self.flags.to_le_bytes());
        for (at, word) in [(8, self.pages), (16, self.address), (24, self.id)] {
            bytes[at..at + 8].copy_from_slice(&word.to_le_bytes());
        }
        bytes
    }
}

/// Whose memory pages are that a dump sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Memory {
    /// Of the task with this number, in the container.
    Task(u64),
    /// Of the shared segment with this number, which CRIU has given to it.
    Segment(u64),
}

impl Memory {
    /// As the `id` of a word that sends pages has it.
    pub fn of(id: u64) -> Option<Self> {
        match id & 0xff {
            1 => Some(Self::Task(id >> 8)),
            2 => Some(Self::Segment(id >> 8)),
            _ => None,
        }
    }

    /// The `id` of such a word.
    pub fn id(self) -> u64 {
        match self {
            Self::Task(pid) => pid << 8 | 1,
            Self::Segment(id) => id << 8 | 2,
        }
    }

    /// The name of its map of pages.
    pub fn pagemap(&self) -> String {
        match self {
            Self::Task(pid) => format!("pagemap-{pid}.img"),
            Self::Segment(id) => format!("pagemap-shmem-{id}.img"),
        }
    }
}
