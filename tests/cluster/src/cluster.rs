//! A lab with helpers that read as the tests do.

use std::ops::Deref;
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use weft_agent::lab::{Host, Lab, LabOptions};

use crate::weft::weft_exe;

/// Labs that this process made; their names must differ.
static NEXT: AtomicU32 = AtomicU32::new(0);

/// The number of the host without an agent, which is on the underlay only.
pub const OUTSIDE: usize = 0;

/// A lab that ends with the test.
pub struct Cluster {
    lab: Lab,
}

/// How a command ended.
#[derive(Clone, Debug)]
pub struct Ran {
    /// Exit status; 128 and the signal if one ended it.
    pub status: i32,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

/// Options for a lab of `hosts` hosts, the first three of which are managers.
pub fn options(hosts: usize) -> Result<LabOptions> {
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let name = format!("t{}-{number}", std::process::id());
    Ok(LabOptions::new(weft_exe()?).named(name).with_hosts(hosts))
}

impl Cluster {
    /// Agents that form a cluster.
    pub fn up(hosts: usize) -> Result<Self> {
        Self::with(&options(hosts)?)
    }

    /// Agents that do not, yet.
    pub fn unformed(hosts: usize) -> Result<Self> {
        Self::with(&options(hosts)?.without_cluster())
    }

    /// A manager and a worker whose agents compare everything with the kernel so often.
    pub fn looking_again_every(interval: &str) -> Result<Self> {
        Self::looking_again_with(interval, &[])
    }

    /// The same with these arguments for the agents besides.
    pub fn looking_again_with(interval: &str, agent_args: &[&str]) -> Result<Self> {
        let mut options = options(2)?.without_cluster();
        let all = ["--config", "/etc/weft/weft.toml"].iter().chain(agent_args);
        options.agent_args = all.map(|&word| word.to_owned()).collect();
        options.agents = false;
        let cluster = Self::with(&options)?;
        let write = format!("echo 'resync = \"{interval}\"' > /etc/weft/weft.toml");
        for host in 1..=2 {
            cluster.sh(host, &["sh", "-c", &write])?;
            cluster.host(host)?.start_agent()?;
            cluster.host(host)?.wait_ready(crate::PATIENCE)?;
        }
        cluster.weft(1, "init")?;
        let token = cluster.weft(1, "token worker -q")?;
        cluster.weft(2, &format!("join --token {} 198.18.0.1", token.trim()))?;
        Ok(cluster)
    }

    /// As the options say.
    pub fn with(options: &LabOptions) -> Result<Self> {
        Ok(Self {
            lab: Lab::up(options)?,
        })
    }

    /// Runs `weft` on a host (h1 is 1), successfully; standard output.
    pub fn weft(&self, host: usize, args: &str) -> Result<String> {
        let ran = self.try_weft(host, args)?;
        ensure!(
            ran.status == 0,
            "h{host}: weft {args}: {} ({})",
            ran.stderr.trim(),
            ran.status
        );
        Ok(ran.stdout)
    }

    /// Runs `weft` on a host, whatever comes of it. Arguments are split at spaces.
    pub fn try_weft(&self, host: usize, args: &str) -> Result<Ran> {
        let argv: Vec<&str> = std::iter::once("weft")
            .chain(args.split_whitespace())
            .collect();
        self.run(host, &argv)
    }

    /// `weft ... --format json`, read.
    pub fn json(&self, host: usize, args: &str) -> Result<Value> {
        let text = self.weft(host, &format!("{args} --format json"))?;
        serde_json::from_str(&text).with_context(|| format!("weft {args}: {text}"))
    }

    /// Runs a command on a host.
    pub fn run(&self, host: usize, argv: &[&str]) -> Result<Ran> {
        Ran::of(self.host(host)?.run(argv)?)
    }

    /// Runs a command on a host that must succeed; standard output.
    pub fn sh(&self, host: usize, argv: &[&str]) -> Result<String> {
        let ran = self.run(host, argv)?;
        ensure!(
            ran.status == 0,
            "h{host}: {argv:?}: {} ({})",
            ran.stderr.trim(),
            ran.status
        );
        Ok(ran.stdout)
    }

    /// A command on a host that goes on; killed when dropped.
    pub fn spawn(&self, host: usize, argv: &[&str]) -> Result<Running> {
        let Some((program, args)) = argv.split_first() else {
            bail!("no command")
        };
        let mut command: Command = self.host(host)?.command(program);
        command
            .args(args)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        Ok(Running {
            child: Some(command.spawn()?),
        })
    }

    /// `weft` on a host is refused with `status` and one line that contains each of `says`.
    pub fn refused(&self, host: usize, args: &str, status: i32, says: &[&str]) -> Result<()> {
        let ran = self.try_weft(host, args)?;
        ran.is_refused(&format!("weft {args}"), status, says)
    }

    /// A detached container on a network; its IPv4 address.
    pub fn container(&self, host: usize, network: &str, name: &str) -> Result<String> {
        self.weft(
            host,
            &format!("run --network {network} --name {name} --detach -- sleep infinity"),
        )?;
        self.address(host, &format!("{name}.{network}"))
    }

    /// The address of an endpoint, of IPv4 if it has one.
    pub fn address(&self, host: usize, endpoint: &str) -> Result<String> {
        let found = self.json(host, &format!("endpoint inspect {endpoint}"))?;
        let address = found["ipv4"].as_str().or(found["ipv6"].as_str());
        let address = address.context("no address")?;
        Ok(address.to_owned())
    }

    /// The latest revision that a host knows.
    pub fn revision(&self, host: usize) -> Result<u64> {
        self.json(host, "status")?["revision"]
            .as_u64()
            .context("no revision")
    }

    /// Waits until every kernel reflects what `host` knows.
    pub fn settle(&self, host: usize) -> Result<()> {
        let revision = self.revision(host)?;
        self.weft(host, &format!("wait --revision {revision} --timeout 60s"))?;
        Ok(())
    }

    /// The number of the host that leads.
    pub fn leader(&self, asked: usize) -> Result<usize> {
        let nodes = self.json(asked, "node ls")?;
        let leader = nodes
            .as_array()
            .into_iter()
            .flatten()
            .find(|node| node["leader"] == true);
        let name = leader
            .and_then(|node| node["name"].as_str())
            .context("no leader")?;
        name.trim_start_matches('h')
            .parse()
            .with_context(|| format!("leader is {name}"))
    }

    /// The host h`number`, or the one without an agent.
    pub fn host(&self, number: usize) -> Result<Host> {
        match number {
            OUTSIDE => Ok(self.lab.outside()?),
            number => Ok(self.lab.host(number)?),
        }
    }
}

impl Deref for Cluster {
    type Target = Lab;

    fn deref(&self) -> &Lab {
        &self.lab
    }
}

impl Ran {
    /// From what the system says.
    pub fn of(output: Output) -> Result<Self> {
        use std::os::unix::process::ExitStatusExt;
        let signal = || output.status.signal().map(|signal| 128 + signal);
        let status = output
            .status
            .code()
            .or_else(signal)
            .context("neither ended nor killed")?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Ok(Self {
            status,
            stdout: text(&output.stdout),
            stderr: text(&output.stderr),
        })
    }

    /// One line on standard error that contains each of `says`, and this status.
    pub fn is_refused(&self, what: &str, status: i32, says: &[&str]) -> Result<()> {
        let error = self.stderr.trim_end();
        ensure!(
            self.status == status,
            "{what}: status {} instead of {status}: {error}",
            self.status
        );
        ensure!(
            error.lines().count() == 1,
            "{what}: not one line: {error:?}"
        );
        for word in says {
            ensure!(
                error.contains(word),
                "{what}: {error:?} does not say {word:?}"
            );
        }
        Ok(())
    }
}

/// A command that goes on.
pub struct Running {
    child: Option<std::process::Child>,
}

impl Running {
    /// Waits for its end.
    pub fn wait(mut self) -> Result<Ran> {
        let child = self.child.take().context("already waited for")?;
        Ran::of(child.wait_with_output()?)
    }

    /// Asks it to end by a signal and waits for that.
    pub fn stop(self, signal: nix::sys::signal::Signal) -> Result<Ran> {
        let child = self.child.as_ref().context("already waited for")?;
        let pid = nix::unistd::Pid::from_raw(i32::try_from(child.id())?);
        nix::sys::signal::kill(pid, signal)?;
        self.wait()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
