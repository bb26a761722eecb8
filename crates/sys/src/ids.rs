//! User and group ids. The last number of 32 bits is no id: for chown(2), setresuid(2) and similar calls it means "leave as it
//! is", so a process that should get this id would stay root.

use rustix::fs::{Gid, Uid};
use rustix::io::Errno;

/// The greatest id.
pub const MAX: u32 = u32::MAX - 1;

/// A user for a system call.
///
/// # Errors
/// EINVAL: the number is no id.
pub fn uid(id: u32) -> Result<Uid, Errno> {
    if id <= MAX { Ok(Uid::from_raw(id)) } else { Err(Errno::INVAL) }
}

/// A group for a system call.
///
/// # Errors
/// EINVAL: the number is no id.
pub fn gid(id: u32) -> Result<Gid, Errno> {
    if id <= MAX { Ok(Gid::from_raw(id)) } else { Err(Errno::INVAL) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process::{become_user, set_groups};

    #[test]
    fn what_is_no_id_reaches_no_call() {
        assert_eq!((uid(u32::MAX), gid(u32::MAX)), (Err(Errno::INVAL), Err(Errno::INVAL)));
        // Root may make each of these calls, and others none. Both must get the error that there is no such id.
        for (user, group) in [(u32::MAX, 0), (0, u32::MAX)] {
            let error = become_user(user, group).unwrap_err().to_string();
            assert!(error.ends_with("invalid argument"), "{error}");
        }
        assert!(set_groups(&[0, u32::MAX]).unwrap_err().to_string().ends_with("invalid argument"));
    }
}
