//! Three hosts with the service `web`, published, whose backends are servers in namespaces of their
//! own, and clients inside and outside.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use weft_cluster_tests::PATIENCE;
use weft_cluster_tests::backend::{Client, Loading, Server, Sources};
use weft_cluster_tests::cluster::{Cluster, OUTSIDE};
use weft_cluster_tests::eventually;

/// Where the backends listen.
pub(crate) const PORT: u16 = 80;
/// Where every host answers for them.
pub(crate) const PUBLISHED: u16 = 8080;
/// The numbers of the hosts.
pub(crate) const HOSTS: [usize; 3] = [1, 2, 3];

/// A cluster with the service on the network `app`.
pub(crate) struct Site {
    pub(crate) cluster: Cluster,
    /// The service's address on the network.
    pub(crate) vip: String,
    servers: BTreeMap<String, (usize, Server)>,
}

impl Site {
    /// With a container `fromN` on each host hN, and these backends, which all hosts know.
    pub(crate) fn open(options: &str, backends: &[(usize, &str)]) -> Result<Self> {
        let cluster = Cluster::up(HOSTS.len())?;
        cluster.crowd()?;
        cluster.weft(1, "network create app")?;
        let create = format!("service create web --network app {options}");
        cluster.weft(1, &create)?;
        let shown = cluster.json(1, "service inspect web")?;
        let vip = shown["networks"][0]["vip"].as_str().context("no vip")?;
        for host in HOSTS {
            cluster.container(host, "app", &format!("from{host}"))?;
        }
        let mut site = Self {
            vip: vip.to_owned(),
            cluster,
            servers: BTreeMap::new(),
        };
        for (host, name) in backends {
            site.join(*host, name)?;
        }
        Ok(site)
    }

    /// A backend more, that listens first; answers when every host sends it connections.
    pub(crate) fn join(&mut self, host: usize, name: &str) -> Result<()> {
        let server = Server::start(&self.cluster, host, name, PORT)?;
        self.servers.insert(name.to_owned(), (host, server));
        let attach = format!("attach app --service web --netns /run/netns/{name} --name {name}");
        // An attachment that takes too long, as it may on a machine under load, is undone.
        eventually(&format!("{name} is attached"), || {
            self.cluster.weft(host, &attach)
        })?;
        self.until_state(host, name, "ready")?;
        self.settle(host)
    }

    /// A backend less, that is seen off first.
    pub(crate) fn leave(&mut self, name: &str) -> Result<()> {
        let (host, server) = self.servers.remove(name).context("no such backend")?;
        self.cluster.weft(host, &format!("detach {name}.app"))?;
        server.end(&self.cluster)
    }

    /// Ends the servers of a host, as its end does: nobody is told.
    pub(crate) fn kill_servers(&mut self, host: usize) {
        self.servers.retain(|_, (place, _)| *place != host);
    }

    /// Waits until every kernel has what a host knows; if not, says how all are.
    pub(crate) fn settle(&self, host: usize) -> Result<()> {
        self.cluster.settle(host).or_else(|error| {
            let all = HOSTS.map(|host| self.cluster.weft(host, "status").unwrap_or_default());
            anyhow::bail!("{error:#}: {all:?}")
        })
    }

    /// Waits until a host says so of a backend.
    pub(crate) fn until_state(&self, host: usize, name: &str, wanted: &str) -> Result<()> {
        eventually(&format!("{name} is {wanted}"), || {
            let shown = self.cluster.json(host, "service inspect web")?;
            let endpoints = shown["endpoints"].as_array().context("no endpoints")?;
            let row = endpoints.iter().find(|row| row["name"] == name);
            let row = row.with_context(|| format!("not in {shown}"))?;
            ensure!(row["state"] == wanted, "{row}");
            Ok(())
        })
    }

    /// Kills a host's agent, starts it again and waits until it is in step.
    pub(crate) fn restart_agent(&self, host: usize) -> Result<()> {
        let of_host = self.cluster.host(host)?;
        of_host.kill_agent()?;
        of_host.start_agent()?;
        of_host.wait_ready(PATIENCE)?;
        eventually("the agent is back", || {
            let status = self.cluster.json(host, "status")?;
            ensure!(status["revision"].as_u64() > Some(0), "{status}");
            self.settle(host)
        })
    }

    /// Starts so many requests a second from outside by way of a host. Those through each host have a
    /// client address of their own: one port of a client has one flow at a time.
    pub(crate) fn load(&self, protocol: &str, host: usize, rate: u32) -> Result<Loading> {
        let [a, b, c, _] = Sources::FIRST.octets();
        let from = Ipv4Addr::new(a, b, c, u8::try_from(host)?);
        let outside = self.outside();
        outside.load(protocol, &underlay(host), PUBLISHED, rate, Some(from))
    }

    /// The client outside.
    pub(crate) fn outside(&self) -> Client<'_> {
        self.cluster.client(OUTSIDE)
    }

    /// The client in the container of a host.
    pub(crate) fn inside(&self, host: usize) -> Client<'_> {
        self.cluster.client_in(host, &format!("from{host}.app"))
    }
}

/// The address of a host on the underlay.
pub(crate) fn underlay(host: usize) -> String {
    format!("198.18.0.{host}")
}

/// In whole milliseconds.
pub(crate) fn rounded(span: Duration) -> Duration {
    Duration::from_millis(u64::try_from(span.as_millis()).unwrap_or(u64::MAX))
}
