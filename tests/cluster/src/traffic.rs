//! Bulk TCP, for benchmarks and for transfers that must arrive whole.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use socket2::{Domain, Protocol, Socket, Type};

/// Bytes of one write: large enough that the segment size does not decide the figure.
const WRITE: usize = 1 << 20;
/// Longest that one transfer is served.
const LIMIT: Duration = Duration::from_secs(120);

/// Takes so many connections and prints the bytes that arrived.
pub fn serve(address: &str, streams: usize) -> Result<()> {
    let address: SocketAddr = address.parse()?;
    let socket = cubic(address)?;
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    socket.listen(128)?;
    let listener = TcpListener::from(socket);
    println!("ready");
    let accepted = (0..streams).map(|_| {
        let (stream, _) = listener.accept()?;
        Ok(thread::spawn(move || take(stream)))
    });
    let taking: Vec<_> = accepted.collect::<Result<_>>()?;
    println!("{}", sum(taking)?);
    Ok(())
}

fn take(mut stream: TcpStream) -> Result<u64> {
    stream.set_read_timeout(Some(LIMIT))?;
    let mut buffer = vec![0; WRITE];
    let mut total = 0;
    loop {
        match stream.read(&mut buffer)? {
            0 => return Ok(total),
            count => total += count as u64,
        }
    }
}

/// Sends for some seconds over so many connections and prints the bytes and the seconds that it
/// took.
pub fn send(address: &str, seconds: u64, streams: usize) -> Result<()> {
    let address: SocketAddr = address.parse()?;
    let connected = (0..streams).map(|_| {
        let socket = cubic(address)?;
        socket.connect(&address.into())?;
        Ok(TcpStream::from(socket))
    });
    let connected: Vec<_> = connected.collect::<Result<_>>()?;
    let started = Instant::now();
    let until = started + Duration::from_secs(seconds);
    let giving = connected
        .into_iter()
        .map(|stream| thread::spawn(move || give(stream, until)))
        .collect();
    let total = sum(giving)?;
    println!("{total} {:.6}", started.elapsed().as_secs_f64());
    Ok(())
}

/// A socket whose congestion control is the usual one, whatever this kernel's default is: some
/// default to one that paces, which on one machine is a measurement of its timers.
fn cubic(address: SocketAddr) -> Result<Socket> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::STREAM,
        Some(Protocol::TCP),
    )?;
    socket
        .set_tcp_congestion(b"cubic")
        .context("cubic cannot be used here")?;
    Ok(socket)
}

fn give(mut stream: TcpStream, until: Instant) -> Result<u64> {
    let buffer = vec![0x5a; WRITE];
    let mut total = 0;
    while Instant::now() < until {
        stream.write_all(&buffer)?;
        total += buffer.len() as u64;
    }
    stream.shutdown(std::net::Shutdown::Write)?;
    // The peer closes when it has everything.
    stream.read_to_end(&mut Vec::new())?;
    Ok(total)
}

fn sum(threads: Vec<thread::JoinHandle<Result<u64>>>) -> Result<u64> {
    let joined = threads.into_iter().map(|thread| {
        thread
            .join()
            .map_err(|_| anyhow!("a stream's thread panicked"))?
    });
    joined.sum()
}
