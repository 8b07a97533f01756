//! Containers that say who they are and whom they see, and clients that count what they are told.

mod client;

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};

pub(crate) use client::{ask, ask_until_told, hold, hold_udp};

pub use weft_agent::lab::Answer;

use crate::cluster::Cluster;
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

impl Cluster {
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
        let probe = crate::weft::probe_exe()?;
        let probe = probe.to_str().context("a path that is not UTF-8")?;
        let (port, times) = (port.to_string(), times.to_string());
        let mut argv = self.through();
        argv.extend([probe, "ask", protocol, to, &port, &times]);
        let said = self.cluster.sh(self.host, &argv)?;
        said.lines().map(parse).collect()
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

    /// The same with datagrams from one socket.
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
