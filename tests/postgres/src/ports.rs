//! Ports for programs that have to be told where to listen.

use std::net::{TcpListener, UdpSocket};
use std::sync::Mutex;

/// A port of TCP on which nobody listens, and none of the tests will but who asked for it, as long as this process lives.
///
/// One that is bound and released is taken by the next one who leaves the choice to the system, or by the end of a
/// connection. So it is none of those that the system chooses from; and among tests the port of the same number of UDP
/// shows that it is taken.
pub fn free_port() -> u16 {
    static KEPT: Mutex<Vec<UdpSocket>> = Mutex::new(Vec::new());
    let chosen = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap_or_default();
    let mut chosen = chosen.split_whitespace().filter_map(|number| number.parse().ok());
    let (first, last) = (chosen.next().unwrap_or(32_768), chosen.next().unwrap_or(60_999));
    let is_ours = |port: &u16| !(first..=last).contains(port);
    let is_free = |port: &u16| {
        let Ok(kept) = UdpSocket::bind(("127.0.0.1", *port)) else { return false };
        let is_free = TcpListener::bind(("127.0.0.1", *port)).is_ok();
        if is_free {
            KEPT.lock().expect("nobody panicked with it").push(kept);
        }
        is_free
    };
    // Those that services have by custom are mostly smaller.
    (10_000..=65_000).rev().filter(is_ours).find(is_free).expect("a free port")
}
