//! The few ioctl(2) requests that a container's set-up needs.

use std::os::fd::{AsRawFd, BorrowedFd};

use rustix::net::{AddressFamily, SocketFlags, SocketType};

use crate::{Result, SysError};

/// Brings the loopback device of the current network namespace up (netdevice(7)).
pub fn loopback_up() -> Result<()> {
    let mut request = interface("lo");
    request.ifr_ifru.ifru_flags = libc::IFF_UP as libc::c_short;
    // SAFETY: SIOCSIFFLAGS reads the ifreq.
    unsafe { ask_interface(libc::SIOCSIFFLAGS as libc::Ioctl, "SIOCSIFFLAGS lo up", &request) }
}

/// The bytes of the longest hardware address that a request can name.
pub const HARDWARE_ADDRESS: usize = 14;

/// Has a device of the current network namespace receive packets to a hardware address, until somebody takes that back (netdevice(7),
/// SIOCADDMULTI). Of `address` at most [`HARDWARE_ADDRESS`] bytes are used.
///
/// # Errors
/// Those of ioctl(2): ENODEV if there is no such device, EINVAL if it receives everything anyway, EPERM without CAP_NET_ADMIN.
pub fn add_multicast_address(device: &str, address: &[u8]) -> Result<()> {
    let mut request = interface(device);
    let mut hardware =
        libc::sockaddr { sa_family: libc::AF_UNSPEC as libc::sa_family_t, sa_data: [0; HARDWARE_ADDRESS] };
    for (to, from) in hardware.sa_data.iter_mut().zip(address) {
        *to = *from as libc::c_char;
    }
    request.ifr_ifru.ifru_hwaddr = hardware;
    // SAFETY: SIOCADDMULTI reads the ifreq.
    unsafe { ask_interface(libc::SIOCADDMULTI as libc::Ioctl, "SIOCADDMULTI", &request) }
}

/// A request for the device of this name; of a longer one than the kernel allows, the beginning.
fn interface(name: &str) -> libc::ifreq {
    // SAFETY: all zeroes is a valid ifreq.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name[..libc::IFNAMSIZ - 1].iter_mut().zip(name.as_bytes()) {
        *to = *from as libc::c_char;
    }
    request
}

/// # Safety
/// The kernel does no more with the argument of this request than to read an ifreq.
unsafe fn ask_interface(number: libc::Ioctl, what: &str, request: &libc::ifreq) -> Result<()> {
    let socket = rustix::net::socket_with(AddressFamily::INET, SocketType::DGRAM, SocketFlags::CLOEXEC, None)
        .map_err(|e| SysError::new("socket", "AF_INET", e.raw_os_error()))?;
    // SAFETY: the ifreq outlives the call, which reads it, the caller says.
    if unsafe { libc::ioctl(socket.as_raw_fd(), number, &raw const *request) } < 0 {
        return Err(SysError::new("ioctl", what, nix::errno::Errno::last_raw()));
    }
    Ok(())
}

/// Makes `tty` the controlling terminal of the calling session leader (ioctl_tty(2)).
pub fn set_controlling_terminal(tty: BorrowedFd<'_>) -> Result<()> {
    // SAFETY: TIOCSCTTY takes an integer.
    if unsafe { libc::ioctl(tty.as_raw_fd(), libc::TIOCSCTTY, 0) } < 0 {
        return Err(SysError::new("ioctl", "TIOCSCTTY", nix::errno::Errno::last_raw()));
    }
    Ok(())
}

/// Has a timer's next read(2) find that it has run out `ticks` times, which is not 0 (timerfd_create(2), TFD_IOC_SET_TICKS,
/// Linux 3.17).
pub fn set_timer_ticks(timer: BorrowedFd<'_>, ticks: u64) -> std::result::Result<(), rustix::io::Errno> {
    const TFD_IOC_SET_TICKS: libc::Ioctl = 0x4008_5400;
    // SAFETY: the request reads a number of 8 bytes, which outlives the call.
    if unsafe { libc::ioctl(timer.as_raw_fd(), TFD_IOC_SET_TICKS, &raw const ticks) } < 0 {
        return Err(rustix::io::Errno::from_raw_os_error(nix::errno::Errno::last_raw()));
    }
    Ok(())
}

/// The `CLONE_NEW*` flag of an open namespace file (ioctl_nsfs(2), NS_GET_NSTYPE, Linux 4.11).
pub fn namespace_kind(namespace: BorrowedFd<'_>) -> Result<u64> {
    const NS_GET_NSTYPE: libc::Ioctl = 0xb703;
    // SAFETY: the request takes no argument.
    let kind = unsafe { libc::ioctl(namespace.as_raw_fd(), NS_GET_NSTYPE) };
    if kind < 0 {
        return Err(SysError::new("ioctl", "NS_GET_NSTYPE", nix::errno::Errno::last_raw()));
    }
    Ok(kind as u64)
}
