//! Programs: starting them in a group of their own, reading what they write
//! line by line, and leaving none of them behind.

use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::BytesMut;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, ChildStdin, ChildStdout};
use tokio::task::JoinHandle;
use wfhost_core::{FailureKind, Json};

use crate::{CallFailure, CallOutput, Stream};

/// Bytes of one line.
const LINE_BYTES: usize = 16 << 20;
/// Bytes of all lines together.
const OUTPUT_BYTES: usize = 64 << 20;
/// Lines of stderr that are remembered for the message of a failure.
const LAST_WORDS: usize = 5;
/// Bytes of one line of stderr that are shown.
const WORDS_BYTES: usize = 8 << 10;

/// Where a program is that a name on PATH or a path stands for.
pub(crate) fn find_program(name: &str) -> Option<PathBuf> {
    let is_program = |path: &Path| {
        use std::os::unix::fs::PermissionsExt;
        path.metadata().is_ok_and(|data| data.is_file() && data.permissions().mode() & 0o111 != 0)
    };
    if name.contains('/') {
        return Some(PathBuf::from(name)).filter(|path| is_program(path));
    }
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|dir| dir.join(name)).find(|path| is_program(path))
}

/// A program that is to be started.
pub(crate) struct Spawn<'a> {
    pub argv: Vec<String>,
    /// All that it gets.
    pub environment: Vec<(String, String)>,
    pub directory: Option<&'a Path>,
    /// What it reads; its stdin stays open without it.
    pub input: Option<String>,
}

/// A program that runs. Dropping it kills its group.
pub(crate) struct Running {
    child: Child,
    group: Group,
    stdin: Option<ChildStdin>,
    stdout: ChildStdout,
    buffer: BytesMut,
    /// Where the line that is looked for may end: all before was looked at.
    looked: usize,
    total: usize,
    at_end: bool,
    status: Option<ExitStatus>,
    words: Arc<Mutex<Vec<String>>>,
    stderr: JoinHandle<()>,
    writer: Option<JoinHandle<()>>,
}

/// Kills a process group.
struct Group(Option<rustix::process::Pid>);

impl Group {
    fn kill(&mut self) {
        if let Some(pid) = self.0.take() {
            // Nothing is left of it: that is what was wanted.
            let _ = rustix::process::kill_process_group(pid, rustix::process::Signal::KILL);
        }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A line of output.
#[derive(Debug)]
pub(crate) struct Line {
    pub text: String,
    /// Whether it had a line end.
    pub whole: bool,
}

/// How a program ended.
#[derive(Debug)]
pub(crate) struct Ended {
    status: ExitStatus,
    words: Vec<String>,
}

impl Ended {
    /// What is wrong with the end, if it did not end well.
    pub fn problem(&self) -> Option<String> {
        if self.status.success() {
            return None;
        }
        let how = match (self.status.code(), self.status.signal()) {
            (Some(137), _) => "ended with exit code 137: killed, perhaps for lack of memory".to_owned(),
            (Some(code), _) => format!("ended with exit code {code}"),
            (None, Some(9)) => "was killed, perhaps for lack of memory (signal 9)".to_owned(),
            (None, signal) => format!("was ended by signal {}", signal.unwrap_or_default()),
        };
        Some(match self.words.last() {
            Some(words) => format!("{how}: {}", crate::web::shorten(words)),
            None => how,
        })
    }

    /// The last lines that it wrote to stderr.
    pub fn last_words(&self) -> String {
        self.words.join("\n")
    }
}

impl Spawn<'_> {
    /// Starts it. What it writes to stderr is shown as progress.
    pub fn start(self, out: CallOutput) -> Result<Running, CallFailure> {
        let Some(program) = self.argv.first() else {
            return Err(CallFailure::new(FailureKind::Rejected, "the provider has no program"));
        };
        let cannot = |kind, error: String| {
            let failure = CallFailure::new(kind, format!("`{program}` cannot be started: {error}"));
            // It would be so the next time.
            CallFailure { exhausted: true, ..failure }
        };
        let mut command = tokio::process::Command::new(program);
        command.args(&self.argv[1..]).env_clear().envs(self.environment);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command.process_group(0).kill_on_drop(true);
        if let Some(directory) = self.directory {
            command.current_dir(directory);
        }
        let mut child = command.spawn().map_err(|error| match error.kind() {
            std::io::ErrorKind::ArgumentListTooLong => cannot(
                FailureKind::Rejected,
                "its arguments are too long; let it read the prompt: prompt = \"stdin\"".to_owned(),
            ),
            std::io::ErrorKind::NotFound => {
                cannot(FailureKind::Unavailable, "there is no such program on PATH".to_owned())
            }
            _ => cannot(FailureKind::Unavailable, error.to_string()),
        })?;
        let pid = child.id().and_then(|id| rustix::process::Pid::from_raw(id.cast_signed()));
        let group = Group(pid);
        let missing = || CallFailure::new(FailureKind::Unavailable, "the program has no pipes");
        let mut stdin = child.stdin.take();
        let stdout = child.stdout.take().ok_or_else(missing)?;
        let stderr = child.stderr.take().ok_or_else(missing)?;
        let words = Arc::new(Mutex::new(Vec::new()));
        let stderr = tokio::spawn(read_stderr(stderr, out, Arc::clone(&words)));
        let writer = self.input.and_then(|input| {
            let mut stdin = stdin.take()?;
            // A program that does not read it all is none the worse for it.
            Some(tokio::spawn(async move {
                let _ = stdin.write_all(input.as_bytes()).await;
                let _ = stdin.shutdown().await;
            }))
        });
        Ok(Running {
            child,
            group,
            stdin,
            stdout,
            buffer: BytesMut::new(),
            looked: 0,
            total: 0,
            at_end: false,
            status: None,
            words,
            stderr,
            writer,
        })
    }
}

async fn read_stderr(
    mut stderr: impl tokio::io::AsyncRead + Unpin,
    out: CallOutput,
    words: Arc<Mutex<Vec<String>>>,
) {
    let mut buffer = Vec::new();
    let say = |line: &[u8]| {
        let text = String::from_utf8_lossy(line).trim_end().to_owned();
        if !text.is_empty() {
            let mut words = words.lock().unwrap_or_else(PoisonError::into_inner);
            if words.len() == LAST_WORDS {
                words.remove(0);
            }
            words.push(text.clone());
        }
        out.line(Stream::Progress, text);
    };
    loop {
        let mut chunk = [0; 4_096];
        let Ok(count @ 1..) = stderr.read(&mut chunk).await else { break };
        for &byte in &chunk[..count] {
            if byte == b'\n' || buffer.len() >= WORDS_BYTES {
                say(&buffer);
                buffer.clear();
            }
            if byte != b'\n' {
                buffer.push(byte);
            }
        }
    }
    if !buffer.is_empty() {
        say(&buffer);
    }
}

impl Running {
    /// Writes to its stdin.
    pub async fn write(&mut self, text: &str) -> Result<(), CallFailure> {
        let Some(stdin) = &mut self.stdin else { return Ok(()) };
        let written = async {
            stdin.write_all(text.as_bytes()).await?;
            stdin.flush().await
        };
        written.await.map_err(|error| {
            let message = format!("the program takes no input any more: {error}");
            CallFailure::new(FailureKind::Unavailable, message)
        })
    }

    /// The next line of its stdout.
    pub async fn line(&mut self) -> Result<Option<Line>, CallFailure> {
        loop {
            let end = self.buffer[self.looked..].iter().position(|byte| *byte == b'\n');
            if let Some(end) = end.map(|end| self.looked + end) {
                let line = self.buffer.split_to(end + 1);
                self.looked = 0;
                // A line takes the room that it needs, not that of the buffer.
                return Ok(Some(Line { text: utf8(line[..end].to_vec())?, whole: true }));
            }
            self.looked = self.buffer.len();
            if self.at_end {
                if self.buffer.is_empty() {
                    return Ok(None);
                }
                self.looked = 0;
                return Ok(Some(Line {
                    text: utf8(std::mem::take(&mut self.buffer).to_vec())?,
                    whole: false,
                }));
            }
            let too_long = |what: &str, limit: usize| {
                let message = format!("{what} of the program is longer than {} MiB", limit >> 20);
                CallFailure::new(FailureKind::InvalidOutput, message)
            };
            if self.buffer.len() > LINE_BYTES {
                return Err(too_long("a line", LINE_BYTES));
            }
            self.buffer.reserve(64 << 10);
            let count = tokio::select! {
                biased;
                count = self.stdout.read_buf(&mut self.buffer) => count,
                status = self.child.wait(), if self.status.is_none() => {
                    // What it left behind may hold its stdout open for ever.
                    self.group.kill();
                    self.status = Some(status.map_err(unknown_end)?);
                    continue;
                }
            };
            let count = count.map_err(|error| {
                let message = format!("the output of the program cannot be read: {error}");
                CallFailure::new(FailureKind::Unavailable, message)
            })?;
            self.total += count;
            self.at_end = count == 0;
            if self.total > OUTPUT_BYTES {
                return Err(too_long("the output", OUTPUT_BYTES));
            }
        }
    }

    /// Closes its stdin and waits for its end; then nothing of its group is left.
    pub async fn wait(mut self) -> Result<Ended, CallFailure> {
        drop(self.stdin.take());
        let status = match self.status {
            Some(status) => status,
            None => self.child.wait().await.map_err(unknown_end)?,
        };
        self.group.kill();
        // Nobody holds its other end any more, so it ends.
        let _ = (&mut self.stderr).await;
        let words = std::mem::take(&mut *self.words.lock().unwrap_or_else(PoisonError::into_inner));
        Ok(Ended { status, words })
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stderr.abort();
        if let Some(writer) = &self.writer {
            writer.abort();
        }
    }
}

fn unknown_end(error: std::io::Error) -> CallFailure {
    let message = format!("the program cannot be waited for: {error}");
    CallFailure::new(FailureKind::Unavailable, message)
}

fn utf8(line: Vec<u8>) -> Result<String, CallFailure> {
    String::from_utf8(line).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        let message = format!("the output of the program is not UTF-8 at byte {at} of a line");
        CallFailure::new(FailureKind::InvalidOutput, message)
    })
}

/// A file for the program alone, which goes when the call ends.
pub(super) struct KeptFile(PathBuf);

impl KeptFile {
    pub fn new(content: &Json) -> Result<Self, CallFailure> {
        let failed = |error: String| {
            CallFailure::new(FailureKind::Unavailable, format!("a temporary file cannot be written: {error}"))
        };
        let mut random = [0; 8];
        getrandom::fill(&mut random).map_err(|error| failed(error.to_string()))?;
        let name = format!("wfhost-{:016x}.json", u64::from_le_bytes(random));
        let path = std::env::temp_dir().join(name);
        let file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path);
        let kept = file.map(|file| (file, Self(path)));
        let (mut file, kept) = kept.map_err(|error| failed(error.to_string()))?;
        file.write_all(content.as_str().as_bytes()).map_err(|error| failed(error.to_string()))?;
        Ok(kept)
    }

    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for KeptFile {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}
