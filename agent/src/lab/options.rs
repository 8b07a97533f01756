//! What a lab is to be.

use std::{
    fs,
    path::{Path, PathBuf},
};

use super::{DEFAULT_NAME, HOSTS_MAX, LabDir, LabError, launch::LabSpec};

/// Smallest and largest MTU of the underlay: what IPv6 needs (RFC 8200, 5), what veth can carry.
const MTU_RANGE: std::ops::RangeInclusive<u32> = 1280..=65535;

/// What a lab is to be.
#[derive(Debug, Clone)]
pub struct LabOptions {
    /// Its name; several labs of different names run side by side.
    pub name: String,
    /// How many hosts, 1 to 50; `outside` comes on top.
    pub hosts: usize,
    /// How many of the hosts become managers, from h1 on; the others become workers.
    pub managers: usize,
    /// Whether every host gets an agent.
    pub agents: bool,
    /// Whether the agents form a cluster.
    pub cluster: bool,
    /// Directory on a real file system for the agents' state (a directory per host is made in
    /// it); in memory without.
    pub state: Option<PathBuf>,
    /// More arguments for `weft agent`.
    pub agent_args: Vec<String>,
    /// MTU of the underlay in bytes.
    pub underlay_mtu: u32,
    /// The program that is `weft` in the lab: any program that behaves as `weft` when it is
    /// called by that name (`argv[0]`).
    pub weft_exe: PathBuf,
}

impl LabOptions {
    /// Three hosts, all managers of one cluster, state in memory.
    pub fn new(weft_exe: impl Into<PathBuf>) -> Self {
        Self {
            name: DEFAULT_NAME.to_owned(),
            hosts: 3,
            managers: 3,
            agents: true,
            cluster: true,
            state: None,
            agent_args: Vec::new(),
            underlay_mtu: 1500,
            weft_exe: weft_exe.into(),
        }
    }

    /// The same with another name.
    #[must_use]
    pub fn named(mut self, name: impl Into<String>) -> Self {
        self.name = name.into();
        self
    }

    /// The same with another number of hosts.
    #[must_use]
    pub fn with_hosts(mut self, hosts: usize) -> Self {
        self.hosts = hosts;
        self
    }

    /// The same with agents that form no cluster.
    #[must_use]
    pub fn without_cluster(mut self) -> Self {
        self.cluster = false;
        self
    }

    /// The same without agents.
    #[must_use]
    pub fn without_agents(mut self) -> Self {
        self.agents = false;
        self.without_cluster()
    }

    pub(crate) fn check(&self) -> Result<(), LabError> {
        let refuse = |what, given, accepted| {
            Err(LabError::OutOfRange {
                what,
                given,
                accepted,
            })
        };
        if !(1..=usize::from(HOSTS_MAX)).contains(&self.hosts) {
            return refuse("number of hosts", self.hosts, "1 to 50");
        }
        if !(1..=7).contains(&self.managers) {
            return refuse("number of managers", self.managers, "1 to 7");
        }
        if !MTU_RANGE.contains(&self.underlay_mtu) {
            return refuse(
                "underlay MTU",
                self.underlay_mtu as usize,
                "1280 to 65535 bytes",
            );
        }
        Ok(())
    }

    pub(crate) fn spec(&self, dir: &LabDir) -> Result<LabSpec, LabError> {
        let absolute = |path: &Path| {
            fs::canonicalize(path).map_err(LabError::io(format!("cannot use {}", path.display())))
        };
        Ok(LabSpec {
            dir: dir.clone(),
            exe: absolute(&self.weft_exe)?,
            hosts: self.hosts,
            mtu: self.underlay_mtu,
            state: self.state.as_deref().map(absolute).transpose()?,
        })
    }
}
