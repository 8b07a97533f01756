//! What goes over the paths: bulk TCP, and questions with answers.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use std::{fs, thread};

use socket2::{Domain, Protocol, Socket, Type};

use crate::subject::Subject;
use crate::table;

/// Bytes of one write.
const WRITE: usize = 128 << 10;
/// Bytes of a question, and of its answer.
const QUESTION: usize = 64;
/// Nothing takes longer, beside the length of the measurement.
const LIMIT: Duration = Duration::from_secs(10);

/// A transfer.
pub(crate) struct Moved {
    pub(crate) gbit: f64,
    pub(crate) seconds: f64,
    /// What the whole machine spent, interrupts included.
    pub(crate) cpu_seconds: f64,
}

/// Moves as much as goes in that time over so many connections.
pub(crate) fn bulk(subject: &Subject, flows: usize, length: Duration) -> io::Result<Moved> {
    let pairs = (0..flows)
        .map(|_| pair(subject))
        .collect::<io::Result<Vec<_>>>()?;
    let (cpu, started) = (cpu_seconds(), Instant::now());
    let until = started + length;
    let bytes = thread::scope(|scope| {
        let flows: Vec<_> = pairs
            .into_iter()
            .map(|(mut near, far)| {
                scope.spawn(move || give(&mut near, || Instant::now() < until));
                scope.spawn(move || take(far))
            })
            .collect();
        flows
            .into_iter()
            .map(|flow| flow.join().expect("a receiver"))
            .sum::<io::Result<u64>>()
    })?;
    Ok(Moved {
        gbit: bytes as f64 * 8.0 / 1e9,
        seconds: started.elapsed().as_secs_f64(),
        cpu_seconds: cpu_seconds() - cpu,
    })
}

/// Median and 99th percentile of round trips, in microseconds, perhaps beside a bulk flow.
pub(crate) fn round_trips(subject: &Subject, busy: bool, length: Duration) -> io::Result<[f64; 2]> {
    let (near, far) = pair(subject)?;
    let bulk = if busy { Some(pair(subject)?) } else { None };
    let done = AtomicBool::new(false);
    let mut times = thread::scope(|scope| {
        scope.spawn(|| answer(far));
        if let Some((mut from, to)) = bulk {
            let done = &done;
            scope.spawn(move || give(&mut from, || !done.load(Ordering::Relaxed)));
            scope.spawn(move || take(to));
            // Its queues are full before the first question.
            thread::sleep(length / 8);
        }
        let times = ask(near, length);
        done.store(true, Ordering::Relaxed);
        times
    })?;
    times.sort_by(f64::total_cmp);
    let at = |share: usize| times.get(times.len() * share / 100).copied();
    Ok([at(50).unwrap_or(f64::NAN), at(99).unwrap_or(f64::NAN)])
}

/// Both ends of a connection over the path, whose congestion control is the usual one: that of this
/// machine may pace, which on one machine is a measurement of its timers.
pub(crate) fn pair(subject: &Subject) -> io::Result<(TcpStream, TcpStream)> {
    let any = SocketAddr::new(subject.server, 0);
    let listener = subject.ends[1].run(|| {
        let socket = cubic(any)?;
        socket.bind(&any.into())?;
        socket.listen(8)?;
        Ok::<_, io::Error>(TcpListener::from(socket))
    })?;
    let to = listener.local_addr()?;
    let near = subject.ends[0].run(|| {
        let socket = cubic(to)?;
        socket.connect_timeout(&to.into(), LIMIT)?;
        Ok::<_, io::Error>(TcpStream::from(socket))
    })?;
    let (far, _) = listener.accept()?;
    for end in [&near, &far] {
        end.set_nodelay(true)?;
        end.set_read_timeout(Some(LIMIT))?;
        end.set_write_timeout(Some(LIMIT))?;
    }
    Ok((near, far))
}

fn cubic(to: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(to), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_tcp_congestion(b"cubic")?;
    Ok(socket)
}

fn give(to: &mut TcpStream, goes_on: impl Fn() -> bool) {
    let block = vec![0x5a; WRITE];
    while goes_on() && to.write_all(&block).is_ok() {}
    let _ = to.shutdown(std::net::Shutdown::Write);
    // The other end closes when it has everything.
    let _ = to.read(&mut [0]);
}

fn take(mut from: TcpStream) -> io::Result<u64> {
    let mut buffer = vec![0; 4 * WRITE];
    let mut total = 0;
    loop {
        match from.read(&mut buffer)? {
            0 => return Ok(total),
            count => total += count as u64,
        }
    }
}

fn ask(mut of: TcpStream, length: Duration) -> io::Result<Vec<f64>> {
    let (started, mut times) = (Instant::now(), Vec::new());
    let mut question = [1; QUESTION];
    while started.elapsed() < length {
        let asked = Instant::now();
        of.write_all(&question)?;
        of.read_exact(&mut question)?;
        times.push(asked.elapsed().as_secs_f64() * 1e6);
    }
    Ok(times)
}

fn answer(mut of: TcpStream) {
    let mut question = [0; QUESTION];
    while of.read_exact(&mut question).is_ok() && of.write_all(&question).is_ok() {}
}

/// What all processors spent so far, interrupts included.
fn cpu_seconds() -> f64 {
    /// `sysconf(_SC_CLK_TCK)` on every Linux architecture that Rust runs on.
    const TICKS_PER_SECOND: f64 = 100.0;
    let stat = fs::read_to_string("/proc/stat").expect("/proc/stat");
    let line = stat.lines().next().expect("a line");
    let ticks = line
        .split_whitespace()
        .skip(1)
        .map_while(|t| t.parse::<f64>().ok());
    // user, nice, system, idle, iowait, irq, softirq
    let busy = ticks
        .enumerate()
        .filter(|(at, _)| [0, 1, 2, 5, 6].contains(at));
    busy.map(|(_, ticks)| ticks).sum::<f64>() / TICKS_PER_SECOND
}

/// Whether anything gets through.
pub(crate) fn works(subject: &Subject) -> Result<(), String> {
    let asked = round_trips(subject, false, Duration::from_millis(20));
    match asked {
        Ok(times) if !table::median(times.into_iter()).is_nan() => Ok(()),
        Ok(_) => Err("no answer".to_owned()),
        Err(error) => Err(error.to_string()),
    }
}
