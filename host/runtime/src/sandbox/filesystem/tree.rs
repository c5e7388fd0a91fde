//! The files of a program: a tree in memory, its own and what it was granted.
//!
//! Everything that a program can see of it is a function of what it did before:
//! names come in their order, nodes are numbered as they are made, times are
//! given by the caller.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use wfhost_core::Timestamp;

use super::path::{Place, walk};
use crate::sandbox::bindings::wasi::filesystem::types::ErrorCode;
use crate::sandbox::grants::Item;

/// The number of a node, which is never used again.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(super) struct NodeId(pub u64);

/// The directory that the program is given.
pub(super) const ROOT: NodeId = NodeId(1);

#[derive(Debug)]
pub(super) enum Body {
    File(Vec<u8>),
    /// A file of the host, as it was read.
    Granted(Arc<[u8]>),
    Directory(BTreeMap<String, NodeId>),
    /// A symbolic link: where it leads to.
    Link(String),
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Kind {
    File,
    Directory,
    Link,
}

impl Body {
    pub(super) fn kind(&self) -> Kind {
        match self {
            Self::File(_) | Self::Granted(_) => Kind::File,
            Self::Directory(_) => Kind::Directory,
            Self::Link(_) => Kind::Link,
        }
    }
}

#[derive(Debug)]
struct Node {
    body: Body,
    /// How many names it has; one for the root.
    links: u32,
    /// How many descriptors and streams stand for it.
    opens: u32,
    /// It belongs to a granted directory.
    read_only: bool,
    /// Where a directory is; none for a root, and for one that has no name any more.
    parent: Option<NodeId>,
    accessed: Timestamp,
    modified: Timestamp,
    changed: Timestamp,
}

/// What there is to know of a node besides its content.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Stat {
    pub kind: Kind,
    pub links: u32,
    /// Bytes of a file or of a link's target; 0 for a directory.
    pub size: u64,
    pub accessed: Timestamp,
    pub modified: Timestamp,
    pub changed: Timestamp,
}

/// How a file is to be opened.
#[derive(Clone, Copy, Default, Debug)]
pub(super) struct Open {
    pub follow: bool,
    pub create: bool,
    pub exclusive: bool,
    pub directory: bool,
    pub truncate: bool,
}

#[derive(Debug)]
pub(super) struct Tree {
    nodes: HashMap<NodeId, Node>,
    last: u64,
    /// Bytes of all files together.
    bytes: u64,
    max_bytes: u64,
    /// Of the program's own.
    max_nodes: usize,
    /// Parts of paths that were followed and directories that were passed, since somebody asked.
    work: AtomicU64,
}

impl Tree {
    /// An empty root with an empty directory `tmp`.
    pub(super) fn new(max_bytes: u64, max_nodes: u32, now: Timestamp) -> Self {
        let max_nodes = max_nodes as usize;
        let (nodes, work) = (HashMap::new(), AtomicU64::new(0));
        let mut tree = Self { nodes, last: 0, bytes: 0, max_bytes, max_nodes, work };
        tree.add(Body::Directory(BTreeMap::new()), None, now);
        let tmp = tree.add(Body::Directory(BTreeMap::new()), Some(ROOT), now);
        if let Some(Node { body: Body::Directory(names), .. }) = tree.nodes.get_mut(&ROOT) {
            names.insert("tmp".to_owned(), tmp);
        }
        tree
    }

    fn add(&mut self, body: Body, parent: Option<NodeId>, now: Timestamp) -> NodeId {
        self.last += 1;
        let id = NodeId(self.last);
        let (accessed, modified, changed) = (now, now, now);
        let node = Node { body, links: 1, opens: 0, read_only: false, parent, accessed, modified, changed };
        self.nodes.insert(id, node);
        id
    }

    /// Adds what the program may only read. It counts towards no limit.
    pub(super) fn grant(&mut self, item: &Item, now: Timestamp) -> NodeId {
        let mut inner = Vec::new();
        let body = match item {
            Item::File(content) => Body::Granted(Arc::clone(content)),
            Item::Link(target) => Body::Link(target.clone()),
            Item::Directory(items) => {
                let names: BTreeMap<_, _> =
                    items.iter().map(|(name, item)| (name.clone(), self.grant(item, now))).collect();
                inner.extend(names.values().copied());
                Body::Directory(names)
            }
        };
        let id = self.add(body, None, now);
        for inner in inner {
            if let Some(node) = self.nodes.get_mut(&inner) {
                node.parent = Some(id);
            }
        }
        if let Some(node) = self.nodes.get_mut(&id) {
            node.read_only = true;
        }
        self.max_nodes += 1;
        id
    }

    /// A path had so many parts, or so many directories were passed.
    pub(super) fn works(&self, units: u64) {
        self.work.fetch_add(units, Ordering::Relaxed);
    }

    /// How many it were since this was asked last.
    pub(super) fn take_work(&mut self) -> u64 {
        std::mem::take(self.work.get_mut())
    }

    // Nodes.

    fn node(&self, id: NodeId) -> Result<&Node, ErrorCode> {
        self.nodes.get(&id).ok_or(ErrorCode::BadDescriptor)
    }

    /// A node that is about to change.
    fn node_mut(&mut self, id: NodeId) -> Result<&mut Node, ErrorCode> {
        match self.nodes.get_mut(&id) {
            Some(node) if node.read_only => Err(ErrorCode::ReadOnly),
            Some(node) => Ok(node),
            None => Err(ErrorCode::BadDescriptor),
        }
    }

    pub(super) fn is_read_only(&self, id: NodeId) -> bool {
        self.nodes.get(&id).is_some_and(|node| node.read_only)
    }

    pub(super) fn body(&self, id: NodeId) -> Result<&Body, ErrorCode> {
        self.node(id).map(|node| &node.body)
    }

    /// The entries of a directory, by name.
    pub(super) fn names(&self, id: NodeId) -> Result<&BTreeMap<String, NodeId>, ErrorCode> {
        match self.body(id)? {
            Body::Directory(names) => Ok(names),
            _ => Err(ErrorCode::NotDirectory),
        }
    }

    /// The entries of a directory that is about to change.
    fn names_mut(&mut self, id: NodeId, now: Timestamp) -> Result<&mut BTreeMap<String, NodeId>, ErrorCode> {
        let node = self.node_mut(id)?;
        if node.links == 0 {
            // It was removed and is only open yet.
            return Err(ErrorCode::NoEntry);
        }
        match &mut node.body {
            Body::Directory(names) => {
                (node.modified, node.changed) = (now, now);
                Ok(names)
            }
            _ => Err(ErrorCode::NotDirectory),
        }
    }

    /// The content of a file.
    pub(super) fn content(&self, id: NodeId) -> Result<&[u8], ErrorCode> {
        match self.body(id)? {
            Body::File(content) => Ok(content),
            Body::Granted(content) => Ok(content),
            Body::Directory(_) => Err(ErrorCode::IsDirectory),
            Body::Link(_) => Err(ErrorCode::Invalid),
        }
    }

    pub(super) fn stat(&self, id: NodeId) -> Result<Stat, ErrorCode> {
        let node = self.node(id)?;
        let size = match &node.body {
            Body::File(content) => content.len() as u64,
            Body::Granted(content) => content.len() as u64,
            Body::Directory(_) => 0,
            Body::Link(target) => target.len() as u64,
        };
        let Node { links, accessed, modified, changed, .. } = *node;
        Ok(Stat { kind: node.body.kind(), links, size, accessed, modified, changed })
    }

    pub(super) fn set_times(
        &mut self,
        id: NodeId,
        accessed: Option<Timestamp>,
        modified: Option<Timestamp>,
        now: Timestamp,
    ) -> Result<(), ErrorCode> {
        let node = self.node_mut(id)?;
        node.accessed = accessed.unwrap_or(node.accessed);
        node.modified = modified.unwrap_or(node.modified);
        node.changed = now;
        Ok(())
    }

    /// A descriptor or a stream stands for the node from now on.
    pub(super) fn hold(&mut self, id: NodeId) {
        if let Some(node) = self.nodes.get_mut(&id) {
            node.opens += 1;
        }
    }

    /// ... and no longer does.
    pub(super) fn release(&mut self, id: NodeId) {
        if let Some(node) = self.nodes.get_mut(&id) {
            node.opens = node.opens.saturating_sub(1);
        }
        self.forget_unused(id);
    }

    /// Frees a node that has neither a name nor a descriptor.
    fn forget_unused(&mut self, id: NodeId) {
        if self.nodes.get(&id).is_some_and(|node| node.links == 0 && node.opens == 0)
            && let Some(Node { body: Body::File(content), .. }) = self.nodes.remove(&id)
        {
            self.bytes -= content.len() as u64;
        }
    }

    // Content.

    /// Writes at a place of a file, which grows as needed; a gap reads as zeros.
    pub(super) fn write(
        &mut self,
        id: NodeId,
        offset: u64,
        data: &[u8],
        now: Timestamp,
    ) -> Result<(), ErrorCode> {
        if data.is_empty() {
            self.node_mut(id)?;
            return self.content(id).map(drop);
        }
        let end = offset.checked_add(data.len() as u64).ok_or(ErrorCode::FileTooLarge)?;
        if end > self.content(id)?.len() as u64 {
            self.set_size(id, end, now)?;
        }
        let node = self.node_mut(id)?;
        if let Body::File(content) = &mut node.body {
            // Within the file, whose size fits memory.
            let start = offset as usize;
            content[start..start + data.len()].copy_from_slice(data);
            (node.modified, node.changed) = (now, now);
        }
        Ok(())
    }

    /// Cuts a file off or lets it grow.
    pub(super) fn set_size(&mut self, id: NodeId, size: u64, now: Timestamp) -> Result<(), ErrorCode> {
        let old = self.content(id)?.len() as u64;
        if self.is_read_only(id) {
            return Err(ErrorCode::ReadOnly);
        }
        let others = self.bytes - old;
        if size > old && size > self.max_bytes.saturating_sub(others) {
            return Err(ErrorCode::InsufficientSpace);
        }
        let node = self.node_mut(id)?;
        if let Body::File(content) = &mut node.body {
            content.resize(size as usize, 0);
            content.shrink_to(2 * size as usize);
            (node.modified, node.changed) = (now, now);
        }
        self.bytes = others + size;
        Ok(())
    }

    // Names.

    /// Where a path leads to, from a directory that it cannot leave.
    fn walk(&self, base: NodeId, path: &str, follow: bool) -> Result<Place, ErrorCode> {
        walk(self, base, path, follow)
    }

    /// The node that a path leads to.
    pub(super) fn find(&self, base: NodeId, path: &str, follow: bool) -> Result<NodeId, ErrorCode> {
        self.walk(base, path, follow)?.node.ok_or(ErrorCode::NoEntry)
    }

    fn make(
        &mut self,
        directory: NodeId,
        name: String,
        body: Body,
        now: Timestamp,
    ) -> Result<NodeId, ErrorCode> {
        if self.nodes.len() >= self.max_nodes {
            return Err(ErrorCode::InsufficientSpace);
        }
        // Only to see that it may be changed.
        self.names_mut(directory, now)?;
        let id = self.add(body, Some(directory), now);
        self.names_mut(directory, now)?.insert(name, id);
        Ok(id)
    }

    /// Opens a file or a directory, or makes a file. The caller holds it.
    pub(super) fn open(
        &mut self,
        base: NodeId,
        path: &str,
        how: Open,
        now: Timestamp,
    ) -> Result<NodeId, ErrorCode> {
        let place = self.walk(base, path, how.follow && !(how.create && how.exclusive))?;
        let Some(id) = place.node else {
            let Some((directory, name)) = place.name.filter(|_| how.create && !how.directory) else {
                return Err(ErrorCode::NoEntry);
            };
            if place.as_directory {
                return Err(ErrorCode::IsDirectory);
            }
            let id = self.make(directory, name, Body::File(Vec::new()), now)?;
            self.hold(id);
            return Ok(id);
        };
        let kind = self.body(id)?.kind();
        match kind {
            _ if how.create && how.exclusive => return Err(ErrorCode::Exist),
            // It was not to be followed.
            Kind::Link => return Err(ErrorCode::Loop),
            Kind::File if how.directory || place.as_directory => return Err(ErrorCode::NotDirectory),
            Kind::Directory if how.truncate || how.create => return Err(ErrorCode::IsDirectory),
            Kind::File if how.truncate => self.set_size(id, 0, now)?,
            Kind::File | Kind::Directory => {}
        }
        self.hold(id);
        Ok(id)
    }

    /// A place where something new is to be.
    fn vacant(&self, base: NodeId, path: &str, directory: bool) -> Result<(NodeId, String), ErrorCode> {
        let place = self.walk(base, path, false)?;
        match (place.node, place.name) {
            (None, Some(_)) if place.as_directory && !directory => Err(ErrorCode::NoEntry),
            (None, Some(name)) => Ok(name),
            _ => Err(ErrorCode::Exist),
        }
    }

    pub(super) fn create_directory(
        &mut self,
        base: NodeId,
        path: &str,
        now: Timestamp,
    ) -> Result<(), ErrorCode> {
        let (directory, name) = self.vacant(base, path, true)?;
        self.make(directory, name, Body::Directory(BTreeMap::new()), now).map(drop)
    }

    pub(super) fn symlink(
        &mut self,
        base: NodeId,
        target: &str,
        path: &str,
        now: Timestamp,
    ) -> Result<(), ErrorCode> {
        super::path::check(target)?;
        if target.starts_with('/') {
            return Err(ErrorCode::NotPermitted);
        }
        let (directory, name) = self.vacant(base, path, false)?;
        self.make(directory, name, Body::Link(target.to_owned()), now).map(drop)
    }

    pub(super) fn readlink(&self, base: NodeId, path: &str) -> Result<&str, ErrorCode> {
        match self.body(self.find(base, path, false)?)? {
            Body::Link(target) => Ok(target),
            _ => Err(ErrorCode::Invalid),
        }
    }

    /// Gives a file another name.
    pub(super) fn link(
        &mut self,
        old: (NodeId, &str),
        follow: bool,
        new: (NodeId, &str),
        now: Timestamp,
    ) -> Result<(), ErrorCode> {
        let id = self.find(old.0, old.1, follow)?;
        if self.body(id)?.kind() == Kind::Directory {
            return Err(ErrorCode::NotPermitted);
        }
        if self.is_read_only(id) {
            return Err(ErrorCode::CrossDevice);
        }
        let (directory, name) = self.vacant(new.0, new.1, false)?;
        self.names_mut(directory, now)?.insert(name, id);
        let node = self.node_mut(id)?;
        node.links = node.links.saturating_add(1);
        node.changed = now;
        Ok(())
    }

    /// Takes a name away from a node.
    fn unname(&mut self, directory: NodeId, name: &str, now: Timestamp) -> Result<(), ErrorCode> {
        let id = self.names_mut(directory, now)?.remove(name).ok_or(ErrorCode::NoEntry)?;
        let node = self.node_mut(id)?;
        node.links = node.links.saturating_sub(1);
        if node.links == 0 {
            node.parent = None;
        }
        node.changed = now;
        self.forget_unused(id);
        Ok(())
    }

    pub(super) fn unlink(&mut self, base: NodeId, path: &str, now: Timestamp) -> Result<(), ErrorCode> {
        let place = self.walk(base, path, false)?;
        let id = place.node.ok_or(ErrorCode::NoEntry)?;
        match self.body(id)?.kind() {
            Kind::Directory => return Err(ErrorCode::IsDirectory),
            _ if place.as_directory => return Err(ErrorCode::NotDirectory),
            _ => {}
        }
        let (directory, name) = place.name.ok_or(ErrorCode::Invalid)?;
        self.unname(directory, &name, now)
    }

    pub(super) fn remove_directory(
        &mut self,
        base: NodeId,
        path: &str,
        now: Timestamp,
    ) -> Result<(), ErrorCode> {
        let place = self.walk(base, path, false)?;
        if !self.names(place.node.ok_or(ErrorCode::NoEntry)?)?.is_empty() {
            return Err(ErrorCode::NotEmpty);
        }
        // A directory without a name here is the one that the path begins at, or above it.
        let (directory, name) = place.name.ok_or(ErrorCode::Invalid)?;
        self.unname(directory, &name, now)
    }

    pub(super) fn rename(
        &mut self,
        old: (NodeId, &str),
        new: (NodeId, &str),
        now: Timestamp,
    ) -> Result<(), ErrorCode> {
        let from = self.walk(old.0, old.1, false)?;
        let to = self.walk(new.0, new.1, false)?;
        let id = from.node.ok_or(ErrorCode::NoEntry)?;
        let (from_directory, from_name) = from.name.ok_or(ErrorCode::Invalid)?;
        let (to_directory, to_name) = to.name.ok_or(ErrorCode::Invalid)?;
        let kind = self.body(id)?.kind();
        if kind != Kind::Directory && (from.as_directory || to.as_directory) {
            return Err(ErrorCode::NotDirectory);
        }
        if kind == Kind::Directory && self.contains(id, to_directory) {
            return Err(ErrorCode::Invalid);
        }
        self.names_mut(to_directory, now)?;
        self.names_mut(from_directory, now)?;
        if let Some(replaced) = to.node {
            if replaced == id {
                return Ok(());
            }
            match (kind, self.body(replaced)?) {
                (Kind::Directory, Body::Directory(names)) if !names.is_empty() => {
                    return Err(ErrorCode::NotEmpty);
                }
                (Kind::Directory, Body::Directory(_)) => {}
                (Kind::Directory, _) => return Err(ErrorCode::NotDirectory),
                (_, Body::Directory(_)) => return Err(ErrorCode::IsDirectory),
                _ => {}
            }
            self.unname(to_directory, &to_name, now)?;
        }
        self.names_mut(from_directory, now)?.remove(&from_name);
        self.names_mut(to_directory, now)?.insert(to_name, id);
        let node = self.node_mut(id)?;
        node.parent = Some(to_directory);
        node.changed = now;
        Ok(())
    }

    /// Whether the directory `inner` is `outer` or lies below it.
    fn contains(&self, outer: NodeId, inner: NodeId) -> bool {
        // Upwards: below there may be everything that the program has.
        let mut here = Some(inner);
        let mut passed = 0;
        while let Some(id) = here.filter(|id| *id != outer) {
            passed += 1;
            here = self.nodes.get(&id).and_then(|node| node.parent);
        }
        self.works(passed);
        here.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp(7);

    fn tree() -> Tree {
        Tree::new(1_000, 8, NOW)
    }

    const CREATE: Open =
        Open { follow: true, create: true, exclusive: false, directory: false, truncate: false };
    const PLAIN: Open =
        Open { follow: true, create: false, exclusive: false, directory: false, truncate: false };

    #[test]
    fn names_come_in_their_order_and_numbers_as_they_were_made() {
        let mut tree = tree();
        for name in ["b", "a", "c"] {
            tree.open(ROOT, name, CREATE, NOW).unwrap();
        }
        let names: Vec<_> =
            tree.names(ROOT).unwrap().iter().map(|(name, id)| (name.as_str(), id.0)).collect();
        assert_eq!(names, [("a", 4), ("b", 3), ("c", 5), ("tmp", 2)]);
    }

    #[test]
    fn bytes_and_nodes_are_limited_and_given_back() {
        let mut tree = tree();
        let file = tree.open(ROOT, "f", CREATE, NOW).unwrap();
        assert_eq!(tree.write(file, 500, &[1; 501], NOW), Err(ErrorCode::InsufficientSpace));
        assert_eq!(tree.write(file, u64::MAX, &[1], NOW), Err(ErrorCode::FileTooLarge));
        tree.write(file, 500, &[1; 500], NOW).unwrap();
        assert_eq!((tree.content(file).unwrap()[499], tree.content(file).unwrap()[500]), (0, 1));
        let other = tree.open(ROOT, "g", CREATE, NOW).unwrap();
        assert_eq!(tree.set_size(other, 1, NOW), Err(ErrorCode::InsufficientSpace));
        // What is open is kept after its last name is gone.
        tree.unlink(ROOT, "f", NOW).unwrap();
        assert_eq!(tree.set_size(other, 1, NOW), Err(ErrorCode::InsufficientSpace));
        tree.release(file);
        assert_eq!(tree.content(file), Err(ErrorCode::BadDescriptor));
        tree.set_size(other, 1_000, NOW).unwrap();
        for n in 0..5 {
            tree.create_directory(ROOT, &format!("d{n}"), NOW).unwrap();
        }
        assert_eq!(tree.create_directory(ROOT, "more", NOW), Err(ErrorCode::InsufficientSpace));
    }

    #[test]
    fn a_directory_cannot_be_moved_below_itself() {
        let mut tree = tree();
        tree.create_directory(ROOT, "a", NOW).unwrap();
        tree.create_directory(ROOT, "a/b", NOW).unwrap();
        assert_eq!(tree.rename((ROOT, "a"), (ROOT, "a/b/c"), NOW), Err(ErrorCode::Invalid));
        tree.rename((ROOT, "a/b"), (ROOT, "c"), NOW).unwrap();
        assert_eq!(tree.remove_directory(ROOT, "a", NOW), Ok(()));
        assert_eq!(tree.remove_directory(ROOT, "a", NOW), Err(ErrorCode::NoEntry));
        assert_eq!(tree.remove_directory(ROOT, ".", NOW), Err(ErrorCode::NotEmpty));
    }

    /// However much is in it: only what lies above its new place matters.
    #[test]
    fn a_directory_is_moved_without_a_look_at_what_it_contains() {
        let mut tree = Tree::new(1_000, 10_000, NOW);
        tree.create_directory(ROOT, "full", NOW).unwrap();
        for n in 0..5_000 {
            tree.create_directory(ROOT, &format!("full/{n}"), NOW).unwrap();
        }
        tree.take_work();
        tree.rename((ROOT, "full"), (ROOT, "tmp/full"), NOW).unwrap();
        assert!(tree.take_work() < 10);
        // Each has its place from then on.
        assert_eq!(tree.rename((ROOT, "tmp"), (ROOT, "tmp/full/7/x"), NOW), Err(ErrorCode::Invalid));
        tree.rename((ROOT, "tmp/full/7"), (ROOT, "7"), NOW).unwrap();
        tree.rename((ROOT, "tmp"), (ROOT, "7/tmp"), NOW).unwrap();
        assert_eq!(tree.rename((ROOT, "7"), (ROOT, "7/tmp/full/8/x"), NOW), Err(ErrorCode::Invalid));
        // What lies deep is passed on the way up, and that is counted.
        let mut deep = "7".to_owned();
        for _ in 0..200 {
            deep.push_str("/d");
            tree.create_directory(ROOT, &deep, NOW).unwrap();
        }
        let far = tree.find(ROOT, &deep, false).unwrap();
        tree.create_directory(ROOT, "other", NOW).unwrap();
        tree.take_work();
        tree.rename((ROOT, "other"), (far, "other"), NOW).unwrap();
        assert!((200..220).contains(&tree.take_work()));
    }

    #[test]
    fn nothing_can_be_made_in_a_directory_that_was_removed() {
        let mut tree = tree();
        tree.create_directory(ROOT, "a", NOW).unwrap();
        let open = tree.open(ROOT, "a", PLAIN, NOW).unwrap();
        tree.remove_directory(ROOT, "a", NOW).unwrap();
        assert_eq!(tree.open(open, "f", CREATE, NOW), Err(ErrorCode::NoEntry));
        tree.release(open);
        assert_eq!(tree.names(open), Err(ErrorCode::BadDescriptor));
    }

    #[test]
    fn what_is_granted_can_be_read_and_not_changed() {
        let mut tree = tree();
        let inner = [("f".to_owned(), Item::File(b"content".as_slice().into()))];
        let items = [
            ("d".to_owned(), Item::Directory(inner.into_iter().collect())),
            ("l".to_owned(), Item::Link("d/f".to_owned())),
            ("out".to_owned(), Item::Link("../../etc".to_owned())),
        ];
        let root = tree.grant(&Item::Directory(items.into_iter().collect()), NOW);
        let file = tree.find(root, "l", true).unwrap();
        assert_eq!(tree.content(file).unwrap(), b"content");
        assert_eq!(tree.find(root, "out", true), Err(ErrorCode::NotPermitted));
        assert_eq!(tree.find(root, "..", true), Err(ErrorCode::NotPermitted));
        let read_only = Err(ErrorCode::ReadOnly);
        assert_eq!(tree.write(file, 0, b"x", NOW), read_only);
        assert_eq!(tree.write(file, 0, b"", NOW), read_only);
        assert_eq!(tree.set_size(file, 0, NOW), read_only);
        assert_eq!(tree.set_times(file, Some(NOW), None, NOW), read_only);
        assert_eq!(tree.open(root, "d/f", Open { truncate: true, ..PLAIN }, NOW), Err(ErrorCode::ReadOnly));
        assert_eq!(tree.open(root, "new", CREATE, NOW), Err(ErrorCode::ReadOnly));
        assert_eq!(tree.unlink(root, "d/f", NOW), read_only);
        assert_eq!(tree.remove_directory(root, "d", NOW), Err(ErrorCode::NotEmpty));
        assert_eq!(tree.create_directory(root, "e", NOW), read_only);
        assert_eq!(tree.symlink(root, "d", "e", NOW), read_only);
        assert_eq!(tree.rename((root, "d/f"), (ROOT, "f"), NOW), read_only);
        assert_eq!(tree.link((root, "d/f"), true, (ROOT, "f"), NOW), Err(ErrorCode::CrossDevice));
        // It takes nothing from what the program may have itself: `/`, `tmp` and six more.
        for n in 0..6 {
            tree.create_directory(ROOT, &format!("d{n}"), NOW).unwrap();
        }
        assert_eq!(tree.create_directory(ROOT, "more", NOW), Err(ErrorCode::InsufficientSpace));
    }

    #[test]
    fn renaming_replaces_files_and_empty_directories_only() {
        let mut tree = tree();
        for name in ["f", "g"] {
            let file = tree.open(ROOT, name, CREATE, NOW).unwrap();
            tree.write(file, 0, name.as_bytes(), NOW).unwrap();
            tree.release(file);
        }
        tree.rename((ROOT, "f"), (ROOT, "g"), NOW).unwrap();
        let file = tree.find(ROOT, "g", true).unwrap();
        assert_eq!(tree.content(file).unwrap(), b"f");
        assert_eq!(tree.rename((ROOT, "g"), (ROOT, "tmp"), NOW), Err(ErrorCode::IsDirectory));
        assert_eq!(tree.rename((ROOT, "tmp"), (ROOT, "g"), NOW), Err(ErrorCode::NotDirectory));
        // Two names of one file.
        tree.link((ROOT, "g"), false, (ROOT, "tmp/h"), NOW).unwrap();
        assert_eq!(tree.stat(file).unwrap().links, 2);
        assert_eq!(tree.rename((ROOT, "tmp"), (ROOT, "g/x"), NOW), Err(ErrorCode::NotDirectory));
    }
}
