//! Connections whose end nobody hears of: those of a container's copy that is given up while the container goes on elsewhere.

use std::os::fd::AsFd;
use std::path::PathBuf;

use hiber_sys::pidfd::DescriptorOwner;
use hiber_sys::socket::set_option;

/// TCP_REPAIR of linux/tcp.h: a connection in this state sends nothing when it is closed.
const TCP_REPAIR: i32 = 19;

/// Has the TCP connections of these processes, which are about to be killed, end in silence: the kernel would say so to the other ends,
/// whose connections are another machine's. A process that is gone meanwhile has none.
pub fn hush(pids: impl IntoIterator<Item = i32>) {
    for pid in pids {
        let owner = DescriptorOwner::new(pid);
        for fd in sockets(pid) {
            // Of another kind, or listening: the kernel refuses it.
            let _ = owner.copy(fd).map(|socket| {
                set_option(socket.as_fd(), libc::IPPROTO_TCP, TCP_REPAIR, &1_i32.to_ne_bytes())
            });
        }
    }
}

fn sockets(pid: i32) -> Vec<i32> {
    let files = std::fs::read_dir(PathBuf::from(format!("/proc/{pid}/fd"))).into_iter().flatten().flatten();
    let sockets = files.filter(|file| {
        std::fs::read_link(file.path()).is_ok_and(|to| to.to_string_lossy().starts_with("socket:["))
    });
    sockets.filter_map(|file| file.file_name().to_str()?.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;
    use std::net::{TcpListener, TcpStream};
    use std::process::{Command, Stdio};
    use std::time::Duration;

    #[test]
    fn the_other_end_of_a_hushed_connection_hears_nothing() {
        if !rustix::process::geteuid().is_root() {
            return;
        }
        for hushed in [false, true] {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let near = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            let (mut far, _) = listener.accept().unwrap();
            far.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
            // Another process that has it alone: with the command ours goes.
            let near = Stdio::from(std::os::fd::OwnedFd::from(near));
            let mut holder = Command::new("sleep").arg("100").stdin(near).spawn().unwrap();
            if hushed {
                hush([holder.id().cast_signed()]);
            }
            holder.kill().unwrap();
            holder.wait().unwrap();
            let read = far.read(&mut [0]);
            if hushed {
                assert_eq!(read.unwrap_err().kind(), std::io::ErrorKind::WouldBlock);
            } else {
                assert_eq!(read.unwrap(), 0, "the end of the stream");
            }
        }
    }
}
