//! What connection tracking remembers where a test looks, and as if time had passed.

use anyhow::{Context, Result, ensure};
use weft_netns::Netns;
use weft_netns::conntrack::{Conntrack, Flow};

use crate::backend::Client;

/// Of a flow that is in use: in how many seconds it is forgotten.
pub type Left = Vec<u32>;

impl Client<'_> {
    /// In how many seconds each flow to or from a port is forgotten where the client is, unless a
    /// packet comes.
    pub fn flows(&self, port: u16) -> Result<Left> {
        read(&self.probe(&["flows", &port.to_string()])?)
    }

    /// Lets flows to or from a port be idle for so many seconds where the client is: those that are
    /// left until they are forgotten become fewer. What is left then, as it is read back.
    pub fn let_idle(&self, port: u16, seconds: u32) -> Result<Left> {
        read(&self.probe(&["flows-idle", &port.to_string(), &seconds.to_string()])?)
    }
}

/// Prints what is left of each flow to or from a port.
pub fn list(port: u16) -> Result<()> {
    let mut conntrack = Conntrack::open_in(&Netns::current()?)?;
    for flow in in_use(&mut conntrack, port)? {
        println!("{}", flow.left_s);
    }
    Ok(())
}

/// Takes so many seconds away from what is left of each, and prints what is left then.
pub fn idle(port: u16, seconds: u32) -> Result<()> {
    let mut conntrack = Conntrack::open_in(&Netns::current()?)?;
    for flow in in_use(&mut conntrack, port)? {
        // It would have been forgotten.
        let left = flow.left_s.checked_sub(seconds);
        let left = left.with_context(|| format!("{} s left of {flow:?}", flow.left_s))?;
        conntrack.set_left(&flow, left)?;
        let now = in_use(&mut conntrack, port)?;
        let same = |other: &&Flow| other.original == flow.original;
        let now = now.iter().find(same).context("a flow that is gone")?;
        ensure!(now.left_s <= left, "{now:?}, and {left} s were wanted");
    }
    list(port)
}

fn in_use(conntrack: &mut Conntrack, port: u16) -> Result<Vec<Flow>> {
    let mut found = Vec::new();
    conntrack.flows(|flow| {
        let ports = [flow.original.destination.port, flow.reply.source.port];
        if ports.contains(&port) && !flow.ended {
            found.push(flow);
        }
    })?;
    Ok(found)
}

fn read(said: &str) -> Result<Left> {
    let numbers = said.lines().map(|line| line.parse::<u32>());
    Ok(numbers.collect::<Result<_, _>>()?)
}
