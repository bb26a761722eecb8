//! The abilities of this machine's processors.

use std::io::Read;
use std::sync::LazyLock;

/// No processor's part of `/proc/cpuinfo` is longer, in bytes.
const PART: u64 = 8 << 10;

/// The first one's flags; all have the same. Other architectures than x86 call them otherwise.
static FLAGS: LazyLock<String> = LazyLock::new(|| {
    let mut text = String::new();
    let _ = std::fs::File::open("/proc/cpuinfo").map(|file| file.take(PART).read_to_string(&mut text));
    text.lines().find(|line| line.starts_with("flags")).unwrap_or_default().to_owned()
});

/// Whether they have what the kernel calls `flag`.
pub(super) fn has(flag: &str) -> bool {
    FLAGS.split_ascii_whitespace().any(|word| word == flag)
}
