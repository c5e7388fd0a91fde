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

/// The files of one execution.
#[derive(Debug)]
pub(crate) struct Files {
    tree: Tree,
    /// The roots of granted directories, and where the program sees them.
    granted: Vec<(NodeId, String)>,
}

impl Files {
    fn new(sandbox: &Sandbox, grants: &[Granted], now: Timestamp) -> Self {
        let mut tree = Tree::new(sandbox.file_bytes, sandbox.files, now);
        let mut grant = |granted: &Granted| (tree.grant(&granted.snapshot.root, now), granted.guest.clone());
        let granted = grants.iter().map(&mut grant).collect();
        Self { tree, granted }
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
pub struct DirectoryListing(std::vec::IntoIter<DirectoryEntry>);

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
        let tree = self.tree(0).await?;
        let names = match tree.names(node) {
            Ok(names) => names,
            Err(error) => return Ok(Err(error)),
        };
        let entries: Vec<_> = names
            .iter()
            .filter_map(|(name, &id)| {
                let stat = tree.stat(id).ok()?;
                Some(DirectoryEntry { type_: kind(stat.kind), name: name.clone() })
            })
            .collect();
        self.charge(cost::NAME * entries.len() as u64).await;
        Ok(Ok(self.table.push(DirectoryListing(entries.into_iter()))?))
    }

    async fn create_directory_at(&mut self, descriptor: Resource<Descriptor>, path: String) -> Answer<()> {
        let node = match self.directory(&descriptor)? {
            Ok(node) => node,
            Err(error) => return Ok(Err(error)),
        };
        let now = self.virtual_now();
        Ok(self.tree(path.len()).await?.create_directory(node, &path, now))
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
        let tree = self.tree(path.len()).await?;
        let found = tree.find(node, &path, flags.contains(PathFlags::SYMLINK_FOLLOW));
        Ok(found.and_then(|id| tree.stat(id)).map(stat_of))
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
        let tree = self.tree(path.len()).await?;
        let found = tree.find(node, &path, flags.contains(PathFlags::SYMLINK_FOLLOW));
        Ok(found.and_then(|id| tree.set_times(id, time(accessed, now), time(modified, now), now)))
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
        let tree = self.tree(old_path.len() + new_path.len()).await?;
        Ok(tree.link((old, &old_path), follow, (new, &new_path), now))
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
        let tree = self.tree(path.len()).await?;
        let node = match tree.open(base, &path, how, now) {
            Ok(node) => node,
            Err(error) => return Ok(Err(error)),
        };
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
        Ok(self.tree(path.len()).await?.readlink(node, &path).map(str::to_owned))
    }

    async fn remove_directory_at(&mut self, descriptor: Resource<Descriptor>, path: String) -> Answer<()> {
        let node = match self.directory(&descriptor)? {
            Ok(node) => node,
            Err(error) => return Ok(Err(error)),
        };
        let now = self.virtual_now();
        Ok(self.tree(path.len()).await?.remove_directory(node, &path, now))
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
        let tree = self.tree(old_path.len() + new_path.len()).await?;
        Ok(tree.rename((old, &old_path), (new, &new_path), now))
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
        Ok(self.tree(target.len() + path.len()).await?.symlink(node, &target, &path, now))
    }

    async fn unlink_file_at(&mut self, descriptor: Resource<Descriptor>, path: String) -> Answer<()> {
        let node = match self.directory(&descriptor)? {
            Ok(node) => node,
            Err(error) => return Ok(Err(error)),
        };
        let now = self.virtual_now();
        Ok(self.tree(path.len()).await?.unlink(node, &path, now))
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
        let tree = self.tree(path.len()).await?;
        Ok(tree.find(node, &path, flags.contains(PathFlags::SYMLINK_FOLLOW)).map(hash))
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
        Ok(Ok(self.table.get_mut(&listing)?.0.next()))
    }

    async fn drop(&mut self, listing: Resource<DirectoryListing>) -> wasmtime::Result<()> {
        self.table.delete(listing)?;
        Ok(())
    }
}
