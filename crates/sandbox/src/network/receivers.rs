//! Hardware addresses of multicast that somebody has had a device receive (`ip maddress add`), beside those of groups that sockets
//! have joined.

use hiber_sys::ioctl::{HARDWARE_ADDRESS, add_multicast_address};
use serde::{Deserialize, Serialize};

use super::object::bytes_of;
use crate::error::Context;
use crate::{Error, Result, SysError};

/// An address of a device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Receiver {
    device: String,
    /// In hexadecimal digits.
    address: String,
}

/// Reads those of the calling thread's network namespace. A kernel without them has no such file.
pub(super) fn read() -> Vec<Receiver> {
    let text = hiber_sys::file::read_to_string("/proc/thread-self/net/dev_mcast").unwrap_or_default();
    text.lines().filter_map(parse).collect()
}

/// `NUMBER DEVICE USERS STATIC ADDRESS` (net/core/net-procfs.c, dev_mc_seq_show).
fn parse(line: &str) -> Option<Receiver> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let [_, device, _, is_static, address] = words[..] else { return None };
    (is_static != "0").then(|| Receiver { device: device.into(), address: address.into() })
}

/// Has devices of the calling thread's network namespace receive these.
pub(super) fn put(wanted: &[Receiver]) -> Result<()> {
    if wanted.is_empty() {
        return Ok(());
    }
    let present = read();
    for Receiver { device, address } in wanted.iter().filter(|receiver| !present.contains(receiver)) {
        let bytes = bytes(address).ok_or_else(|| {
            let what = format!("{address:?} is no hardware address of at most {HARDWARE_ADDRESS} bytes");
            Error::invalid("receivers", what)
        })?;
        let made = add_multicast_address(device, &bytes).map_err(|e: SysError| Error::from(e));
        made.context(format!("have network device {} receive {address}", device.escape_debug()))?;
    }
    Ok(())
}

fn bytes(digits: &str) -> Option<Vec<u8>> {
    bytes_of(digits).filter(|bytes| bytes.len() <= HARDWARE_ADDRESS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn static_addresses_are_told_from_those_of_groups() {
        let found = parse("3    va              2     1     01005e000077").unwrap();
        assert_eq!((&*found.device, &*found.address), ("va", "01005e000077"));
        assert_eq!(bytes(&found.address).unwrap(), [1, 0, 0x5e, 0, 0, 0x77]);
        assert_eq!(parse("3    va              1     0     333300000001"), None);
        assert_eq!(parse("3    va"), None);
        for bad in ["0", "zz", "+1", &"00".repeat(HARDWARE_ADDRESS + 1)] {
            assert_eq!(bytes(bad), None, "{bad}");
        }
    }
}
