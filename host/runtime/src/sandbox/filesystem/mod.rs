//! `wasi:filesystem`: private files in memory.
//!
//! The directory `/` is empty but for `tmp` at the start of every execution,
//! and gone at its end: a replay makes the files anew. Beside it stand the
//! directories that the run was granted, to read only. Times are virtual, the
//! order of names and the numbers of nodes are the same in every execution.

mod path;
mod tree;

use wasmtime::component::Resource;
use wfhost_core::{Sandbox, Timestamp};

use self::tree::{Kind, NodeId, Open, ROOT, Stat, Tree};
use super::bindings::wasi::clocks::wall_clock::Datetime;
use super::bindings::wasi::filesystem::preopens;
use super::bindings::wasi::filesystem::types::{
    Advice, DescriptorFlags, DescriptorStat, DescriptorType, DirectoryEntry, ErrorCode, Host, HostDescriptor,
    HostDirectoryEntryStream, MetadataHashValue, NewTimestamp, OpenFlags, PathFlags,
};
use super::grants::Granted;
use super::streams::{InputStream, OutputStream, StreamFault};
use super::{clocks, cost};
use crate::RunCtx;

/// Bytes that one call reads at most.
const READ_BYTES: u64 = 1 << 20;
/// Bytes of the listings that a program holds, unless it is one alone: that is no larger than the directory.
const LISTED_BYTES: u64 = 64 << 20;
/// What an entry of a listing takes besides its name, about; the same on all machines.
const ENTRY_BYTES: u64 = 64;
/// Parts of paths and directories on the way that an operation has paid for already.
const PAID_WORK: u64 = 1_000;

/// The files of one execution.
#[derive(Debug)]
pub(crate) struct Files {
    tree: Tree,
    /// The roots of granted directories, and where the program sees them.
    granted: Vec<(NodeId, String)>,
    /// Bytes of the listings under way.
    listed: u64,
}

impl Files {
    fn new(sandbox: &Sandbox, grants: &[Granted], now: Timestamp) -> Self {
        let mut tree = Tree::new(sandbox.file_bytes, sandbox.files, now);
        let mut grant = |granted: &Granted| (tree.grant(&granted.snapshot.root, now), granted.guest.clone());
        let granted = grants.iter().map(&mut grant).collect();
        Self { tree, granted, listed: 0 }
    }

    pub(super) fn read(&self, node: Held, offset: u64, length: u64) -> Result<&[u8], ErrorCode> {
        let content = self.tree.content(node.0)?;
        let start = usize::try_from(offset).map_or(content.len(), |offset| offset.min(content.len()));
        let length = length.min(READ_BYTES) as usize;
        Ok(&content[start..content.len().min(start + length)])
    }

    pub(super) fn write(
        &mut self,
        node: Held,
        offset: u64,
        data: &[u8],
        now: Timestamp,
    ) -> Result<(), ErrorCode> {
        self.tree.write(node.0, offset, data, now)
    }

    /// Where the file ends.
    pub(super) fn end(&self, node: Held) -> Result<u64, ErrorCode> {
        self.tree.content(node.0).map(|content| content.len() as u64)
    }

    pub(super) fn release(&mut self, node: Held) {
        self.tree.release(node.0);
    }

    /// Begins a listing. What many of them hold at the same time is limited.
    fn list(&mut self, node: NodeId) -> Result<DirectoryListing, ErrorCode> {
        let names = self.tree.names(node)?;
        let bytes = names.keys().map(|name| name.len() as u64 + ENTRY_BYTES).sum();
        if self.listed > 0 && bytes > LISTED_BYTES.saturating_sub(self.listed) {
            return Err(ErrorCode::InsufficientMemory);
        }
        let entry = |(name, &id): (&String, &NodeId)| {
            let stat = self.tree.stat(id).ok()?;
            Some(DirectoryEntry { type_: kind(stat.kind), name: name.clone() })
        };
        let entries: Vec<_> = names.iter().filter_map(entry).collect();
        self.listed += bytes;
        Ok(DirectoryListing { entries: entries.into_iter(), bytes })
    }

    fn next_of(&mut self, listing: &mut DirectoryListing) -> Option<DirectoryEntry> {
        let next = listing.entries.next();
        let free = match listing.entries.len() {
            // The place of the entries is only given back with the last one.
            0 => {
                listing.entries = Vec::new().into_iter();
                listing.bytes
            }
            _ => next.as_ref().map_or(0, |entry| entry.name.len() as u64),
        };
        listing.bytes -= free;
        self.listed -= free;
        next
    }

    fn end_of(&mut self, listing: &DirectoryListing) {
        self.listed -= listing.bytes;
    }
}

/// A node that a descriptor or a stream holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Held(NodeId);

/// What a program has of a file or a directory.
#[derive(Debug)]
pub struct Descriptor {
    node: Held,
    flags: DescriptorFlags,
}

/// A listing under way: what was there when it began.
#[derive(Debug)]
pub struct DirectoryListing {
    entries: std::vec::IntoIter<DirectoryEntry>,
    /// What it holds of the memory that listings may take.
    bytes: u64,
}

type Answer<T> = wasmtime::Result<Result<T, ErrorCode>>;

impl RunCtx {
    /// The files of this execution, made the first time.
    pub(super) fn files(&mut self) -> &mut Files {
        let now = self.shared.lock().machine.observed().began_at();
        self.files.get_or_insert_with(|| Files::new(&self.sandbox, &self.grants, now))
    }

    fn node(&self, descriptor: &Resource<Descriptor>) -> wasmtime::Result<NodeId> {
        Ok(self.table.get(descriptor)?.node.0)
    }

    fn flags(&self, descriptor: &Resource<Descriptor>) -> wasmtime::Result<DescriptorFlags> {
        Ok(self.table.get(descriptor)?.flags)
    }

    fn may_write(&self, descriptor: &Resource<Descriptor>) -> wasmtime::Result<bool> {
        Ok(self.flags(descriptor)?.contains(DescriptorFlags::WRITE))
    }

    /// A directory in which names may be changed.
    fn directory(&mut self, descriptor: &Resource<Descriptor>) -> Answer<NodeId> {
        // What the descriptor was opened with does not matter: C libraries open
        // directories to read only, and then remove what is in them.
        let node = self.node(descriptor)?;
        Ok(if self.files().tree.is_read_only(node) { Err(ErrorCode::ReadOnly) } else { Ok(node) })
    }

    /// The tree, paid for.
    async fn tree(&mut self, bytes: usize) -> wasmtime::Result<&mut Tree> {
        self.charge(cost::FILE + bytes as u64).await;
        Ok(&mut self.files().tree)
    }

    /// Does what follows paths of so many bytes. Links lead through more than the paths say, which is paid for when
    /// it is known.
    async fn follow<T>(&mut self, bytes: usize, act: impl FnOnce(&mut Tree) -> T) -> wasmtime::Result<T> {
        self.charge(cost::FILE + bytes as u64).await;
        let tree = &mut self.files().tree;
        tree.take_work();
        let done = act(tree);
        let unpaid = tree.take_work().saturating_sub(PAID_WORK);
        if unpaid > 0 {
            self.charge(cost::NAME * unpaid).await;
        }
        Ok(done)
    }

    /// How many zeros a file gets before something is written at this place.
    pub(super) fn zeros(&mut self, node: Held, at: u64) -> u64 {
        // It cannot have more.
        let most = self.sandbox.file_bytes;
        let end = self.files().end(node).unwrap_or(at);
        at.min(most).saturating_sub(end)
    }

    fn virtual_now(&self) -> Timestamp {
        self.shared.lock().machine.observed().now()
    }
}

fn kind(kind: Kind) -> DescriptorType {
    match kind {
        Kind::File => DescriptorType::RegularFile,
        Kind::Directory => DescriptorType::Directory,
        Kind::Link => DescriptorType::SymbolicLink,
    }
}

fn stat_of(stat: Stat) -> DescriptorStat {
    DescriptorStat {
        type_: kind(stat.kind),
        link_count: stat.links.into(),
        size: stat.size,
        data_access_timestamp: Some(clocks::datetime(stat.accessed)),
        data_modification_timestamp: Some(clocks::datetime(stat.modified)),
        status_change_timestamp: Some(clocks::datetime(stat.changed)),
    }
}

/// The number of a node stands for it in all that a program can compare.
fn hash(node: NodeId) -> MetadataHashValue {
    MetadataHashValue { lower: node.0, upper: 0 }
}

fn time(new: NewTimestamp, now: Timestamp) -> Option<Timestamp> {
    match new {
        NewTimestamp::NoChange => None,
        NewTimestamp::Now => Some(now),
        NewTimestamp::Timestamp(Datetime { seconds, nanoseconds }) => {
            let millis = u64::from(nanoseconds) / clocks::NANOS_PER_MILLI;
            Some(Timestamp(seconds.saturating_mul(1_000).saturating_add(millis)))
        }
    }
}

impl preopens::Host for RunCtx {
    async fn get_directories(&mut self) -> wasmtime::Result<Vec<(Resource<Descriptor>, String)>> {
        let writable = DescriptorFlags::READ | DescriptorFlags::MUTATE_DIRECTORY;
        let mut roots = vec![(ROOT, "/".to_owned(), writable)];
        let granted = self.files().granted.iter();
        roots.extend(granted.map(|(root, guest)| (*root, guest.clone(), DescriptorFlags::READ)));
        let mut directories = Vec::new();
        for (root, guest, flags) in roots {
            self.files().tree.hold(root);
            directories.push((self.table.push(Descriptor { node: Held(root), flags })?, guest));
        }
        Ok(directories)
    }
}

impl Host for RunCtx {
    async fn filesystem_error_code(
        &mut self,
        error: Resource<StreamFault>,
    ) -> wasmtime::Result<Option<ErrorCode>> {
        Ok(Some(self.table.get(&error)?.0))
    }
}

impl HostDescriptor for RunCtx {
    async fn read_via_stream(
        &mut self,
        descriptor: Resource<Descriptor>,
        offset: u64,
    ) -> Answer<Resource<InputStream>> {
        let node = self.node(&descriptor)?;
        let tree = self.tree(0).await?;
        if let Err(error) = tree.content(node) {
            return Ok(Err(error));
        }
        tree.hold(node);
        Ok(Ok(self.table.push(InputStream::File { node: Held(node), at: offset })?))
    }

    async fn write_via_stream(
        &mut self,
        descriptor: Resource<Descriptor>,
        offset: u64,
    ) -> Answer<Resource<OutputStream>> {
        self.output(descriptor, Some(offset)).await
    }

    async fn append_via_stream(
        &mut self,
        descriptor: Resource<Descriptor>,
    ) -> Answer<Resource<OutputStream>> {
        self.output(descriptor, None).await
    }

    async fn advise(&mut self, _: Resource<Descriptor>, _: u64, _: u64, _: Advice) -> Answer<()> {
        Ok(Ok(()))
    }

    /// Nothing outlives the execution, so nothing is to be made durable.
    async fn sync_data(&mut self, _: Resource<Descriptor>) -> Answer<()> {
        Ok(Ok(()))
    }

    async fn sync(&mut self, _: Resource<Descriptor>) -> Answer<()> {
        Ok(Ok(()))
    }

    async fn get_flags(&mut self, descriptor: Resource<Descriptor>) -> Answer<DescriptorFlags> {
        Ok(Ok(self.flags(&descriptor)?))
    }

    async fn get_type(&mut self, descriptor: Resource<Descriptor>) -> Answer<DescriptorType> {
        let node = self.node(&descriptor)?;
        Ok(self.tree(0).await?.stat(node).map(|stat| kind(stat.kind)))
    }

    async fn set_size(&mut self, descriptor: Resource<Descriptor>, size: u64) -> Answer<()> {
        if !self.may_write(&descriptor)? {
            return Ok(Err(ErrorCode::BadDescriptor));
        }
        let (node, now) = (self.node(&descriptor)?, self.virtual_now());
        // It may have to be copied to where it has room.
        let bytes = size.min(self.sandbox.file_bytes);
        Ok(self.tree(bytes as usize).await?.set_size(node, size, now))
    }

    async fn set_times(
        &mut self,
        descriptor: Resource<Descriptor>,
        accessed: NewTimestamp,
        modified: NewTimestamp,
    ) -> Answer<()> {
        let (node, now) = (self.node(&descriptor)?, self.virtual_now());
        Ok(self.tree(0).await?.set_times(node, time(accessed, now), time(modified, now), now))
    }

    async fn read(
        &mut self,
        descriptor: Resource<Descriptor>,
        length: u64,
        offset: u64,
    ) -> Answer<(Vec<u8>, bool)> {
        if !self.flags(&descriptor)?.contains(DescriptorFlags::READ) {
            return Ok(Err(ErrorCode::BadDescriptor));
        }
        let node = Held(self.node(&descriptor)?);
        self.charge(cost::FILE + length.min(READ_BYTES)).await;
        let files = self.files();
        let end = files.end(node);
        Ok(end.and_then(|end| {
            let bytes = files.read(node, offset, length)?.to_vec();
            let at_end = offset.saturating_add(bytes.len() as u64) >= end;
            Ok((bytes, at_end))
        }))
    }

    async fn write(&mut self, descriptor: Resource<Descriptor>, data: Vec<u8>, offset: u64) -> Answer<u64> {
        if !self.may_write(&descriptor)? {
            return Ok(Err(ErrorCode::BadDescriptor));
        }
        let (node, now) = (self.node(&descriptor)?, self.virtual_now());
        let zeros = self.zeros(Held(node), offset);
        let tree = self.tree(zeros as usize + data.len()).await?;
        Ok(tree.write(node, offset, &data, now).map(|()| data.len() as u64))
    }

    async fn read_directory(
        &mut self,
        descriptor: Resource<Descriptor>,
    ) -> Answer<Resource<DirectoryListing>> {
        let node = self.node(&descriptor)?;
        let count = match self.tree(0).await?.names(node) {
            Ok(names) => names.len(),
            Err(error) => return Ok(Err(error)),
        };
        self.charge(cost::NAME * count as u64).await;
        match self.files().list(node) {
            Ok(listing) => Ok(Ok(self.table.push(listing)?)),
            Err(error) => Ok(Err(error)),
        }
    }

    async fn create_directory_at(&mut self, descriptor: Resource<Descriptor>, path: String) -> Answer<()> {
        let node = match self.directory(&descriptor)? {
            Ok(node) => node,
            Err(error) => return Ok(Err(error)),
        };
        let now = self.virtual_now();
        self.follow(path.len(), |tree| tree.create_directory(node, &path, now)).await
    }

    async fn stat(&mut self, descriptor: Resource<Descriptor>) -> Answer<DescriptorStat> {
        let node = self.node(&descriptor)?;
        Ok(self.tree(0).await?.stat(node).map(stat_of))
    }

    async fn stat_at(
        &mut self,
        descriptor: Resource<Descriptor>,
        flags: PathFlags,
        path: String,
    ) -> Answer<DescriptorStat> {
        let node = self.node(&descriptor)?;
        let follow = flags.contains(PathFlags::SYMLINK_FOLLOW);
        let stat = |tree: &mut Tree| tree.find(node, &path, follow).and_then(|id| tree.stat(id)).map(stat_of);
        self.follow(path.len(), stat).await
    }

    async fn set_times_at(
        &mut self,
        descriptor: Resource<Descriptor>,
        flags: PathFlags,
        path: String,
        accessed: NewTimestamp,
        modified: NewTimestamp,
    ) -> Answer<()> {
        let (node, now) = (self.node(&descriptor)?, self.virtual_now());
        let (accessed, modified) = (time(accessed, now), time(modified, now));
        let follow = flags.contains(PathFlags::SYMLINK_FOLLOW);
        self.follow(path.len(), |tree| {
            let id = tree.find(node, &path, follow)?;
            tree.set_times(id, accessed, modified, now)
        })
        .await
    }

    async fn link_at(
        &mut self,
        descriptor: Resource<Descriptor>,
        flags: PathFlags,
        old_path: String,
        new_descriptor: Resource<Descriptor>,
        new_path: String,
    ) -> Answer<()> {
        let old = self.node(&descriptor)?;
        let new = match self.directory(&new_descriptor)? {
            Ok(node) => node,
            Err(error) => return Ok(Err(error)),
        };
        let (now, follow) = (self.virtual_now(), flags.contains(PathFlags::SYMLINK_FOLLOW));
        let link = |tree: &mut Tree| tree.link((old, &old_path), follow, (new, &new_path), now);
        self.follow(old_path.len() + new_path.len(), link).await
    }

    async fn open_at(
        &mut self,
        descriptor: Resource<Descriptor>,
        path_flags: PathFlags,
        path: String,
        open_flags: OpenFlags,
        flags: DescriptorFlags,
    ) -> Answer<Resource<Descriptor>> {
        let base = self.node(&descriptor)?;
        let changes = DescriptorFlags::WRITE | DescriptorFlags::MUTATE_DIRECTORY;
        let alters =
            open_flags.intersects(OpenFlags::CREATE | OpenFlags::TRUNCATE) || flags.intersects(changes);
        if alters && self.files().tree.is_read_only(base) {
            return Ok(Err(ErrorCode::ReadOnly));
        }
        let how = Open {
            follow: path_flags.contains(PathFlags::SYMLINK_FOLLOW),
            create: open_flags.contains(OpenFlags::CREATE),
            exclusive: open_flags.contains(OpenFlags::EXCLUSIVE),
            directory: open_flags.contains(OpenFlags::DIRECTORY),
            truncate: open_flags.contains(OpenFlags::TRUNCATE),
        };
        let now = self.virtual_now();
        let node = match self.follow(path.len(), |tree| tree.open(base, &path, how, now)).await? {
            Ok(node) => node,
            Err(error) => return Ok(Err(error)),
        };
        let tree = &mut self.files().tree;
        let is_directory = tree.names(node).is_ok();
        if is_directory && flags.contains(DescriptorFlags::WRITE) {
            tree.release(node);
            return Ok(Err(ErrorCode::IsDirectory));
        }
        // What is not a directory has no names that could change, and the other way round.
        let useless = if is_directory { DescriptorFlags::WRITE } else { DescriptorFlags::MUTATE_DIRECTORY };
        let flags = flags & !useless;
        Ok(Ok(self.table.push(Descriptor { node: Held(node), flags })?))
    }

    async fn readlink_at(&mut self, descriptor: Resource<Descriptor>, path: String) -> Answer<String> {
        let node = self.node(&descriptor)?;
        self.follow(path.len(), |tree| tree.readlink(node, &path).map(str::to_owned)).await
    }

    async fn remove_directory_at(&mut self, descriptor: Resource<Descriptor>, path: String) -> Answer<()> {
        let node = match self.directory(&descriptor)? {
            Ok(node) => node,
            Err(error) => return Ok(Err(error)),
        };
        let now = self.virtual_now();
        self.follow(path.len(), |tree| tree.remove_directory(node, &path, now)).await
    }

    async fn rename_at(
        &mut self,
        descriptor: Resource<Descriptor>,
        old_path: String,
        new_descriptor: Resource<Descriptor>,
        new_path: String,
    ) -> Answer<()> {
        let (old, new) = match (self.directory(&descriptor)?, self.directory(&new_descriptor)?) {
            (Ok(old), Ok(new)) => (old, new),
            (Err(error), _) | (_, Err(error)) => return Ok(Err(error)),
        };
        let now = self.virtual_now();
        let rename = |tree: &mut Tree| tree.rename((old, &old_path), (new, &new_path), now);
        self.follow(old_path.len() + new_path.len(), rename).await
    }

    async fn symlink_at(
        &mut self,
        descriptor: Resource<Descriptor>,
        target: String,
        path: String,
    ) -> Answer<()> {
        let node = match self.directory(&descriptor)? {
            Ok(node) => node,
            Err(error) => return Ok(Err(error)),
        };
        let now = self.virtual_now();
        self.follow(target.len() + path.len(), |tree| tree.symlink(node, &target, &path, now)).await
    }

    async fn unlink_file_at(&mut self, descriptor: Resource<Descriptor>, path: String) -> Answer<()> {
        let node = match self.directory(&descriptor)? {
            Ok(node) => node,
            Err(error) => return Ok(Err(error)),
        };
        let now = self.virtual_now();
        self.follow(path.len(), |tree| tree.unlink(node, &path, now)).await
    }

    async fn is_same_object(
        &mut self,
        one: Resource<Descriptor>,
        other: Resource<Descriptor>,
    ) -> wasmtime::Result<bool> {
        Ok(self.node(&one)? == self.node(&other)?)
    }

    async fn metadata_hash(&mut self, descriptor: Resource<Descriptor>) -> Answer<MetadataHashValue> {
        Ok(Ok(hash(self.node(&descriptor)?)))
    }

    async fn metadata_hash_at(
        &mut self,
        descriptor: Resource<Descriptor>,
        flags: PathFlags,
        path: String,
    ) -> Answer<MetadataHashValue> {
        let node = self.node(&descriptor)?;
        let follow = flags.contains(PathFlags::SYMLINK_FOLLOW);
        self.follow(path.len(), |tree| tree.find(node, &path, follow).map(hash)).await
    }

    async fn drop(&mut self, descriptor: Resource<Descriptor>) -> wasmtime::Result<()> {
        let Descriptor { node, .. } = self.table.delete(descriptor)?;
        self.files().release(node);
        Ok(())
    }
}

impl RunCtx {
    /// A stream that writes at `offset`, or at the end as it is at each write.
    async fn output(
        &mut self,
        descriptor: Resource<Descriptor>,
        offset: Option<u64>,
    ) -> Answer<Resource<OutputStream>> {
        if !self.may_write(&descriptor)? {
            return Ok(Err(ErrorCode::BadDescriptor));
        }
        let node = self.node(&descriptor)?;
        self.tree(0).await?.hold(node);
        Ok(Ok(self.table.push(OutputStream::File { node: Held(node), at: offset })?))
    }
}

impl HostDirectoryEntryStream for RunCtx {
    async fn read_directory_entry(
        &mut self,
        listing: Resource<DirectoryListing>,
    ) -> Answer<Option<DirectoryEntry>> {
        let listing = self.table.get_mut(&listing)?;
        Ok(Ok(self.files.as_mut().and_then(|files| files.next_of(listing))))
    }

    async fn drop(&mut self, listing: Resource<DirectoryListing>) -> wasmtime::Result<()> {
        let listing = self.table.delete(listing)?;
        self.files().end_of(&listing);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp(0);

    /// Files with a directory of 1,000 long names.
    fn files() -> (Files, NodeId) {
        let mut files = Files::new(&Sandbox::default(), &[], NOW);
        for n in 0..1_000 {
            let path = format!("tmp/{n:0>255}");
            files.tree.create_directory(ROOT, &path, NOW).unwrap();
        }
        let full = files.tree.find(ROOT, "tmp", false).unwrap();
        (files, full)
    }

    /// One listing is 319 KB here, and a program may have more than 100,000 handles.
    #[test]
    fn listings_that_are_kept_have_a_limit() {
        let (mut files, full) = files();
        let mut kept = Vec::new();
        let refused = loop {
            match files.list(full) {
                Ok(listing) => kept.push(listing),
                Err(error) => break error,
            }
            assert!(kept.len() < 1_000);
        };
        assert_eq!(refused, ErrorCode::InsufficientMemory);
        assert!((200..220).contains(&kept.len()), "{}", kept.len());
        // An empty one takes nothing.
        let empty = files.tree.find(full, &"0".repeat(255), false).unwrap();
        assert!(files.list(empty).is_ok());
        // One that is dropped makes room for another one, and so does one that was read.
        files.end_of(&kept.pop().unwrap());
        kept.push(files.list(full).unwrap());
        assert!(files.list(full).is_err());
        let listing = kept.last_mut().unwrap();
        let names = std::iter::from_fn(|| files.next_of(listing)).count();
        assert_eq!(names, 1_000);
        assert!(files.next_of(listing).is_none());
        kept.push(files.list(full).unwrap());
        kept.iter().for_each(|listing| files.end_of(listing));
        assert_eq!(files.listed, 0);
    }

    #[test]
    fn one_listing_is_made_however_large_the_directory_is() {
        let (mut files, full) = files();
        let large = files.list(full).unwrap();
        files.listed += LISTED_BYTES;
        assert!(files.list(full).is_err());
        files.listed = 0;
        assert!(files.list(full).is_ok());
        assert_eq!(large.entries.len(), 1_000);
    }
}
