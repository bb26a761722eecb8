//! The decision for one call: its rules as a graph of 32-bit comparisons.
//!
//! BPF compares 32 bits at a time, so a condition on a 64-bit argument becomes one to three
//! tests of halves. Rules are tried in order; each test's outcome is carried into what follows
//! it, so nothing is compared twice on one path. Equal parts are shared.

use std::collections::HashMap;

use oci_spec::runtime::LinuxSeccompOperator as Op;

use super::rules::{Cond, Rule};

/// A node's place in its [`Graph`].
pub(super) type Id = usize;

/// A comparison of one half of an argument with a constant.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(super) enum Test {
    Eq(u32),
    Gt(u32),
    Ge(u32),
    /// Any of these bits is set.
    Any(u32),
    /// (word & .0) == .1
    Masked(u32, u32),
}

impl Test {
    fn holds(self, word: u32) -> bool {
        match self {
            Self::Eq(k) => word == k,
            Self::Gt(k) => word > k,
            Self::Ge(k) => word >= k,
            Self::Any(bits) => word & bits != 0,
            Self::Masked(mask, k) => word & mask == k,
        }
    }
}

/// One half of an argument.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(super) struct Word {
    /// 0 to 5.
    pub(super) arg: u32,
    /// Bits 32 to 63 rather than 0 to 31.
    pub(super) high: bool,
}

/// An action, or a test with the nodes for both results.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(super) enum Node {
    Return(u32),
    Branch { word: Word, test: Test, yes: Id, no: Id },
}

/// The graph of all decisions of a filter; children come before their parents.
#[derive(Default)]
pub(super) struct Graph {
    nodes: Vec<Node>,
    /// For each node, the number of tests on the longest path from it.
    depths: Vec<usize>,
    known: HashMap<Node, Id>,
    actions: Vec<(u32, Id)>,
}

/// Beyond this many conditions for one call, outcomes are no longer carried along: it takes
/// time in the square of their number.
const CARRY_LIMIT: usize = 256;

impl Graph {
    pub(super) fn node(&self, id: Id) -> Node {
        self.nodes[id]
    }

    /// The number of tests on the longest way from a node.
    pub(super) fn depth(&self, id: Id) -> usize {
        self.depths[id]
    }

    /// Nothing but an action.
    pub(super) fn action(&mut self, action: u32) -> Id {
        // asked for once for each call of a profile, of a few actions
        if let Some((_, id)) = self.actions.iter().find(|(a, _)| *a == action) {
            return *id;
        }
        let id = self.add(Node::Return(action));
        self.actions.push((action, id));
        id
    }

    /// The decision that tries `rules` in order and ends in `default`; conditions are on 64
    /// bits if `wide`.
    pub(super) fn decide(&mut self, rules: &[Rule], default: u32, wide: bool) -> Id {
        let otherwise = self.action(default);
        let mut conds = 0;
        rules.iter().rev().fold(otherwise, |otherwise, rule| {
            conds += rule.conds.len();
            let then = self.action(rule.action);
            let mut build = Build { graph: self, wide, carry: conds <= CARRY_LIMIT };
            rule.conds.iter().rev().fold(then, |then, c| build.cond(c, then, otherwise))
        })
    }

    fn add(&mut self, node: Node) -> Id {
        let depth = match node {
            Node::Return(_) => 0,
            Node::Branch { yes, no, .. } if yes == no => return yes,
            Node::Branch { yes, no, .. } => 1 + self.depth(yes).max(self.depth(no)),
        };
        *self.known.entry(node).or_insert_with(|| {
            self.nodes.push(node);
            self.depths.push(depth);
            self.nodes.len() - 1
        })
    }

    /// Simplifies `id`, given the result of `test` on `word`.
    fn assume(&mut self, id: Id, word: Word, test: Test, holds: bool) -> Id {
        let fact = Fact { word, test, holds };
        fact.apply(self, id, &mut HashMap::new())
    }
}

/// A test whose outcome is known.
struct Fact {
    word: Word,
    test: Test,
    holds: bool,
}

impl Fact {
    /// The result of another test on the same word, if this one implies it.
    fn implies(&self, word: Word, test: Test) -> Option<bool> {
        if word != self.word {
            return None;
        }
        match self.test {
            _ if test == self.test => Some(self.holds),
            Test::Eq(k) if self.holds => Some(test.holds(k)),
            _ => None,
        }
    }

    fn apply(&self, graph: &mut Graph, id: Id, done: &mut HashMap<Id, Id>) -> Id {
        let Node::Branch { word, test, yes, no } = graph.node(id) else { return id };
        if let Some(new) = done.get(&id) {
            return *new;
        }
        let new = match self.implies(word, test) {
            Some(true) => self.apply(graph, yes, done),
            Some(false) => self.apply(graph, no, done),
            None => {
                let yes = self.apply(graph, yes, done);
                let no = self.apply(graph, no, done);
                graph.add(Node::Branch { word, test, yes, no })
            }
        };
        done.insert(id, new);
        new
    }
}

struct Build<'g> {
    graph: &'g mut Graph,
    wide: bool,
    carry: bool,
}

impl Build<'_> {
    /// `yes` if the condition is met, else `no`.
    fn cond(&mut self, c: &Cond, yes: Id, no: Id) -> Id {
        match c.op {
            Op::ScmpCmpEq | Op::ScmpCmpMaskedEq => self.equal(c, yes, no),
            Op::ScmpCmpNe => self.equal(c, no, yes),
            Op::ScmpCmpGt => self.greater(c, Test::Gt, yes, no),
            Op::ScmpCmpGe => self.greater(c, Test::Ge, yes, no),
            Op::ScmpCmpLe => self.greater(c, Test::Gt, no, yes),
            Op::ScmpCmpLt => self.greater(c, Test::Ge, no, yes),
        }
    }

    fn equal(&mut self, c: &Cond, yes: Id, no: Id) -> Id {
        let low = self.masked(low(c), c.mask as u32, c.value as u32, yes, no);
        if self.wide {
            self.masked(high(c), (c.mask >> 32) as u32, (c.value >> 32) as u32, low, no)
        } else {
            low
        }
    }

    fn masked(&mut self, word: Word, mask: u32, value: u32, yes: Id, no: Id) -> Id {
        match mask {
            0 => yes,
            u32::MAX => self.branch(word, Test::Eq(value), yes, no),
            _ if value == 0 => self.branch(word, Test::Any(mask), no, yes),
            _ if value == mask && mask.is_power_of_two() => self.branch(word, Test::Any(mask), yes, no),
            _ => self.branch(word, Test::Masked(mask, value), yes, no),
        }
    }

    /// `compare` (greater, or greater or equal) on the lower half where the upper is equal.
    fn greater(&mut self, c: &Cond, compare: fn(u32) -> Test, yes: Id, no: Id) -> Id {
        let upper = (c.value >> 32) as u32;
        let low = self.branch(low(c), compare(c.value as u32), yes, no);
        if !self.wide {
            return low;
        }
        let equal = self.branch(high(c), Test::Eq(upper), low, no);
        self.branch(high(c), Test::Gt(upper), yes, equal)
    }

    fn branch(&mut self, word: Word, test: Test, yes: Id, no: Id) -> Id {
        match test {
            Test::Ge(0) => return yes,
            Test::Gt(u32::MAX) => return no,
            // not zero: Eq implies more than this test
            Test::Gt(0) | Test::Ge(1) => return self.branch(word, Test::Eq(0), no, yes),
            _ => {}
        }
        let (yes, no) = if self.carry {
            (self.graph.assume(yes, word, test, true), self.graph.assume(no, word, test, false))
        } else {
            (yes, no)
        };
        self.graph.add(Node::Branch { word, test, yes, no })
    }
}

fn low(c: &Cond) -> Word {
    Word { arg: c.arg, high: false }
}

fn high(c: &Cond) -> Word {
    Word { arg: c.arg, high: true }
}
