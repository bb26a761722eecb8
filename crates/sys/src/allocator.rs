//! The allocator of the `hiber` command.

/// musl's asks the kernel for nearly each object that a short program makes; this one asks for 64 KiB.
pub type Allocator = dlmalloc::GlobalDlmalloc;

/// An [`Allocator`] for a program's static.
pub const ALLOCATOR: Allocator = dlmalloc::GlobalDlmalloc;

/// Lets forked processes allocate though another thread of their parent's was about to ([`apart`](crate::apart)). A program
/// calls it before it has a second thread.
pub fn usable_after_fork() {
    // SAFETY: the lock is taken meanwhile, so that the handlers are registered once; no process was forked before.
    unsafe { dlmalloc::enable_alloc_after_fork() };
}
