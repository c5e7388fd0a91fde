//! The process between the host and a program.
//!
//! A program starts others, and those may leave its process group (`setsid`)
//! and lose their parent, so nothing but the kernel knows that they belong to a
//! call. The host therefore starts itself once more as a *supervisor*, which
//! starts the program. It is a *subreaper* (PR_SET_CHILD_SUBREAPER): whoever of
//! its descendants loses the parent becomes its child, so none gets out of
//! sight, however it was started. It outlives the host: when the host closes the
//! connection between them or dies, the supervisor ends what is left, by SIGTERM
//! first and by SIGKILL after [`GRACE`].
//!
//! Its stdin and stdout are the program's. Its stderr is the connection: the
//! supervisor writes frames to it (a byte that says what it is, the length of
//! the rest as four bytes in network order, the rest), and the host only ever
//! closes it.

use std::io::{self, Write};
use std::os::fd::{AsFd, FromRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{ChildStderr, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::process::{Pid, Signal, WaitOptions};
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::Instant;

use super::processes::{Process, descendants};

/// What a supervisor is called, also in lists of processes.
pub(super) const NAME: &str = "wfhost-supervisor";
/// How long programs that were asked to end (SIGTERM) may take to do so.
pub(super) const GRACE: Duration = Duration::from_secs(3);
/// How often is looked who is left.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// Processes that died without their parent are noticed by a signal; one may be missed.
const REAP_EVERY: Duration = Duration::from_secs(5);
/// Bytes of stderr that are read at its program's end at most: somebody else may go on writing.
const LAST_BYTES: usize = 1 << 20;

/// Whether this executable can be started as a supervisor.
static CAN_SUPERVISE: AtomicBool = AtomicBool::new(false);

/// What a frame is.
pub(super) mod frame {
    /// What the program wrote to stderr.
    pub const STDERR: u8 = b'e';
    /// The program was started.
    pub const STARTED: u8 = b's';
    /// The program cannot be started: the number of the error.
    pub const FAILED: u8 = b'f';
    /// The program ended: its wait status.
    pub const EXITED: u8 = b'x';
    /// Nothing of it is left.
    pub const GONE: u8 = b'g';
}

/// Lets this executable supervise the programs of its host. To be called first
/// of all in `main`: it never returns in a process that was started for that.
///
/// A host whose executable does not call it starts programs itself. It then
/// finds those that left their group by a variable that they inherit, and those
/// that clear their environment too, or outlive a host that was killed, go on.
pub fn supervise_if_asked() {
    let mut args = std::env::args_os();
    if args.next().is_some_and(|name| name == NAME) {
        let code = match supervise(args.collect()) {
            Ok(()) => 0,
            Err(_) => 1,
        };
        std::process::exit(code);
    }
    CAN_SUPERVISE.store(true, Ordering::Relaxed);
}

/// Whether this process can start supervisors.
pub(super) fn is_available() -> bool {
    CAN_SUPERVISE.load(Ordering::Relaxed)
}

fn supervise(argv: Vec<std::ffi::OsString>) -> io::Result<()> {
    let connection = UnixStream::from(io::stderr().as_fd().try_clone_to_owned()?);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        rustix::process::set_child_subreaper(Some(rustix::process::getpid()))?;
        let mut children = signal(SignalKind::child())?;
        let mut asked = [SignalKind::terminate(), SignalKind::interrupt(), SignalKind::hangup()]
            .into_iter()
            .map(signal)
            .collect::<io::Result<Vec<_>>>()?;
        let Some(((program, args), mut host)) = argv.split_first().zip(Some(Host::new(connection)?)) else {
            return Err(io::ErrorKind::InvalidInput.into());
        };
        let mut command = Command::new(program);
        command.args(args).stdin(Stdio::inherit()).stdout(Stdio::inherit()).stderr(Stdio::piped());
        let started = command.process_group(0).spawn();
        // The program has them. As long as the supervisor had them too, nobody would see their end.
        for number in [0, 1] {
            // SAFETY: nothing in this process uses its stdin or its stdout.
            drop(unsafe { OwnedFd::from_raw_fd(number) });
        }
        let mut child = match started {
            Ok(child) => child,
            Err(error) => {
                let number = error.raw_os_error().unwrap_or_default();
                host.say(frame::FAILED, &number.to_be_bytes());
                return Ok(());
            }
        };
        host.say(frame::STARTED, &[]);
        let mut stderr = child.stderr.take().map(receiver).transpose()?;
        let mut family = Family { leader: child.id(), ..Family::default() };
        loop {
            let mut buffer = [0; 8_192];
            let wake = match family.ending {
                Some(_) => LOOK_EVERY,
                None => REAP_EVERY,
            };
            tokio::select! {
                _ = children.recv() => {}
                () = host.closed(), if family.ending.is_none() => family.end(),
                () = any(&mut asked), if family.ending.is_none() => family.end(),
                count = read(&mut stderr, &mut buffer), if stderr.is_some() => match count {
                    Ok(count @ 1..) => host.say(frame::STDERR, &buffer[..count]),
                    _ => stderr = None,
                },
                () = tokio::time::sleep(wake) => {}
            }
            let left = family.reap();
            if let Some(status) = family.exited.take() {
                host.tell_rest(stderr.as_mut());
                host.say(frame::EXITED, &status.into_raw().to_be_bytes());
                family.end();
            }
            if !left {
                host.say(frame::GONE, &[]);
                return Ok(());
            }
            family.signal_all();
        }
    })
}

fn receiver(stderr: ChildStderr) -> io::Result<pipe::Receiver> {
    pipe::Receiver::from_owned_fd(OwnedFd::from(stderr))
}

async fn read(stderr: &mut Option<pipe::Receiver>, buffer: &mut [u8]) -> io::Result<usize> {
    match stderr {
        Some(stderr) => stderr.read(buffer).await,
        None => std::future::pending().await,
    }
}

async fn any(signals: &mut [tokio::signal::unix::Signal]) {
    futures_util::future::select_all(signals.iter_mut().map(|signal| Box::pin(signal.recv()))).await;
}

/// The connection to the host.
struct Host {
    /// Writing waits for the host, which always reads.
    writer: UnixStream,
    reader: tokio::net::UnixStream,
}

impl Host {
    fn new(connection: UnixStream) -> io::Result<Self> {
        let reader = connection.try_clone()?;
        reader.set_nonblocking(true)?;
        Ok(Self { writer: connection, reader: tokio::net::UnixStream::from_std(reader)? })
    }

    /// Writes a frame. A host that is gone needs none.
    fn say(&mut self, kind: u8, content: &[u8]) {
        let mut frame = vec![kind];
        frame.extend((content.len() as u32).to_be_bytes());
        frame.extend(content);
        // Both ends share whether they wait: it is the same open socket.
        let mut rest = frame.as_slice();
        while !rest.is_empty() {
            match self.writer.write(rest) {
                Ok(count) => rest = &rest[count..],
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    std::thread::sleep(Duration::from_millis(1));
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return,
            }
        }
    }

    /// Tells what the program wrote before it ended.
    fn tell_rest(&mut self, stderr: Option<&mut pipe::Receiver>) {
        let Some(stderr) = stderr else { return };
        let mut buffer = [0; 8_192];
        let mut told = 0;
        // Of the pipe itself: the runtime knows of what came since it was last read only after its next look.
        while told < LAST_BYTES
            && let Ok(count @ 1..) = rustix::io::read(&*stderr, &mut buffer)
        {
            self.say(frame::STDERR, &buffer[..count]);
            told += count;
        }
    }

    /// Ends when the host closed the connection or died.
    async fn closed(&mut self) {
        let mut byte = [0];
        // It never says anything.
        while let Ok(1..) = self.reader.read(&mut byte).await {}
    }
}

/// The program and all that it started.
#[derive(Default)]
struct Family {
    leader: u32,
    exited: Option<ExitStatus>,
    /// Since when it is being ended.
    ending: Option<Instant>,
    asked: std::collections::HashSet<Process>,
}

impl Family {
    fn end(&mut self) {
        self.ending.get_or_insert_with(Instant::now);
    }

    /// Takes note of those that died. Says whether there are others.
    fn reap(&mut self) -> bool {
        loop {
            match rustix::process::wait(WaitOptions::NOHANG) {
                Ok(Some((pid, status))) => {
                    if Pid::as_raw(Some(pid)).cast_unsigned() == self.leader {
                        self.exited = Some(ExitStatus::from_raw(status.as_raw()));
                    }
                }
                Ok(None) => return true,
                Err(rustix::io::Errno::INTR) => {}
                Err(_) => return false,
            }
        }
    }

    /// If the family is being ended: asks each of them once, and kills them
    /// after the grace. The numbers are right: nobody is reaped meanwhile but here.
    fn signal_all(&mut self) {
        let Some(since) = self.ending else { return };
        let is_over = since.elapsed() >= GRACE;
        for process in descendants(std::process::id()) {
            if is_over {
                process.signal(Signal::KILL);
            } else if self.asked.insert(process) {
                process.signal(Signal::TERM);
                // One that is stopped would not hear it.
                process.signal(Signal::CONT);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    /// A program that writes a line, is read, writes another one and ends is reaped before the runtime looks again.
    #[tokio::test]
    async fn the_last_words_are_told_before_the_runtime_has_seen_them() {
        let (mut told, connection) = UnixStream::pair().unwrap();
        let mut host = Host::new(connection).unwrap();
        let (reader, mut program) = io::pipe().unwrap();
        let mut stderr = Some(pipe::Receiver::from_owned_fd(reader.into()).unwrap());
        program.write_all(b"first\n").unwrap();
        let mut buffer = [0; 64];
        assert_eq!(read(&mut stderr, &mut buffer).await.unwrap(), 6);
        program.write_all(b"last\n").unwrap();
        host.tell_rest(stderr.as_mut());
        drop(host);
        let mut frames = Vec::new();
        told.read_to_end(&mut frames).unwrap();
        assert_eq!(frames, b"e\0\0\0\x05last\n");
    }
}
