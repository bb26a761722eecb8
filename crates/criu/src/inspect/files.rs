//! Open files and sockets (files.img, fdinfo-N.img).

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use criu_proto::images::files::{
    FdType, FdinfoEntry, FileEntry, InetSkEntry, MemfdInodeEntry, RemapFilePathEntry, UnixSkEntry,
};
use serde::Serialize;

use crate::error::{Result, bad};
use crate::images::{Images, Magic};

/// No path or name of a file is longer (PATH_MAX).
const MAX_NAME: usize = 4096;
/// How much text the descriptors of a checkpoint may be described with: small images can name a long path often.
const MAX_TEXT: usize = 256 << 20;
/// How many holders of a unix socket's other end are listed.
const MAX_PEER_HOLDERS: usize = 8;
/// How many of the descriptors that an epoll waits for are listed.
const MAX_TARGETS: usize = 16;

/// An open file of a task.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct Descriptor {
    /// Its number in the process.
    pub fd: u32,
    /// Equal numbers are one open file, shared (dup(2), fork(2)).
    pub file: u32,
    /// `file`, `pipe`, `tcp`, `unix`, `eventfd` and so on.
    pub kind: String,
    /// Path, address, or what else tells it from others.
    pub target: String,
    /// Where the next byte is read or written, in files.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub offset: Option<u64>,
    /// Whether the file has no name any more.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub deleted: bool,
}

/// A file that is open or mapped, as it was.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub struct RegularFile {
    /// In the container, absolute.
    pub path: String,
    /// The mount that it is on; none in images of some versions.
    pub mount: Option<u32>,
    /// In bytes; of directories and devices it means nothing.
    pub size: Option<u64>,
    /// st_mode (stat(2)).
    pub mode: Option<u32>,
}

/// A socket, once for all that have it open.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct Socket {
    /// `tcp`, `udp`, `raw`, `unix`.
    pub kind: &'static str,
    /// `stream`, `datagram`, `seqpacket`, `raw`.
    #[serde(rename = "type")]
    pub type_: &'static str,
    /// `listen`, `established` and so on.
    pub state: &'static str,
    /// Its own address or name; empty if it has none.
    pub local: String,
    /// The other end's address, name or inode; empty if it has none.
    pub peer: String,
    /// The processes that have it open.
    pub holders: Vec<Holder>,
    /// Some of those who have the other end open, of those in the checkpoint (unix sockets).
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub peer_holders: Vec<Holder>,
}

/// A descriptor of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Holder {
    /// The process.
    pub pid: u32,
    /// Its number in the process.
    pub fd: u32,
}

/// All open files of a checkpoint.
pub(super) struct Files {
    by_id: HashMap<u32, FileEntry>,
    deleted: std::collections::HashSet<u32>,
    memory_files: HashMap<u64, String>,
    holders: BTreeMap<u32, Vec<Holder>>,
    /// The remaining part of [`MAX_TEXT`].
    text_left: usize,
}

impl Files {
    pub(super) fn read(images: &Images) -> Result<Self> {
        let mut files = Self {
            by_id: HashMap::new(),
            deleted: Default::default(),
            memory_files: HashMap::new(),
            holders: BTreeMap::new(),
            text_left: MAX_TEXT,
        };
        let long = |name: &str| {
            Err(bad(&images.dir().join(name), format!("has a name of more than {MAX_NAME} bytes")))
        };
        for entry in images.entries_if_any::<FileEntry>("files.img", Magic::FILES)?.into_iter().flatten() {
            let entry = entry?;
            if names_of(&entry).into_iter().any(|len| len > MAX_NAME) {
                return long("files.img");
            }
            files.by_id.insert(entry.id.unwrap_or_default(), entry);
        }
        let remaps = images.entries_if_any::<RemapFilePathEntry>("remap-fpath.img", Magic::REMAP_FPATH)?;
        for entry in remaps.into_iter().flatten() {
            files.deleted.insert(entry?.orig_id.unwrap_or_default());
        }
        let inodes = images.entries_if_any::<MemfdInodeEntry>("memfd.img", Magic::MEMFD)?;
        for entry in inodes.into_iter().flatten() {
            let entry = entry?;
            let name = entry.name.unwrap_or_default();
            if name.len() > MAX_NAME {
                return long("memfd.img");
            }
            files.memory_files.insert(entry.inode_id.unwrap_or_default(), name);
        }
        Ok(files)
    }

    /// The path of a regular file.
    pub(super) fn path(&self, id: u32) -> Option<String> {
        self.by_id.get(&id)?.reg.as_ref()?.name.clone()
    }

    /// Files that a restore opens by name and compares: neither deleted ones, which it makes, nor those from outside.
    pub(super) fn regular(&self) -> Vec<RegularFile> {
        let files = self.by_id.iter().filter(|(id, _)| !self.deleted.contains(id));
        let regular = files.filter_map(|(_, file)| {
            let reg = file.reg.as_ref().filter(|reg| reg.ext != Some(true))?;
            let mount = reg.mnt_id.and_then(|id| u32::try_from(id).ok());
            Some(RegularFile { path: reg.name.clone()?, mount, size: reg.size, mode: reg.mode })
        });
        let mut regular: Vec<_> = regular.collect();
        regular.sort();
        regular.dedup();
        regular
    }

    /// The descriptors of the group `number`, which are those of process `pid`.
    pub(super) fn descriptors(&mut self, images: &Images, number: u32, pid: u32) -> Result<Vec<Descriptor>> {
        let name = format!("fdinfo-{number}.img");
        let mut all = Vec::new();
        for entry in images.entries_if_any::<FdinfoEntry>(&name, Magic::FDINFO)?.into_iter().flatten() {
            let entry = entry?;
            let (fd, id) = (entry.fd.unwrap_or_default(), entry.id.unwrap_or_default());
            self.holders.entry(id).or_default().push(Holder { pid, fd });
            let type_ = entry.type_.and_then(|t| t.enum_value().ok()).unwrap_or_default();
            let descriptor = self.descriptor(fd, id, type_);
            let size = size_of::<Descriptor>() + descriptor.target.len();
            self.text_left = self.text_left.checked_sub(size).ok_or_else(|| {
                bad(
                    &images.dir().join(&name),
                    "its descriptors are too many, and their names too long, to list",
                )
            })?;
            all.push(descriptor);
        }
        all.sort_by_key(|d| d.fd);
        Ok(all)
    }

    fn descriptor(&self, fd: u32, id: u32, type_: FdType) -> Descriptor {
        let mut d = Descriptor {
            fd,
            file: id,
            kind: kind(type_).to_owned(),
            target: String::new(),
            offset: None,
            deleted: self.deleted.contains(&id),
        };
        let Some(file) = self.by_id.get(&id) else { return d };
        if let Some(reg) = file.reg.as_ref() {
            d.target = reg.name.clone().unwrap_or_default();
            d.offset = reg.pos;
        } else if let Some(socket) = file.isk.as_ref() {
            let socket = inet(socket);
            d.kind = socket.kind.to_owned();
            d.target = arrow(&socket);
        } else if let Some(socket) = file.usk.as_ref() {
            d.target = arrow(&self.unix(socket));
        } else {
            d.target = self.other(file);
        }
        d
    }

    /// The details of a file of the less frequent kinds.
    fn other(&self, file: &FileEntry) -> String {
        let n = |number: Option<u32>| number.unwrap_or_default();
        if let Some(pipe) = file.pipe.as_ref() {
            return format!("pipe:[{}]", n(pipe.pipe_id));
        }
        if let Some(fifo) = file.fifo.as_ref() {
            return fifo.regf_id.and_then(|id| self.path(id)).unwrap_or_default();
        }
        if let Some(tty) = file.tty.as_ref() {
            return tty.regf_id.and_then(|id| self.path(id)).unwrap_or_default();
        }
        if let Some(memory) = file.memfd.as_ref() {
            return self.memory_files.get(&u64::from(n(memory.inode_id))).cloned().unwrap_or_default();
        }
        if let Some(event) = file.efd.as_ref() {
            return format!("counter {}", event.counter.unwrap_or_default());
        }
        if let Some(poll) = file.epfd.as_ref() {
            let fds: Vec<_> = poll.tfd.iter().take(MAX_TARGETS).map(|t| n(t.tfd).to_string()).collect();
            let more = if poll.tfd.len() > MAX_TARGETS { ", …" } else { "" };
            return format!("waits for {}{more}", fds.join(", "));
        }
        if let Some(notify) = file.ify.as_ref() {
            return format!("{} watches", notify.wd.len());
        }
        if let Some(netlink) = file.nlsk.as_ref() {
            return format!("protocol {}", n(netlink.protocol));
        }
        if let Some(process) = file.pidfd.as_ref() {
            return format!("process {}", process.nspid.unwrap_or_default());
        }
        String::new()
    }

    /// All sockets; call it when all descriptors have been read.
    pub(super) fn sockets(&self) -> Vec<Socket> {
        let mut by_inode: HashMap<u32, u32> = HashMap::new();
        for (id, file) in &self.by_id {
            if let Some(inode) = file.usk.as_ref().and_then(|s| s.ino) {
                by_inode.insert(inode, *id);
            }
        }
        let holders = |id: &u32| self.holders.get(id).cloned().unwrap_or_default();
        let mut sockets: Vec<(u32, Socket)> = Vec::new();
        for (id, file) in &self.by_id {
            let (mut socket, peer) = match (file.isk.as_ref(), file.usk.as_ref()) {
                (Some(socket), _) => (inet(socket), None),
                (_, Some(socket)) => (self.unix(socket), socket.peer.and_then(|inode| by_inode.get(&inode))),
                _ => continue,
            };
            socket.holders = holders(id);
            let others = peer.and_then(|id| self.holders.get(id)).into_iter().flatten();
            socket.peer_holders = others.take(MAX_PEER_HOLDERS).copied().collect();
            sockets.push((*id, socket));
        }
        sockets.sort_by_key(|(id, _)| *id);
        sockets.into_iter().map(|(_, socket)| socket).collect()
    }

    fn unix(&self, socket: &UnixSkEntry) -> Socket {
        let peer = socket.peer.filter(|inode| *inode != 0);
        Socket {
            kind: "unix",
            type_: type_name(socket.type_),
            state: state_name(socket.state),
            local: unix_name(socket),
            peer: peer.map(|inode| format!("socket:[{inode}]")).unwrap_or_default(),
            holders: Vec::new(),
            peer_holders: Vec::new(),
        }
    }
}

/// The paths of files that had lost their names.
impl Images {
    /// The paths of files that had lost their names, as images have them: without their first slash or with it.
    ///
    /// # Errors
    /// As [`Images::entries`].
    pub fn deleted_files(&self) -> Result<Vec<String>> {
        let files = Files::read(self)?;
        Ok(files.deleted.iter().filter_map(|id| files.path(*id)).collect())
    }
}

/// How long the names in an entry are.
fn names_of(entry: &FileEntry) -> [usize; 3] {
    let unix = entry.usk.as_ref();
    [
        entry.reg.as_ref().and_then(|r| r.name.as_ref()).map_or(0, String::len),
        unix.and_then(|u| u.name.as_ref()).map_or(0, Vec::len),
        unix.and_then(|u| u.name_dir.as_ref()).map_or(0, String::len),
    ]
}

pub(super) fn arrow(socket: &Socket) -> String {
    match (socket.local.as_str(), socket.peer.as_str()) {
        (local, "") => local.to_owned(),
        ("", peer) => format!("-> {peer}"),
        (local, peer) => format!("{local} -> {peer}"),
    }
}

fn kind(type_: FdType) -> &'static str {
    match type_ {
        FdType::UND => "unknown",
        FdType::REG => "file",
        FdType::PIPE => "pipe",
        FdType::FIFO => "fifo",
        FdType::INETSK => "socket",
        FdType::UNIXSK => "unix",
        FdType::EVENTFD => "eventfd",
        FdType::EVENTPOLL => "epoll",
        FdType::INOTIFY => "inotify",
        FdType::SIGNALFD => "signalfd",
        FdType::PACKETSK => "packet",
        FdType::TTY => "terminal",
        FdType::FANOTIFY => "fanotify",
        FdType::NETLINKSK => "netlink",
        FdType::NS => "namespace",
        FdType::TUNF => "tun",
        FdType::EXT => "external",
        FdType::TIMERFD => "timerfd",
        FdType::MEMFD => "memory file",
        FdType::BPFMAP => "bpf map",
        FdType::PIDFD => "pidfd",
    }
}

pub(super) fn inet(socket: &InetSkEntry) -> Socket {
    let address = |words: &[u32], port: Option<u32>| {
        let port = port.and_then(|p| u16::try_from(p).ok()).unwrap_or_default();
        // Words as they lie in memory: the machines that CRIU runs on are little-endian, but for s390.
        let mut bytes = words.iter().flat_map(|word| word.to_le_bytes());
        let ip = match words.len() {
            1 => IpAddr::V4(Ipv4Addr::from(std::array::from_fn(|_| bytes.next().unwrap_or_default()))),
            4 => IpAddr::V6(Ipv6Addr::from(
                <[u8; 16]>::try_from(bytes.collect::<Vec<_>>()).unwrap_or_default(),
            )),
            _ => return String::new(),
        };
        if ip.is_unspecified() && port == 0 { String::new() } else { SocketAddr::new(ip, port).to_string() }
    };
    Socket {
        kind: match socket.proto {
            Some(6) => "tcp",
            Some(17) => "udp",
            Some(136) => "udplite",
            Some(1 | 58) => "icmp",
            _ => "raw",
        },
        type_: type_name(socket.type_),
        state: state_name(socket.state),
        local: address(&socket.src_addr, socket.src_port),
        peer: address(&socket.dst_addr, socket.dst_port),
        holders: Vec::new(),
        peer_holders: Vec::new(),
    }
}

/// A path, an abstract name after `@`, or nothing.
fn unix_name(socket: &UnixSkEntry) -> String {
    let name = socket.name.as_deref().unwrap_or_default();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim_end_matches('\0').to_owned();
    match (name, socket.name_dir.as_deref()) {
        ([], _) => String::new(),
        ([0, name @ ..], _) => format!("@{}", text(name)),
        (name, Some(dir)) => format!("{dir}/{}", text(name)),
        (name, None) => text(name),
    }
}

/// SOCK_* (socket(2)).
fn type_name(number: Option<u32>) -> &'static str {
    match number {
        Some(1) => "stream",
        Some(2) => "datagram",
        Some(3) => "raw",
        Some(5) => "seqpacket",
        _ => "unknown",
    }
}

/// TCP_* (net/tcp_states.h), which the kernel uses for unix sockets as well.
fn state_name(number: Option<u32>) -> &'static str {
    match number {
        Some(1) => "established",
        Some(2) => "syn-sent",
        Some(3) => "syn-received",
        Some(4) => "fin-wait-1",
        Some(5) => "fin-wait-2",
        Some(6) => "time-wait",
        Some(7) => "closed",
        Some(8) => "close-wait",
        Some(9) => "last-ack",
        Some(10) => "listening",
        Some(11) => "closing",
        _ => "unknown",
    }
}
