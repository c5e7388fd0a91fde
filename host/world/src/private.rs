//! Files that only the user of this process can have written, and where a project's files are
//! looked for. What a stranger may have put in the way is not obeyed (compare CVE-2022-24765 of git).

use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// Bytes that a file of configuration may have.
const FILE_BYTES: u64 = 1 << 20;

/// The directories in which a project's file is looked for: this one and those above it, up to the
/// root of the repository, the home directory, or the border of the file system.
pub fn upward(from: &Path, home: Option<&Path>) -> Vec<PathBuf> {
    let device = |dir: &Path| dir.metadata().ok().map(|metadata| metadata.dev());
    let Some(here) = device(from) else { return Vec::new() };
    let mut dirs = Vec::new();
    for dir in from.ancestors() {
        if device(dir) != Some(here) {
            break;
        }
        dirs.push(dir.to_owned());
        if Some(dir) == home || dir.join(".git").symlink_metadata().is_ok() {
            break;
        }
    }
    dirs
}

/// Why a file is not only the user's.
#[derive(Debug, thiserror::Error)]
pub enum NotPrivate {
    #[error("{} belongs to the user with the id {owner}", path.display())]
    Owner { path: PathBuf, owner: u32 },
    #[error("{} can be written by other users (mode {mode:o})", path.display())]
    Writable { path: PathBuf, mode: u32 },
    #[error("{} is not a regular file", path.display())]
    Kind { path: PathBuf },
    #[error("{} has more than {FILE_BYTES} bytes", path.display())]
    TooLarge { path: PathBuf },
    #[error("{} cannot be read: {source}", path.display())]
    Io { path: PathBuf, source: io::Error },
}

impl NotPrivate {
    fn io(path: &Path) -> impl FnOnce(io::Error) -> Self {
        |source| Self::Io { path: path.to_owned(), source }
    }
}

/// Opens a file and reads it whole, if it and its directory belong to the user or to root and nobody
/// else may write them. What is judged is the file that was opened, not the one at its path.
pub fn read(path: &Path) -> Result<String, NotPrivate> {
    let (mut file, metadata) = open(path)?;
    judge(path, &metadata)?;
    judge_directories(path)?;
    text(path, &mut file, &metadata)
}

/// Reads a file that the user has named, regardless of its owner.
pub fn read_any(path: &Path) -> Result<String, NotPrivate> {
    let (mut file, metadata) = open(path)?;
    text(path, &mut file, &metadata)
}

/// Whether a file is only the user's, or root's.
pub fn check(path: &Path) -> Result<(), NotPrivate> {
    judge(path, &path.metadata().map_err(NotPrivate::io(path))?)?;
    judge_directories(path)
}

/// The same of a file that may have to be made yet, in a directory that may have to be made as well.
pub fn check_place(path: &Path) -> Result<(), NotPrivate> {
    let there = |path: &Path| path.symlink_metadata().is_ok();
    match path.parent().filter(|dir| !dir.as_os_str().is_empty()) {
        _ if there(path) => check(path),
        Some(dir) if !there(dir) => Ok(()),
        dir => {
            let dir = dir.unwrap_or(Path::new("."));
            judge(dir, &dir.metadata().map_err(NotPrivate::io(dir))?)
        }
    }
}

/// Reads text that may have so many bytes: some files and pipes never end.
pub fn read_at_most(most: u64, from: impl Read) -> io::Result<String> {
    let mut text = String::new();
    let read = from.take(most.saturating_add(1)).read_to_string(&mut text)?;
    match read as u64 > most {
        true => Err(io::Error::new(io::ErrorKind::FileTooLarge, format!("it has more than {most} bytes"))),
        false => Ok(text),
    }
}

/// Reads a file that the user has named and that may be no more than so large: it may have no end.
pub fn read_named_at_most(most: u64, path: &Path) -> io::Result<Vec<u8>> {
    let bytes = read_to(most.saturating_add(1), File::open(path)?)?;
    match bytes.len() as u64 > most {
        true => Err(io::Error::new(io::ErrorKind::FileTooLarge, format!("it has more than {most} bytes"))),
        false => Ok(bytes),
    }
}

/// The first bytes of a file, at most so many.
pub fn read_to(limit: u64, file: File) -> io::Result<Vec<u8>> {
    // What is read as far as some limit is not asked for its size by itself, and growing copies it again and again.
    let size = file.metadata()?.len().saturating_add(1).min(limit);
    let mut bytes = Vec::with_capacity(usize::try_from(size).unwrap_or_default());
    file.take(limit).read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn open(path: &Path) -> Result<(File, Metadata), NotPrivate> {
    // A pipe in its place would block for ever.
    let flags = rustix::fs::OFlags::NONBLOCK.bits();
    let file = OpenOptions::new().read(true).custom_flags(flags as i32).open(path);
    let file = file.map_err(NotPrivate::io(path))?;
    let metadata = file.metadata().map_err(NotPrivate::io(path))?;
    Ok((file, metadata))
}

fn text(path: &Path, file: &mut File, metadata: &Metadata) -> Result<String, NotPrivate> {
    // `/dev/null` is an empty file.
    if metadata.is_dir() {
        return Err(NotPrivate::Kind { path: path.to_owned() });
    }
    let mut text = String::new();
    let read = file.take(FILE_BYTES + 1).read_to_string(&mut text).map_err(NotPrivate::io(path))?;
    if read as u64 > FILE_BYTES {
        return Err(NotPrivate::TooLarge { path: path.to_owned() });
    }
    Ok(text)
}

/// The directory that a file is found in and, behind a link, that of what it stands for.
fn judge_directories(path: &Path) -> Result<(), NotPrivate> {
    let real = path.canonicalize().map_err(NotPrivate::io(path))?;
    for file in [path, &real] {
        let dir = file.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
        judge(dir, &dir.metadata().map_err(NotPrivate::io(dir))?)?;
    }
    let metadata = real.metadata().map_err(NotPrivate::io(&real))?;
    if metadata.is_file() { Ok(()) } else { Err(NotPrivate::Kind { path: real }) }
}

fn judge(path: &Path, metadata: &Metadata) -> Result<(), NotPrivate> {
    let user = rustix::process::geteuid().as_raw();
    if ![user, 0].contains(&metadata.uid()) {
        return Err(NotPrivate::Owner { path: path.to_owned(), owner: metadata.uid() });
    }
    let mode = metadata.mode() & 0o7777;
    let group = mode & 0o020 != 0 && !is_own_group(metadata.gid(), user);
    if mode & 0o002 != 0 || group {
        return Err(NotPrivate::Writable { path: path.to_owned(), mode });
    }
    Ok(())
}

/// Whether only this user is in a group: systems that give each user a group of his own make files
/// writable for it.
fn is_own_group(gid: u32, user: u32) -> bool {
    if gid == 0 && user == 0 {
        return true;
    }
    let read = |path| std::fs::read_to_string(path).unwrap_or_default();
    belongs_to_one(gid, user, &read("/etc/passwd"), &read("/etc/group"))
}

/// The same by the texts of `/etc/passwd` and `/etc/group`.
fn belongs_to_one(gid: u32, user: u32, passwd: &str, group: &str) -> bool {
    let number = |field: Option<&&str>| field.and_then(|text| text.parse::<u32>().ok());
    let mut names = Vec::new();
    for line in passwd.lines() {
        let fields: Vec<_> = line.split(':').collect();
        let is_user = number(fields.get(2)) == Some(user);
        if is_user {
            names.extend(fields.first().copied());
        } else if number(fields.get(3)) == Some(gid) {
            return false;
        }
    }
    let mut found = false;
    for line in group.lines() {
        let fields: Vec<_> = line.split(':').collect();
        if number(fields.get(2)) == Some(gid) {
            found = true;
            let members = fields.get(3).copied().unwrap_or_default();
            if members.split(',').any(|member| !member.is_empty() && !names.contains(&member)) {
                return false;
            }
        }
    }
    found && !names.is_empty()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn mode(path: &Path, mode: u32) {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    }

    #[test]
    fn what_others_may_write_is_not_read() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        std::fs::write(&file, "text").unwrap();
        mode(&file, 0o644);
        assert_eq!(read(&file).unwrap(), "text");
        mode(&file, 0o646);
        assert!(matches!(read(&file), Err(NotPrivate::Writable { .. })));
        mode(&file, 0o644);
        mode(dir.path(), 0o1777);
        let refused = read(&file).unwrap_err();
        assert!(refused.to_string().contains("can be written by other users (mode 1777)"), "{refused}");
        assert_eq!(read_any(&file).unwrap(), "text");
        mode(dir.path(), 0o700);
        // A link into a directory of others.
        let open = tempfile::tempdir().unwrap();
        mode(open.path(), 0o777);
        let target = open.path().join("target");
        std::fs::write(&target, "theirs").unwrap();
        mode(&target, 0o600);
        let link = dir.path().join("link");
        std::os::unix::fs::symlink(&target, &link).unwrap();
        assert!(matches!(read(&link), Err(NotPrivate::Writable { .. })));
        // What never ends, and what is no file.
        assert!(matches!(read_any(Path::new("/dev/zero")), Err(NotPrivate::TooLarge { .. })));
        assert!(matches!(read(dir.path()), Err(NotPrivate::Kind { .. } | NotPrivate::Writable { .. })));
        assert_eq!(read_any(Path::new("/dev/null")).unwrap(), "");
    }

    #[test]
    fn a_group_of_one_s_own_is_no_stranger() {
        let passwd =
            "root:x:0:0::/root:/bin/sh\nada:x:1000:1000::/home/ada:/bin/sh\nbob:x:1001:100::/:/bin/sh\n";
        let group = "root:x:0:\nusers:x:100:ada\nada:x:1000:\nteam:x:2000:ada,bob\n";
        assert!(belongs_to_one(1000, 1000, passwd, group));
        assert!(!belongs_to_one(100, 1000, passwd, group));
        assert!(!belongs_to_one(2000, 1000, passwd, group));
        assert!(!belongs_to_one(3000, 1000, passwd, group));
    }

    #[test]
    fn the_search_stops_at_the_repository_and_at_home() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().canonicalize().unwrap();
        let deep = root.join("home/repo/a/b");
        std::fs::create_dir_all(&deep).unwrap();
        assert!(upward(&deep, None).contains(&root));
        assert_eq!(upward(&deep, Some(&root.join("home"))).last(), Some(&root.join("home")));
        std::fs::write(root.join("home/repo/.git"), "gitdir: elsewhere").unwrap();
        assert_eq!(upward(&deep, None).last(), Some(&root.join("home/repo")));
    }
}
