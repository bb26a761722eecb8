//! Random bytes of the kernel.

use rustix::rand::{GetRandomFlags, getrandom};

use crate::error::{Error, Result};

/// 32 of them.
pub(crate) fn random() -> Result<[u8; 32]> {
    let mut bytes = [0; 32];
    getrandom(&mut bytes[..], GetRandomFlags::empty()).map_err(|e| Error::sys("getrandom", "32 bytes", e))?;
    Ok(bytes)
}
