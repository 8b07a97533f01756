//! The relay's listening sockets.

use std::io;
use std::net::SocketAddr;

use socket2::{Domain, Protocol, SockRef, Socket, Type};
use tokio::net::{TcpListener, TcpStream};

/// Connections that wait to be accepted, where the host allows so many (`net.core.somaxconn`).
const BACKLOG: i32 = 4096;

/// Listens on an address, which need not be there yet (`IP_FREEBIND`, ip(7)). To be called inside a
/// tokio runtime.
pub(super) fn listen(at: SocketAddr, mss: Option<u16>) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(at), Type::STREAM, Some(Protocol::TCP))?;
    match at {
        SocketAddr::V4(_) => socket.set_freebind_v4(true)?,
        SocketAddr::V6(_) => {
            socket.set_only_v6(true)?;
            socket.set_freebind_v6(true)?;
        }
    }
    // Connections that ended a moment ago are no obstacle.
    socket.set_reuse_address(true)?;
    if let Some(mss) = mss {
        socket.set_tcp_mss(mss.into())?;
    }
    socket.set_nonblocking(true)?;
    socket.bind(&at.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

/// Changes the largest segment of connections that are accepted from now on.
pub(super) fn set_mss(socket: &TcpListener, mss: Option<u16>) -> io::Result<()> {
    mss.map_or(Ok(()), |mss| SockRef::from(socket).set_tcp_mss(mss.into()))
}

/// Where the client connected to, as far as this host knows: before packet rules sent it here.
pub(super) fn destination(stream: &TcpStream) -> io::Result<SocketAddr> {
    let own = stream.local_addr()?;
    let socket = SockRef::from(stream);
    let original = match own {
        SocketAddr::V4(_) => socket.original_dst_v4(),
        SocketAddr::V6(_) => socket.original_dst_v6(),
    };
    // There is none where connections are not tracked.
    Ok(original.ok().and_then(|at| at.as_socket()).unwrap_or(own))
}
