use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use socket2::{Domain, Socket, Type};
use tokio::net::{TcpSocket, TcpStream};
use tokio::task::spawn_blocking;
use tokio::time::timeout;
use weft_netns::{Identity, Netns};
use weft_overlay::NetnsRef;

use super::late;

/// Connects to `address`, which is one of the namespace's own, from inside it.
pub(super) async fn open(
    netns: &NetnsRef,
    address: SocketAddr,
    limit: Duration,
) -> Result<TcpStream, String> {
    let netns = netns.clone();
    // A path may lead to a file system that does not answer.
    let socket = spawn_blocking(move || socket(&netns, address))
        .await
        .map_err(|error| format!("no socket could be opened: {error}"))??;
    let connect = TcpSocket::from_std_stream(socket.into()).connect(address);
    match timeout(limit, connect).await {
        Ok(Ok(stream)) => Ok(stream),
        Ok(Err(error)) if error.kind() == io::ErrorKind::ConnectionRefused => {
            Err(format!("{address} refuses connections"))
        }
        Ok(Err(error)) => Err(format!("no connection to {address}: {error}")),
        Err(_) => Err(late(format!("{address} accepts no connection"), limit)),
    }
}

fn socket(netns: &NetnsRef, address: SocketAddr) -> Result<Socket, String> {
    let inside = Netns::open(&netns.path).map_err(|error| error.to_string())?;
    let meant = Identity {
        device: netns.device,
        inode: netns.inode,
    };
    if inside.identity() != meant {
        return Err(format!(
            "the namespace {} is gone; another one is in its place",
            netns.path.display()
        ));
    }
    let first = bound(&inside, address.ip())?;
    // Where nobody listens on a port that the kernel also gives to clients, a socket would meet
    // itself (RFC 9293 section 3.5, simultaneous open) and keep the port from its server.
    let own = first.local_addr().map_err(unopened)?.as_socket();
    match own == Some(address) {
        true => bound(&inside, address.ip()),
        false => Ok(first),
    }
}

/// A socket of the namespace that has this address.
fn bound(inside: &Netns, address: IpAddr) -> Result<Socket, String> {
    let any_port = SocketAddr::new(address, 0);
    let socket = inside
        .socket(Domain::for_address(any_port), Type::STREAM, None)
        .map_err(|error| error.to_string())?;
    // Before the namespace has the address, a connection would leave it and meet somebody else.
    let bound = socket.bind(&any_port.into());
    bound.map_err(|error| match error.kind() {
        io::ErrorKind::AddrNotAvailable => format!("no interface of its namespace has {address}"),
        _ => unopened(error),
    })?;
    socket.set_nonblocking(true).map_err(unopened)?;
    Ok(socket)
}

fn unopened(error: io::Error) -> String {
    format!("no socket could be opened: {error}")
}
