//! An own ICMP echo (RFC 792, RFC 4443), so that no ping program is needed in a lab.

mod packet;

use std::{
    collections::BTreeMap,
    io::{self, IsTerminal, Read},
    net::{IpAddr, SocketAddr},
    os::fd::AsFd,
    process::ExitCode,
    time::{Duration, Instant},
};

use anyhow::Context;
use nix::{
    errno::Errno,
    fcntl::{FcntlArg, OFlag, fcntl},
    setsockopt_impl, sockopt_impl,
    sys::socket::setsockopt,
};
use serde::{Deserialize, Serialize};
use socket2::{Domain, Protocol, Socket, Type};

use self::packet::Echo;

/// Requests that are remembered while their replies are out.
const OUTSTANDING_MAX: usize = 1 << 16;
/// Longest packet that is read.
const PACKET_MAX: usize = 65536;
/// Shortest wait for a reply; zero would mean forever (SO_RCVTIMEO, socket(7)).
const WAIT_MIN: Duration = Duration::from_micros(20);
/// How often the end of standard input is looked for.
const STDIN_POLL: Duration = Duration::from_millis(10);

sockopt_impl!(
    /// Whether the kernel fragments IPv4 packets (ip(7)).
    MtuDiscover,
    SetOnly,
    libc::IPPROTO_IP,
    libc::IP_MTU_DISCOVER,
    libc::c_int
);
sockopt_impl!(
    /// Whether the kernel fragments IPv6 packets (ipv6(7)).
    MtuDiscover6,
    SetOnly,
    libc::IPPROTO_IPV6,
    libc::IPV6_MTU_DISCOVER,
    libc::c_int
);

/// A running ping.
pub type Pinger = super::Running<PingReport>;

/// What to ping and how.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PingSpec {
    /// Where to.
    pub to: IpAddr,
    /// How many requests; until standard input ends without.
    pub count: Option<u32>,
    /// Time between requests in microseconds.
    pub interval_us: u64,
    /// Length of the IP packet in bytes, headers included.
    pub size: u16,
    /// Whether packets must not be fragmented: too long a packet is refused then.
    pub dont_fragment: bool,
    /// How long a reply may take, in milliseconds.
    pub timeout_ms: u64,
}

impl PingSpec {
    /// One request of 84 bytes, as ping(8) sends it, and five seconds for the reply: on a machine
    /// that is busy it may take its time.
    pub fn once(to: impl Into<IpAddr>) -> Self {
        Self {
            to: to.into(),
            count: Some(1),
            interval_us: 10_000,
            size: 84,
            dont_fragment: false,
            timeout_ms: 5000,
        }
    }

    /// The same with another number of requests, that many microseconds apart.
    #[must_use]
    pub fn times(self, count: u32, interval_us: u64) -> Self {
        Self {
            count: Some(count),
            interval_us,
            ..self
        }
    }

    /// The same without end, that many microseconds apart.
    #[must_use]
    pub fn endless(self, interval_us: u64) -> Self {
        Self {
            count: None,
            interval_us,
            ..self
        }
    }

    /// The same with unfragmented IP packets of that many bytes.
    #[must_use]
    pub fn unfragmented(self, size: u16) -> Self {
        Self {
            size,
            dont_fragment: true,
            ..self
        }
    }
}

/// What came of it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PingReport {
    /// Requests sent, refused ones included.
    pub sent: u64,
    /// Replies received.
    pub received: u64,
    /// Requests without reply.
    pub lost: u64,
    /// Requests that the own kernel refused, counted as lost too.
    pub refused: u64,
    /// Why the last one was refused: `Message too long`, `Network is unreachable`.
    pub refusal: Option<String>,
    /// Shortest round trip in microseconds.
    pub min_us: u64,
    /// Mean round trip in microseconds.
    pub avg_us: u64,
    /// Longest round trip in microseconds.
    pub max_us: u64,
    /// From the start to the first reply, in microseconds.
    pub first_reply_us: Option<u64>,
    /// Longest time between two replies in microseconds.
    pub longest_gap_us: u64,
}

/// Pings and prints the report as one line of JSON; fails if a reply is missing.
pub(crate) fn run(spec: &PingSpec) -> anyhow::Result<ExitCode> {
    let report = ping(spec)?;
    println!("{}", serde_json::to_string(&report)?);
    Ok(if report.lost == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn ping(spec: &PingSpec) -> anyhow::Result<PingReport> {
    let echo = Echo::new(spec.to, spec.size, std::process::id());
    let mut run = Run {
        socket: open(spec)?,
        echo,
        out: BTreeMap::new(),
        seen: Seen::new(),
    };
    let timeout = Duration::from_millis(spec.timeout_ms);
    let interval = Duration::from_micros(spec.interval_us);
    let mut end = End::new(spec.count)?;
    let mut next = Instant::now();
    while !end.reached(run.seen.report.sent) {
        run.send(spec.to)?;
        next += interval;
        run.receive_until(next.min(Instant::now() + timeout.max(interval)), false)?;
    }
    run.receive_until(Instant::now() + timeout, true)?;
    Ok(run.seen.finish())
}

struct Run {
    socket: Socket,
    echo: Echo,
    /// When the requests were sent whose replies are out.
    out: BTreeMap<u64, Instant>,
    seen: Seen,
}

impl Run {
    fn send(&mut self, to: IpAddr) -> anyhow::Result<()> {
        let number = self.seen.report.sent;
        self.seen.report.sent += 1;
        let request = self.echo.request(number);
        let sent = Instant::now();
        match self.socket.send_to(request, &SocketAddr::new(to, 0).into()) {
            Ok(_) => {
                self.out.insert(number, sent);
                if self.out.len() > OUTSTANDING_MAX {
                    self.out.pop_first();
                }
            }
            Err(error) if error.raw_os_error() == Some(libc::EPERM) => {
                return Err(error).context("cannot send");
            }
            Err(error) => {
                self.seen.report.refused += 1;
                let text = error
                    .raw_os_error()
                    .map(|code| Errno::from_raw(code).desc().to_owned());
                self.seen.report.refusal = Some(text.unwrap_or_else(|| error.to_string()));
            }
        }
        Ok(())
    }

    /// Takes replies until then, or until none is out.
    fn receive_until(&mut self, until: Instant, only_outstanding: bool) -> anyhow::Result<()> {
        let mut packet = [0; PACKET_MAX];
        loop {
            if only_outstanding && self.out.is_empty() {
                return Ok(());
            }
            let wait = until.saturating_duration_since(Instant::now());
            if wait.is_zero() {
                return Ok(());
            }
            self.socket.set_read_timeout(Some(wait.max(WAIT_MIN)))?;
            match self.socket.read(&mut packet) {
                Ok(length) => {
                    let reply = packet
                        .get(..length)
                        .and_then(|packet| self.echo.reply(packet));
                    if let Some(sent) = reply.and_then(|number| self.out.remove(&number)) {
                        self.seen.reply(sent, Instant::now());
                    }
                }
                Err(error) if is_time_out(&error) => {}
                // Errors that the network reports (ICMP) concern a request that is lost anyway.
                Err(error) if error.raw_os_error().is_some() => {}
                Err(error) => return Err(error).context("cannot receive"),
            }
        }
    }
}

fn is_time_out(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted
    )
}

/// The report in the making.
struct Seen {
    start: Instant,
    last: Option<Instant>,
    sum_us: u64,
    report: PingReport,
}

impl Seen {
    fn new() -> Self {
        Self {
            start: Instant::now(),
            last: None,
            sum_us: 0,
            report: PingReport::default(),
        }
    }

    fn reply(&mut self, sent: Instant, now: Instant) {
        let us = micros(now.saturating_duration_since(sent));
        let report = &mut self.report;
        report.min_us = if report.received == 0 {
            us
        } else {
            report.min_us.min(us)
        };
        report.max_us = report.max_us.max(us);
        report.received += 1;
        self.sum_us += us;
        if let Some(last) = self.last.replace(now) {
            report.longest_gap_us = report
                .longest_gap_us
                .max(micros(now.saturating_duration_since(last)));
        } else {
            report.first_reply_us = Some(micros(now.saturating_duration_since(self.start)));
        }
    }

    fn finish(mut self) -> PingReport {
        self.report.lost = self.report.sent - self.report.received;
        self.report.avg_us = self.sum_us.checked_div(self.report.received).unwrap_or(0);
        self.report
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

/// When enough was sent, or seen.
pub(super) enum End {
    Count(u64),
    /// Standard input, which does not block, and when it is looked at next.
    Input(io::Stdin, Instant),
}

impl End {
    pub(super) fn new(count: Option<u32>) -> anyhow::Result<Self> {
        if let Some(count) = count {
            return Ok(Self::Count(count.into()));
        }
        let stdin = io::stdin();
        anyhow::ensure!(
            !stdin.is_terminal(),
            "what is endless ends with its standard input"
        );
        let flags = OFlag::from_bits_retain(fcntl(stdin.as_fd(), FcntlArg::F_GETFL)?);
        fcntl(stdin.as_fd(), FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))?;
        Ok(Self::Input(stdin, Instant::now() + STDIN_POLL))
    }

    pub(super) fn reached(&mut self, sent: u64) -> bool {
        match self {
            Self::Count(count) => sent >= *count,
            Self::Input(_, next) if Instant::now() < *next => false,
            Self::Input(stdin, next) => {
                *next = Instant::now() + STDIN_POLL;
                matches!(stdin.lock().read(&mut [0]), Ok(0))
            }
        }
    }
}

fn open(spec: &PingSpec) -> anyhow::Result<Socket> {
    let (domain, protocol) = match spec.to {
        IpAddr::V4(_) => (Domain::IPV4, Protocol::ICMPV4),
        IpAddr::V6(_) => (Domain::IPV6, Protocol::ICMPV6),
    };
    let socket =
        Socket::new(domain, Type::RAW, Some(protocol)).context("cannot open a raw socket")?;
    let (never, own) = (libc::IP_PMTUDISC_DO, libc::IP_PMTUDISC_DONT);
    let discover = if spec.dont_fragment { never } else { own };
    match spec.to {
        IpAddr::V4(_) => setsockopt(&socket, MtuDiscover, &discover)?,
        IpAddr::V6(_) => setsockopt(&socket, MtuDiscover6, &discover)?,
    }
    Ok(socket)
}
