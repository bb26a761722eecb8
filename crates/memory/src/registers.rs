//! The registers of a thread as a system call uses them.

use nix::libc::user_regs_struct;

/// The instruction of a system call.
#[cfg(target_arch = "x86_64")]
pub(crate) const INSTRUCTION: &[u8] = &[0x0f, 0x05];
#[cfg(target_arch = "aarch64")]
pub(crate) const INSTRUCTION: &[u8] = &[0x01, 0x00, 0x00, 0xd4];

/// The results of an interrupted call before the kernel has decided whether the call goes on: from -ERESTARTSYS to
/// -ERESTART_RESTARTBLOCK (linux/errno.h).
#[cfg(target_arch = "x86_64")]
const RESTARTS: std::ops::RangeInclusive<i64> = -516..=-512;

/// All registers, to be read and changed.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Registers(pub(crate) user_regs_struct);

#[cfg(target_arch = "x86_64")]
impl Registers {
    /// Whether the thread runs a program of this architecture: its code segment is the kernel's for 64 bits.
    pub(crate) fn native(&self) -> bool {
        self.0.cs == 0x33
    }

    /// Whether a call was interrupted that the kernel may have go on. It decides that after the stop, by these registers.
    pub(crate) fn interrupted(&self) -> bool {
        self.in_call() && RESTARTS.contains(&self.result())
    }

    /// Whether it was stopped in a system call.
    pub(crate) fn in_call(&self) -> bool {
        self.0.orig_rax.cast_signed() >= 0
    }

    /// Where the instruction is with which it made that call.
    pub(crate) fn caller(&self) -> Option<u64> {
        self.in_call().then(|| self.0.rip.wrapping_sub(2))
    }

    pub(crate) fn stack(&self) -> u64 {
        self.0.rsp
    }

    pub(crate) fn result(&self) -> i64 {
        self.0.rax.cast_signed()
    }

    /// With a call at `instruction` to be made next; no other one is under way.
    pub(crate) fn calling(&self, instruction: u64, number: u64, arguments: [u64; 6]) -> Self {
        let [rdi, rsi, rdx, r10, r8, r9] = arguments;
        let (rip, rax, orig_rax) = (instruction, number, u64::MAX);
        Self(user_regs_struct { rip, rax, orig_rax, rdi, rsi, rdx, r10, r8, r9, ..self.0 })
    }
}

/// The kernel has decided about an interrupted call before it stops the thread: the registers say that it is made again.
#[cfg(target_arch = "aarch64")]
impl Registers {
    /// Whether the thread runs a program of this architecture (PSR_MODE32_BIT).
    pub(crate) fn native(&self) -> bool {
        self.0.pstate & 0x10 == 0
    }

    pub(crate) fn interrupted(&self) -> bool {
        false
    }

    /// Not known: its restartable sequence is looked at in any case.
    pub(crate) fn in_call(&self) -> bool {
        false
    }

    pub(crate) fn caller(&self) -> Option<u64> {
        None
    }

    pub(crate) fn stack(&self) -> u64 {
        self.0.sp
    }

    pub(crate) fn result(&self) -> i64 {
        self.0.regs[0].cast_signed()
    }

    pub(crate) fn calling(&self, instruction: u64, number: u64, arguments: [u64; 6]) -> Self {
        let mut all = self.0;
        all.regs[..6].copy_from_slice(&arguments);
        (all.regs[8], all.pc) = (number, instruction);
        Self(all)
    }
}
