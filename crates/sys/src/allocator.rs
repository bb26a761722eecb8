//! The allocator of the `hiber` command.

use std::alloc::{GlobalAlloc, Layout};
use std::sync::{Mutex, MutexGuard, PoisonError};

use dlmalloc::Dlmalloc;

/// musl's asks the kernel for nearly each object that a short program makes; this one asks for 64 KiB. Its lock is the standard
/// library's, which takes a few instructions where nobody waits; a pthread's takes more than most allocations.
pub struct Allocator(Mutex<Dlmalloc>);

/// An [`Allocator`] for a program's static.
#[allow(clippy::declare_interior_mutable_const)]
pub const ALLOCATOR: Allocator = Allocator(Mutex::new(Dlmalloc::new()));

// SAFETY: the heap may be used by any thread, and the lock has one at a time use it.
unsafe impl Sync for Allocator {}

impl Allocator {
    fn heap(&self) -> MutexGuard<'_, Dlmalloc> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// SAFETY: dlmalloc gives memory as these functions must, and the lock allocates nothing.
unsafe impl GlobalAlloc for Allocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: as the caller promises.
        unsafe { self.heap().malloc(layout.size(), layout.align()) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        // SAFETY: as the caller promises.
        unsafe { self.heap().free(memory, layout.size(), layout.align()) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: as the caller promises.
        unsafe { self.heap().calloc(layout.size(), layout.align()) }
    }

    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: as the caller promises.
        unsafe { self.heap().realloc(memory, layout.size(), layout.align(), size) }
    }
}
