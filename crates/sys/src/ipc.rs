//! System V objects of the calling thread's IPC namespace (sysvipc(7)).

use rustix::io::Errno;

/// A shared memory segment (shmctl(2)).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Segment {
    /// The identifier in its IPC namespace.
    pub id: i32,
    /// In bytes.
    pub size: u64,
    /// Whether it was removed, and goes when nobody has it attached any more (SHM_DEST).
    pub removed: bool,
    /// Whether it must stay in memory (SHM_LOCK).
    pub locked: bool,
}

/// A message queue (msgctl(2)).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Queue {
    /// The identifier in its IPC namespace.
    pub id: i32,
    /// How many bytes of messages it may hold.
    pub bytes: u64,
}

/// sys/shm.h, linux/shm.h
const SHM_STAT: i32 = 13;
const SHM_INFO: i32 = 14;
const SHM_DEST: u32 = 0o1000;
const SHM_LOCKED: u32 = 0o2000;
/// linux/msg.h
const MSG_STAT: i32 = 11;
const MSG_INFO: i32 = 12;

/// All segments that the caller may read.
///
/// # Errors
/// Those of shmctl(2).
pub fn segments() -> Result<Vec<Segment>, Errno> {
    let mut all = Vec::new();
    let mut found = zeroed_segment();
    // SAFETY: SHM_INFO writes a struct shm_info, which is smaller than the shmid_ds that outlives the call.
    let last = unsafe { libc::shmctl(0, SHM_INFO, &raw mut found) };
    for index in 0..=check(last)? {
        // SAFETY: SHM_STAT writes a shmid_ds, which outlives the call.
        match check(unsafe { libc::shmctl(index, SHM_STAT, &raw mut found) }) {
            Ok(id) => all.push(segment(id, &found)),
            Err(Errno::INVAL | Errno::ACCESS | Errno::IDRM) => {}
            Err(e) => return Err(e),
        }
    }
    Ok(all)
}

/// One segment.
///
/// # Errors
/// Those of shmctl(2).
pub fn find_segment(id: i32) -> Result<Segment, Errno> {
    let mut found = zeroed_segment();
    // SAFETY: IPC_STAT writes a shmid_ds, which outlives the call.
    check(unsafe { libc::shmctl(id, libc::IPC_STAT, &raw mut found) })?;
    Ok(segment(id, &found))
}

/// Removes a segment as soon as nobody has it attached.
///
/// # Errors
/// Those of shmctl(2).
pub fn remove_segment(id: i32) -> Result<(), Errno> {
    // SAFETY: IPC_RMID takes no argument.
    check(unsafe { libc::shmctl(id, libc::IPC_RMID, std::ptr::null_mut()) }).map(drop)
}

/// Has a segment stay in memory.
///
/// # Errors
/// Those of shmctl(2).
pub fn lock_segment(id: i32) -> Result<(), Errno> {
    // SAFETY: SHM_LOCK takes no argument.
    check(unsafe { libc::shmctl(id, libc::SHM_LOCK, std::ptr::null_mut()) }).map(drop)
}

/// All message queues that the caller may read.
///
/// # Errors
/// Those of msgctl(2).
pub fn queues() -> Result<Vec<Queue>, Errno> {
    let mut all = Vec::new();
    let mut found = zeroed_queue();
    // SAFETY: MSG_INFO writes a struct msginfo, which is smaller than the msqid_ds that outlives the call.
    let last = unsafe { libc::msgctl(0, MSG_INFO, &raw mut found) };
    for index in 0..=check(last)? {
        // SAFETY: MSG_STAT writes a msqid_ds, which outlives the call.
        match check(unsafe { libc::msgctl(index, MSG_STAT, &raw mut found) }) {
            Ok(id) => all.push(Queue { id, bytes: found.msg_qbytes }),
            Err(Errno::INVAL | Errno::ACCESS | Errno::IDRM) => {}
            Err(e) => return Err(e),
        }
    }
    Ok(all)
}

/// Sets how many bytes a queue may hold.
///
/// # Errors
/// Those of msgctl(2): EPERM for more than the namespace's limit without CAP_SYS_RESOURCE.
pub fn set_queue_bytes(queue: Queue) -> Result<(), Errno> {
    let mut found = zeroed_queue();
    // SAFETY: IPC_STAT writes a msqid_ds, which outlives the call.
    check(unsafe { libc::msgctl(queue.id, libc::IPC_STAT, &raw mut found) })?;
    found.msg_qbytes = queue.bytes;
    // SAFETY: IPC_SET reads a msqid_ds, which outlives the call.
    check(unsafe { libc::msgctl(queue.id, libc::IPC_SET, &raw mut found) }).map(drop)
}

fn segment(id: i32, found: &libc::shmid_ds) -> Segment {
    let has = |bit| u32::from(found.shm_perm.mode) & bit != 0;
    Segment { id, size: found.shm_segsz as u64, removed: has(SHM_DEST), locked: has(SHM_LOCKED) }
}

fn zeroed_segment() -> libc::shmid_ds {
    // SAFETY: all zeroes is a valid shmid_ds.
    unsafe { std::mem::zeroed() }
}

fn zeroed_queue() -> libc::msqid_ds {
    // SAFETY: all zeroes is a valid msqid_ds.
    unsafe { std::mem::zeroed() }
}

fn check(result: i32) -> Result<i32, Errno> {
    if result < 0 { Err(Errno::from_raw_os_error(nix::errno::Errno::last_raw())) } else { Ok(result) }
}
