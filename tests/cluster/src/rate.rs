//! Short TCP connections, for benchmarks: how many a second.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use socket2::{Domain, Protocol, Socket, Type};

/// Connections that are served at a time; no client may have more.
const SERVED: usize = 64;
/// Longest that one step of a connection takes.
const PATIENCE: Duration = Duration::from_secs(10);

/// Answers the first byte of every connection, until it is killed.
pub(crate) fn serve(address: &str) -> Result<()> {
    let listener = Arc::new(TcpListener::bind(address)?);
    println!("ready");
    let serving: Vec<_> = (0..SERVED)
        .map(|_| {
            let listener = Arc::clone(&listener);
            thread::spawn(move || {
                for stream in listener.incoming().flatten() {
                    // A client that went away is its own affair.
                    let _ = answer(stream);
                }
            })
        })
        .collect();
    for thread in serving {
        let _ = thread.join();
    }
    Ok(())
}

fn answer(mut stream: TcpStream) -> std::io::Result<()> {
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut byte = [0];
    stream.read_exact(&mut byte)?;
    stream.write_all(&byte)?;
    // Until the client closes.
    stream.read(&mut byte).map(drop)
}

/// Opens connections for some seconds, so many at a time, asks once over each and prints how many
/// were answered, in which time, and how many were not.
pub(crate) fn ask(address: &str, seconds: u64, at_a_time: usize) -> Result<()> {
    let address: SocketAddr = address.parse()?;
    let started = Instant::now();
    let until = started + Duration::from_secs(seconds);
    let asking: Vec<_> = (0..at_a_time.min(SERVED))
        .map(|_| thread::spawn(move || ask_until(address, until)))
        .collect();
    let (mut answered, mut failed) = (0, 0);
    for thread in asking {
        let joined = thread.join().map_err(|_| anyhow!("a client panicked"))?;
        answered += joined.0;
        failed += joined.1;
    }
    let took = started.elapsed().as_secs_f64();
    println!("{answered} {took:.6} {failed}");
    Ok(())
}

fn ask_until(address: SocketAddr, until: Instant) -> (u64, u64) {
    let (mut answered, mut failed) = (0, 0);
    while Instant::now() < until {
        match ask_once(address) {
            Ok(()) => answered += 1,
            Err(_) => failed += 1,
        }
    }
    (answered, failed)
}

fn ask_once(address: SocketAddr) -> Result<()> {
    let domain = Domain::for_address(address);
    let socket = Socket::new(domain, Type::STREAM, Some(Protocol::TCP))?;
    // Ends by a reset, so that the client does not run out of ports.
    socket.set_linger(Some(Duration::ZERO))?;
    socket.set_read_timeout(Some(PATIENCE))?;
    socket.connect_timeout(&address.into(), PATIENCE)?;
    let mut stream = TcpStream::from(socket);
    stream.write_all(b"x")?;
    stream.read_exact(&mut [0]).context("no answer")
}
