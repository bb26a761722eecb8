//! Options of sockets by their numbers, frames of a link, and what a socket's network namespace knows of its devices.

use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd, BorrowedFd};

use rustix::io::Errno;

/// getsockopt(2): fills `value` and gives how many bytes the option has. Some options read `value` first: an option of a
/// multicast group, for instance, finds the group there.
///
/// # Errors
/// Those of getsockopt(2).
pub fn option(socket: BorrowedFd<'_>, level: i32, name: i32, value: &mut [u8]) -> Result<usize, Errno> {
    let mut length = libc::socklen_t::try_from(value.len()).map_err(|_| Errno::INVAL)?;
    // SAFETY: the kernel writes at most `length` bytes to `value`, and the length; both outlive the call.
    let r = unsafe {
        libc::getsockopt(socket.as_raw_fd(), level, name, value.as_mut_ptr().cast(), &raw mut length)
    };
    if r < 0 { Err(last()) } else { Ok(length as usize) }
}

/// setsockopt(2).
///
/// # Errors
/// Those of setsockopt(2).
pub fn set_option(socket: BorrowedFd<'_>, level: i32, name: i32, value: &[u8]) -> Result<(), Errno> {
    let length = libc::socklen_t::try_from(value.len()).map_err(|_| Errno::INVAL)?;
    // SAFETY: the kernel reads `length` bytes of `value`, which outlives the call.
    let r = unsafe { libc::setsockopt(socket.as_raw_fd(), level, name, value.as_ptr().cast(), length) };
    if r < 0 { Err(last()) } else { Ok(()) }
}

/// Sends a packet on device number `device` to a hardware address of at most 8 bytes, by a socket of packet(7) and SOCK_DGRAM, which
/// makes the link's own header. `protocol` is one of linux/if_ether.h.
///
/// # Errors
/// Those of sendto(2): ENETDOWN where the device is down, EINVAL where the hardware address is too long.
pub fn send_frame(
    socket: BorrowedFd<'_>,
    device: u32,
    protocol: u16,
    hardware: &[u8],
    packet: &[u8],
) -> Result<(), Errno> {
    // SAFETY: all zeroes is a valid sockaddr_ll.
    let mut to: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    to.sll_family = libc::AF_PACKET as u16;
    to.sll_protocol = protocol.to_be();
    to.sll_ifindex = device.cast_signed();
    to.sll_halen = hardware.len() as u8;
    to.sll_addr.get_mut(..hardware.len()).ok_or(Errno::INVAL)?.copy_from_slice(hardware);
    let length = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
    // SAFETY: the kernel reads the packet and the address, whose lengths are given, and which outlive the call.
    let sent = unsafe {
        libc::sendto(
            socket.as_raw_fd(),
            packet.as_ptr().cast(),
            packet.len(),
            0,
            (&raw const to).cast(),
            length,
        )
    };
    if sent < 0 { Err(last()) } else { Ok(()) }
}

/// The first IPv4 address of the device `name` in the socket's network namespace (netdevice(7), SIOCGIFADDR).
///
/// # Errors
/// Those of ioctl(2): ENODEV without such a device, EADDRNOTAVAIL without an address. The socket must be of AF_INET.
pub fn device_address(socket: BorrowedFd<'_>, name: &str) -> Result<Ipv4Addr, Errno> {
    // SAFETY: all zeroes is a valid ifreq.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    if name.len() >= request.ifr_name.len() {
        return Err(Errno::NODEV);
    }
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from as libc::c_char;
    }
    // SAFETY: SIOCGIFADDR reads and writes the ifreq that outlives the call.
    if unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCGIFADDR as libc::Ioctl, &raw mut request) } < 0 {
        return Err(last());
    }
    // SAFETY: the kernel has written a socket address.
    let address = unsafe { request.ifr_ifru.ifru_addr };
    // sockaddr_in: two bytes of port, then four of address, each in network order.
    let [_, _, a, b, c, d, ..] = address.sa_data;
    Ok(Ipv4Addr::new(a as u8, b as u8, c as u8, d as u8))
}

fn last() -> Errno {
    Errno::from_raw_os_error(nix::errno::Errno::last_raw())
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn options_go_by_number() {
        let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let (level, ttl) = (0, 2); // IPPROTO_IP, IP_TTL
        set_option(socket.as_fd(), level, ttl, &33i32.to_ne_bytes()).unwrap();
        let mut value = [0u8; 16];
        assert_eq!(option(socket.as_fd(), level, ttl, &mut value), Ok(4));
        assert_eq!(value[..4], 33i32.to_ne_bytes());
        assert_eq!(option(socket.as_fd(), 6, 1, &mut value), Err(Errno::OPNOTSUPP), "it is not TCP");
    }

    #[test]
    fn loopback_has_its_address() {
        let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        assert_eq!(device_address(socket.as_fd(), "lo"), Ok(Ipv4Addr::LOCALHOST));
        assert_eq!(device_address(socket.as_fd(), "none0"), Err(Errno::NODEV));
        assert_eq!(device_address(socket.as_fd(), "a name that no device can have"), Err(Errno::NODEV));
    }
}
