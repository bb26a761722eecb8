//! Encryption in the format of `age`, version 1 (age.md of the Community Cryptography Specification Project): the program reads what
//! is written here, and what it writes is read here.
//!
//! A file has a key of its own. Its header holds that key once for each recipient, its payload is sealed in chunks by a key that
//! is derived from it. Primitives are ring's and curve25519-dalek's.

mod failure;
mod header;
mod keys;
mod payload;
mod primitives;
mod ssh;

use std::io::{self, BufRead, Write};

use failure::ended;
pub(crate) use failure::{ARMOR, Failure, MAGIC};
use header::Header;
pub use keys::{Identities, Recipients};
pub(crate) use payload::{Opener, Sealer};
use primitives::{FileKey, random};

/// Begins a file for these recipients, of whom there is one at least. Its end is [`Sealer::finish`].
pub(crate) fn encrypt<W: Write>(mut to: W, recipients: &Recipients) -> io::Result<Sealer<W>> {
    let key = FileKey::new(random()?);
    let stanzas = recipients.wrap(&key)?;
    to.write_all(&Header::of(stanzas).sealed(&key))?;
    let nonce: [u8; 16] = random()?;
    to.write_all(&nonce)?;
    Ok(Sealer::new(to, key.payload(&nonce)))
}

/// Opens a file that begins with [`MAGIC`].
///
/// # Errors
/// A [`Failure`] inside, or that of the reader.
pub(crate) fn decrypt<R: BufRead>(mut from: R, identities: &Identities) -> io::Result<Opener<R>> {
    let header = Header::read(&mut from)?;
    let key = identities.unwrap(&header)?;
    header.check(&key)?;
    let mut nonce = [0; 16];
    from.read_exact(&mut nonce).map_err(ended)?;
    Ok(Opener::new(from, key.payload(&nonce)))
}

/// Files of keys and headers, whatever they are; returns a key that opens some of what the targets have been given.
#[cfg(fuzzing)]
pub(crate) fn fuzz(input: &[u8]) -> Identities {
    let _ = Header::read(&mut &*input);
    if let Ok(text) = std::str::from_utf8(input) {
        let _ = Identities::default().add_text(text);
        let _ = Recipients::default().add(text);
    }
    let mut ours = Identities::default();
    let known = "AGE-SECRET-KEY-1GFPYYSJZGFPYYSJZGFPYYSJZGFPYYSJZGFPYYSJZGFPYYSJZGFPQ4EGAEX";
    ours.add_text(known).expect("the key of the specification's examples");
    ours
}

#[cfg(test)]
mod tests;
