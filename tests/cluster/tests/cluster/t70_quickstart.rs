//! What the README says, typed on three hosts as it stands there.
//!
//! A fenced block whose info string is `sh` and names of hosts (or `all`) is typed into a shell on
//! each of them, in the order of the page. Two lines are about the machine as a whole and are
//! stood in for: the service manager's, by the agent as the installed unit describes it, and the
//! one that sets kernel parameters.

use std::fs;
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use weft_cluster_tests::PATIENCE;
use weft_cluster_tests::cluster::{Cluster, Running, options};
use weft_cluster_tests::weft::{ping_exe, weft_exe};

use crate::Case;

/// The cases of this file.
pub(crate) const CASES: &[Case] = &[
    (
        "quickstart::the_readme_works_as_written_on_three_hosts",
        the_readme_works_as_written,
    ),
    (
        "quickstart::the_kernel_settings_are_assignments_of_numbers",
        the_kernel_settings_are_assignments,
    ),
];

const HOSTS: usize = 3;
const START_AGENT: &str = "systemctl enable --now weft";
const SET_PARAMETERS: &str = "sysctl --system";
const UNIT: &str = "/etc/systemd/system/weft.service";
const TOKEN: &str = "WFTKN-1-";
/// Directories that a lab's hosts share with the machine and that the README installs to.
const SHARED: [&str; 3] = ["/usr/local/bin", "/etc/systemd", "/etc/sysctl.d"];

fn the_readme_works_as_written() -> Result<()> {
    let page = fs::read_to_string(repository().join("README.md"))?;
    let blocks = blocks(&page)?;
    ensure!(blocks.len() >= 5, "only {} blocks to type", blocks.len());
    let cluster = Cluster::with(&options(HOSTS)?.without_agents())?;
    let desk = Desk::new(&cluster)?;
    let mut agents = Vec::new();
    let mut token = String::new();
    for block in &blocks {
        for &host in &block.hosts {
            let said = desk.type_in(&cluster, host, &block.text, &token, &mut agents)?;
            let found = said.lines().rev().find(|line| line.starts_with(TOKEN));
            token = found.map_or(token, str::to_owned);
        }
    }
    let left = cluster.json(1, "endpoint ls")?;
    let left: Vec<&str> = left
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|endpoint| endpoint["name"].as_str())
        .collect();
    ensure!(left == ["a", "b"], "endpoints at the end: {left:?}");
    cluster.refused(3, "endpoint ls", 1, &["in no cluster"])
}

fn the_kernel_settings_are_assignments() -> Result<()> {
    let text = fs::read_to_string(repository().join("deploy/sysctl.d/60-weft.conf"))?;
    let lines = text
        .lines()
        .filter(|line| !line.is_empty() && !line.starts_with('#'));
    for line in lines {
        let (key, value) = line.split_once(" = ").context(line.to_owned())?;
        let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "._".contains(c);
        ensure!(key.chars().all(plain), "{line}");
        value
            .parse::<u64>()
            .with_context(|| format!("{line}: not a number"))?;
    }
    Ok(())
}

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// Lines to be typed on hosts.
#[derive(Debug)]
struct Block {
    hosts: Vec<usize>,
    text: String,
}

fn blocks(page: &str) -> Result<Vec<Block>> {
    let mut found = Vec::new();
    let mut lines = page.lines();
    while let Some(line) = lines.next() {
        let Some(info) = line.strip_prefix("```") else {
            continue;
        };
        let text: Vec<&str> = lines.by_ref().take_while(|line| *line != "```").collect();
        let Some(hosts) = info.strip_prefix("sh ") else {
            continue;
        };
        found.push(Block {
            hosts: numbers(hosts)?,
            text: text.join("\n"),
        });
    }
    Ok(found)
}

fn numbers(hosts: &str) -> Result<Vec<usize>> {
    if hosts == "all" {
        return Ok((1..=HOSTS).collect());
    }
    let number = |host: &str| match host.strip_prefix('h').map(str::parse) {
        Some(Ok(number)) if (1..=HOSTS).contains(&number) => Ok(number),
        _ => bail!("`{host}` is none of h1 to h{HOSTS}"),
    };
    hosts.split(' ').map(number).collect()
}

/// The directory from which things are typed, with what the README has copied there.
struct Desk {
    dir: PathBuf,
}

impl Desk {
    fn new(cluster: &Cluster) -> Result<Self> {
        let name = format!("weft-quickstart-{}", std::process::id());
        let desk = Self {
            dir: std::env::temp_dir().join(name),
        };
        // Of a process that had this id before and was killed.
        let _ = fs::remove_dir_all(&desk.dir);
        fs::create_dir_all(desk.dir.join("bin"))?;
        symlink(weft_exe()?, desk.dir.join("weft"))?;
        symlink(repository().join("deploy"), desk.dir.join("deploy"))?;
        // For machines without ping(8).
        symlink(ping_exe()?, desk.dir.join("bin/ping"))?;
        for host in 1..=HOSTS {
            desk.make_private(cluster, host)?;
        }
        Ok(desk)
    }

    /// Covers what a host shares with the machine, so that installing changes nothing there.
    fn make_private(&self, cluster: &Cluster, host: usize) -> Result<()> {
        for shared in SHARED {
            if !Path::new(shared).is_dir() {
                // In a directory that is the host's own already, then.
                continue;
            }
            let own = self.dir.join(format!("h{host}{shared}"));
            fs::create_dir_all(&own)?;
            let own = own.to_str().context("not text")?;
            cluster.sh(host, &["mount", "--bind", own, shared])?;
        }
        Ok(())
    }

    /// Types a block; what it said.
    fn type_in(
        &self,
        cluster: &Cluster,
        host: usize,
        text: &str,
        token: &str,
        agents: &mut Vec<Running>,
    ) -> Result<String> {
        let mut said = String::new();
        let mut waiting = String::new();
        for line in text.lines() {
            match line {
                SET_PARAMETERS => {}
                START_AGENT => {
                    said += &self.shell(cluster, host, &waiting, token)?;
                    waiting.clear();
                    agents.push(self.start_agent(cluster, host)?);
                }
                line => waiting = waiting + line + "\n",
            }
        }
        Ok(said + &self.shell(cluster, host, &waiting, token)?)
    }

    fn shell(&self, cluster: &Cluster, host: usize, lines: &str, token: &str) -> Result<String> {
        let dir = self.dir.display();
        let script = format!(
            "export PATH=\"/usr/local/bin:$PATH:{dir}/bin\" TOKEN='{token}'\ncd {dir}\n{lines}"
        );
        cluster.sh(host, &["sh", "-euc", &script])
    }

    /// Starts the agent as the installed unit says, with its capabilities and no more; returns
    /// when it has told that it is ready, as `Type=notify` wants.
    fn start_agent(&self, cluster: &Cluster, host: usize) -> Result<Running> {
        let unit = cluster.sh(host, &["cat", UNIT])?;
        ensure!(value(&unit, "Type")? == "notify", "{unit}");
        ensure!(value(&unit, "NoNewPrivileges")? == "yes", "{unit}");
        let capabilities = value(&unit, "CapabilityBoundingSet")?.to_lowercase();
        let bounding = capabilities.split(' ').fold("-all".to_owned(), |set, one| {
            set + ",+" + one.trim_start_matches("cap_")
        });
        let path = self.dir.join(format!("h{host}.notify"));
        let notified = UnixDatagram::bind(&path)?;
        notified.set_read_timeout(Some(PATIENCE))?;
        let environment = format!("NOTIFY_SOCKET={}", path.display());
        let mut argv = vec!["env", &environment, "setpriv", "--no-new-privs"];
        argv.extend(["--bounding-set", &bounding, "--"]);
        argv.extend(value(&unit, "ExecStart")?.split(' '));
        let agent = cluster.spawn(host, &argv)?;
        let mut told = [0; 256];
        let len = notified
            .recv(&mut told)
            .with_context(|| format!("the agent of h{host} is not ready"))?;
        let told = String::from_utf8_lossy(&told[..len]);
        ensure!(told.contains("READY=1"), "h{host} told {told:?}");
        Ok(agent)
    }
}

impl Drop for Desk {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.dir);
    }
}

/// Of a key of a unit file.
fn value<'a>(unit: &'a str, key: &str) -> Result<&'a str> {
    let found = unit
        .lines()
        .find_map(|line| line.strip_prefix(key)?.strip_prefix('='));
    found.with_context(|| format!("the unit has no {key}="))
}
