//! Going through the cgroups below a container's, which the container may have nested as deep as it likes: with three
//! descriptors and no stack of calls, however deep that is, and with no path, which has a greatest length.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

use super::dir::{Dir, if_there};
use crate::error::SysError;

type Result = std::result::Result<(), SysError>;

/// Calls `enter` for `top` and each cgroup below it, the upper one first, and `leave` for each below it when it has been
/// left, with the one above it, which is still open, and its name. What vanishes meanwhile, and what somebody has mounted
/// on a cgroup, is passed by.
pub(super) fn walk(
    top: &Dir,
    mut enter: impl FnMut(&Dir) -> Result,
    mut leave: impl FnMut(&Dir, &OsStr) -> Result,
) -> Result {
    enter(top)?;
    // The way from the top to where we are: each cgroup's name, and its children that are still to be visited.
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
            // Cgroups do not move to another parent: it is the one that we came from. Without it there is no way back.
            Some((name, _)) => match if_there(here.parent(shown(top.path(), way.len() - 1, name)))? {
                Some(parent) => Some(parent),
                None => break,
            },
        };
        leave(below.as_ref().unwrap_or(top), &left)?;
    }
    Ok(())
}

/// What a message calls the cgroup `name`, so many levels below `top`: all names together could be longer than a path.
fn shown(top: &Path, depth: usize, name: &OsStr) -> PathBuf {
    match depth {
        1 => top.join(name),
        _ => top.join("…").join(name),
    }
}
