//! Sessions that no restore could make: a process gets its session from an ancestor that leads it, or, below the first process,
//! from one that CRIU makes in the leader's place (pstree.c, prepare_pstree_ids).

use std::collections::HashMap;

use super::Findings;
use super::table::SESSION_LEADER;
use super::tasks::Proc;

/// Looks at processes, of which the first is the container's first one.
pub(super) fn check(findings: &mut Findings, tasks: &[Proc]) {
    let all: Vec<_> = tasks.iter().map(|task| (task.pid, task.parent, task.session)).collect();
    if let Some((at, why)) = orphan(&all) {
        findings.of(&tasks[at], &SESSION_LEADER, why);
    }
}

/// The first process whose session a restore could not make, and why not, of the numbers of processes, their parents and sessions.
fn orphan(tasks: &[(i32, i32, i32)]) -> Option<(usize, String)> {
    let (first, _, own) = *tasks.first()?;
    let by_number: HashMap<i32, (i32, i32)> = tasks.iter().map(|task| (task.0, (task.1, task.2))).collect();
    // Below the first process, a task that was born in another session has a parent of that session meanwhile.
    let moves = |pid: i32, parent: i32, session: i32| parent == first && session != own && session != pid;
    let mut born: HashMap<i32, i32> = HashMap::new();
    for (at, (pid, parent, session)) in tasks.iter().copied().enumerate().skip(1) {
        let of_parent = by_number.get(&parent).map(|of| of.1);
        if session == pid || of_parent == Some(session) || moves(pid, parent, session) {
            continue;
        }
        let mut ancestor = parent;
        // A number is looked at once, whatever the numbers say.
        for _ in tasks {
            let Some((parent, its)) = by_number.get(&ancestor).copied() else { break };
            if ancestor == session {
                break;
            }
            if let Some(other) = born.insert(ancestor, session).filter(|other| *other != session) {
                return Some((
                    at,
                    format!("its parent had children in sessions {other} and {session} before its own"),
                ));
            }
            ancestor = match () {
                () if ancestor == first => 0,
                () if !moves(ancestor, parent, its) => parent,
                // The one in the leader's place, or below the leader.
                () if its == session => session,
                () if by_number.contains_key(&its) => its,
                () => first,
            };
        }
        if ancestor != session {
            return Some((at, format!("the leader of its session {session} is none of its ancestors")));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sessions_come_from_ancestors() {
        let ok = |tasks: &[(i32, i32, i32)]| assert_eq!(orphan(tasks), None, "{tasks:?}");
        let bad = |tasks: &[(i32, i32, i32)], at| {
            assert_eq!(orphan(tasks).map(|found| found.0), Some(at), "{tasks:?}");
        };
        ok(&[]);
        ok(&[(1, 0, 1), (2, 1, 1), (3, 2, 3), (4, 3, 3)]);
        // the leader is gone, and the first process took its child
        ok(&[(1, 0, 1), (5, 1, 4), (6, 5, 4)]);
        // another process took it
        bad(&[(1, 0, 1), (2, 1, 1), (5, 2, 4)], 2);
        // its grandchild has it, after its child made one of its own
        ok(&[(1, 0, 1), (5, 1, 4), (6, 5, 6), (7, 6, 4)]);
        // the first process took one whose leader lives on elsewhere
        ok(&[(1, 0, 1), (4, 1, 4), (5, 1, 4), (6, 5, 6), (7, 6, 4)]);
        // born before setsid(2), and twice of different sessions
        ok(&[(1, 0, 1), (2, 1, 2), (3, 2, 1)]);
        bad(&[(1, 0, 1), (2, 1, 2), (3, 2, 3), (4, 3, 2), (5, 3, 1)], 4);
        // a session of the caller's
        ok(&[(1, 0, 90), (2, 1, 90)]);
        bad(&[(1, 0, 90), (2, 1, 2), (3, 2, 90)], 2);
    }
}
