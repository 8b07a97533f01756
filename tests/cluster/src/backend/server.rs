use anyhow::{Context, Result};

use crate::cluster::Cluster;
use crate::talk::Talk;

/// A server in a namespace of its own, `/run/netns/NAME`, for as long as this is kept.
pub struct Server {
    host: usize,
    name: String,
    running: Talk,
}

impl Server {
    /// Starts it, listening on `port` (TCP and UDP, both families), with no interface but `lo`.
    pub fn start(cluster: &Cluster, host: usize, name: &str, port: u16) -> Result<Self> {
        cluster.sh(host, &["ip", "netns", "add", name])?;
        cluster.sh(host, &["ip", "-n", name, "link", "set", "lo", "up"])?;
        let inside = format!("--net=/run/netns/{name}");
        let port = port.to_string();
        let serve = ["serve", name, &port];
        let running = Talk::start(cluster, host, &["nsenter", &inside], &serve)?;
        Ok(Self {
            host,
            name: name.to_owned(),
            running,
        })
    }

    /// Ends it and its namespace.
    pub fn end(self, cluster: &Cluster) -> Result<()> {
        drop(self.running);
        let delete = ["ip", "netns", "delete", &self.name];
        cluster
            .sh(self.host, &delete)
            .map(drop)
            .with_context(|| format!("the end of {}", self.name))
    }
}
