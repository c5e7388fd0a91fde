//! Programs: starting them under a supervisor, reading what they write line by
//! line, and leaving none of them behind.

use std::collections::VecDeque;
use std::io::{Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, Once, PoisonError};
use std::time::Duration;

use bytes::BytesMut;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::process::{Child, ChildStdin, ChildStdout};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use wfhost_core::{FailureKind, Json};

use super::ending;
use super::processes::MARKER;
use super::supervisor::{self, frame};
use crate::{CallFailure, CallOutput, Stream, without_escapes};

/// Bytes of one line.
const LINE_BYTES: usize = 16 << 20;
/// Bytes of all lines together.
const OUTPUT_BYTES: usize = 64 << 20;
/// Lines of stderr that are remembered for the message of a failure.
const LAST_WORDS: usize = 5;
/// Bytes of one line of stderr: what goes beyond is left out.
const WORDS_BYTES: usize = 64 << 10;
/// How long the output of a program that ended is read: what it wrote is there
/// at once, but others may hold the other end.
const DRAIN: Duration = Duration::from_secs(1);
/// Bytes of a frame of a supervisor.
const FRAME_BYTES: usize = 64 << 10;

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

/// A program that runs. Dropping it ends it and all that it started: by
/// SIGTERM first, and by SIGKILL after a grace.
pub(crate) struct Running {
    /// Closing it tells the supervisor to end the program.
    connection: Option<OwnedWriteHalf>,
    heard: Arc<Heard>,
    progress: watch::Receiver<Progress>,
    stdin: Option<ChildStdin>,
    output: Option<Output>,
    writer: Option<JoinHandle<()>>,
    directory: PathBuf,
}

/// How far a program is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Progress {
    Begins,
    Runs,
    /// The number of the error that kept it from being started.
    Failed(i32),
    Exited(ExitStatus),
    /// Its supervisor is gone without a word.
    Lost,
}

/// What is heard of a program besides its output.
struct Heard {
    stderr: Mutex<Stderr>,
}

struct Stderr {
    /// None after the call ended: nobody is interested any more.
    out: Option<CallOutput>,
    rest: Vec<u8>,
    words: VecDeque<String>,
}

/// Reads the stdout of a program line by line.
struct Output {
    stdout: ChildStdout,
    buffer: BytesMut,
    /// Where the line that is looked for may end: all before was looked at.
    looked: usize,
    total: usize,
    at_end: bool,
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
        Some(match self.words.is_empty() {
            false => format!("{how}: {}", crate::web::shorten(&self.words.join("; "))),
            true => how,
        })
    }

    /// The exit code, unless a signal ended it.
    pub fn code(&self) -> Option<i32> {
        self.status.code()
    }

    /// The last lines that it wrote to stderr.
    pub fn last_words(&self) -> &[String] {
        &self.words
    }
}

impl Spawn<'_> {
    /// Starts it, after what was started before in its directory is gone. What
    /// it writes to stderr is shown as progress.
    pub async fn start(self, out: CallOutput) -> Result<Running, CallFailure> {
        let Some(program) = self.argv.first().cloned() else {
            return Err(CallFailure::new(FailureKind::Rejected, "the provider has no program"));
        };
        let directory = self.directory.map(Path::to_owned).unwrap_or_default();
        ending::wait(&directory).await;
        let mut running = match supervisor::is_available() {
            true => self.supervised(&program, out, directory)?,
            false => self.direct(&program, out, directory)?,
        };
        if let Progress::Failed(number) = running.started().await {
            let directory = Some(running.directory.as_path()).filter(|path| *path != Path::new(""));
            return Err(cannot(&program, directory, &std::io::Error::from_raw_os_error(number)));
        }
        Ok(running)
    }

    fn command(&self, name: &str, args: &[String]) -> Result<(tokio::process::Command, String), CallFailure> {
        let mut random = [0; 16];
        getrandom::fill(&mut random)
            .map_err(|error| CallFailure::new(FailureKind::Unavailable, error.to_string()))?;
        let marker = format!("{:032x}", u128::from_le_bytes(random));
        let mut command = tokio::process::Command::new(name);
        command.args(args).env_clear().envs(self.environment.iter().cloned()).env(MARKER, &marker);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).process_group(0);
        if let Some(directory) = self.directory {
            command.current_dir(directory);
        }
        Ok((command, marker))
    }

    fn supervised(self, program: &str, out: CallOutput, directory: PathBuf) -> Result<Running, CallFailure> {
        let lost = |error: std::io::Error| {
            CallFailure::new(FailureKind::Unavailable, format!("`{program}` cannot be supervised: {error}"))
        };
        let (own, other) = std::os::unix::net::UnixStream::pair().map_err(lost)?;
        own.set_nonblocking(true).map_err(lost)?;
        let (reader, connection) = UnixStream::from_std(own).map_err(lost)?.into_split();
        let (mut command, marker) = self.command("/proc/self/exe", &self.argv)?;
        command.arg0(supervisor::NAME).stderr(Stdio::from(std::os::fd::OwnedFd::from(other)));
        let mut child = command.spawn().map_err(|error| cannot(program, self.directory, &error))?;
        // It has the only other end of the connection now.
        drop(command);
        let heard = Arc::new(Heard::new(out));
        let (told, progress) = watch::channel(Progress::Begins);
        let running = Running::new(self.input, &mut child, heard, progress, Some(connection), directory)?;
        tokio::spawn(listen(reader, child, Arc::clone(&running.heard), told, marker));
        Ok(running)
    }

    fn direct(self, program: &str, out: CallOutput, directory: PathBuf) -> Result<Running, CallFailure> {
        let (mut command, marker) = self.command(program, &self.argv[1..])?;
        command.stderr(Stdio::piped());
        let mut child = command.spawn().map_err(|error| cannot(program, self.directory, &error))?;
        let heard = Arc::new(Heard::new(out));
        let (told, progress) = watch::channel(Progress::Runs);
        // Nobody listens at its other end, but it is noticed when it is closed.
        let (own, other) = UnixStream::pair().map_err(|error| cannot(program, None, &error))?;
        let stderr = child.stderr.take();
        let connection = Some(own.into_split().1);
        let running = Running::new(self.input, &mut child, heard, progress, connection, directory)?;
        tokio::spawn(watch_over(other, child, stderr, Arc::clone(&running.heard), told, marker));
        Ok(running)
    }
}

/// A program that cannot be started.
fn cannot(program: &str, directory: Option<&Path>, error: &std::io::Error) -> CallFailure {
    let (kind, why) = match error.kind() {
        std::io::ErrorKind::ArgumentListTooLong => (
            FailureKind::Rejected,
            "its arguments are too long: the limit for each is 128 KiB. With prompt = \"stdin\" the program reads \
             the prompt from its standard input, which has no limit"
                .to_owned(),
        ),
        // A zero byte within an argument.
        std::io::ErrorKind::InvalidInput => (FailureKind::Rejected, error.to_string()),
        std::io::ErrorKind::NotFound => (FailureKind::Unavailable, what_is_missing(program, directory)),
        _ => (FailureKind::Unavailable, error.to_string()),
    };
    // The same would happen the next time.
    CallFailure { exhausted: true, ..CallFailure::new(kind, format!("`{program}` cannot be started: {why}")) }
}

/// The system says that something is missing, and not what.
fn what_is_missing(program: &str, directory: Option<&Path>) -> String {
    if let Some(directory) = directory.filter(|directory| !directory.is_dir()) {
        return format!("its directory {} does not exist", directory.display());
    }
    // A path is looked up in the directory that the program is started in.
    let path = directory.filter(|_| program.contains('/')).map(|directory| directory.join(program));
    let path = path.map_or_else(|| program.to_owned(), |path| path.to_string_lossy().into_owned());
    let Some(file) = find_program(&path) else {
        return match program.contains('/') {
            true => "the program does not exist".to_owned(),
            false => "the program was not found on PATH".to_owned(),
        };
    };
    match interpreter(&file) {
        Some(interpreter) => format!("its interpreter `{interpreter}` does not exist"),
        None => "its loader does not exist: it was built for another system".to_owned(),
    }
}

/// The program that a script names in its first line.
fn interpreter(script: &Path) -> Option<String> {
    let mut head = [0; 256];
    let count = std::fs::File::open(script).and_then(|mut file| file.read(&mut head)).ok()?;
    let line = head[..count].strip_prefix(b"#!")?.split(|byte| *byte == b'\n').next()?;
    let line = String::from_utf8_lossy(line);
    line.split_whitespace().next().map(str::to_owned)
}

/// Hears what a supervisor tells, until nothing of its program is left.
async fn listen(
    mut reader: OwnedReadHalf,
    mut child: Child,
    heard: Arc<Heard>,
    told: watch::Sender<Progress>,
    marker: String,
) {
    let mut content = Vec::new();
    let gone = loop {
        let mut head = [0; 5];
        if reader.read_exact(&mut head).await.is_err() {
            break false;
        }
        let [kind, length @ ..] = head;
        let length = u32::from_be_bytes(length) as usize;
        if length > FRAME_BYTES {
            break false;
        }
        content.resize(length, 0);
        if reader.read_exact(&mut content).await.is_err() {
            break false;
        }
        let number = || i32::from_be_bytes(content.as_slice().try_into().unwrap_or_default());
        match kind {
            frame::STDERR => heard.stderr(&content),
            frame::STARTED => drop(told.send_replace(Progress::Runs)),
            frame::FAILED => drop(told.send_replace(Progress::Failed(number()))),
            frame::EXITED => drop(told.send_replace(Progress::Exited(ExitStatus::from_raw(number())))),
            frame::GONE => break true,
            _ => break false,
        }
    };
    heard.end_of_stderr();
    told.send_if_modified(|progress| {
        let is_lost = matches!(progress, Progress::Begins | Progress::Runs);
        if is_lost {
            *progress = Progress::Lost;
        }
        is_lost
    });
    let failed = matches!(&*told.borrow(), Progress::Failed(_));
    if !gone && !failed {
        // Somebody killed it. What it looked after is still found by what it inherited.
        ending::sweep(marker).await;
    }
    let _ = child.wait().await;
}

/// Looks after a program without a supervisor.
async fn watch_over(
    mut connection: UnixStream,
    mut child: Child,
    stderr: Option<tokio::process::ChildStderr>,
    heard: Arc<Heard>,
    told: watch::Sender<Progress>,
    marker: String,
) {
    let reading = tokio::spawn({
        let heard = Arc::clone(&heard);
        async move {
            let mut buffer = [0; 8_192];
            let Some(mut stderr) = stderr else { return };
            while let Ok(count @ 1..) = stderr.read(&mut buffer).await {
                heard.stderr(&buffer[..count]);
            }
        }
    });
    let mut byte = [0];
    let status = tokio::select! {
        status = child.wait() => status.ok(),
        _ = connection.read(&mut byte) => None,
    };
    let _ = tokio::time::timeout(Duration::from_millis(100), reading).await;
    heard.end_of_stderr();
    told.send_replace(status.map_or(Progress::Lost, Progress::Exited));
    ending::sweep(marker).await;
    let _ = child.wait().await;
}

impl Heard {
    fn new(out: CallOutput) -> Self {
        let stderr = Stderr { out: Some(out), rest: Vec::new(), words: VecDeque::new() };
        Self { stderr: Mutex::new(stderr) }
    }

    fn lock(&self) -> MutexGuard<'_, Stderr> {
        self.stderr.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn stderr(&self, bytes: &[u8]) {
        let mut stderr = self.lock();
        for &byte in bytes {
            // A progress bar writes over its line again and again.
            if matches!(byte, b'\n' | b'\r') {
                stderr.say();
            } else if stderr.rest.len() < WORDS_BYTES {
                stderr.rest.push(byte);
            }
        }
    }

    fn end_of_stderr(&self) {
        self.lock().say();
    }
}

impl Stderr {
    fn say(&mut self) {
        let mut line = std::mem::take(&mut self.rest);
        if line.len() >= WORDS_BYTES {
            // Between words: half a secret would not be known as one.
            line.truncate(line.iter().rposition(u8::is_ascii_whitespace).unwrap_or(0));
            line.extend("…".bytes());
        }
        let text = without_escapes(String::from_utf8_lossy(&line).trim_end());
        if text.trim().is_empty() {
            return;
        }
        if self.words.len() == LAST_WORDS {
            self.words.pop_front();
        }
        self.words.push_back(text.clone());
        if let Some(out) = &self.out {
            out.line(Stream::Progress, text);
        }
    }
}

impl Running {
    fn new(
        input: Option<String>,
        child: &mut Child,
        heard: Arc<Heard>,
        progress: watch::Receiver<Progress>,
        connection: Option<OwnedWriteHalf>,
        directory: PathBuf,
    ) -> Result<Self, CallFailure> {
        let mut stdin = child.stdin.take();
        let stdout = child
            .stdout
            .take()
            .ok_or_else(|| CallFailure::new(FailureKind::Unavailable, "the program has no pipes"))?;
        let writer = input.and_then(|input| {
            let mut stdin = stdin.take()?;
            // A program that does not read it all is none the worse for it.
            Some(tokio::spawn(async move {
                let _ = stdin.write_all(input.as_bytes()).await;
                let _ = stdin.shutdown().await;
            }))
        });
        let output = Output { stdout, buffer: BytesMut::new(), looked: 0, total: 0, at_end: false };
        Ok(Self { connection, heard, progress, stdin, output: Some(output), writer, directory })
    }

    /// Waits until it is known whether it could be started.
    async fn started(&mut self) -> Progress {
        let known = self.progress.wait_for(|progress| *progress != Progress::Begins).await;
        known.map_or(Progress::Lost, |progress| progress.clone())
    }

    /// Writes to its stdin.
    pub async fn write(&mut self, text: &str) -> Result<(), CallFailure> {
        let Some(stdin) = &mut self.stdin else { return Ok(()) };
        let written = async {
            stdin.write_all(text.as_bytes()).await?;
            stdin.flush().await
        };
        written.await.map_err(|error| {
            let message = format!("the program no longer accepts input: {error}");
            CallFailure::new(FailureKind::Unavailable, message)
        })
    }

    /// The next line of its stdout.
    pub async fn line(&mut self) -> Result<Option<Line>, CallFailure> {
        let Some(output) = &mut self.output else { return Ok(None) };
        let mut drained = None;
        loop {
            if let Some(line) = output.next_line()? {
                return Ok(Some(line));
            }
            if output.at_end {
                return output.last_line();
            }
            output.buffer.reserve(64 << 10);
            let ended = async {
                match drained {
                    None => {
                        // A sender that is gone told how it ended.
                        let _ = self.progress.wait_for(Progress::is_end).await;
                    }
                    Some(until) => tokio::time::sleep_until(until).await,
                }
            };
            let count = tokio::select! {
                biased;
                count = output.stdout.read_buf(&mut output.buffer) => count,
                () = ended => match drained {
                    None => {
                        drained = Some(tokio::time::Instant::now() + DRAIN);
                        continue;
                    }
                    Some(_) => Ok(0),
                }
            };
            let count = count.map_err(|error| {
                let message = format!("the output of the program cannot be read: {error}");
                CallFailure::new(FailureKind::Unavailable, message)
            })?;
            output.take(count)?;
        }
    }

    /// Closes its stdin and waits for its end. What it left behind is being
    /// ended then.
    pub async fn wait(&mut self) -> Result<Ended, CallFailure> {
        drop(self.stdin.take());
        let _ = self.progress.wait_for(Progress::is_end).await;
        let status = match &*self.progress.borrow() {
            Progress::Exited(status) => *status,
            _ => {
                let message = "the supervisor of the program was killed";
                return Err(CallFailure::new(FailureKind::Unavailable, message));
            }
        };
        Ok(Ended { status, words: self.last_words() })
    }

    /// The last lines that it wrote to stderr up to now.
    pub fn last_words(&self) -> Vec<String> {
        self.heard.lock().words.iter().cloned().collect()
    }
}

impl Progress {
    fn is_end(&self) -> bool {
        !matches!(self, Self::Begins | Self::Runs)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(writer) = &self.writer {
            writer.abort();
        }
        // What it says from now on belongs to no call.
        self.heard.lock().out = None;
        // What works in this directory next waits until it is gone.
        ending::note(std::mem::take(&mut self.directory), self.progress.clone());
        drop(self.connection.take());
    }
}

impl Output {
    /// The next line that is complete.
    fn next_line(&mut self) -> Result<Option<Line>, CallFailure> {
        let end = self.buffer[self.looked..].iter().position(|byte| *byte == b'\n');
        let Some(end) = end.map(|end| self.looked + end) else {
            self.looked = self.buffer.len();
            return Ok(None);
        };
        let line = self.buffer.split_to(end + 1);
        self.looked = 0;
        // A line takes the room that it needs, not that of the buffer.
        Ok(Some(Line { text: utf8(line[..end].to_vec())?, whole: true }))
    }

    /// What comes after the last line end.
    fn last_line(&mut self) -> Result<Option<Line>, CallFailure> {
        self.looked = 0;
        match std::mem::take(&mut self.buffer).to_vec() {
            rest if rest.is_empty() => Ok(None),
            rest => Ok(Some(Line { text: utf8(rest)?, whole: false })),
        }
    }

    /// Takes note of what was read into the buffer.
    fn take(&mut self, count: usize) -> Result<(), CallFailure> {
        let too_long = |what: &str, limit: usize| {
            let message = format!("{what} of the program is longer than {} MiB", limit >> 20);
            Err(CallFailure::new(FailureKind::InvalidOutput, message))
        };
        self.total += count;
        self.at_end = count == 0;
        if self.total > OUTPUT_BYTES {
            return too_long("the output", OUTPUT_BYTES);
        }
        let line =
            self.buffer.len() - self.buffer.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        if line > LINE_BYTES {
            return too_long("a line", LINE_BYTES);
        }
        Ok(())
    }
}

fn utf8(line: Vec<u8>) -> Result<String, CallFailure> {
    String::from_utf8(line).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        let message = format!("the output of the program is not UTF-8 at byte {at} of a line");
        CallFailure::new(FailureKind::InvalidOutput, message)
    })
}

/// A file that is older and that no host holds was left behind by one that was killed.
const LEFT_BEHIND: Duration = Duration::from_secs(24 * 60 * 60);

/// A file for the program alone, which goes when the call ends.
pub(super) struct KeptFile {
    path: PathBuf,
    /// It is locked as long as this process lives, so that whoever finds it knows whether it is in use.
    file: std::fs::File,
}

impl KeptFile {
    pub fn new(content: &Json) -> Result<Self, CallFailure> {
        let directory = std::env::temp_dir();
        static SWEPT: Once = Once::new();
        SWEPT.call_once(|| Self::sweep(&directory));
        Self::within(&directory, content)
    }

    /// Removes the files of hosts that were killed: nobody holds them any more.
    fn sweep(directory: &Path) {
        let is_ours = |name: &str| {
            let number = name.strip_prefix("wfhost-").and_then(|rest| rest.strip_suffix(".json"));
            number.is_some_and(|number| {
                number.len() == 16 && number.bytes().all(|byte| byte.is_ascii_hexdigit())
            })
        };
        let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
        for entry in entries.filter(|entry| entry.file_name().to_str().is_some_and(is_ours)) {
            // Neither a link nor a pipe that somebody put there is opened.
            let is_old = entry.metadata().is_ok_and(|data| {
                let age = data.modified().ok().and_then(|at| at.elapsed().ok());
                data.is_file() && age.is_some_and(|age| age > LEFT_BEHIND)
            });
            let path = entry.path();
            if is_old && std::fs::File::open(&path).is_ok_and(|file| file.try_lock().is_ok()) {
                let _ = std::fs::remove_file(path);
            }
        }
    }

    fn within(directory: &Path, content: &Json) -> Result<Self, CallFailure> {
        let failed = |error: String| {
            CallFailure::new(FailureKind::Unavailable, format!("a temporary file cannot be written: {error}"))
        };
        let mut random = [0; 8];
        getrandom::fill(&mut random).map_err(|error| failed(error.to_string()))?;
        let name = format!("wfhost-{:016x}.json", u64::from_le_bytes(random));
        let path = directory.join(name);
        let file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path);
        let file = file.map_err(|error| failed(error.to_string()))?;
        let mut kept = Self { path, file };
        kept.file.lock().map_err(|error| failed(error.to_string()))?;
        kept.file.write_all(content.as_str().as_bytes()).map_err(|error| failed(error.to_string()))?;
        Ok(kept)
    }

    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for KeptFile {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_of_hosts_that_were_killed_go_when_they_are_old() {
        let dir = tempfile::tempdir().unwrap();
        let old = std::time::SystemTime::now() - 2 * LEFT_BEHIND;
        let content = Json::null();
        let make = |name: &str| {
            let path = dir.path().join(name);
            std::fs::write(&path, "{}").unwrap();
            path
        };
        let age = |path: &Path| std::fs::File::open(path).unwrap().set_modified(old).unwrap();
        let [left, young, other] =
            ["wfhost-0123456789abcdef.json", "wfhost-1123456789abcdef.json", "wfhost-mine.json"].map(make);
        let kept = KeptFile::within(dir.path(), &content).unwrap();
        [&left, &other, &kept.path().to_owned()].into_iter().for_each(|path| age(path));
        KeptFile::sweep(dir.path());
        let exists = [&left, &young, &other, &kept.path().to_owned()].map(|path| path.exists());
        assert_eq!(exists, [false, true, true, true], "one that is in use stays");
        let path = kept.path().to_owned();
        drop(kept);
        assert!(!path.exists());
    }
}
