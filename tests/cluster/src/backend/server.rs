use std::io::{BufRead, BufReader, Write};
use std::net::{IpAddr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::thread;

use anyhow::{Context, Result};
use socket2::{Domain, Protocol, Socket, Type};

/// Connections served at a time; more wait in the backlog.
const BACKLOG: i32 = 1024;

/// Serves until it is killed. A line over TCP, or a datagram, is answered by `NAME PEER`; a line that
/// begins like an HTTP request gets that as an HTTP answer.
pub(crate) fn serve(name: &str, port: u16) -> Result<()> {
    let any = SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), port);
    let udp = dual(any, Type::DGRAM, Protocol::UDP)?;
    let tcp = dual(any, Type::STREAM, Protocol::TCP)?;
    tcp.listen(BACKLOG)?;
    let (udp, tcp) = (UdpSocket::from(udp), TcpListener::from(tcp));
    let own = name.to_owned();
    thread::spawn(move || datagrams(&own, &udp));
    println!("ready");
    loop {
        let Ok((stream, peer)) = tcp.accept() else {
            continue;
        };
        let own = name.to_owned();
        thread::spawn(move || lines(&own, stream, peer));
    }
}

/// A socket of both families.
fn dual(address: SocketAddr, kind: Type, protocol: Protocol) -> Result<Socket> {
    let socket = Socket::new(Domain::IPV6, kind, Some(protocol))?;
    socket.set_only_v6(false)?;
    socket.set_reuse_address(true)?;
    let what = || format!("cannot serve on {address}");
    socket.bind(&address.into()).with_context(what)?;
    Ok(socket)
}

fn datagrams(name: &str, socket: &UdpSocket) {
    let mut buffer = [0; 2048];
    loop {
        if let Ok((_, peer)) = socket.recv_from(&mut buffer) {
            let _ = socket.send_to(answer(name, peer).as_bytes(), peer);
        }
    }
}

fn lines(name: &str, stream: TcpStream, peer: SocketAddr) {
    let Ok(mut out) = stream.try_clone() else {
        return;
    };
    let mut lines = BufReader::new(stream);
    let mut line = String::new();
    while matches!(lines.read_line(&mut line), Ok(read) if read > 0) {
        let body = answer(name, peer);
        if line.starts_with("GET ") {
            let length = body.len();
            let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\nConnection: close");
            let _ = write!(out, "{head}\r\n\r\n{body}");
            return;
        }
        if out.write_all(body.as_bytes()).is_err() {
            return;
        }
        line.clear();
    }
}

fn answer(name: &str, peer: SocketAddr) -> String {
    let peer = match peer.ip() {
        IpAddr::V6(ip) => ip.to_canonical(),
        ip => ip,
    };
    format!("{name} {peer}\n")
}
