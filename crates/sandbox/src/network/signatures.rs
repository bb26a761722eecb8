//! Keys with which TCP connections are signed (RFC 2385, TCP_MD5SIG of tcp(7)).

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::object::Object;
use crate::Result;
use crate::rtnetlink::{Route, inside, namespace_of};

/// SOCK_DIAG_BY_FAMILY of linux/sock_diag.h.
const BY_FAMILY: u16 = 20;
/// struct inet_diag_req_v2: family, protocol, and then zeros, but for the states from 4.
const REQUEST: usize = 56;
/// struct inet_diag_msg, with the inode at 68.
const MESSAGE: usize = 72;
const INODE: usize = 68;
/// INET_DIAG_MD5SIG of linux/inet_diag.h.
const MD5SIG: u16 = 18;
/// struct tcp_diag_md5sig of linux/tcp.h: family, length of the prefix, length of the key, address from 4, key from 20.
const SIGNATURE: usize = 100;
/// TCP_MD5SIG_MAXKEYLEN of linux/tcp.h.
const LONGEST: usize = 80;

const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;
const TCP: u8 = 6;
/// The extension INET_DIAG_INFO: without any, the kernel leaves keys out, too.
const INFO: u8 = 1 << 1;

/// A key for the peers whose addresses begin with `prefix` bits of `address`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignatureKey {
    /// An address of IPv4 also where a socket of IPv6 has such a peer.
    pub address: IpAddr,
    /// At most 32 for IPv4, and 128 for IPv6.
    pub prefix: u8,
    /// At most 80 bytes.
    pub key: Vec<u8>,
}

/// The keys of the TCP sockets in the network namespace of process `pid`, by the sockets' inode numbers. Sockets that are neither
/// bound nor connected are not in it: the kernel lists them nowhere. Reading keys needs CAP_NET_ADMIN over the namespace.
///
/// # Errors
/// If the kernel does not answer.
pub fn signature_keys(pid: i32) -> Result<HashMap<u32, Vec<SignatureKey>>> {
    inside(&namespace_of(pid)?, || {
        let route = Route::of(rustix::net::netlink::SOCK_DIAG)?;
        let mut all = HashMap::new();
        for family in [AF_INET, AF_INET6] {
            let mut request = [0; REQUEST];
            (request[0], request[1], request[2]) = (family, TCP, INFO);
            request[4..8].fill(0xff);
            let answers = match route.dump(BY_FAMILY, &request) {
                // a kernel without the family, or without such tables
                Err(e) if e.errno() == Some(libc::ENOENT) => continue,
                answers => answers?,
            };
            for socket in answers.iter().filter_map(|answer| Object::parse(answer, MESSAGE)) {
                let signatures = socket.attribute(MD5SIG).unwrap_or_default();
                let keys: Vec<_> = signatures.chunks_exact(SIGNATURE).filter_map(parse).collect();
                if !keys.is_empty() {
                    all.insert(socket.u32_at(INODE), keys);
                }
            }
        }
        Ok(all)
    })
}

fn parse(signature: &[u8]) -> Option<SignatureKey> {
    let length = usize::from(u16::from_ne_bytes(*signature.get(2..)?.first_chunk()?)).min(LONGEST);
    let address = match signature[0] {
        AF_INET => Ipv4Addr::from(*signature.get(4..)?.first_chunk::<4>()?).into(),
        AF_INET6 => Ipv6Addr::from(*signature.get(4..)?.first_chunk::<16>()?).into(),
        _ => return None,
    };
    let key = signature.get(20..20 + length)?.to_vec();
    Some(SignatureKey { address, prefix: signature[1], key })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_parsed() {
        let mut signature = [0; SIGNATURE];
        signature[..8].copy_from_slice(&[AF_INET, 24, 3, 0, 10, 9, 0, 0]);
        signature[20..23].copy_from_slice(b"key");
        let address = Ipv4Addr::new(10, 9, 0, 0).into();
        assert_eq!(parse(&signature), Some(SignatureKey { address, prefix: 24, key: b"key".into() }));
        signature[0] = 1;
        assert_eq!(parse(&signature), None);
    }
}
