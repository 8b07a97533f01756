use std::io;
use std::net::{SocketAddr, UdpSocket};

use netlink_sys::{AsyncSocket as _, Socket, TokioSocket};
use tokio::runtime::Handle;

use crate::{Netns, NetnsError};

/// Opens sockets inside the namespace. A socket stays in the namespace that it was opened in,
/// whichever thread uses it.
impl Netns {
    /// A blocking netlink socket; `protocol` is one of [`netlink_sys::protocols`].
    ///
    /// # Errors
    /// When the namespace cannot be entered or the socket cannot be made.
    pub fn netlink(&self, protocol: isize) -> Result<Socket, NetnsError> {
        self.run(|| {
            let mut socket = Socket::new(protocol)?;
            socket.bind_auto()?;
            Ok(socket)
        })?
        .map_err(opening("netlink socket"))
    }

    /// A netlink socket for the tokio runtime that this is called in, such as
    /// `rtnetlink::from_socket` takes.
    ///
    /// # Errors
    /// When the namespace cannot be entered or the socket cannot be made.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn async_netlink(&self, protocol: isize) -> Result<TokioSocket, NetnsError> {
        let runtime = Handle::current();
        self.run(|| {
            let _inside = runtime.enter();
            let mut socket = TokioSocket::new(protocol)?;
            socket.socket_mut().bind_auto()?;
            Ok(socket)
        })?
        .map_err(opening("netlink socket"))
    }

    /// A UDP socket bound to `address`.
    ///
    /// # Errors
    /// When the namespace cannot be entered or the address cannot be bound in it.
    pub fn udp(&self, address: SocketAddr) -> Result<UdpSocket, NetnsError> {
        self.run(|| UdpSocket::bind(address))?
            .map_err(opening(&format!("UDP socket on {address}")))
    }

    /// A socket of any kind, such as a raw or a packet socket.
    ///
    /// # Errors
    /// When the namespace cannot be entered or the socket cannot be made.
    pub fn socket(
        &self,
        domain: socket2::Domain,
        kind: socket2::Type,
        protocol: Option<socket2::Protocol>,
    ) -> Result<socket2::Socket, NetnsError> {
        self.run(|| socket2::Socket::new(domain, kind, protocol))?
            .map_err(opening("socket"))
    }
}

fn opening(what: &str) -> impl FnOnce(io::Error) -> NetnsError + use<> {
    let doing = format!("open {what}");
    |source| NetnsError::Inside { doing, source }
}
