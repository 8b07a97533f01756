//! Containers that say who they are and whom they see, and clients that count what they are told.

mod client;
mod flows;
mod proxied;
mod report;
mod server;

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use anyhow::{Context, Result, ensure};

pub(crate) use client::{ask, ask_until_told, hold, hold_many, hold_udp};
pub(crate) use flows::{ask_from, load};
pub(crate) use proxied::{bulk, destination, flood, serve as serve_proxied};

pub use report::{Loading, Report};
pub use server::Server;
pub use weft_agent::lab::Answer;

use crate::cluster::{Cluster, OUTSIDE};
use crate::talk::Talk;

/// What requests that went on came to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Answers by server.
    pub answers: BTreeMap<String, u64>,
    /// Why requests failed, one line each; at most the first ten.
    pub failures: Vec<String>,
    /// How many failed.
    pub failed: u64,
}

/// Where flows come from, one each.
#[derive(Clone, Copy, Debug)]
pub struct Sources {
    first: Ipv4Addr,
    addresses: u32,
    first_port: u16,
}

/// What [`Cluster::crowd`] routes to the host outside.
const CROWD: &str = "198.18.16.0/20";

impl Sources {
    /// The first of the addresses that [`Cluster::crowd`] makes.
    pub const FIRST: Ipv4Addr = Ipv4Addr::new(198, 18, 16, 1);

    /// So many addresses in turn, of those that [`Cluster::crowd`] makes; the port is one higher each
    /// time that all had theirs.
    pub fn addresses(count: u32, first_port: u16) -> Self {
        Self {
            first: Self::FIRST,
            addresses: count,
            first_port,
        }
    }

    /// The client's own address, and ports one after another.
    pub fn ports(first: u16) -> Self {
        Self {
            first: Ipv4Addr::UNSPECIFIED,
            addresses: 1,
            first_port: first,
        }
    }
}

impl Cluster {
    /// Makes the host outside the one that some thousand client addresses are of.
    pub fn crowd(&self) -> Result<()> {
        // Everything in it is its own, to receive at and to bind to (ip-route(8), type local).
        let own = ["ip", "route", "add", "local", CROWD, "dev", "lo"];
        self.sh(OUTSIDE, &own)?;
        let outside = self.host(OUTSIDE)?.address().to_string();
        for host in 1..=self.hosts()?.len() {
            self.sh(host, &["ip", "route", "add", CROWD, "via", &outside])?;
        }
        Ok(())
    }

    /// Starts a detached container that serves as `name` on `port` (TCP and UDP, both families);
    /// `options` are further ones of `weft run`. Answers once it listens.
    pub fn backend(
        &self,
        host: usize,
        network: &str,
        name: &str,
        port: u16,
        options: &str,
    ) -> Result<()> {
        let probe = crate::weft::probe_exe()?;
        let probe = probe.to_str().context("a path that is not UTF-8")?;
        self.weft(
            host,
            &format!(
                "run --network {network} --name {name} {options} --detach -- {probe} serve {name} \
                 {port}"
            ),
        )?;
        crate::eventually(&format!("{name} listens"), || {
            let itself = self.client_in(host, &format!("{name}.{network}"));
            let answers = itself.tcp("127.0.0.1", port, 1)?;
            ensure!(
                answers.iter().all(|answer| answer.name == name),
                "{answers:?}"
            );
            Ok(())
        })
    }

    /// A client on a host itself.
    pub fn client(&self, host: usize) -> Client<'_> {
        Client {
            cluster: self,
            host,
            through: Vec::new(),
        }
    }

    /// A client in the namespace of an endpoint on the host.
    pub fn client_in(&self, host: usize, endpoint: &str) -> Client<'_> {
        let through = ["weft", "exec", endpoint, "--"].map(str::to_owned).into();
        Client {
            cluster: self,
            host,
            through,
        }
    }
}

/// Somebody who asks backends.
pub struct Client<'a> {
    cluster: &'a Cluster,
    host: usize,
    through: Vec<String>,
}

impl Client<'_> {
    /// So many TCP requests, one connection each, one after another. Fails with the first that is
    /// not answered.
    pub fn tcp(&self, to: &str, port: u16, times: usize) -> Result<Vec<Answer>> {
        self.ask("tcp", to, port, times)
    }

    /// So many UDP requests, one socket each.
    pub fn udp(&self, to: &str, port: u16, times: usize) -> Result<Vec<Answer>> {
        self.ask("udp", to, port, times)
    }

    fn ask(&self, protocol: &str, to: &str, port: u16, times: usize) -> Result<Vec<Answer>> {
        let (port, times) = (port.to_string(), times.to_string());
        self.answers(&["ask", protocol, to, &port, &times])
    }

    fn answers(&self, args: &[&str]) -> Result<Vec<Answer>> {
        let said = self.probe(args)?;
        said.lines().map(parse).collect()
    }

    /// What the probe says there, given these arguments.
    pub(crate) fn probe(&self, args: &[&str]) -> Result<String> {
        let probe = crate::weft::probe_exe()?;
        let probe = probe.to_str().context("a path that is not UTF-8")?;
        let argv = [&self.through()[..], &[probe], args].concat();
        self.cluster.sh(self.host, &argv)
    }

    /// So many TCP requests, several at a time, each over a connection of its own from a source of its
    /// own; the answers in the order of sources. Fails with the first that is not answered.
    pub fn tcp_from(
        &self,
        sources: Sources,
        to: &str,
        port: u16,
        times: usize,
    ) -> Result<Vec<Answer>> {
        let words = [
            port.to_string(),
            times.to_string(),
            sources.first.to_string(),
            sources.addresses.to_string(),
            sources.first_port.to_string(),
        ];
        let words = words.iter().map(String::as_str);
        let args: Vec<&str> = ["ask-from", to].into_iter().chain(words).collect();
        self.answers(&args)
    }

    /// Starts so many requests a second over `tcp` or `udp`, each with a socket of its own, from
    /// that address of the client if it matters, and whether earlier ones are answered or not. They go
    /// on until [`Loading::finish`].
    pub fn load(
        &self,
        protocol: &str,
        to: &str,
        port: u16,
        per_second: u32,
        from: Option<Ipv4Addr>,
    ) -> Result<Loading> {
        let (port, per_second) = (port.to_string(), per_second.to_string());
        let from = from.unwrap_or(Ipv4Addr::UNSPECIFIED).to_string();
        let args = ["load", protocol, to, &port, &per_second, &from];
        let talk = Talk::start(self.cluster, self.host, &self.through(), &args)?;
        Ok(Loading::of(talk))
    }

    /// Starts TCP requests, one after another `interval_us` apart, that go on until
    /// [`Asking::finish`].
    pub fn start(&self, to: &str, port: u16, interval_us: u64) -> Result<Asking> {
        let (port, interval) = (port.to_string(), interval_us.to_string());
        let args = ["ask-until-told", to, &port, &interval];
        let talk = Talk::start(self.cluster, self.host, &self.through(), &args)?;
        Ok(Asking { talk })
    }

    /// A connection that stays open: [`Talk::tell`] asks over it, [`Talk::line`] is the answer, or
    /// `failed: ` and why.
    pub fn hold(&self, to: &str, port: u16) -> Result<Talk> {
        let port = port.to_string();
        let args = ["hold", to, &port];
        Talk::start(self.cluster, self.host, &self.through(), &args)
    }

    /// So many connections that stay open, each answered once, until it is told.
    pub fn hold_many(&self, to: &str, port: u16, count: usize) -> Result<Talk> {
        let (port, count) = (port.to_string(), count.to_string());
        let args = ["hold-many", to, &port, &count];
        Talk::start(self.cluster, self.host, &self.through(), &args)
    }

    /// As [`hold`](Self::hold), with datagrams from one socket.
    pub fn hold_udp(&self, to: &str, port: u16) -> Result<Talk> {
        let port = port.to_string();
        let args = ["hold-udp", to, &port];
        Talk::start(self.cluster, self.host, &self.through(), &args)
    }

    fn through(&self) -> Vec<&str> {
        self.through.iter().map(String::as_str).collect()
    }
}

/// Requests that go on.
pub struct Asking {
    talk: Talk,
}

impl Asking {
    /// Ends them; what came of them.
    pub fn finish(mut self) -> Result<Tally> {
        self.talk.tell()?;
        let mut tally = Tally::default();
        loop {
            let line = self.talk.line()?;
            match line.split_once(' ') {
                Some(("answers", rest)) => {
                    let (name, count) = rest.rsplit_once(' ').context("no count")?;
                    tally.answers.insert(name.to_owned(), count.parse()?);
                }
                Some(("failed", count)) => tally.failed = count.parse()?,
                Some(("failure", why)) => tally.failures.push(why.to_owned()),
                _ if line == "done" => return Ok(tally),
                _ => anyhow::bail!("a client says {line:?}"),
            }
        }
    }
}

/// How many answers each server gave.
pub fn spread(answers: &[Answer]) -> BTreeMap<String, usize> {
    let mut spread = BTreeMap::new();
    for answer in answers {
        *spread.entry(answer.name.clone()).or_default() += 1;
    }
    spread
}

fn parse(line: &str) -> Result<Answer> {
    let (name, peer) = line
        .split_once(' ')
        .with_context(|| format!("an answer {line:?}"))?;
    Ok(Answer {
        name: name.to_owned(),
        peer: peer.parse()?,
    })
}
