//! Many flows at a time, each with a source of its own, and requests at a rate.

use std::collections::BTreeMap;
use std::io::BufRead;
use std::net::{IpAddr, SocketAddr, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail};
use socket2::{Domain, Protocol, Socket, Type};

use super::client::{PATIENCE, TOLD, name_of, over_udp, request};

/// Flows that are asked over at a time.
const AT_A_TIME: u32 = 8;
/// Requests that are under way or waiting for their time, at most: what a second of requests that
/// are not answered for long is many of.
const WORKERS: usize = 300;
/// Of a thread that only asks.
const STACK: usize = 128 << 10;
/// Longer takes only a request whose first packet was lost (RFC 6298, section 2.1).
const SLOW: Duration = Duration::from_secs(1);
/// A request that begins so long after its time is late.
const LATE: Duration = Duration::from_millis(100);

/// Opens one TCP connection for each of so many pairs of source address and source port, asks over
/// it and prints the answers in the order of the pairs: addresses from `first` on in turn, the port
/// one higher each time that all had theirs. Fails with the first that is not answered.
pub(crate) fn ask_from(
    to: SocketAddr,
    times: u32,
    first: IpAddr,
    addresses: u32,
    first_port: u16,
) -> Result<()> {
    let source = |flow: u32| -> Result<SocketAddr> {
        let port = first_port.checked_add(u16::try_from(flow / addresses)?);
        let port = port.context("no port")?;
        Ok(SocketAddr::new(nth(first, flow % addresses)?, port))
    };
    let ask_every = |beginning: u32| -> Result<Vec<(u32, String)>> {
        let own = (beginning..times).step_by(AT_A_TIME as usize);
        own.map(|flow| Ok((flow, over_tcp_from(source(flow)?, to)?)))
            .collect()
    };
    let answers = thread::scope(|scope| -> Result<BTreeMap<u32, String>> {
        let asking: Vec<_> = (0..AT_A_TIME)
            .map(|beginning| scope.spawn(move || ask_every(beginning)))
            .collect();
        let mut answers = BTreeMap::new();
        for thread in asking {
            let Ok(of_thread) = thread.join() else {
                bail!("a thread of flows panicked");
            };
            answers.extend(of_thread?);
        }
        Ok(answers)
    })?;
    for line in answers.values() {
        print!("{line}");
    }
    Ok(())
}

/// The address so many after the first.
fn nth(first: IpAddr, place: u32) -> Result<IpAddr> {
    match first {
        IpAddr::V4(ip) => {
            let ip = u32::from(ip).checked_add(place).context("no address")?;
            Ok(IpAddr::V4(ip.into()))
        }
        IpAddr::V6(_) if place == 0 => Ok(first),
        IpAddr::V6(_) => bail!("one address over IPv6"),
    }
}

/// The connection is reset when it has done its work, so that the same source can begin another.
fn over_tcp_from(from: SocketAddr, to: SocketAddr) -> Result<String> {
    let socket = Socket::new(Domain::for_address(to), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.bind(&from.into()).with_context(|| from)?;
    socket
        .connect_timeout(&to.into(), PATIENCE)
        .with_context(|| format!("connect from {from}"))?;
    socket.set_linger(Some(Duration::ZERO))?;
    socket.set_read_timeout(Some(PATIENCE))?;
    request(&TcpStream::from(socket))
}

fn tcp_once(from: SocketAddr, to: SocketAddr) -> Result<String> {
    let socket = Socket::new(Domain::for_address(to), Type::STREAM, Some(Protocol::TCP))?;
    socket.bind(&from.into()).with_context(|| from)?;
    socket
        .connect_timeout(&to.into(), PATIENCE)
        .context("connect")?;
    socket.set_read_timeout(Some(PATIENCE))?;
    request(&TcpStream::from(socket))
}

fn udp_once(from: SocketAddr, to: SocketAddr) -> Result<String> {
    over_udp(UdpSocket::bind(from)?, to)
}

/// Asks so many times a second, whether earlier requests are answered or not, until there is a line
/// on standard input; prints a report.
pub(crate) fn load(protocol: &str, to: SocketAddr, per_second: u32, from: IpAddr) -> Result<()> {
    let ask = match protocol {
        "tcp" => tcp_once,
        "udp" => udp_once,
        _ => bail!("protocol {protocol}"),
    };
    let load = Arc::new(Load {
        ask,
        from: SocketAddr::new(from, 0),
        to,
        interval: Duration::from_secs(1) / per_second,
        started: Instant::now(),
        next: AtomicU64::new(0),
        told: Mutex::new(false),
        end: Condvar::new(),
        seen: Mutex::default(),
    });
    let workers: Vec<_> = (0..WORKERS)
        .map(|_| {
            let load = load.clone();
            let thread = thread::Builder::new().stack_size(STACK);
            thread.spawn(move || load.work())
        })
        .collect::<std::io::Result<_>>()?;
    println!("ready");
    std::io::stdin().lock().read_line(&mut String::new())?;
    load.tell();
    let lasted = load.started.elapsed();
    for worker in workers {
        let Ok(()) = worker.join() else {
            bail!("a thread of requests panicked");
        };
    }
    let seen = load.seen.lock().unwrap_or_else(PoisonError::into_inner);
    seen.print(lasted);
    Ok(())
}

struct Load {
    ask: fn(SocketAddr, SocketAddr) -> Result<String>,
    from: SocketAddr,
    to: SocketAddr,
    interval: Duration,
    started: Instant,
    next: AtomicU64,
    told: Mutex<bool>,
    end: Condvar,
    seen: Mutex<Seen>,
}

#[derive(Default)]
struct Seen {
    answers: BTreeMap<String, u64>,
    failed: u64,
    failures: Vec<String>,
    late: u64,
    slow: u64,
    slowest: Duration,
    /// When the last request began that failed, and the last that was slow.
    last_failed: Option<SystemTime>,
    last_slow: Option<SystemTime>,
}

impl Load {
    fn work(&self) {
        loop {
            let number = self.next.fetch_add(1, Ordering::Relaxed);
            let due = self.interval * u32::try_from(number).unwrap_or(u32::MAX);
            if !self.wait(due) {
                return;
            }
            let late = self.started.elapsed().saturating_sub(due) > LATE;
            let (began, clock) = (SystemTime::now(), Instant::now());
            let outcome = (self.ask)(self.from, self.to);
            let took = clock.elapsed();
            let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
            seen.late += u64::from(late);
            seen.note(began, took, outcome);
        }
    }

    /// Until it is time; false when the end was told before.
    fn wait(&self, due: Duration) -> bool {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            let left = due.saturating_sub(self.started.elapsed());
            if *told || left.is_zero() {
                return !*told;
            }
            let waited = self.end.wait_timeout(told, left);
            told = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn tell(&self) {
        *self.told.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.end.notify_all();
    }
}

impl Seen {
    fn note(&mut self, began: SystemTime, took: Duration, outcome: Result<String>) {
        match outcome {
            Ok(line) => *self.answers.entry(name_of(&line)).or_default() += 1,
            Err(error) => {
                self.failed += 1;
                self.last_failed = self.last_failed.max(Some(began));
                if self.failures.len() < TOLD {
                    let after = took.as_millis();
                    self.failures.push(format!("{error:#} after {after} ms"));
                }
            }
        }
        self.slowest = self.slowest.max(took);
        if took >= SLOW {
            self.slow += 1;
            self.last_slow = self.last_slow.max(Some(began));
        }
    }

    fn print(&self, lasted: Duration) {
        for (name, count) in &self.answers {
            println!("answers {name} {count}");
        }
        println!("failed {}", self.failed);
        for why in &self.failures {
            println!("failure {}", why.replace('\n', " "));
        }
        println!("lasted-ms {}", lasted.as_millis());
        println!("late {}", self.late);
        println!("slow {}", self.slow);
        println!("slowest-ms {}", self.slowest.as_millis());
        let when = |word: &str, time: Option<SystemTime>| {
            let since = time.and_then(|time| time.duration_since(UNIX_EPOCH).ok());
            if let Some(since) = since {
                println!("{word} {}", since.as_millis());
            }
        };
        when("last-failed-ms", self.last_failed);
        when("last-slow-ms", self.last_slow);
        println!("done");
    }
}
