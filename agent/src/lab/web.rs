//! A server that says who it is and whom it sees, and a client of it, so that no other program is
//! needed to see where a service's connections go.

use std::{
    io::{self, BufRead, BufReader, Read, Write},
    net::{IpAddr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    process::ExitCode,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, ensure};
use serde::{Deserialize, Serialize};
use socket2::{Domain, Protocol, Socket, Type};

use super::PATTERN;

/// Connections that wait to be taken.
const BACKLOG: i32 = 1024;
/// Longest line or datagram that is read.
const LINE_MAX: usize = 2048;
/// Bytes of a transfer that are read or written at a time.
const CHUNK: usize = 64 << 10;
/// Longest that a connection or an answer is waited for.
const PATIENCE: Duration = Duration::from_secs(10);

/// What to serve: TCP and UDP, over IPv4 and IPv6.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServeSpec {
    /// Who the server says it is.
    pub name: String,
    /// On every address of where it runs.
    pub port: u16,
}

/// Whom to ask.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FetchSpec {
    /// A server, or what stands for several.
    pub to: SocketAddr,
    /// How many requests, each over a TCP connection of its own.
    pub count: u32,
}

/// How much to have sent by a server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PullSpec {
    /// The server.
    pub from: SocketAddr,
    /// Bytes, each [`PATTERN`](super::PATTERN).
    pub bytes: u64,
}

/// What came.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pulled {
    /// Bytes.
    pub bytes: u64,
    /// How long that took.
    pub micros: u64,
}

/// What a server said.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    /// Its name.
    pub name: String,
    /// The client's address, as the server sees it.
    pub peer: IpAddr,
}

/// Serves until the process is killed. A line over TCP, or a datagram, is answered by `NAME PEER`; a
/// line that begins an HTTP request (RFC 9112 section 3) gets that as an HTTP answer, and `send NUMBER`
/// so many bytes.
///
/// # Errors
/// The port cannot be listened on.
pub fn serve(spec: &ServeSpec) -> anyhow::Result<ExitCode> {
    let any = SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), spec.port);
    let udp = dual(any, Type::DGRAM, Protocol::UDP)?;
    let tcp = dual(any, Type::STREAM, Protocol::TCP)?;
    tcp.listen(BACKLOG)?;
    let (udp, tcp) = (UdpSocket::from(udp), TcpListener::from(tcp));
    let name = spec.name.clone();
    thread::spawn(move || datagrams(&name, &udp));
    println!("ready");
    loop {
        let Ok((stream, peer)) = tcp.accept() else {
            continue;
        };
        let name = spec.name.clone();
        thread::spawn(move || lines(&name, stream, peer));
    }
}

/// A socket of both families.
fn dual(address: SocketAddr, kind: Type, protocol: Protocol) -> anyhow::Result<Socket> {
    let socket = Socket::new(Domain::IPV6, kind, Some(protocol))?;
    socket.set_only_v6(false)?;
    socket.set_reuse_address(true)?;
    let what = || format!("cannot serve on {address}");
    socket.bind(&address.into()).with_context(what)?;
    Ok(socket)
}

fn datagrams(name: &str, socket: &UdpSocket) {
    let mut buffer = [0; LINE_MAX];
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
    let mut reader = BufReader::with_capacity(LINE_MAX, stream);
    let mut line = String::new();
    while matches!(read_line(&mut reader, &mut line), Ok(1..)) {
        let body = answer(name, peer);
        if line.starts_with("GET ") {
            let length = body.len();
            let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\nConnection: close");
            let _ = write!(out, "{head}\r\n\r\n{body}");
            return;
        }
        if let Some(bytes) = line.strip_prefix("send ") {
            let wanted = io::repeat(PATTERN).take(bytes.trim_end().parse().unwrap_or(0));
            let _ = io::copy(&mut BufReader::with_capacity(CHUNK, wanted), &mut out);
            return;
        }
        if out.write_all(body.as_bytes()).is_err() {
            return;
        }
        line.clear();
    }
}

fn read_line(reader: &mut BufReader<TcpStream>, line: &mut String) -> io::Result<usize> {
    reader.take(LINE_MAX as u64).read_line(line)
}

fn answer(name: &str, peer: SocketAddr) -> String {
    format!("{name} {}\n", peer.ip().to_canonical())
}

/// Asks and prints the answers as one line of JSON; fails with the first request that gets none.
pub(crate) fn fetch(spec: &FetchSpec) -> anyhow::Result<ExitCode> {
    let answers: anyhow::Result<Vec<Answer>> = (0..spec.count).map(|_| ask(spec.to)).collect();
    println!("{}", serde_json::to_string(&answers?)?);
    Ok(ExitCode::SUCCESS)
}

/// Takes bytes and prints how many came, and how long it took.
pub(crate) fn pull(spec: &PullSpec) -> anyhow::Result<ExitCode> {
    let PullSpec { from, bytes } = *spec;
    let what = || format!("{from} does not send");
    let mut stream = TcpStream::connect_timeout(&from, PATIENCE).with_context(what)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let start = Instant::now();
    writeln!(stream, "send {bytes}").with_context(what)?;
    let mut buffer = vec![0; CHUNK];
    let mut came = 0;
    loop {
        let count = stream.read(&mut buffer).with_context(what)?;
        let part = buffer.get(..count).unwrap_or_default();
        ensure!(
            part.iter().all(|byte| *byte == PATTERN),
            "{from} sends something else"
        );
        came += count as u64;
        if count == 0 {
            break;
        }
    }
    ensure!(came == bytes, "{came} of {bytes} bytes came from {from}");
    let micros = u64::try_from(start.elapsed().as_micros()).unwrap_or(u64::MAX);
    let pulled = Pulled { bytes, micros };
    println!("{}", serde_json::to_string(&pulled)?);
    Ok(ExitCode::SUCCESS)
}

fn ask(to: SocketAddr) -> anyhow::Result<Answer> {
    let what = || format!("{to} does not answer");
    let mut stream = TcpStream::connect_timeout(&to, PATIENCE).with_context(what)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(b"who\n").with_context(what)?;
    let mut line = String::new();
    let read = BufReader::new(stream).read_line(&mut line);
    ensure!(
        read.with_context(what)? > 0,
        "{to} closes without an answer"
    );
    let (name, peer) = line.trim_end().split_once(' ').with_context(what)?;
    Ok(Answer {
        name: name.to_owned(),
        peer: peer.parse().with_context(what)?,
    })
}
