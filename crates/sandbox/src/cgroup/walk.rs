//! Walks through the cgroups below a container's. The container may have nested them to any depth, so the walk uses three
//! descriptors, no recursion, and no full paths, whose length is limited.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

use super::dir::{Dir, if_there};
use crate::error::SysError;

type Result = std::result::Result<(), SysError>;

/// Calls `enter` for `top` and each cgroup below it, parents first. Calls `leave` for each cgroup below `top` after its children,
/// with its open parent and its name. Cgroups that vanish meanwhile, and mounts on a cgroup, are skipped.
pub(super) fn walk(
    top: &Dir,
    mut enter: impl FnMut(&Dir) -> Result,
    mut leave: impl FnMut(&Dir, &OsStr) -> Result,
) -> Result {
    enter(top)?;
    // The path from the top to the current cgroup: each cgroup's name, and its children that are still to be visited.
    let mut way: Vec<(OsString, Vec<OsString>)> = vec![(OsString::new(), top.children()?)];
    let mut below: Option<Dir> = None;
    while let Some((_, children)) = way.last_mut() {
        let here = below.as_ref().unwrap_or(top);
        if let Some(name) = children.pop() {
            let shown = shown(top.path(), way.len(), &name);
            let Some(child) = if_there(here.child_within(&name, shown))?.flatten() else { continue };
            if_there(enter(&child))?;
            let children = if_there(child.children())?.unwrap_or_default();
            way.push((name, children));
            below = Some(child);
            continue;
        }
        let left = way.pop().map(|(name, _)| name).unwrap_or_default();
        below = match way.last() {
            None => break,
            Some(_) if way.len() == 1 => None,
            // Cgroups never move to another parent, so ".." is the cgroup that we came from.
            Some((name, _)) => match if_there(here.parent(shown(top.path(), way.len() - 1, name)))? {
                Some(parent) => Some(parent),
                None => break,
            },
        };
        leave(below.as_ref().unwrap_or(top), &left)?;
    }
    Ok(())
}

/// The name of a cgroup in messages: `name` and the number of levels below `top`, because the full path could be too long.
fn shown(top: &Path, depth: usize, name: &OsStr) -> PathBuf {
    match depth {
        1 => top.join(name),
        _ => top.join("…").join(name),
    }
}
