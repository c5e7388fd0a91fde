//! A network between hosts and their server that can be made to fail.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// How often a thread looks whether something changed.
const LOOK: Duration = Duration::from_millis(20);

/// Passes connections on to a port of this machine.
pub struct Proxy {
    port: u16,
    state: Arc<State>,
}

#[derive(Default)]
struct State {
    open: Mutex<Vec<Pair>>,
    /// Answers that are thrown away, with their connections.
    unanswered: AtomicU64,
    /// How often that was done.
    cut: AtomicU64,
    over: AtomicBool,
}

struct Pair {
    client: TcpStream,
    server: TcpStream,
    /// Nothing passes any more, and nobody is told.
    dead: Arc<AtomicBool>,
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
        for pair in self.state.open.lock().unwrap().drain(..) {
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

    /// Through all connections there are nothing passes any more; new ones are not concerned.
    pub fn swallow_all(&self) {
        for pair in self.state.open.lock().unwrap().iter() {
            pair.dead.store(true, Ordering::Relaxed);
        }
    }
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
        let dead = Arc::new(AtomicBool::new(false));
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
        self.open.lock().unwrap().push(Pair { client: kept.0, server: kept.1, dead: Arc::clone(&dead) });
        for ((from, to), is_answer) in [(there, false), (back, true)] {
            let (state, dead) = (Arc::clone(self), Arc::clone(&dead));
            std::thread::spawn(move || state.carry(from, to, &dead, is_answer));
        }
    }

    fn carry(&self, mut from: TcpStream, mut to: TcpStream, dead: &AtomicBool, is_answer: bool) {
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
            if to.write_all(&buffer[..read]).is_err() {
                break;
            }
        }
        let _ = from.shutdown(Shutdown::Both);
        let _ = to.shutdown(Shutdown::Both);
    }
}
