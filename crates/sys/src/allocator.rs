//! The allocator of the `hiber` command.

/// musl's asks the kernel for nearly each object that a short program makes; this one asks for 64 KiB.
pub type Allocator = dlmalloc::GlobalDlmalloc;

/// An [`Allocator`] for a program's static.
pub const ALLOCATOR: Allocator = dlmalloc::GlobalDlmalloc;
