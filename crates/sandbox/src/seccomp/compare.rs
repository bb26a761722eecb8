//! Compares two filters that different programs made from the same profile: does the one let nothing through that the other
//! stops?
//!
//! Both programs are followed along every path that a system call can take. The conditions on a path are collected for each word
//! of the call, as numbers, ranges and bits. A path that no call can take is dropped; a path whose conditions are too complicated
//! counts as possible. So the answer may be a wrong no, never a wrong yes.

use super::SockFilter;
use super::emit::{AND, JA, JEQ, JGE, JGT, JSET, LOAD, RET};

/// Words of struct seccomp_data (linux/seccomp.h).
const WORDS: usize = 16;
/// The most instructions that are followed. The default profiles of container engines take some hundred thousand.
const MAX_STEPS: u32 = 20_000_000;
/// The mask of the action in a filter's return value; the rest is data (SECCOMP_RET_ACTION_FULL).
const ACTION: u32 = 0xffff_0000;

/// Whether the filter `theirs` stops each call that `ours` stops, by an action at least as strict. The smaller signed number is
/// the stricter action, as in the kernel.
pub fn is_as_strict(theirs: &[SockFilter], ours: &[SockFilter]) -> bool {
    if theirs == ours {
        return true;
    }
    let mut steps = MAX_STEPS;
    let any = Call { words: std::array::from_fn(|_| Word::default()) };
    leaves(theirs, any, &mut steps, &mut |steps, call, action| {
        leaves(ours, call, steps, &mut |_, _, stops| severity(action) <= severity(stops))
    })
}

fn severity(action: u32) -> i32 {
    (action & ACTION).cast_signed()
}

/// The known facts of a system call.
#[derive(Clone)]
struct Call {
    words: [Word; WORDS],
}

/// The known facts of a word.
#[derive(Clone)]
struct Word {
    low: u32,
    high: u32,
    /// The bits that are known, and their values.
    mask: u32,
    bits: u32,
    /// Masks, and values that the word does not have under them.
    not: Vec<(u32, u32)>,
}

impl Default for Word {
    fn default() -> Self {
        Self { low: 0, high: u32::MAX, mask: 0, bits: 0, not: Vec::new() }
    }
}

impl Word {
    /// The value under a mask, if all of its bits are known.
    fn known(&self, mask: u32) -> Option<u32> {
        match self.low == self.high {
            true => Some(self.low & mask),
            false => (self.mask & mask == mask).then_some(self.bits & mask),
        }
    }

    fn is(&mut self, mask: u32, value: u32) -> bool {
        let clash = self.mask & mask & (self.bits ^ value) != 0 || value & !mask != 0;
        self.mask |= mask;
        self.bits |= value;
        !clash && self.is_possible()
    }

    fn is_not(&mut self, mask: u32, value: u32) -> bool {
        self.not.push((mask, value));
        self.is_possible()
    }

    /// Draws conclusions from the facts. False if no word can have them.
    fn is_possible(&mut self) -> bool {
        self.low = self.low.max(self.bits);
        self.high = self.high.min(self.bits | !self.mask);
        while self.low < self.high && self.not.contains(&(u32::MAX, self.low)) {
            self.low += 1;
        }
        while self.low < self.high && self.not.contains(&(u32::MAX, self.high)) {
            self.high -= 1;
        }
        let excluded = |(mask, value): &(u32, u32)| self.known(*mask) == Some(*value);
        let in_range = self.known(u32::MAX).is_none_or(|n| n & self.mask == self.bits);
        self.low <= self.high && in_range && !self.not.iter().any(excluded)
    }
}

/// The accumulator.
#[derive(Clone, Copy)]
enum Value {
    Number(u32),
    /// A word of the call, under a mask.
    Word(usize, u32),
}

/// Follows every path through a program, and calls `leaf` at its end with the known facts of the call and the action. Returns
/// whether `leaf` always agreed; false for a program with instructions that seccomp filters do not have.
fn leaves(
    program: &[SockFilter],
    call: Call,
    steps: &mut u32,
    leaf: &mut dyn FnMut(&mut u32, Call, u32) -> bool,
) -> bool {
    let mut ways = vec![(0, Value::Number(0), call)];
    while let Some((mut at, mut value, mut call)) = ways.pop() {
        loop {
            let Some(i) = program.get(at) else { return false };
            let Some(left) = steps.checked_sub(1) else { return false };
            *steps = left;
            at += 1;
            match i.code {
                LOAD => match usize::try_from(i.k / 4).ok().filter(|w| *w < WORDS && i.k % 4 == 0) {
                    Some(word) => value = Value::Word(word, u32::MAX),
                    None => return false,
                },
                AND => {
                    value = match value {
                        Value::Number(n) => Value::Number(n & i.k),
                        Value::Word(word, mask) => Value::Word(word, mask & i.k),
                    }
                }
                JA => match usize::try_from(i.k).ok().and_then(|k| at.checked_add(k)) {
                    Some(to) => at = to,
                    None => return false,
                },
                JEQ | JGT | JGE | JSET => {
                    let to = |holds: bool| at + usize::from(if holds { i.jt } else { i.jf });
                    let mut other = None;
                    match branch(i, value, &mut call, &mut other) {
                        Some(holds) => {
                            if let Some(other) = other {
                                ways.push((to(!holds), value, other));
                            }
                            at = to(holds);
                        }
                        // No call takes either path.
                        None => break,
                    }
                }
                RET => {
                    if !leaf(steps, call, i.k) {
                        return false;
                    }
                    break;
                }
                _ => return false,
            }
        }
    }
    true
}

/// The result of a comparison, if it is known. Otherwise the facts are split: `call` gets those of a comparison that holds, and
/// `other` those of one that does not.
fn branch(i: &SockFilter, value: Value, call: &mut Call, other: &mut Option<Call>) -> Option<bool> {
    let compare = |n: u32| match i.code {
        JEQ => n == i.k,
        JGT => n > i.k,
        JGE => n >= i.k,
        _ => n & i.k != 0,
    };
    let (at, mask) = match value {
        Value::Number(n) => return Some(compare(n)),
        Value::Word(at, mask) => (at, mask),
    };
    if let Some(n) = call.words[at].known(mask) {
        return Some(compare(n));
    }
    let mut yes = call.clone();
    let held = hold(i, mask, &mut yes.words[at], true);
    let not_held = hold(i, mask, &mut call.words[at], false);
    match (held, not_held) {
        (true, true) => {
            *other = Some(yes);
            Some(false)
        }
        (true, false) => {
            *call = yes;
            Some(true)
        }
        (false, true) => Some(false),
        (false, false) => None,
    }
}

/// Adds a comparison's result to the facts. False if no word can have them.
fn hold(i: &SockFilter, mask: u32, word: &mut Word, holds: bool) -> bool {
    let whole = mask == u32::MAX;
    // The least number for which JGT or JGE holds.
    let from = if i.code == JGT { i.k.checked_add(1) } else { Some(i.k) };
    match (i.code, holds) {
        (JEQ, true) => word.is(mask, i.k),
        (JEQ, false) => word.is_not(mask, i.k),
        (JSET, true) => word.is_not(mask & i.k, 0),
        (JSET, false) => word.is(mask & i.k, 0),
        (_, true) => match from {
            None => false,
            Some(from) if whole => {
                word.low = word.low.max(from);
                word.is_possible()
            }
            Some(_) => true,
        },
        (_, false) => match from {
            None => true,
            Some(0) => false,
            Some(from) if whole => {
                word.high = word.high.min(from - 1);
                word.is_possible()
            }
            Some(_) => true,
        },
    }
}
