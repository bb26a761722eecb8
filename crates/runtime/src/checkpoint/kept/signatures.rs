//! Keys with which TCP connections are signed (TCP_MD5SIG), and connections that the kernel encrypts, whose keys nobody can read.

use std::net::IpAddr;
use std::os::fd::BorrowedFd;

use hiber_sandbox::network::SignatureKey;
use hiber_sys::socket::{option, set_option};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use super::options::Value;

/// TCP_MD5SIG_EXT (linux/tcp.h), and the flag that says that the length of the address's prefix is given.
const MD5SIG_EXT: (i32, i32) = (6, 32);
const PREFIX: u8 = 1;
/// struct tcp_md5sig: a socket address, flags at 128, the prefix's length, the key's length, a device at 132, and the key.
const LENGTH: usize = 216;
const FLAGS: usize = 128;
const KEY: usize = 136;
/// TCP_ULP, the name of the protocol above TCP, and TCP_AO_INFO (linux/tcp.h).
const ULP: (i32, i32) = (6, 31);
const AO_INFO: (i32, i32) = (6, 40);
/// linux/socket.h
const AF_INET: u16 = 2;
const AF_INET6: u16 = 10;

/// A key for some peers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Signature {
    /// The peers whose addresses begin with `prefix` bits of this one.
    address: IpAddr,
    prefix: u8,
    key: Value,
}

impl Signature {
    pub(super) fn of(key: &SignatureKey) -> Self {
        let SignatureKey { address, prefix, key } = key;
        Self { address: *address, prefix: *prefix, key: Value::of(key) }
    }

    /// Gives the key to a socket, which is of IPv6 or not.
    pub(super) fn set(&self, socket: BorrowedFd<'_>, is_ipv6: bool) -> Result<(), Errno> {
        let key = self.key.bytes().filter(|key| key.len() <= LENGTH - KEY).ok_or(Errno::INVAL)?;
        let mut value = [0; LENGTH];
        match self.address {
            IpAddr::V4(address) if !is_ipv6 => {
                value[..2].copy_from_slice(&AF_INET.to_ne_bytes());
                value[4..8].copy_from_slice(&address.octets());
            }
            address => {
                // The kernel knows a peer of IPv4 by its mapped address (RFC 4291, 2.5.5.2).
                let address = match address {
                    IpAddr::V4(address) => address.to_ipv6_mapped(),
                    IpAddr::V6(address) => address,
                };
                value[..2].copy_from_slice(&AF_INET6.to_ne_bytes());
                value[8..24].copy_from_slice(&address.octets());
            }
        }
        value[FLAGS] = PREFIX;
        value[FLAGS + 1] = self.prefix;
        let length = u16::try_from(key.len()).map_err(|_| Errno::INVAL)?;
        value[FLAGS + 2..FLAGS + 4].copy_from_slice(&length.to_ne_bytes());
        value[KEY..KEY + key.len()].copy_from_slice(&key);
        set_option(socket, MD5SIG_EXT.0, MD5SIG_EXT.1, &value)
    }
}

/// Whether the kernel encrypts what a connection sends or gets, as OpenSSL may have asked it to (kTLS).
pub(crate) fn is_encrypted(socket: BorrowedFd<'_>) -> bool {
    let mut name = [0; 16];
    option(socket, ULP.0, ULP.1, &mut name).is_ok_and(|_| name.starts_with(b"tls\0"))
}

/// Whether a socket signs by TCP-AO (RFC 5925).
pub(crate) fn has_authentication(socket: BorrowedFd<'_>) -> bool {
    option(socket, AO_INFO.0, AO_INFO.1, &mut [0; 8]).is_ok()
}
