use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{IpAddr, SocketAddr, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

/// Longest that a connection or an answer is waited for.
pub(super) const PATIENCE: Duration = Duration::from_secs(10);
/// The same on a connection that stays open: TCP sends again after twice the time each time, and the
/// answer may be to one that is sent late.
const HELD: Duration = Duration::from_secs(60);
/// A datagram without an answer for so long was lost.
const LOST: Duration = Duration::from_millis(500);
/// Failures that are told with their reasons.
pub(super) const TOLD: usize = 10;

/// Asks so many times and prints the answers.
pub(crate) fn ask(protocol: &str, to: &str, port: u16, times: usize) -> Result<()> {
    let to = SocketAddr::new(to.parse()?, port);
    for _ in 0..times {
        match protocol {
            "tcp" => print!("{}", over_tcp(to)?),
            "udp" => print!("{}", over_udp(udp(to)?, to)?),
            _ => bail!("protocol {protocol}"),
        }
    }
    Ok(())
}

/// Asks over TCP until there is a line on standard input; prints a tally.
pub(crate) fn ask_until_told(to: &str, port: u16, interval_us: u64) -> Result<()> {
    let to = SocketAddr::new(to.parse()?, port);
    let told = Arc::new(AtomicBool::new(false));
    let teller = told.clone();
    println!("ready");
    thread::spawn(move || {
        let _ = std::io::stdin().lock().read_line(&mut String::new());
        teller.store(true, Ordering::Relaxed);
    });
    let mut answers: BTreeMap<String, u64> = BTreeMap::new();
    let mut failures = Vec::new();
    while !told.load(Ordering::Relaxed) {
        match over_tcp(to) {
            Ok(line) => *answers.entry(name_of(&line)).or_default() += 1,
            Err(error) => failures.push(format!("{error:#}")),
        }
        thread::sleep(Duration::from_micros(interval_us));
    }
    for (name, count) in answers {
        println!("answers {name} {count}");
    }
    println!("failed {}", failures.len());
    for why in failures.iter().take(TOLD) {
        println!("failure {}", why.replace('\n', " "));
    }
    println!("done");
    Ok(())
}

/// Opens a connection, and for each line on standard input asks over it and prints the answer or
/// `failed` with the reason.
pub(crate) fn hold(to: &str, port: u16) -> Result<()> {
    let mut stream = connect(SocketAddr::new(to.parse()?, port))?;
    stream.set_read_timeout(Some(HELD))?;
    let mut answers = BufReader::new(stream.try_clone()?);
    println!("ready");
    for line in std::io::stdin().lock().lines() {
        line?;
        let mut answer = String::new();
        let asked = stream
            .write_all(b"who\n")
            .and_then(|()| answers.read_line(&mut answer));
        match asked {
            Ok(0) => println!("failed: closed"),
            Ok(_) => print!("{answer}"),
            Err(error) => println!("failed: {error}"),
        }
    }
    Ok(())
}

/// Opens so many connections, each of which is answered, and closes them when told.
pub(crate) fn hold_many(to: &str, port: u16, count: usize) -> Result<()> {
    let to = SocketAddr::new(to.parse()?, port);
    let mut held = Vec::new();
    for _ in 0..count {
        let stream = connect(to)?;
        request(&stream)?;
        held.push(stream);
    }
    println!("ready");
    std::io::stdin().lock().lines().next();
    drop(held);
    println!("done");
    Ok(())
}

/// Opens a socket, and for each line on standard input sends a datagram from it and prints the
/// answer or `failed` with the reason.
pub(crate) fn hold_udp(to: &str, port: u16) -> Result<()> {
    let socket = udp(SocketAddr::new(to.parse()?, port))?;
    socket.set_read_timeout(Some(LOST))?;
    println!("ready");
    let mut buffer = [0; 2048];
    for line in std::io::stdin().lock().lines() {
        line?;
        match socket.send(b"who\n").and_then(|_| socket.recv(&mut buffer)) {
            Ok(length) => {
                let answer = buffer.get(..length).unwrap_or_default();
                print!("{}", String::from_utf8_lossy(answer));
            }
            Err(error) => println!("failed: {error}"),
        }
    }
    Ok(())
}

/// Who answered.
pub(super) fn name_of(line: &str) -> String {
    line.split(' ').next().unwrap_or_default().to_owned()
}

fn over_tcp(to: SocketAddr) -> Result<String> {
    request(&connect(to)?)
}

/// Asks over a connection and answers what is answered.
pub(super) fn request(mut stream: &TcpStream) -> Result<String> {
    stream.write_all(b"who\n").context("request")?;
    let mut answer = String::new();
    let read = BufReader::new(stream).read_line(&mut answer);
    ensure!(read.context("answer")? > 0, "closed without an answer");
    Ok(answer)
}

fn connect(to: SocketAddr) -> Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&to, PATIENCE).context("connect")?;
    stream.set_read_timeout(Some(PATIENCE))?;
    Ok(stream)
}

pub(super) fn over_udp(socket: UdpSocket, to: SocketAddr) -> Result<String> {
    socket.connect(to)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    let mut buffer = [0; 2048];
    socket.send(b"who\n")?;
    let length = socket.recv(&mut buffer).context("answer")?;
    let answer = buffer.get(..length).unwrap_or_default();
    Ok(String::from_utf8_lossy(answer).into_owned())
}

fn udp(to: SocketAddr) -> Result<UdpSocket> {
    let any: IpAddr = match to {
        SocketAddr::V4(_) => [0, 0, 0, 0].into(),
        SocketAddr::V6(_) => [0u16; 8].into(),
    };
    let socket = UdpSocket::bind((any, 0))?;
    socket.connect(to)?;
    Ok(socket)
}
