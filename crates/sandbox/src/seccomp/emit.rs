//! Instructions, written from the last to the first.
//!
//! BPF jumps forward only and conditional jumps reach 255 instructions. Written backwards, every
//! target is known when a jump is: one that is out of reach gets a nearer copy (of a return)
//! or a long jump to it, right behind the jump.

use std::collections::HashMap;

use super::SockFilter;
use super::decision::{Graph, Id, Node, Test, Word};
use super::spans::Span;

// classic BPF (linux/filter.h, linux/bpf_common.h)
pub(super) const LOAD: u16 = 0x20; // BPF_LD | BPF_W | BPF_ABS
pub(super) const AND: u16 = 0x54; // BPF_ALU | BPF_AND | BPF_K
pub(super) const JA: u16 = 0x05; // BPF_JMP | BPF_JA
pub(super) const JEQ: u16 = 0x15; // BPF_JMP | BPF_JEQ | BPF_K
pub(super) const JGT: u16 = 0x25;
pub(super) const JGE: u16 = 0x35;
pub(super) const JSET: u16 = 0x45;
pub(super) const RET: u16 = 0x06; // BPF_RET | BPF_K

// offsets in struct seccomp_data (linux/seccomp.h)
const NUMBER: u32 = 0;
const ARCH: u32 = 4;
const ARGS: u32 = 16;

/// The reach of a conditional jump, minus one instruction that may be inserted in between.
const REACH: usize = 254;

/// The target of a jump.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Target {
    Return(u32),
    /// The instruction that is this many instructions from the end of the program.
    At(usize),
}

/// A program in the making.
pub(super) struct Emitter<'g> {
    graph: &'g Graph,
    /// The program, last instruction first.
    reversed: Vec<SockFilter>,
    /// The nearest copy of each return, and the nearest way to each target.
    returns: HashMap<u32, usize>,
    ways: HashMap<usize, usize>,
    /// Nodes already written: without, and with the load of their word.
    bare: HashMap<Id, usize>,
    loaded: HashMap<Id, usize>,
}

impl<'g> Emitter<'g> {
    pub(super) fn new(graph: &'g Graph) -> Self {
        Self {
            graph,
            reversed: Vec::new(),
            returns: HashMap::new(),
            ways: HashMap::new(),
            bare: HashMap::new(),
            loaded: HashMap::new(),
        }
    }

    /// The search through all numbers of one architecture. `spans` begin at 0, ascending.
    pub(super) fn section(&mut self, spans: &[Span]) -> Target {
        match self.search(spans) {
            Target::At(search) => self.load(NUMBER, search),
            ret => ret,
        }
    }

    /// The start of the program: which section for which architecture.
    pub(super) fn finish(mut self, sections: &[(u32, Target)], bad: u32) -> Vec<SockFilter> {
        let mut next = Target::Return(bad);
        for (audit, section) in sections.iter().rev() {
            next = self.jump(JEQ, *audit, *section, next);
        }
        match next {
            Target::At(first) => {
                self.load(ARCH, first);
            }
            Target::Return(action) => {
                self.push(RET, action);
            }
        }
        self.reversed.reverse();
        self.reversed
    }

    /// A search tree over spans; the accumulator holds the call's number.
    fn search(&mut self, spans: &[Span]) -> Target {
        if let [only] = spans {
            return self.node(only.outcome, None);
        }
        if let Some(target) = self.exceptions(spans) {
            return target;
        }
        // `exceptions` needs halves that begin with the more common outcome.
        let common = if self.is_return(spans[0].outcome) { 0 } else { 1 };
        let half = spans.len() / 2;
        let middle = if half % 2 == common || half == 1 { half } else { half - 1 };
        let (low, high) = spans.split_at(middle);
        let from = high[0].from;
        let high = self.search(high);
        let low = self.search(low);
        self.jump(JGE, from, high, low)
    }

    /// Up to three single numbers that differ from all the others around them: an equality
    /// test each, instead of the two comparisons that a tree takes.
    fn exceptions(&mut self, spans: &[Span]) -> Option<Target> {
        let usual = spans[0].outcome;
        let singles: Vec<_> = spans.iter().skip(1).step_by(2).collect();
        let alternate = spans.iter().step_by(2).all(|s| s.outcome == usual);
        let single = spans.windows(2).skip(1).step_by(2).all(|pair| pair[1].from - pair[0].from == 1);
        if spans.len().is_multiple_of(2) || singles.len() > 3 || !alternate || !single {
            return None;
        }
        let mut next = self.node(usual, None);
        for span in singles.into_iter().rev() {
            let outcome = self.node(span.outcome, None);
            next = self.jump(JEQ, span.from, outcome, next);
        }
        Some(next)
    }

    fn is_return(&self, id: Id) -> bool {
        matches!(self.graph.node(id), Node::Return(_))
    }

    /// Writes a node, unless it is there already; `holds` is the word in the accumulator.
    fn node(&mut self, id: Id, holds: Option<Word>) -> Target {
        let (word, test, yes, no) = match self.graph.node(id) {
            Node::Return(action) => return Target::Return(action),
            Node::Branch { word, test, yes, no } => (word, test, yes, no),
        };
        if holds != Some(word)
            && let Some(at) = self.loaded.get(&id)
        {
            return Target::At(*at);
        }
        let bare = match self.bare.get(&id) {
            Some(at) => *at,
            None => {
                let at = self.branch(word, test, yes, no);
                self.bare.insert(id, at);
                at
            }
        };
        if holds == Some(word) {
            return Target::At(bare);
        }
        let target = self.load(offset(word), bare);
        if let Target::At(at) = target {
            self.loaded.insert(id, at);
        }
        target
    }

    fn branch(&mut self, word: Word, test: Test, yes: Id, no: Id) -> usize {
        let holds = if matches!(test, Test::Masked(..)) { None } else { Some(word) };
        let no = self.node(no, holds);
        let yes = self.node(yes, holds);
        let (code, k) = match test {
            Test::Eq(k) | Test::Masked(_, k) => (JEQ, k),
            Test::Gt(k) => (JGT, k),
            Test::Ge(k) => (JGE, k),
            Test::Any(bits) => (JSET, bits),
        };
        let at = self.branch_to(code, k, yes, no);
        match test {
            Test::Masked(mask, _) => self.push(AND, mask),
            _ => at,
        }
    }

    /// A conditional jump, or nothing where both ways are one.
    fn jump(&mut self, code: u16, k: u32, yes: Target, no: Target) -> Target {
        if yes == no { yes } else { Target::At(self.branch_to(code, k, yes, no)) }
    }

    fn branch_to(&mut self, code: u16, k: u32, yes: Target, no: Target) -> usize {
        let yes = self.reach(yes);
        let no = self.reach(no);
        let here = self.reversed.len();
        // `reach` keeps both within REACH + 1
        self.reversed.push(SockFilter { code, jt: (here - yes) as u8, jf: (here - no) as u8, k });
        here + 1
    }

    /// A place for `target` within a conditional jump's reach of the next instruction.
    fn reach(&mut self, target: Target) -> usize {
        let here = self.reversed.len();
        match target {
            Target::Return(action) => match self.returns.get(&action) {
                Some(at) if here - at <= REACH => *at,
                _ => {
                    let at = self.push(RET, action);
                    self.returns.insert(action, at);
                    at
                }
            },
            Target::At(at) if here - at <= REACH => at,
            Target::At(at) => match self.ways.get(&at) {
                Some(way) if here - way <= REACH => *way,
                _ => {
                    let way = self.push(JA, (here - at) as u32);
                    self.ways.insert(at, way);
                    way
                }
            },
        }
    }

    /// Loads a word of the call and goes on at `next`.
    fn load(&mut self, offset: u32, next: usize) -> Target {
        let here = self.reversed.len();
        if next != here {
            self.push(JA, (here - next) as u32);
        }
        Target::At(self.push(LOAD, offset))
    }

    fn push(&mut self, code: u16, k: u32) -> usize {
        self.reversed.push(SockFilter { code, jt: 0, jf: 0, k });
        self.reversed.len()
    }
}

/// The offset of a word in struct seccomp_data. Arguments are 64-bit numbers in native byte order.
fn offset(word: Word) -> u32 {
    let second = word.high != cfg!(target_endian = "big");
    ARGS + 8 * word.arg + if second { 4 } else { 0 }
}
