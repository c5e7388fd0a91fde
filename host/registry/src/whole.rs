//! Files that are there whole or not at all, whatever happens to who writes them. They are written beside their
//! place and renamed. What a killed process has left behind is taken away by the next one that writes the same:
//! whoever writes holds a lock on the new file, which ends with the process.

use std::fs::{File, OpenOptions, Permissions, TryLockError};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;

use rustix::fs::OFlags;

use tempfile::{Builder, NamedTempFile};

/// How new files end.
const NEW: &str = ".new";
/// Letters and digits between the name and that, drawn at random. As many as a name that somebody thought of hardly has.
const RANDOM: usize = 16;

fn prefix(name: &str) -> String {
    format!(".{name}.")
}

/// Begins a new file in a directory; `name`: what it becomes, or what kind of file it is. It is renamed by
/// [`NamedTempFile::persist`], and gone if that does not happen.
pub fn begin(dir: &Path, name: &str) -> io::Result<NamedTempFile> {
    begin_as(dir, name, 0o600)
}

/// The same with other permissions, as far as the process gives them to new files.
fn begin_as(dir: &Path, name: &str, mode: u32) -> io::Result<NamedTempFile> {
    sweep(dir, name);
    let prefix = prefix(name);
    let mut builder = Builder::new();
    builder.prefix(&prefix).rand_bytes(RANDOM).suffix(NEW).permissions(Permissions::from_mode(mode));
    loop {
        let file = builder.tempfile_in(dir)?;
        match file.as_file().try_lock() {
            // Somebody took it for one that was left behind.
            Ok(()) if !is_there(&file) => {}
            Err(TryLockError::WouldBlock) => {}
            // Where there are no locks nothing is swept.
            Ok(()) | Err(TryLockError::Error(_)) => return Ok(file),
        }
    }
}

fn is_there(file: &NamedTempFile) -> bool {
    let (own, there) = (file.as_file().metadata(), std::fs::metadata(file.path()));
    matches!((own, there), (Ok(own), Ok(there)) if (own.dev(), own.ino()) == (there.dev(), there.ino()))
}

/// Takes away what others have begun and will not end: for who removes the file, or may write none.
pub fn sweep(dir: &Path, name: &str) {
    let prefix = prefix(name);
    let is_random =
        |text: &str| text.len() == RANDOM && text.bytes().all(|byte| byte.is_ascii_alphanumeric());
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        let file = entry.file_name();
        let random = file.to_str().and_then(|file| file.strip_prefix(&prefix)?.strip_suffix(NEW));
        if !random.is_some_and(is_random) || !entry.file_type().is_ok_and(|kind| kind.is_file()) {
            continue;
        }
        // Where others may write, it may be something else by now.
        let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
        let left = OpenOptions::new().read(true).custom_flags(flags.bits().cast_signed()).open(entry.path());
        if let Ok(left) = left
            && left.metadata().is_ok_and(|left| left.is_file())
            && left.try_lock().is_ok()
        {
            // It may have got its own name in the meantime; then there is nothing here.
            let _ = std::fs::remove_file(entry.path());
        }
    }
}

/// Puts a file with these bytes and permissions in the place of another one, or of none.
pub fn replace(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    put(path, bytes, Some(mode))
}

/// Puts a file with these bytes in the place of another one, whose permissions it has, or of none.
pub fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mode = std::fs::metadata(path).ok().map(|there| there.mode() & 0o777);
    put(path, bytes, mode)
}

/// The same for a file that the user named: a link to it stays one, and what is no file is only written to. `new`: the
/// permissions of a new one, if not those of any new file.
pub fn write_named(path: &Path, bytes: &[u8], new: Option<u32>) -> io::Result<()> {
    write_named_by(path, new, |file| file.write_all(bytes))
}

/// The same with what `write` writes, which may be more than memory has to hold.
pub fn write_named_by<E: From<io::Error>>(
    path: &Path,
    new: Option<u32>,
    write: impl FnOnce(&mut File) -> Result<(), E>,
) -> Result<(), E> {
    let path = path.canonicalize().unwrap_or_else(|_| path.to_owned());
    match std::fs::metadata(&path) {
        Ok(there) if !there.is_file() => write(&mut File::create(&path)?),
        Ok(there) => put_by(&path, Some(there.mode() & 0o777), write),
        Err(_) => put_by(&path, new, write),
    }
}

fn put(path: &Path, bytes: &[u8], mode: Option<u32>) -> io::Result<()> {
    put_by(path, mode, |file| file.write_all(bytes))
}

/// `mode`: if not that of any new file.
fn put_by<E: From<io::Error>>(
    path: &Path,
    mode: Option<u32>,
    write: impl FnOnce(&mut File) -> Result<(), E>,
) -> Result<(), E> {
    let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let mut file = match mode {
        Some(_) => begin(dir, &name)?,
        None => begin_as(dir, &name, 0o666)?,
    };
    write(file.as_file_mut())?;
    if let Some(mode) = mode {
        file.as_file().set_permissions(Permissions::from_mode(mode))?;
    }
    file.as_file().sync_all()?;
    file.persist(path).map_err(|error| error.error)?;
    // The name is to survive the loss of power, too.
    let _ = File::open(dir).and_then(|dir| dir.sync_all());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(dir: &Path) -> Vec<String> {
        let entries = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name());
        let mut names: Vec<_> = entries.map(|name| name.to_string_lossy().into_owned()).collect();
        names.sort();
        names
    }

    #[test]
    fn what_was_left_behind_is_taken_away_and_what_is_being_written_stays() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.toml");
        replace(&path, b"one", 0o644).unwrap();
        for left in [".a.toml.0123456789abcdEF.new", ".b.toml.0123456789abcdEF.new"] {
            std::fs::write(dir.path().join(left), "half").unwrap();
        }
        let mut begun = begin(dir.path(), "a.toml").unwrap();
        replace(&path, b"two", 0o600).unwrap();
        write(&path, b"two").unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"two");
        assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        begun.write_all(b"three").unwrap();
        begun.persist(&path).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"three");
        // Others have other names.
        assert_eq!(names(dir.path()), [".b.toml.0123456789abcdEF.new", "a.toml"]);
    }

    #[test]
    fn a_file_that_was_named_keeps_its_place_and_its_permissions() {
        let dir = tempfile::tempdir().unwrap();
        let (path, link, new) = (dir.path().join("a"), dir.path().join("link"), dir.path().join("new"));
        std::fs::write(&path, "one").unwrap();
        std::fs::set_permissions(&path, Permissions::from_mode(0o640)).unwrap();
        std::os::unix::fs::symlink(&path, &link).unwrap();
        let mode = |path: &Path| path.metadata().unwrap().mode() & 0o777;
        // Whoever reads the old one reads it to its end.
        let before = path.metadata().unwrap().ino();
        write_named(&link, b"two", Some(0o600)).unwrap();
        assert_eq!((std::fs::read(&path).unwrap(), mode(&path)), (b"two".to_vec(), 0o640));
        assert!(link.symlink_metadata().unwrap().is_symlink() && before != path.metadata().unwrap().ino());
        write_named(&new, b"three", Some(0o600)).unwrap();
        assert_eq!((std::fs::read(&new).unwrap(), mode(&new)), (b"three".to_vec(), 0o600));
        write_named(Path::new("/dev/null"), b"four", None).unwrap();
        assert!(Path::new("/dev/null").exists());
    }

    #[test]
    fn what_is_no_file_of_ours_is_neither_opened_nor_taken_away() {
        let dir = tempfile::tempdir().unwrap();
        let of_the_user = [".a.toml.backup.new", ".a.toml..new", ".a.toml.of-monday-night.new"];
        for name in of_the_user {
            std::fs::write(dir.path().join(name), "mine").unwrap();
        }
        let (pipe, link) = (
            dir.path().join(".a.toml.0123456789abcdef.new"),
            dir.path().join(".a.toml.0123456789ABCDEF.new"),
        );
        rustix::fs::mknodat(
            rustix::fs::CWD,
            &pipe,
            rustix::fs::FileType::Fifo,
            rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR,
            0,
        )
        .unwrap();
        std::os::unix::fs::symlink(&pipe, &link).unwrap();
        let (swept, done) = std::sync::mpsc::channel();
        let path = dir.path().join("a.toml");
        std::thread::spawn(move || swept.send(replace(&path, b"one", 0o644)));
        done.recv_timeout(std::time::Duration::from_secs(60)).expect("it opens no pipe").unwrap();
        let left = names(dir.path());
        assert!(of_the_user.iter().all(|name| left.contains(&(*name).to_owned())), "{left:?}");
        assert!(pipe.symlink_metadata().is_ok() && link.symlink_metadata().is_ok());
    }

    #[test]
    fn many_that_replace_at_once_do_not_take_one_anothers() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        std::thread::scope(|scope| {
            for number in 0..8 {
                let path = &path;
                scope.spawn(move || {
                    for _ in 0..20 {
                        replace(path, format!("{number}").repeat(1000).as_bytes(), 0o600).unwrap();
                    }
                });
            }
        });
        let bytes = std::fs::read(&path).unwrap();
        assert!(bytes.len() == 1000 && bytes.iter().all(|byte| *byte == bytes[0]));
        assert_eq!(names(dir.path()), ["a"]);
    }
}
