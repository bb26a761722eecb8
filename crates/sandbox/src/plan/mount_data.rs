//! Checks of mount options for the filesystem itself, before the kernel sees them.

/// Whether some kernel knows an option of a cgroup mount (`cgroup1_fs_parameters`, `cgroup2_fs_parameters`). None has an effect
/// on a container's mount: these options belong to the hierarchy of the whole machine.
pub(super) fn is_cgroup_option(option: &str, fstype: &str) -> bool {
    const V2: [&str; 7] = [
        "favordynmods",
        "memory_hugetlb_accounting",
        "memory_localevents",
        "memory_recursiveprot",
        "nofavordynmods",
        "nsdelegate",
        "pids_localevents",
    ];
    const V1: [&str; 21] = [
        "all",
        "blkio",
        "clone_children",
        "cpu",
        "cpuacct",
        "cpuset",
        "cpuset_v2_mode",
        "debug",
        "devices",
        "freezer",
        "hugetlb",
        "memory",
        "misc",
        "net_cls",
        "net_prio",
        "none",
        "noprefix",
        "perf_event",
        "pids",
        "rdma",
        "xattr",
    ];
    // Clients write `cgroup` for both versions.
    let v1 = fstype == "cgroup";
    let with_value = option.starts_with("name=") || option.starts_with("release_agent=");
    option.is_empty() || V2.contains(&option) || (v1 && (with_value || V1.contains(&option)))
}

/// A number as the kernel reads it in mount options: hexadecimal after `0x`, octal after `0`.
pub(super) fn kernel_number(text: &str) -> Option<i64> {
    let (sign, digits) = text.strip_prefix('-').map_or((1, text), |digits| (-1, digits));
    let lower = digits.to_ascii_lowercase();
    let number = match (lower.strip_prefix("0x"), lower.strip_prefix('0')) {
        (Some(hexadecimal), _) => i64::from_str_radix(hexadecimal, 16),
        (None, Some(octal)) if !octal.is_empty() => i64::from_str_radix(octal, 8),
        _ => digits.parse(),
    };
    // The sign is gone; a second one makes the number invalid.
    number.ok().filter(|_| !lower.contains(['+', '-'])).map(|number| sign * number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_the_kernel() {
        let read = ["0", "8", "010", "0x10", "0XfF", "-1", "4294967296"].map(kernel_number);
        assert_eq!(read.map(Option::unwrap), [0, 8, 8, 16, 255, -1, 1 << 32]);
        for none in ["", "-", "+1", "--1", "0x", "0x-1", "09", "root", "1 "] {
            assert_eq!(kernel_number(none), None, "{none:?}");
        }
    }

    #[test]
    fn options_of_cgroup_mounts() {
        let known = |fstype| {
            let all = ["", "nsdelegate", "memory", "name=systemd", "release_agent=/a", "size=1", "nonsense"];
            all.into_iter().filter(|option| is_cgroup_option(option, fstype)).count()
        };
        assert_eq!((known("cgroup"), known("cgroup2")), (5, 2));
    }
}
