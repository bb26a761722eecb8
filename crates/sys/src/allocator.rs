//! The allocator of the `hiber` command.

use std::alloc::{GlobalAlloc, Layout};
use std::cell::UnsafeCell;
use std::sync::{Mutex, MutexGuard, PoisonError};

use dlmalloc::Dlmalloc;

/// musl's asks the kernel for nearly each object that a short program makes; this one asks for 64 KiB. Its lock is the standard
/// library's, which takes a few instructions where nobody waits; a pthread's takes more than most allocations.
pub struct Allocator {
    lock: Mutex<()>,
    heap: UnsafeCell<Dlmalloc>,
}

/// An [`Allocator`] for a program's static.
#[allow(clippy::declare_interior_mutable_const)]
pub const ALLOCATOR: Allocator = Allocator { lock: Mutex::new(()), heap: UnsafeCell::new(Dlmalloc::new()) };

// SAFETY: the heap is used with the lock held alone.
unsafe impl Sync for Allocator {}

impl Allocator {
    fn lock(&self) -> MutexGuard<'_, ()> {
        self.lock.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// SAFETY: dlmalloc gives memory as these functions must, and the lock keeps its calls apart. The lock allocates nothing.
unsafe impl GlobalAlloc for Allocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let _lock = self.lock();
        // SAFETY: the lock is held.
        unsafe { (*self.heap.get()).malloc(layout.size(), layout.align()) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        let _lock = self.lock();
        // SAFETY: the lock is held, and the caller has the memory from here, with this layout.
        unsafe { (*self.heap.get()).free(memory, layout.size(), layout.align()) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        let _lock = self.lock();
        // SAFETY: the lock is held.
        unsafe { (*self.heap.get()).calloc(layout.size(), layout.align()) }
    }

    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        let _lock = self.lock();
        // SAFETY: as in `dealloc`.
        unsafe { (*self.heap.get()).realloc(memory, layout.size(), layout.align(), size) }
    }
}
