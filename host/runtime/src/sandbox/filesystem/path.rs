//! Paths within the private files. No path leaves the directory that it
//! begins at: neither by `..`, nor by a link, nor because it is absolute.

use std::collections::VecDeque;

use super::tree::{Body, NodeId, Tree};
use crate::sandbox::bindings::wasi::filesystem::types::ErrorCode;

/// Bytes of a path.
const PATH_BYTES: usize = 4096;
/// Bytes of a name.
const NAME_BYTES: usize = 255;
/// Symbolic links that are followed on the way.
const LINKS: usize = 40;
/// Parts that a path has with those of the links on the way.
const PARTS: u64 = 8_192;

/// Where a path leads to.
#[derive(Debug)]
pub(super) struct Place {
    /// The directory and the name in it; none for the directory that the path
    /// begins at, and for paths that end in `.` or `..`.
    pub name: Option<(NodeId, String)>,
    /// What is there, if anything is.
    pub node: Option<NodeId>,
    /// The path ends in a slash, so it means a directory.
    pub as_directory: bool,
}

/// Whether text can be a path.
pub(super) fn check(path: &str) -> Result<(), ErrorCode> {
    match path {
        "" => Err(ErrorCode::NoEntry),
        _ if path.contains('\0') => Err(ErrorCode::Invalid),
        _ if path.len() > PATH_BYTES || path.split('/').any(|part| part.len() > NAME_BYTES) => {
            Err(ErrorCode::NameTooLong)
        }
        _ => Ok(()),
    }
}

fn parts(path: &str) -> impl DoubleEndedIterator<Item = String> {
    path.split('/').filter(|part| !matches!(*part, "" | ".")).map(str::to_owned)
}

/// Follows a path from `base`. `follow`: a link at its end, too.
pub(super) fn walk(tree: &Tree, base: NodeId, path: &str, follow: bool) -> Result<Place, ErrorCode> {
    check(path)?;
    if path.starts_with('/') {
        return Err(ErrorCode::NotPermitted);
    }
    let as_directory = path.ends_with('/') || path.ends_with("/.");
    let mut above = vec![base];
    let mut rest: VecDeque<String> = parts(path).collect();
    let mut links = 0;
    let mut here = base;
    let mut expanded = rest.len() as u64;
    tree.works(expanded);
    while let Some(part) = rest.pop_front() {
        if part == ".." {
            above.pop();
            here = *above.last().ok_or(ErrorCode::NotPermitted)?;
            continue;
        }
        let Some(&id) = tree.names(here)?.get(&part) else {
            if rest.is_empty() {
                return Ok(Place { name: Some((here, part)), node: None, as_directory });
            }
            return Err(ErrorCode::NoEntry);
        };
        match tree.body(id)? {
            Body::Link(target) if follow || as_directory || !rest.is_empty() => {
                links += 1;
                if links > LINKS {
                    return Err(ErrorCode::Loop);
                }
                if target.starts_with('/') {
                    return Err(ErrorCode::NotPermitted);
                }
                let before = rest.len();
                for part in parts(target).rev() {
                    rest.push_front(part);
                }
                let added = (rest.len() - before) as u64;
                tree.works(added);
                expanded += added;
                if expanded > PARTS {
                    return Err(ErrorCode::NameTooLong);
                }
            }
            _ if rest.is_empty() => {
                return Ok(Place { name: Some((here, part)), node: Some(id), as_directory });
            }
            Body::Directory(_) => {
                above.push(id);
                here = id;
            }
            Body::File(_) | Body::Granted(_) | Body::Link(_) => return Err(ErrorCode::NotDirectory),
        }
    }
    Ok(Place { name: None, node: Some(here), as_directory })
}

#[cfg(test)]
mod tests {
    use wfhost_core::Timestamp;

    use super::super::tree::{Open, ROOT};
    use super::*;

    const NOW: Timestamp = Timestamp(0);

    fn tree() -> Tree {
        let mut tree = Tree::new(1_000, 100, NOW);
        tree.create_directory(ROOT, "a", NOW).unwrap();
        tree.create_directory(ROOT, "a/b", NOW).unwrap();
        tree.open(ROOT, "a/f", Open { create: true, ..Open::default() }, NOW).unwrap();
        tree
    }

    #[test]
    fn a_path_stays_below_the_directory_that_it_begins_at() {
        let mut tree = tree();
        let a = tree.find(ROOT, "a", false).unwrap();
        assert_eq!(tree.find(ROOT, "a/../a/./b//..", false), Ok(a));
        assert_eq!(tree.find(ROOT, "..", false), Err(ErrorCode::NotPermitted));
        assert_eq!(tree.find(ROOT, "a/../../etc", false), Err(ErrorCode::NotPermitted));
        assert_eq!(tree.find(ROOT, "/etc/passwd", false), Err(ErrorCode::NotPermitted));
        // Also one that was opened below.
        assert_eq!(tree.find(a, "../tmp", false), Err(ErrorCode::NotPermitted));
        assert_eq!(tree.symlink(ROOT, "/etc", "out", NOW), Err(ErrorCode::NotPermitted));
        tree.symlink(ROOT, "../../x", "a/b/out", NOW).unwrap();
        tree.symlink(ROOT, "../..", "a/up", NOW).unwrap();
        assert_eq!(tree.find(ROOT, "a/b/out", true), Err(ErrorCode::NoEntry));
        assert_eq!(tree.find(ROOT, "a/up/etc", true), Err(ErrorCode::NotPermitted));
        assert_eq!(tree.find(a, "b/out", true), Err(ErrorCode::NotPermitted));
    }

    #[test]
    fn links_are_followed_but_not_for_ever() {
        let mut tree = tree();
        tree.symlink(ROOT, "a/f", "to-f", NOW).unwrap();
        tree.symlink(ROOT, "self", "self", NOW).unwrap();
        assert_eq!(tree.find(ROOT, "to-f", true), tree.find(ROOT, "a/f", true));
        assert_eq!(tree.readlink(ROOT, "to-f"), Ok("a/f"));
        assert_eq!(tree.find(ROOT, "self", true), Err(ErrorCode::Loop));
        assert!(tree.find(ROOT, "self", false).is_ok());
    }

    /// Links that lead through many parts are work, which is counted, and end.
    #[test]
    fn what_links_lead_through_is_counted_and_limited() {
        let mut tree = tree();
        // Each leads back to where it is, and then to the next one.
        for n in 0..20_u32 {
            let target = format!("{}l{}", "a/../".repeat(600), n + 1);
            tree.symlink(ROOT, &target, &format!("l{n}"), NOW).unwrap();
        }
        tree.take_work();
        // Two of them: 2 * 1,201 parts, and the one that was asked for.
        assert_eq!(tree.find(ROOT, "l18", true), Err(ErrorCode::NoEntry));
        assert_eq!(tree.take_work(), 2_403);
        assert_eq!(tree.find(ROOT, "l0", true), Err(ErrorCode::NameTooLong));
        let work = tree.take_work();
        assert!((PARTS..PARTS + PATH_BYTES as u64).contains(&work), "{work}");
        assert_eq!(tree.take_work(), 0);
    }

    #[test]
    fn files_are_no_directories_and_names_have_limits() {
        let tree = tree();
        assert_eq!(tree.find(ROOT, "a/f/x", false), Err(ErrorCode::NotDirectory));
        assert_eq!(tree.find(ROOT, "a/x/y", false), Err(ErrorCode::NoEntry));
        assert_eq!(tree.find(ROOT, "", false), Err(ErrorCode::NoEntry));
        assert_eq!(tree.find(ROOT, &"x".repeat(256), false), Err(ErrorCode::NameTooLong));
        assert_eq!(tree.find(ROOT, &"x/".repeat(3_000), false), Err(ErrorCode::NameTooLong));
        assert_eq!(tree.find(ROOT, "a\0b", false), Err(ErrorCode::Invalid));
    }
}
