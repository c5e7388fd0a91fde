//! What a program does through its standard library: files, the environment,
//! time. Errors are values, `{"error": kind}`.

use std::io::{ErrorKind, Read, Seek, SeekFrom, Write};
use std::path::Path;
use std::time::{Duration, Instant};
use std::{env, fs, io};

use serde::Deserialize;
use wfhost::{Value, json};

/// An operation on files.
#[derive(Deserialize, Clone)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum FileOperation {
    /// `[path, text]`
    Write(String, String),
    /// `[path, text]`
    Append(String, String),
    /// Writes `bytes` zeros.
    Fill {
        path: String,
        bytes: usize,
    },
    /// `[path, offset, text]`
    WriteAt(String, u64, String),
    /// Gives the text.
    Read(String),
    /// Gives names in the order of the directory.
    List(String),
    Mkdir(String),
    Remove(String),
    RemoveAll(String),
    /// `[from, to]`
    Rename(String, String),
    /// `[of, name]`
    HardLink(String, String),
    /// Gives `{"bytes", "kind", "modified", "accessed"}`.
    Stat(String),
    /// Opens a file so many times without closing it. Gives how often that went well.
    OpenMany {
        path: String,
        times: u32,
    },
    /// `[file, bytes]`: cuts it or lets it grow.
    SetSize(String, u64),
}

pub fn file(operation: FileOperation) -> Value {
    perform(operation).unwrap_or_else(|error| match error.kind() {
        // It has no name for most of them.
        ErrorKind::Other => json!({ "error": error.to_string() }),
        kind => json!({ "error": format!("{kind:?}") }),
    })
}

fn perform(operation: FileOperation) -> io::Result<Value> {
    Ok(match operation {
        FileOperation::Write(path, text) => json!(fs::write(path, text)?),
        FileOperation::Append(path, text) => {
            json!(fs::OpenOptions::new().append(true).create(true).open(path)?.write_all(text.as_bytes())?)
        }
        FileOperation::Fill { path, bytes } => json!(fs::write(path, vec![0; bytes])?),
        FileOperation::WriteAt(path, offset, text) => {
            let mut file = fs::OpenOptions::new().write(true).open(path)?;
            file.seek(SeekFrom::Start(offset))?;
            json!(file.write_all(text.as_bytes())?)
        }
        FileOperation::Read(path) => json!(String::from_utf8_lossy(&fs::read(path)?)),
        FileOperation::List(path) => {
            let names =
                fs::read_dir(path)?.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()));
            json!(names.collect::<io::Result<Vec<_>>>()?)
        }
        FileOperation::Mkdir(path) => json!(fs::create_dir_all(path)?),
        FileOperation::Remove(path) => json!(fs::remove_file(path)?),
        FileOperation::RemoveAll(path) => json!(fs::remove_dir_all(path)?),
        FileOperation::Rename(from, to) => json!(fs::rename(from, to)?),
        FileOperation::HardLink(of, name) => json!(fs::hard_link(of, name)?),
        FileOperation::Stat(path) => stat(Path::new(&path))?,
        FileOperation::OpenMany { path, times } => {
            let opened = (0..times).map_while(|_| fs::File::open(&path).ok());
            json!(opened.collect::<Vec<_>>().len())
        }
        FileOperation::SetSize(path, bytes) => {
            json!(fs::OpenOptions::new().write(true).open(path)?.set_len(bytes)?)
        }
    })
}

fn stat(path: &Path) -> io::Result<Value> {
    let stat = fs::metadata(path)?;
    let millis = |time: io::Result<std::time::SystemTime>| {
        let since = time.ok()?.duration_since(std::time::UNIX_EPOCH).ok()?;
        u64::try_from(since.as_millis()).ok()
    };
    let kind = if stat.is_dir() { "directory" } else { "file" };
    Ok(json!({
        "bytes": stat.len(), "kind": kind,
        "modified": millis(stat.modified()), "accessed": millis(stat.accessed()),
    }))
}

pub fn environment() -> Value {
    let arguments: Vec<_> = env::args().collect();
    let variables: Vec<_> = env::vars().map(|(name, value)| format!("{name}={value}")).collect();
    json!({ "arguments": arguments, "variables": variables })
}

/// All of standard input.
pub fn input() -> Value {
    let mut text = String::new();
    let _ = io::stdin().read_to_string(&mut text);
    json!(text)
}

/// Milliseconds that a sleep takes by the monotonic clock.
pub fn measured_sleep(length: Duration) -> Value {
    let before = Instant::now();
    std::thread::sleep(length);
    json!(u64::try_from(before.elapsed().as_millis()).unwrap_or(u64::MAX))
}

/// Waits for timers of these lengths, in milliseconds, in one `poll`, until all
/// are done. Gives their numbers as they come.
#[cfg(target_os = "wasi")]
pub fn poll(lengths: &[u64]) -> Value {
    use wasip2::clocks::monotonic_clock::subscribe_duration;
    use wasip2::io::poll::poll;
    let timers = lengths.iter().map(|length| subscribe_duration(length * 1_000_000));
    let mut timers: Vec<_> = timers.enumerate().collect();
    let mut order = Vec::new();
    while !timers.is_empty() {
        let open: Vec<_> = timers.iter().map(|(_, timer)| timer).collect();
        let ready = poll(&open);
        order.push(json!(ready.iter().map(|&index| timers[index as usize].0).collect::<Vec<_>>()));
        let mut index = 0;
        timers.retain(|_| {
            index += 1;
            !ready.contains(&(index - 1))
        });
    }
    json!(order)
}

/// Asks for so many random bytes at once. Gives the number of bytes.
#[cfg(target_os = "wasi")]
pub fn random(bytes: u64) -> Value {
    json!(wasip2::random::random::get_random_bytes(bytes).len())
}

#[cfg(not(target_os = "wasi"))]
pub fn poll(_: &[u64]) -> Value {
    json!("unsupported")
}

#[cfg(not(target_os = "wasi"))]
pub fn random(_: u64) -> Value {
    json!("unsupported")
}
