//! Multicast groups of sockets. The kernel lists those of a network namespace; of each a socket says whether, and how, it is
//! in it (RFC 3678, "full-state" functions).

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::BorrowedFd;

use hiber_sys::socket::{device_address, option, set_option};
use rustix::io::Errno;
use rustix::net::{AddressFamily, netdevice};
use serde::{Deserialize, Serialize};

/// A socket's membership in a group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Group {
    /// The name of the device on which it listens.
    device: String,
    address: IpAddr,
    mode: Mode,
    /// Senders that it hears, or does not.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    sources: Vec<IpAddr>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Mode {
    /// All senders but those that are named.
    Exclude,
    /// Those that are named alone.
    Include,
}

impl fmt::Display for Group {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the multicast group {} on {}", self.address, self.device)
    }
}

/// A group that somebody in a network namespace has joined.
pub(super) struct Joined {
    index: u32,
    device: String,
    address: IpAddr,
}

/// in.h: MCAST_* and IP_ADD_MEMBERSHIP.
const ADD_MEMBERSHIP: i32 = 35;
const JOIN_GROUP: i32 = 42;
const BLOCK_SOURCE: i32 = 43;
const JOIN_SOURCE_GROUP: i32 = 46;
const MSFILTER: i32 = 48;
/// The MCAST_INCLUDE of a filter; the other mode is 0.
const INCLUDE: u32 = 1;
/// struct sockaddr_storage is this long; it comes after a number and, as it is aligned to 8 bytes, padding.
const STORAGE: usize = 128;
const GROUP: usize = 8;
/// struct group_filter: where the mode and the number of sources are, and where these begin.
const MODE: usize = GROUP + STORAGE;
const COUNT: usize = MODE + 4;
const SOURCES: usize = COUNT + 4;
/// As many sources as most systems allow a socket (mld_max_msf; igmp_max_msf is 10).
const USUAL_SOURCES: usize = 64;

/// The groups that are joined in the network namespace of a process; none where the kernel knows no multicast.
pub(super) fn all(pid: i32) -> Vec<Joined> {
    let read =
        |name: &str| hiber_sys::file::read_to_string(format!("/proc/{pid}/net/{name}")).unwrap_or_default();
    let mut all = parse_igmp(&read("igmp"));
    all.extend(read("igmp6").lines().filter_map(parse_igmp6));
    all
}

/// Devices, `INDEX NAME : …`, and below each, after tabs, its groups, `ADDRESS …` as a number of the machine's byte order.
fn parse_igmp(text: &str) -> Vec<Joined> {
    let mut device = None;
    let mut all = Vec::new();
    for line in text.lines().skip(1) {
        let mut words = line.split_whitespace();
        let first = words.next().unwrap_or_default();
        if !line.starts_with('\t') {
            device = first.parse().ok().zip(words.next().map(|name| name.trim_end_matches(':').to_owned()));
        } else if let (Ok(address), Some((index, device))) = (u32::from_str_radix(first, 16), &device) {
            let address = Ipv4Addr::from(address.to_ne_bytes()).into();
            all.push(Joined { index: *index, device: device.clone(), address });
        }
    }
    all
}

/// `INDEX NAME ADDRESS …`
fn parse_igmp6(line: &str) -> Option<Joined> {
    let mut words = line.split_whitespace();
    let (index, device, address) = (words.next()?.parse().ok()?, words.next()?.to_owned(), words.next()?);
    let address = Ipv6Addr::from(u128::from_str_radix(address, 16).ok()?).into();
    Some(Joined { index, device, address })
}

/// Those of `all` that a socket of `family` is in. A socket of IPv6 can be in groups of IPv4, too.
pub(super) fn of(socket: BorrowedFd<'_>, family: AddressFamily, all: &[Joined]) -> Result<Vec<Group>, Errno> {
    let mut groups = Vec::new();
    for joined in all.iter().filter(|joined| joined.address.is_ipv4() || family == AddressFamily::INET6) {
        if let Some((mode, sources)) = filter(socket, joined)? {
            groups.push(Group { device: joined.device.clone(), address: joined.address, mode, sources });
        }
    }
    Ok(groups)
}

/// How a socket is in a group; none if it is not.
fn filter(socket: BorrowedFd<'_>, joined: &Joined) -> Result<Option<(Mode, Vec<IpAddr>)>, Errno> {
    let mut room = USUAL_SOURCES;
    loop {
        let mut value = vec![0; SOURCES + room * STORAGE];
        value[..4].copy_from_slice(&joined.index.to_ne_bytes());
        value[GROUP..MODE].copy_from_slice(&storage(joined.address));
        value[COUNT..SOURCES].copy_from_slice(&u32::try_from(room).map_err(|_| Errno::NOMEM)?.to_ne_bytes());
        match option(socket, level(joined.address), MSFILTER, &mut value) {
            Ok(_) => {}
            // It is in none, or not in this one.
            Err(Errno::ADDRNOTAVAIL | Errno::INVAL | Errno::NODEV | Errno::NOPROTOOPT) => return Ok(None),
            Err(e) => return Err(e),
        }
        let number = |at: usize| u32::from_ne_bytes([value[at], value[at + 1], value[at + 2], value[at + 3]]);
        let count = number(COUNT) as usize;
        if count > room {
            room = count;
            continue;
        }
        let mode = if number(MODE) == INCLUDE { Mode::Include } else { Mode::Exclude };
        let sources = value[SOURCES..].chunks_exact(STORAGE).take(count).filter_map(address).collect();
        return Ok(Some((mode, sources)));
    }
}

/// Has a socket join a group as it was in it.
pub(super) fn join(socket: BorrowedFd<'_>, group: &Group) -> Result<(), Errno> {
    let index = netdevice::name_to_index(socket, &group.device)?;
    let level = level(group.address);
    let request = |source: Option<&IpAddr>| {
        let mut request = vec![0; GROUP];
        request[..4].copy_from_slice(&index.to_ne_bytes());
        request.extend(storage(group.address));
        source.into_iter().for_each(|source| request.extend(storage(*source)));
        request
    };
    let sources = |name: i32| {
        group.sources.iter().try_for_each(|source| set_option(socket, level, name, &request(Some(source))))
    };
    if group.mode == Mode::Include {
        return sources(JOIN_SOURCE_GROUP);
    }
    match group.address {
        // A socket that joined by a device's address leaves by that address, too: the kernel compares the arguments of both
        // calls.
        IpAddr::V4(address) => {
            let device = device_address(socket, &group.device).unwrap_or(Ipv4Addr::UNSPECIFIED);
            let index = index.to_ne_bytes();
            let request = [address.octets(), device.octets(), index].concat();
            set_option(socket, level, ADD_MEMBERSHIP, &request)?;
        }
        IpAddr::V6(_) => set_option(socket, level, JOIN_GROUP, &request(None))?,
    }
    sources(BLOCK_SOURCE)
}

/// IPPROTO_IP or IPPROTO_IPV6.
fn level(address: IpAddr) -> i32 {
    if address.is_ipv4() { 0 } else { 41 }
}

/// A struct sockaddr_storage: family, then port and address of IPv4, or port, flow, address of IPv6.
fn storage(address: IpAddr) -> [u8; STORAGE] {
    let mut storage = [0; STORAGE];
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    storage[..2].copy_from_slice(&family.as_raw().to_ne_bytes());
    match address {
        IpAddr::V4(address) => storage[4..8].copy_from_slice(&address.octets()),
        IpAddr::V6(address) => storage[8..24].copy_from_slice(&address.octets()),
    }
    storage
}

fn address(storage: &[u8]) -> Option<IpAddr> {
    let family = AddressFamily::from_raw(u16::from_ne_bytes([storage[0], storage[1]]));
    match family {
        AddressFamily::INET => Some(<[u8; 4]>::try_from(&storage[4..8]).ok()?.into()),
        AddressFamily::INET6 => Some(<[u8; 16]>::try_from(&storage[8..24]).ok()?.into()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_lists_are_understood() {
        let address = u32::from_ne_bytes([239, 1, 2, 3]);
        let igmp = format!(
            "Idx\tDevice    : Count Querier\tGroup    Users Timer\tReporter\n1\tlo        :     2      V3\n\
             \t\t\t\t{address:08X}     1 0:00000000\t\t0\n12\ta-long-name-15:     1      V3\n\
             \t\t\t\t{address:08X}     1 0:00000000\t\t0\n"
        );
        let all: Vec<_> = parse_igmp(&igmp).into_iter().map(|j| (j.index, j.device, j.address)).collect();
        let group: IpAddr = "239.1.2.3".parse().unwrap();
        assert_eq!(all, [(1, "lo".into(), group), (12, "a-long-name-15".into(), group)]);
        let six =
            parse_igmp6("2    eth0            ff050000000000000000000000000123     1 00000004 0").unwrap();
        assert_eq!((six.index, six.device.as_str(), six.address), (2, "eth0", "ff05::123".parse().unwrap()));
    }

    #[test]
    fn memberships_are_read_and_made_again() {
        use std::net::UdpSocket;
        use std::os::fd::AsFd;
        let (one, other) = (UdpSocket::bind("0.0.0.0:0").unwrap(), UdpSocket::bind("0.0.0.0:0").unwrap());
        let lo = netdevice::name_to_index(&one, "lo").unwrap();
        let address: IpAddr = "239.77.1.2".parse().unwrap();
        let joined = [Joined { index: lo, device: "lo".into(), address }];
        assert_eq!(of(one.as_fd(), AddressFamily::INET, &joined), Ok(vec![]), "it is in none");
        for (mode, sources) in [
            (Mode::Exclude, vec![]),
            (Mode::Exclude, vec!["127.0.0.7".parse().unwrap()]),
            (Mode::Include, vec!["127.0.0.8".parse().unwrap(), "127.0.0.9".parse().unwrap()]),
        ] {
            let group = Group { device: "lo".into(), address, mode, sources };
            let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
            join(socket.as_fd(), &group).unwrap();
            assert_eq!(of(socket.as_fd(), AddressFamily::INET, &joined).unwrap(), [group]);
            assert_eq!(of(other.as_fd(), AddressFamily::INET, &joined), Ok(vec![]));
            if mode == Mode::Exclude {
                socket.leave_multicast_v4(&"239.77.1.2".parse().unwrap(), &Ipv4Addr::LOCALHOST).unwrap();
            }
        }
    }
}
