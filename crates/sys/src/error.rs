//! A failed system call, and errors in words.

use std::fmt;

/// The crate's result.
pub type Result<T, E = SysError> = std::result::Result<T, E>;

/// A failed system call: its name, its arguments as a person would write them, and the errno.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct SysError {
    /// Name of the call, as in its man page: `openat2`.
    pub call: String,
    /// The arguments: `"etc/passwd" below /srv/rootfs`.
    pub args: String,
    /// The kernel's answer (errno(3)).
    pub errno: i32,
}

impl SysError {
    /// A failure of `call` on `args`.
    pub fn new(call: &str, args: impl Into<String>, errno: impl Into<i32>) -> Self {
        Self { call: call.into(), args: args.into(), errno: errno.into() }
    }
    /// A failure of `call` on `args`, as std reports it; an error without errno becomes EIO.
    pub fn io(call: &str, args: impl Into<String>, e: &std::io::Error) -> Self {
        Self::new(call, args, e.raw_os_error().unwrap_or(libc::EIO))
    }
}

impl fmt::Display for SysError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}: {}", self.call, self.args, errno_text(self.errno))
    }
}

impl std::error::Error for SysError {}

/// An I/O error without std's "(os error N)", in the words of [`SysError`].
pub fn plain(e: &std::io::Error) -> String {
    e.raw_os_error().map_or_else(|| e.to_string(), errno_text)
}

/// An errno in the words that runc and glibc have for it, which clients look for. The C library is not asked: musl, with
/// which the releases are built, has words of its own.
pub fn errno_text(errno: i32) -> String {
    let known = match errno {
        libc::EIO => "input/output error",
        libc::EBADF => "bad file descriptor",
        libc::EAGAIN => "resource temporarily unavailable",
        libc::ENOMEM => "cannot allocate memory",
        libc::EXDEV => "invalid cross-device link",
        libc::ENFILE => "too many open files in system",
        libc::ENOTTY => "inappropriate ioctl for device",
        libc::EDOM => "numerical argument out of domain",
        libc::ERANGE => "numerical result out of range",
        libc::EDEADLK => "resource deadlock avoided",
        libc::ENOLCK => "no locks available",
        libc::ELOOP => "too many levels of symbolic links",
        libc::EOPNOTSUPP => "operation not supported",
        libc::EBADMSG => "bad message",
        libc::EDQUOT => "disk quota exceeded",
        // ENOTSUPP, which should not leave the kernel (linux/errno.h); some filesystems return it.
        524 => "operation not supported",
        _ => {
            return match nix::errno::Errno::from_raw(errno) {
                nix::errno::Errno::UnknownErrno => format!("errno {errno}"),
                known => known.desc().to_lowercase(),
            };
        }
    };
    known.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_errno_reads_as_with_runc_whatever_the_c_library_says() {
        let text = |errno| SysError::new("write", "a file", errno).to_string();
        assert_eq!(text(libc::ENOTDIR), "write a file: not a directory");
        assert_eq!(text(libc::ERANGE), "write a file: numerical result out of range");
        assert_eq!(text(libc::ELOOP), "write a file: too many levels of symbolic links");
        assert_eq!(text(libc::EPERM), "write a file: operation not permitted");
        assert_eq!(text(524), "write a file: operation not supported");
        assert_eq!(text(4000), "write a file: errno 4000");
        assert_eq!(
            plain(&std::io::Error::from_raw_os_error(libc::EAGAIN)),
            "resource temporarily unavailable"
        );
    }
}
