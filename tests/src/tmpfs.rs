//! A file system that is soon full.

use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
use std::path::Path;

/// A file system of so many pages, as long as it lives.
pub struct Tmpfs<'a>(&'a Path);

impl<'a> Tmpfs<'a> {
    /// Mounts it.
    ///
    /// # Panics
    /// If that fails.
    #[track_caller]
    pub fn mount(on: &'a Path, pages: usize) -> Self {
        let data =
            std::ffi::CString::new(format!("mode=700,size={}", pages * rustix::param::page_size())).unwrap();
        mount("tmpfs", on, "tmpfs", MountFlags::empty(), Some(data.as_c_str())).unwrap();
        Self(on)
    }
}

impl Drop for Tmpfs<'_> {
    fn drop(&mut self) {
        let _ = unmount(self.0, UnmountFlags::DETACH);
    }
}
