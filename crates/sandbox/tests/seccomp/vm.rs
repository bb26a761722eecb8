//! An interpreter for the part of classic BPF that seccomp filters use.

use hiber_sandbox::seccomp::SockFilter;

/// A system call as a filter sees it: struct seccomp_data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Call {
    pub(crate) nr: u32,
    pub(crate) arch: u32,
    pub(crate) args: [u64; 6],
}

impl Call {
    fn word(&self, offset: u32) -> u32 {
        match offset {
            0 => self.nr,
            4 => self.arch,
            16..64 if offset.is_multiple_of(4) => {
                let arg = self.args[(offset as usize - 16) / 8];
                let high = (offset % 8 == 4) == cfg!(target_endian = "little");
                if high { (arg >> 32) as u32 } else { arg as u32 }
            }
            _ => panic!("load from offset {offset}"),
        }
    }
}

/// The return value of a filter for a call. Panics if the kernel would refuse the filter.
pub(crate) fn run(filter: &[SockFilter], call: &Call) -> u32 {
    let (mut pc, mut a) = (0, 0);
    loop {
        let i = filter.get(pc).unwrap_or_else(|| panic!("fell off the program at {pc}"));
        pc += 1;
        let jump = |holds: bool| usize::from(if holds { i.jt } else { i.jf });
        match i.code {
            0x20 => a = call.word(i.k),
            0x54 => a &= i.k,
            0x05 => pc += i.k as usize,
            0x15 => pc += jump(a == i.k),
            0x25 => pc += jump(a > i.k),
            0x35 => pc += jump(a >= i.k),
            0x45 => pc += jump(a & i.k != 0),
            0x06 => return i.k,
            code => panic!("instruction {code:#x} at {}", pc - 1),
        }
    }
}

/// xorshift64*: the same numbers in every run.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }
    pub(crate) fn below(&mut self, n: u64) -> u64 {
        (self.next() >> 32) % n
    }
    pub(crate) fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len() as u64) as usize]
    }
}
