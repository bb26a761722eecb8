//! The architectures that a kernel can run at once, and their system call tables.
//!
//! A filter sees calls of its own architecture and of the ones that the kernel runs beside it
//! (i386 and x32 on x86_64, 32-bit ARM on aarch64). A profile may list any others: no call of
//! theirs can ever arrive, so they leave no code.

use oci_spec::runtime::Arch;

/// Set in the number of every x32 call (`__X32_SYSCALL_BIT`).
pub(super) const X32_BIT: u32 = 0x4000_0000;

/// One architecture's view of system calls.
pub(super) struct Abi {
    /// Its name in a profile.
    pub(super) arch: Arch,
    /// `seccomp_data.arch` (`AUDIT_ARCH_*`, linux/audit.h). x32 shares x86_64's.
    pub(super) audit: u32,
    /// Whether arguments have 64 bits; else their upper halves are not looked at.
    pub(super) wide: bool,
    /// Whether `socketcall` and `ipc` carry other calls.
    pub(super) multiplexed: bool,
    table: fn(u32) -> Option<&'static str>,
    /// The table's last number.
    last: u32,
    /// Calls beyond the table.
    more: &'static [(u32, &'static str)],
}

impl Abi {
    /// All calls, ascending: (number as the filter sees it, name).
    pub(super) fn calls(&self) -> impl Iterator<Item = (u32, &'static str)> + '_ {
        let bit = if self.arch == Arch::ScmpArchX32 { X32_BIT } else { 0 };
        let table = (0..=self.last).filter_map(move |n| (self.table)(n).map(|name| (n | bit, name)));
        table.chain(self.more.iter().copied())
    }
}

/// Calls of ARM alone, at 0xf0000 and up (arch/arm/include/uapi/asm/unistd.h).
const ARM_MORE: &[(u32, &str)] = &[
    (0xf_0001, "breakpoint"),
    (0xf_0002, "cacheflush"),
    (0xf_0003, "usr26"),
    (0xf_0004, "usr32"),
    (0xf_0005, "set_tls"),
    (0xf_0006, "get_tls"),
];

macro_rules! table {
    ($name:ident) => {
        fn $name(n: u32) -> Option<&'static str> {
            syscalls::$name::Sysno::new(n as usize).map(|s| s.name())
        }
    };
}

/// 64-bit machines with the common table (asm-generic/unistd.h), where the crate has two things
/// of its own: 79 by the name of the kernel's function, and calls with 64-bit times from 403 on,
/// which only 32-bit machines have.
macro_rules! generic_table {
    ($name:ident) => {
        fn $name(n: u32) -> Option<&'static str> {
            match n {
                79 => Some("newfstatat"),
                403..=423 => None,
                _ => syscalls::$name::Sysno::new(n as usize).map(|s| s.name()),
            }
        }
    };
}

table!(x86_64);
table!(arm);
generic_table!(aarch64);
#[cfg(target_arch = "riscv64")]
generic_table!(riscv64);
#[cfg(target_arch = "loongarch64")]
generic_table!(loongarch64);

fn x86(n: u32) -> Option<&'static str> {
    // a Rust keyword, which the crate's enum leaves out
    if n == 17 { Some("break") } else { syscalls::x86::Sysno::new(n as usize).map(|s| s.name()) }
}

macro_rules! abi {
    ($name:ident, $arch:ident, $audit:expr, $wide:expr, $mux:expr, $table:ident, $more:expr) => {
        static $name: Abi = Abi {
            arch: Arch::$arch,
            audit: $audit,
            wide: $wide,
            multiplexed: $mux,
            table: $table,
            last: syscalls::$table::Sysno::last().id() as u32,
            more: $more,
        };
    };
}

abi!(X86_64, ScmpArchX86_64, 0xc000_003e, true, false, x86_64, &[]);
abi!(X86, ScmpArchX86, 0x4000_0003, false, true, x86, &[]);
abi!(AARCH64, ScmpArchAarch64, 0xc000_00b7, true, false, aarch64, &[]);
abi!(ARM, ScmpArchArm, 0x4000_0028, false, false, arm, ARM_MORE);
#[cfg(target_arch = "riscv64")]
abi!(RISCV64, ScmpArchRiscv64, 0xc000_00f3, true, false, riscv64, &[]);
#[cfg(target_arch = "loongarch64")]
abi!(LOONGARCH64, ScmpArchLoongarch64, 0xc000_0102, true, false, loongarch64, &[]);

static X32: Abi = Abi {
    arch: Arch::ScmpArchX32,
    audit: 0xc000_003e,
    wide: false,
    multiplexed: false,
    table: x32,
    last: X32_FIRST + X32_OWN.len() as u32 - 1,
    more: &[],
};

/// The first number that x32 has for itself.
const X32_FIRST: u32 = 512;

/// The x86_64 numbers of the calls that have an entry point of their own for x32, which are
/// numbered there from 512 on (arch/x86/entry/syscalls/syscall_64.tbl, "x32").
const X32_OWN: [u32; 36] = [
    13, 15, 16, 19, 20, 45, 46, 47, 59, 101, 127, 128, 129, 131, 222, 244, 246, 247, 273, 274, 278, 279, 295,
    296, 297, 299, 307, 310, 311, 54, 55, 206, 209, 322, 327, 328,
];

/// The x86_64 numbers of the calls that x32 does not have: the table's "64" entries without an
/// x32 twin.
const X32_WITHOUT: [u32; 14] = [134, 156, 174, 177, 178, 180, 205, 211, 214, 215, 236, 335, 336, 453];

fn x32(n: u32) -> Option<&'static str> {
    if let Some(own) = n.checked_sub(X32_FIRST) {
        return x86_64(*X32_OWN.get(own as usize)?);
    }
    if X32_OWN.contains(&n) || X32_WITHOUT.contains(&n) { None } else { x86_64(n) }
}

/// Calls that i386's `socketcall` carries, in the order of their number there, from 1
/// (linux/net.h, `SYS_*`).
const SOCKETCALL: [&str; 20] = [
    "socket",
    "bind",
    "connect",
    "listen",
    "accept",
    "getsockname",
    "getpeername",
    "socketpair",
    "send",
    "recv",
    "sendto",
    "recvfrom",
    "shutdown",
    "setsockopt",
    "getsockopt",
    "sendmsg",
    "recvmsg",
    "accept4",
    "recvmmsg",
    "sendmmsg",
];

/// Calls that i386's `ipc` carries, with their number there (linux/ipc.h).
const IPC: [(&str, u32); 12] = [
    ("semop", 1),
    ("semget", 2),
    ("semctl", 3),
    ("semtimedop", 4),
    ("msgsnd", 11),
    ("msgrcv", 12),
    ("msgget", 13),
    ("msgctl", 14),
    ("shmat", 21),
    ("shmdt", 22),
    ("shmget", 23),
    ("shmctl", 24),
];

/// The calls that `socketcall` or `ipc` carries, with their numbers there.
pub(super) fn carried_by(carrier: &str) -> Vec<(&'static str, u32)> {
    match carrier {
        "socketcall" => SOCKETCALL.into_iter().zip(1..).collect(),
        "ipc" => IPC.to_vec(),
        _ => Vec::new(),
    }
}

/// Whether `socketcall` or `ipc` carries a call, where there are those.
pub(super) fn is_carried(name: &str) -> bool {
    SOCKETCALL.contains(&name) || IPC.iter().any(|(n, _)| *n == name)
}

/// The architecture this binary was built for.
pub const NATIVE: Arch = if cfg!(target_arch = "x86_64") {
    Arch::ScmpArchX86_64
} else if cfg!(target_arch = "aarch64") {
    Arch::ScmpArchAarch64
} else if cfg!(target_arch = "x86") {
    Arch::ScmpArchX86
} else if cfg!(target_arch = "arm") {
    Arch::ScmpArchArm
} else if cfg!(target_arch = "riscv64") {
    Arch::ScmpArchRiscv64
} else if cfg!(target_arch = "loongarch64") {
    Arch::ScmpArchLoongarch64
} else {
    Arch::ScmpArchNative
};

/// The architectures whose calls a kernel of `native` can serve, `native` first; none if
/// there is no table for it.
pub(super) fn family(native: Arch) -> Vec<&'static Abi> {
    match native {
        Arch::ScmpArchX86_64 => vec![&X86_64, &X86, &X32],
        Arch::ScmpArchX86 => vec![&X86],
        Arch::ScmpArchAarch64 => vec![&AARCH64, &ARM],
        Arch::ScmpArchArm => vec![&ARM],
        #[cfg(target_arch = "riscv64")]
        Arch::ScmpArchRiscv64 => vec![&RISCV64],
        #[cfg(target_arch = "loongarch64")]
        Arch::ScmpArchLoongarch64 => vec![&LOONGARCH64],
        _ => Vec::new(),
    }
}
