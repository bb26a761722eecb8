//! Compression of what goes over: by which algorithm, and when it is worth the time.

use std::io;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::checkpoint::words::Word;

/// Which frames are compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Compress {
    /// By zstd where that is quicker, as is found out on the way.
    #[default]
    Auto,
    /// All that become smaller, by zstd.
    Zstd,
    /// All that become smaller, by LZ4.
    Lz4,
    /// None.
    None,
}

impl Word for Compress {
    const CHOICE: &'static str = "compress";
    const WORDS: &'static [&'static str] = &["auto", "zstd", "lz4", "none"];
    const MEANINGS: &'static [Self] = &[Self::Auto, Self::Zstd, Self::Lz4, Self::None];
}

/// An algorithm, by its name in the protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Packing {
    /// A frame of zstd (RFC 8878).
    Zstd,
    /// A block of LZ4.
    Lz4,
}

/// Those that this program knows.
#[cfg(feature = "compress")]
pub(super) const KNOWN: &[Packing] = &[Packing::Zstd, Packing::Lz4];
#[cfg(not(feature = "compress"))]
pub(super) const KNOWN: &[Packing] = &[];

impl Packing {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Zstd => "zstd",
            Self::Lz4 => "lz4",
        }
    }

    /// The byte that stands for it in a frame.
    pub(super) fn mark(self) -> u8 {
        match self {
            Self::Zstd => b'z',
            Self::Lz4 => b'l',
        }
    }

    pub(super) fn of_mark(mark: u8) -> Option<Self> {
        KNOWN.iter().find(|packing| packing.mark() == mark).copied()
    }

    #[cfg(feature = "compress")]
    pub(super) fn pack(self, bytes: &[u8]) -> io::Result<Vec<u8>> {
        match self {
            // The quickest of its usual levels: beyond it the processor is what is waited for.
            Self::Zstd => zstd::bulk::compress(bytes, 1),
            Self::Lz4 => Ok(lz4_flex::block::compress(bytes)),
        }
    }

    /// As many bytes as `bytes` must become, and no byte more is ever written.
    #[cfg(feature = "compress")]
    pub(super) fn unpack(self, bytes: &[u8], length: usize) -> io::Result<Vec<u8>> {
        let invalid = |why: String| io::Error::new(io::ErrorKind::InvalidData, why);
        let mut unpacked = vec![0; length];
        let found = match self {
            Self::Zstd => zstd::bulk::decompress_to_buffer(bytes, &mut unpacked).map_err(|e| e.to_string()),
            Self::Lz4 => lz4_flex::block::decompress_into(bytes, &mut unpacked).map_err(|e| e.to_string()),
        };
        match found {
            Ok(found) if found == length => Ok(unpacked),
            Ok(found) => Err(invalid(format!("{found} bytes are compressed where {length} were announced"))),
            Err(e) => {
                Err(invalid(format!("bytes that cannot be decompressed to the {length} announced: {e}")))
            }
        }
    }

    #[cfg(not(feature = "compress"))]
    pub(super) fn pack(self, _: &[u8]) -> io::Result<Vec<u8>> {
        Err(io::ErrorKind::Unsupported.into())
    }

    #[cfg(not(feature = "compress"))]
    pub(super) fn unpack(self, _: &[u8], _: usize) -> io::Result<Vec<u8>> {
        Err(io::ErrorKind::Unsupported.into())
    }
}

/// Decides for each frame.
#[derive(Debug, Default)]
pub(super) enum Packer {
    #[default]
    Never,
    Always(Packing),
    Measured(Measured),
}

impl Packer {
    /// As is wanted, with one that the other end has said it knows; none if it knows none.
    ///
    /// # Errors
    /// The one that is wanted and not known.
    pub(super) fn new(wanted: Compress, known: &[Packing]) -> Result<Self, Packing> {
        let known = |packing: Packing| KNOWN.contains(&packing) && known.contains(&packing);
        let always = |packing| if known(packing) { Ok(Self::Always(packing)) } else { Err(packing) };
        match wanted {
            Compress::Zstd => always(Packing::Zstd),
            Compress::Lz4 => always(Packing::Lz4),
            Compress::Auto if known(Packing::Zstd) => Ok(Self::Measured(Measured::default())),
            Compress::Auto | Compress::None => Ok(Self::Never),
        }
    }

    /// The algorithm for the next frame, of so many bytes.
    pub(super) fn next(&mut self, bytes: usize) -> Option<Packing> {
        match self {
            Self::Never => None,
            Self::Always(packing) => Some(*packing),
            Self::Measured(measured) => (bytes >= LEAST && measured.next()).then_some(Packing::Zstd),
        }
    }

    /// The time that it took to compress, if it was to be, and to send it.
    pub(super) fn took(&mut self, packing: Option<Packing>, bytes: usize, time: Duration) {
        if let Self::Measured(measured) = self
            && bytes >= LEAST
        {
            measured.took(packing.is_some(), time.as_secs_f64() / bytes as f64);
        }
    }
}

/// Bytes of a frame of which the time tells something.
const LEAST: usize = 128 << 10;
/// Frames between two of which one is sent the other way on trial: as few at first, and as many at most.
const TRIALS: (u32, u32) = (8, 256);

/// The quicker of the two ways to send frames, by the time that they have taken. The time is that in which the sender could do nothing
/// else: a quick link takes a frame at once, and then compression only costs.
#[derive(Debug)]
pub(super) struct Measured {
    /// Seconds for a byte: as it is, and compressed.
    costs: [Option<f64>; 2],
    /// Whether frames are compressed just now.
    packs: bool,
    /// How many more go that way before a trial of the other, and how many go between two trials.
    left: u32,
    between: u32,
}

impl Default for Measured {
    fn default() -> Self {
        Self { costs: [None; 2], packs: false, left: TRIALS.0, between: TRIALS.0 }
    }
}

impl Measured {
    fn next(&self) -> bool {
        self.packs != (self.left == 0)
    }

    fn took(&mut self, packed: bool, seconds: f64) {
        let cost = &mut self.costs[usize::from(packed)];
        *cost = Some(cost.map_or(seconds, |cost| cost * 0.75 + seconds * 0.25));
        if packed == self.packs {
            self.left = self.left.saturating_sub(1);
            return;
        }
        // One trial is no average, but what it costs to be wrong is told by the frames that follow.
        let [plain, compressed] = self.costs.map(|cost| cost.unwrap_or(f64::INFINITY));
        let better = compressed < plain;
        self.between = if better == self.packs { (self.between * 2).min(TRIALS.1) } else { TRIALS.0 };
        (self.packs, self.left) = (better, self.between);
    }
}

#[cfg(all(test, feature = "compress"))]
mod tests {
    use super::*;

    #[test]
    fn what_is_packed_comes_back_and_lying_lengths_are_refused() {
        let bytes: Vec<u8> = (0..200_000_u32).flat_map(|n| (n / 7).to_le_bytes()).collect();
        for packing in KNOWN {
            let packed = packing.pack(&bytes).unwrap();
            assert!(packed.len() < bytes.len() / 2, "{packing:?}: {}", packed.len());
            assert!(packing.unpack(&packed, bytes.len()).unwrap() == bytes);
            for lie in [0, 1, bytes.len() - 1, bytes.len() + 1] {
                let error = packing.unpack(&packed, lie).unwrap_err().to_string();
                assert!(error.contains("announced"), "{packing:?} {lie}: {error}");
            }
            for cut in [0, 1, packed.len() / 2, packed.len() - 1] {
                assert!(packing.unpack(&packed[..cut], bytes.len()).is_err(), "{packing:?} {cut}");
            }
            assert_eq!(Packing::of_mark(packing.mark()), Some(*packing));
        }
        assert_eq!(Packing::of_mark(b'?'), None);
    }

    #[test]
    fn an_algorithm_that_the_other_end_lacks_is_not_used() {
        assert!(matches!(Packer::new(Compress::Auto, &[]), Ok(Packer::Never)));
        assert!(matches!(Packer::new(Compress::Zstd, &[Packing::Lz4]), Err(Packing::Zstd)));
        assert!(matches!(Packer::new(Compress::Lz4, &[Packing::Lz4]), Ok(Packer::Always(Packing::Lz4))));
        assert!(matches!(Packer::new(Compress::None, KNOWN), Ok(Packer::Never)));
    }

    /// Frames that are compressed of 1000, where a byte costs so many seconds as it is and compressed.
    fn packed_of_1000(plain: f64, compressed: f64) -> u32 {
        let mut packer = Packer::new(Compress::Auto, KNOWN).unwrap();
        let mut packed = 0;
        for _ in 0..1000 {
            let how = packer.next(1 << 20);
            packed += u32::from(how.is_some());
            let cost = if how.is_some() { compressed } else { plain };
            packer.took(how, 1 << 20, Duration::from_secs_f64(cost * f64::from(1 << 20)));
        }
        packed
    }

    #[test]
    fn the_quicker_way_is_found_and_the_other_one_tried_now_and_then() {
        // 1 Gbit/s, and zstd to a third at 450 MB/s; a link at 2 GB/s.
        let slow = packed_of_1000(8e-9, 2.7e-9);
        assert!((970..1000).contains(&slow), "{slow}");
        let quick = packed_of_1000(0.5e-9, 2.4e-9);
        assert!((1..15).contains(&quick), "{quick}");
    }

    #[test]
    fn a_link_that_becomes_slow_is_noticed() {
        let mut packer = Packer::new(Compress::Auto, KNOWN).unwrap();
        let mut packed = [0; 2];
        for frame in 0..2000 {
            let how = packer.next(1 << 20);
            packed[frame / 1000] += u32::from(how.is_some());
            let plain = if frame < 1000 { 0.0005 } else { 0.008 };
            packer.took(how, 1 << 20, Duration::from_secs_f64(if how.is_some() { 0.0027 } else { plain }));
        }
        assert!(packed[0] < 15 && packed[1] > 700, "{packed:?}");
    }
}
