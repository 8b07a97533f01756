//! What a lab is to be.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    str::FromStr,
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
    /// Still more on single hosts, by name.
    pub host_args: BTreeMap<String, Vec<String>>,
    /// MTU of the underlay in bytes.
    pub underlay_mtu: u32,
    /// The program that is `weft` in the lab: any program that behaves as `weft` when it is
    /// called by that name (`argv[0]`).
    pub weft_exe: PathBuf,
}

/// An argument of `weft agent`, on every host or on one: `--log-level=debug`,
/// `h1=--encryption=kernel`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AgentArg {
    /// The host; every one without.
    pub host: Option<String>,
    /// The argument.
    pub arg: String,
}

impl FromStr for AgentArg {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (host, arg) = match text.split_once('=') {
            Some((host, arg)) if !host.starts_with('-') => (Some(host.to_owned()), arg),
            _ => (None, text),
        };
        if !arg.starts_with("--") || host.as_deref() == Some("") {
            return Err(
                "it is no option of weft agent; write it like --log-level=debug, or \
                        h1=--log-level=debug for one host"
                    .to_owned(),
            );
        }
        let arg = arg.to_owned();
        Ok(Self { host, arg })
    }
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
            host_args: BTreeMap::new(),
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

    /// The same with these arguments for `weft agent` besides.
    #[must_use]
    pub fn with_agent_args(mut self, args: impl IntoIterator<Item = AgentArg>) -> Self {
        for AgentArg { host, arg } in args {
            match host {
                Some(host) => self.host_args.entry(host).or_default().push(arg),
                None => self.agent_args.push(arg),
            }
        }
        self
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
        let hosts: Vec<String> = (1..=self.hosts)
            .map(|number| format!("h{number}"))
            .collect();
        match self.host_args.keys().find(|host| !hosts.contains(host)) {
            Some(host) => Err(LabError::NoSuchHost {
                lab: self.name.clone(),
                host: host.clone(),
                known: format!("h1..h{}", self.hosts),
            }),
            None => Ok(()),
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_argument_is_for_every_agent_or_for_one() {
        let read = |text: &str| text.parse::<AgentArg>().unwrap();
        let of = |host: Option<&str>, arg: &str| AgentArg {
            host: host.map(str::to_owned),
            arg: arg.to_owned(),
        };
        assert_eq!(read("--rekey=2s"), of(None, "--rekey=2s"));
        let one = "h1=--encryption=kernel";
        assert_eq!(read(one), of(Some("h1"), "--encryption=kernel"));
        for wrong in ["", "h1", "h1=kernel", "=--rekey=2s", "-v", "rekey=2s"] {
            let refused = wrong.parse::<AgentArg>().unwrap_err();
            assert!(
                refused.contains("h1=--log-level=debug"),
                "{wrong}: {refused}"
            );
        }
        let options = LabOptions::new("/bin/weft").with_agent_args([read(one), read("--rekey=2s")]);
        assert_eq!(options.agent_args, ["--rekey=2s"]);
        assert_eq!(options.host_args["h1"], ["--encryption=kernel"]);
        assert!(options.check().is_ok());
        let refused = options.with_agent_args([read("h4=--rekey=2s")]).check();
        let refused = refused.unwrap_err().to_string();
        assert!(
            refused.contains("h4") && refused.contains("h1..h3"),
            "{refused}"
        );
    }
}
