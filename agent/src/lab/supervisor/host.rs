//! One host, as the supervisor keeps it: its holder and its agent.

use std::{
    fs::OpenOptions,
    net::Ipv4Addr,
    os::{fd::OwnedFd, unix::fs::OpenOptionsExt},
    path::Path,
    process::Stdio,
};

use anyhow::{Context, bail, ensure};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    net::unix::pipe,
    sync::oneshot,
};

use super::super::{
    LabDir, OUTSIDE,
    control::{AgentStatus, Cable, HostStatus, Response},
    enter::{BIN_DIR, EnterSpec},
    helper::{Role, helper},
    holder::{self, HoldSpec},
    launch::LabSpec,
};

/// One host: the process that holds its namespaces, and its agent.
pub(super) struct Host {
    name: String,
    address: Ipv4Addr,
    holder: u32,
    orders: pipe::Sender,
    answers: BufReader<pipe::Receiver>,
    agent: Option<AgentStatus>,
    waiting: Vec<oneshot::Sender<Response>>,
    pub(super) cable: Cable,
}

impl Host {
    /// Starts the holder, which makes the host's namespaces by itself.
    pub(super) fn spawn(lab: &LabSpec, name: &str, address: Ipv4Addr) -> anyhow::Result<Self> {
        let state = match &lab.state {
            Some(state) if name != OUTSIDE => {
                let dir = state.join(name);
                std::fs::create_dir_all(&dir)
                    .with_context(|| format!("cannot make {}", dir.display()))?;
                Some(dir)
            }
            _ => None,
        };
        let spec = HoldSpec {
            name: name.to_owned(),
            address,
            exe: lab.exe.clone(),
            state,
        };
        let mut child = helper(&lab.exe, &Role::Hold(spec))?
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot run {}", lab.exe.display()))?;
        let (Some(orders), Some(answers)) = (child.stdin.take(), child.stdout.take()) else {
            bail!("{name} has no pipes");
        };
        Ok(Self {
            name: name.to_owned(),
            address,
            holder: child.id(),
            orders: pipe::Sender::from_owned_fd(OwnedFd::from(orders))?,
            answers: BufReader::new(pipe::Receiver::from_owned_fd(OwnedFd::from(answers))?),
            agent: None,
            waiting: Vec::new(),
            cable: Cable::In,
        })
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn address(&self) -> Ipv4Addr {
        self.address
    }

    /// Process id of the holder.
    pub(super) fn holder(&self) -> u32 {
        self.holder
    }

    pub(super) fn status(&self) -> HostStatus {
        HostStatus {
            name: self.name.clone(),
            address: self.address,
            holder: self.holder.cast_signed(),
            agent: self.agent.clone(),
            cable: self.cable,
        }
    }

    pub(super) async fn wait_namespaces(&mut self) -> anyhow::Result<()> {
        self.expect(holder::NAMESPACES).await
    }

    pub(super) async fn order_cable(&mut self) -> anyhow::Result<()> {
        Ok(self
            .orders
            .write_all(format!("{}\n", holder::CABLE).as_bytes())
            .await?)
    }

    pub(super) async fn wait_done(&mut self) -> anyhow::Result<()> {
        self.expect(holder::DONE).await
    }

    pub(super) async fn set_mtu(&mut self, mtu: u32) -> anyhow::Result<()> {
        self.orders
            .write_all(format!("{} {mtu}\n", holder::MTU).as_bytes())
            .await?;
        self.wait_done().await
    }

    async fn expect(&mut self, word: &str) -> anyhow::Result<()> {
        let mut line = String::new();
        self.answers.read_line(&mut line).await?;
        ensure!(
            line.trim_end() == word,
            "{} did not come up; the lab's log says why",
            self.name
        );
        Ok(())
    }

    /// Starts the agent, which must not be running.
    pub(super) fn start_agent(
        &mut self,
        exe: &Path,
        args: &[String],
        dir: &LabDir,
    ) -> anyhow::Result<()> {
        ensure!(
            self.name != OUTSIDE,
            "{OUTSIDE} is the machine without an agent"
        );
        if let Some(agent) = self.agent.as_ref().filter(|agent| agent.is_alive()) {
            bail!(
                "the agent of {} runs already, as process {}",
                self.name,
                agent.pid
            );
        }
        let log = OpenOptions::new()
            .append(true)
            .create(true)
            .mode(0o600)
            .open(dir.host_log(&self.name))
            .context("cannot open the agent's log")?;
        let mut argv = vec![format!("{BIN_DIR}/weft"), "agent".to_owned()];
        argv.extend_from_slice(args);
        let holder = self.holder.cast_signed();
        let child = helper(exe, &Role::Enter(EnterSpec { holder, argv }))?
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .context("cannot start the agent")?;
        self.agent = Some(AgentStatus {
            pid: child.id().cast_signed(),
            ended: None,
        });
        Ok(())
    }

    pub(super) fn signal_agent(&self, signal: Signal) -> anyhow::Result<()> {
        let agent = self.agent.as_ref().filter(|agent| agent.is_alive());
        let agent = agent.with_context(|| format!("no agent runs on {}", self.name))?;
        kill(Pid::from_raw(agent.pid), signal).context("cannot signal the agent")
    }

    pub(super) fn answer_when_agent_ends(&mut self, answer: oneshot::Sender<Response>) {
        self.waiting.push(answer);
    }

    /// Takes note if the child that ended was the agent.
    pub(super) fn child_ended(&mut self, pid: i32, how: &str) {
        if pid == self.holder.cast_signed() {
            eprintln!("weft: lab: the holder of {} ended with {how}", self.name);
        }
        let Some(agent) = self.agent.as_mut().filter(|agent| agent.pid == pid) else {
            return;
        };
        agent.ended = Some(how.to_owned());
        for answer in self.waiting.drain(..) {
            let _ = answer.send(Response::Done);
        }
    }
}
