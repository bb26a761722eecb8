//! How a stream is compressed.

use std::io::{self, Write};
use std::str::FromStr;

use crate::error::{Error, Result};

/// The quickest of zstd's usual levels.
const LEVEL: i32 = 1;
/// Up to here zstd's windows are small (8 MiB); the levels beyond want a flag of every reader.
const HIGHEST: i32 = 19;
/// More workers than this would take more memory than they save time.
const MAX_WORKERS: usize = 8;

/// How an archive is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Compression {
    /// By zstd (RFC 8878) at this level, 1 to 19, on as many processors as there are.
    Zstd(i32),
    /// By LZ4, in its frame format.
    Lz4,
    /// Not at all.
    None,
}

impl Default for Compression {
    fn default() -> Self {
        Self::Zstd(LEVEL)
    }
}

impl FromStr for Compression {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let level = |text: &str| text.parse().ok().filter(|level| (1..=HIGHEST).contains(level));
        match text.split_once(':') {
            Some(("zstd", given)) => level(given)
                .map(Self::Zstd)
                .ok_or_else(|| Error::Invalid(format!("zstd:{given}: expected a level from 1 to {HIGHEST}"))),
            None if text == "zstd" => Ok(Self::default()),
            None if text == "lz4" => Ok(Self::Lz4),
            None if text == "none" => Ok(Self::None),
            _ => Err(Error::Invalid(format!("{text:?}: expected zstd, zstd:LEVEL, lz4 or none"))),
        }
    }
}

/// A stream that is compressed on its way.
pub(super) enum Packer<W: Write> {
    Zstd(zstd::stream::write::Encoder<'static, W>),
    Lz4(Box<lz4_flex::frame::FrameEncoder<W>>),
    None(W),
}

impl<W: Write> Packer<W> {
    pub(super) fn new(to: W, how: Compression) -> io::Result<Self> {
        Ok(match how {
            Compression::Zstd(level) => {
                let mut encoder = zstd::stream::write::Encoder::new(to, level)?;
                encoder.include_checksum(true)?;
                let workers = std::thread::available_parallelism().map_or(1, usize::from).min(MAX_WORKERS);
                // One alone is not worth a thread.
                encoder.multithread(if workers > 1 { workers as u32 } else { 0 })?;
                Self::Zstd(encoder)
            }
            Compression::Lz4 => {
                let info = lz4_flex::frame::FrameInfo::new().content_checksum(true);
                Self::Lz4(Box::new(lz4_flex::frame::FrameEncoder::with_frame_info(info, to)))
            }
            Compression::None => Self::None(to),
        })
    }

    /// Ends the stream, of which all has gone on then.
    pub(super) fn finish(self) -> io::Result<W> {
        match self {
            Self::Zstd(encoder) => encoder.finish(),
            Self::Lz4(encoder) => encoder.finish().map_err(io::Error::from),
            Self::None(to) => Ok(to),
        }
    }
}

impl<W: Write> Write for Packer<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Zstd(encoder) => encoder.write(bytes),
            Self::Lz4(encoder) => encoder.write(bytes),
            Self::None(to) => to.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Zstd(encoder) => encoder.flush(),
            Self::Lz4(encoder) => encoder.flush(),
            Self::None(to) => to.flush(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tarball::read::decompress;
    use std::io::Read as _;

    #[test]
    fn what_is_packed_comes_back() {
        let bytes: Vec<u8> = (0..3_000_000_u32).flat_map(|n| (n / 7).to_le_bytes()).collect();
        for (how, least) in [("zstd", 4), ("zstd:3", 4), ("lz4", 2), ("none", 1)] {
            let mut packer = Packer::new(Vec::new(), how.parse().unwrap()).unwrap();
            packer.write_all(&bytes).unwrap();
            let packed = packer.finish().unwrap();
            assert!(packed.len() <= bytes.len() / least, "{how}: {}", packed.len());
            let mut back = Vec::new();
            decompress(&packed[..]).unwrap().read_to_end(&mut back).unwrap();
            assert!(back == bytes, "{how}");
        }
    }

    #[test]
    fn words_that_are_none_are_told() {
        for word in ["zstd:0", "zstd:20", "zstd:", "zstd:x"] {
            let error = word.parse::<Compression>().unwrap_err().to_string();
            assert_eq!(error, format!("{word}: expected a level from 1 to 19"));
        }
        for word in ["", "gzip", "lz4:3", "none:1", "ZSTD"] {
            let error = word.parse::<Compression>().unwrap_err().to_string();
            assert_eq!(error, format!("{word:?}: expected zstd, zstd:LEVEL, lz4 or none"));
        }
        assert_eq!("zstd:19".parse::<Compression>().unwrap(), Compression::Zstd(19));
    }
}
