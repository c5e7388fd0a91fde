//! A network between hosts and their server that can be made to fail.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// How often a thread looks whether something changed.
const LOOK: Duration = Duration::from_millis(20);

/// Passes connections on to a port of this machine.
#[derive(Debug)]
pub struct Proxy {
    port: u16,
    state: Arc<State>,
}

#[derive(Debug, Default)]
struct State {
    open: Mutex<Vec<Pair>>,
    /// Answers that are thrown away, with their connections.
    unanswered: AtomicU64,
    /// How often that was done.
    cut: AtomicU64,
    /// How many connections were asked for.
    asked: AtomicU64,
    /// How many bytes of answers passed.
    answered: AtomicU64,
    /// How many bytes pass in a second, in each direction of a connection; 0: as many as there are.
    per_second: AtomicU64,
    /// New connections are told that there are too many.
    crowded: AtomicBool,
    over: AtomicBool,
}

#[derive(Debug)]
struct Pair {
    client: TcpStream,
    server: TcpStream,
    /// Nothing passes any more, and nobody is told.
    dead: Arc<AtomicBool>,
    /// What is sent waits, also if nobody waits for an answer any more.
    held: Arc<AtomicBool>,
}

impl Proxy {
    pub fn to(port: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let own = listener.local_addr().expect("it has one").port();
        let state = Arc::new(State::default());
        let accepting = Arc::clone(&state);
        std::thread::spawn(move || {
            for client in listener.incoming() {
                if accepting.over.load(Ordering::Relaxed) {
                    return;
                }
                let Ok(client) = client else { continue };
                accepting.asked.fetch_add(1, Ordering::Relaxed);
                if accepting.crowded.load(Ordering::Relaxed) {
                    refuse(client);
                    continue;
                }
                // The server may be away.
                let Ok(server) = TcpStream::connect(("127.0.0.1", port)) else { continue };
                accepting.pass(client, server);
            }
        });
        Self { port: own, state }
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// Ends all connections there are.
    pub fn cut_all(&self) {
        for pair in self.state.open.lock().expect("nobody panicked with it").drain(..) {
            let _ = pair.client.shutdown(Shutdown::Both);
            let _ = pair.server.shutdown(Shutdown::Both);
        }
    }

    /// Cuts so many connections when the server answers something: what became of that nobody is told.
    pub fn cut_before_answers(&self, count: u64) {
        self.state.unanswered.store(count, Ordering::Relaxed);
    }

    /// How many were cut so.
    pub fn cut(&self) -> u64 {
        self.state.cut.load(Ordering::Relaxed)
    }

    /// How many connections were asked for.
    pub fn asked(&self) -> u64 {
        self.state.asked.load(Ordering::Relaxed)
    }

    /// How many bytes of answers have passed.
    pub fn answered(&self) -> u64 {
        self.state.answered.load(Ordering::Relaxed)
    }

    /// From now on so many bytes pass in a second, in each direction of a connection.
    pub fn slow_down(&self, per_second: u64) {
        self.state.per_second.store(per_second, Ordering::Relaxed);
    }

    /// From now on the server has no room for further connections, as it says.
    pub fn crowd(&self) {
        self.state.crowded.store(true, Ordering::Relaxed);
    }

    /// What is sent through the connections that there are waits until [`Proxy::let_go`]; new ones are not concerned.
    pub fn hold_all(&self) {
        self.hold(true);
    }

    /// What waited is delivered.
    pub fn let_go(&self) {
        self.hold(false);
    }

    fn hold(&self, held: bool) {
        for pair in self.state.open.lock().expect("nobody panicked with it").iter() {
            pair.held.store(held, Ordering::Relaxed);
        }
    }

    /// Through all connections there are nothing passes any more; new ones are not concerned.
    pub fn swallow_all(&self) {
        for pair in self.state.open.lock().expect("nobody panicked with it").iter() {
            pair.dead.store(true, Ordering::Relaxed);
        }
    }
}

/// Says what a server says that has as many connections as it takes.
fn refuse(mut client: TcpStream) {
    std::thread::spawn(move || {
        let _ = client.set_read_timeout(Some(Duration::from_secs(10)));
        // What is not read would have the answer thrown away.
        let _ = client.read(&mut [0; 4096]);
        let said = b"SFATAL\0VFATAL\0C53300\0Msorry, too many clients already\0\0";
        let mut answer = vec![b'E'];
        answer.extend((said.len() as u32 + 4).to_be_bytes());
        answer.extend(said);
        let _ = client.write_all(&answer);
        let _ = client.shutdown(Shutdown::Write);
        while matches!(client.read(&mut [0; 4096]), Ok(1..)) {}
    });
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.state.over.store(true, Ordering::Relaxed);
        self.cut_all();
        // The one that accepts looks.
        let _ = TcpStream::connect(("127.0.0.1", self.port));
    }
}

impl State {
    fn pass(self: &Arc<Self>, client: TcpStream, server: TcpStream) {
        let (dead, held) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
        for stream in [&client, &server] {
            stream.set_nodelay(true).expect("a socket");
            stream.set_read_timeout(Some(LOOK)).expect("a socket");
        }
        let pair = |client: &TcpStream, server: &TcpStream| {
            Some((client.try_clone().ok()?, server.try_clone().ok()?))
        };
        let (Some(there), Some(back), Some(kept)) =
            (pair(&client, &server), pair(&server, &client), pair(&client, &server))
        else {
            return;
        };
        self.open.lock().expect("nobody panicked with it").push(Pair {
            client: kept.0,
            server: kept.1,
            dead: Arc::clone(&dead),
            held: Arc::clone(&held),
        });
        for ((from, to), is_answer) in [(there, false), (back, true)] {
            let (state, dead, held) = (Arc::clone(self), Arc::clone(&dead), Arc::clone(&held));
            std::thread::spawn(move || state.carry(from, to, &dead, &held, is_answer));
        }
    }

    fn carry(
        &self,
        mut from: TcpStream,
        mut to: TcpStream,
        dead: &AtomicBool,
        held: &AtomicBool,
        is_answer: bool,
    ) {
        let mut buffer = [0; 64 << 10];
        loop {
            let read = match from.read(&mut buffer) {
                Ok(0) => break,
                Ok(read) => read,
                Err(error)
                    if matches!(
                        error.kind(),
                        std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut
                    ) =>
                {
                    continue;
                }
                Err(_) => break,
            };
            if dead.load(Ordering::Relaxed) {
                continue;
            }
            if is_answer {
                let taken = self
                    .unanswered
                    .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1));
                if taken.is_ok() {
                    self.cut.fetch_add(1, Ordering::Relaxed);
                    break;
                }
            }
            while !is_answer && held.load(Ordering::Relaxed) && !self.over.load(Ordering::Relaxed) {
                std::thread::sleep(LOOK);
            }
            if to.write_all(&buffer[..read]).is_err() {
                break;
            }
            if is_answer {
                self.answered.fetch_add(read as u64, Ordering::Relaxed);
            }
            let per_second = self.per_second.load(Ordering::Relaxed);
            if let Some(micros) = (read as u64 * 1_000_000).checked_div(per_second) {
                std::thread::sleep(Duration::from_micros(micros));
            }
        }
        let _ = from.shutdown(Shutdown::Both);
        let _ = to.shutdown(Shutdown::Both);
    }
}
