//! Tells the service manager how it is with this process, as `Type=notify` units do (sd_notify(3)).

use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};

use wfhost::world::environment;

/// What is told.
#[derive(Clone, Copy, Debug)]
pub(super) enum State {
    /// Requests are answered, and runs advanced.
    Ready,
    /// It ends, and takes nothing new.
    Stopping,
}

/// Tells it, if somebody wants to know. Whether it is heard changes nothing.
pub(super) fn notify(state: State) {
    let Some(place) = environment::get(environment::NOTIFY_SOCKET) else { return };
    let text = match state {
        State::Ready => "READY=1\nSTATUS=Answering",
        State::Stopping => "STOPPING=1\nSTATUS=Waiting for the calls under way",
    };
    let address = match place.as_bytes() {
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name),
        path => SocketAddr::from_pathname(std::ffi::OsStr::from_bytes(path)),
    };
    if let (Ok(address), Ok(socket)) = (address, UnixDatagram::unbound()) {
        let _ = socket.send_to_addr(text.as_bytes(), &address);
    }
}
