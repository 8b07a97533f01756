//! The supervisor: process 1 of a lab, which owns everything in it.
//!
//! One thread takes one thing after another: a request from the control socket, a child that
//! ended, the end of the leash, a signal. When it ends, by whatever way, the kernel ends every
//! process of its pid namespace (pid_namespaces(7)), and with them go the mounts, the network
//! namespaces and all that is in those.

mod host;
mod serve;

use std::{
    collections::BTreeMap,
    fs,
    io::Write,
    os::{fd::AsFd, unix::process::ExitStatusExt},
    process::{ExitCode, ExitStatus},
};

use anyhow::Context;
use nix::{
    errno::Errno,
    mount::{MsFlags, mount},
    sys::{
        prctl,
        signal::{Signal, kill},
        wait::{WaitPidFlag, WaitStatus, waitpid},
    },
    unistd::{Pid, dup2_stdout},
};
use tokio::{
    io::AsyncReadExt,
    net::{UnixListener, unix::pipe},
    signal::unix::{SignalKind, signal},
    sync::mpsc,
};

use self::{
    host::Host,
    serve::{Call, QUEUE},
};
use super::{
    HOSTS_MAX,
    control::{LabStatus, Request, Response},
    helper::how_it_ended,
    launch::{LabSpec, READY},
    underlay::{self, OUTSIDE_NUMBER, Underlay},
};

/// Runs the lab until it is told to end.
///
/// Standard output gets [`READY`] or one line that says what failed.
pub(crate) fn run(spec: LabSpec) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let ended = runtime.block_on(async {
        let (supervisor, calls) = match start(spec).await {
            Ok(started) => started,
            Err(error) => {
                let _ = write!(std::io::stdout(), "{error:#}");
                return Err(error);
            }
        };
        supervisor.work(calls).await
    });
    end_everything();
    ended.map(|()| ExitCode::SUCCESS)
}

async fn start(spec: LabSpec) -> anyhow::Result<(Supervisor, mpsc::Receiver<Call>)> {
    prctl::set_pdeathsig(Signal::SIGKILL).context("cannot be tied to the launcher")?;
    let none: Option<&str> = None;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)
        .context("cannot make the mounts private")?;
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    mount(Some("proc"), "/proc", Some("proc"), flags, none)
        .context("cannot mount /proc (a container runtime that masks it stands in the way)")?;
    let underlay = Underlay::create(spec.mtu).await?;
    let mut supervisor = Supervisor {
        leash: Some(leash()?),
        spec,
        underlay,
        hosts: BTreeMap::new(),
    };
    let numbers: Vec<u8> = (1..=supervisor.spec.hosts)
        .filter_map(|n| u8::try_from(n).ok())
        .collect();
    supervisor.add_hosts(&numbers, true).await?;
    let listener =
        UnixListener::bind(supervisor.spec.dir.control()).context("cannot serve requests")?;
    let (queue, calls) = mpsc::channel(QUEUE);
    tokio::spawn(serve::accept(listener, queue));
    let mut out = std::io::stdout();
    out.write_all(READY.as_bytes())?;
    out.flush()?;
    dup2_stdout(fs::File::options().write(true).open("/dev/null")?)?;
    Ok((supervisor, calls))
}

struct Supervisor {
    spec: LabSpec,
    /// Ends when the owner of the lab does; none when the lab goes on without one.
    leash: Option<pipe::Receiver>,
    underlay: Underlay,
    /// By number, which is the last byte of the address.
    hosts: BTreeMap<u8, Host>,
}

impl Supervisor {
    async fn work(mut self, mut calls: mpsc::Receiver<Call>) -> anyhow::Result<()> {
        let mut children = signal(SignalKind::child())?;
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        // Children that ended before the handler was there.
        self.reap();
        loop {
            tokio::select! {
                _ = children.recv() => self.reap(),
                _ = terminate.recv() => return Ok(()),
                _ = interrupt.recv() => return Ok(()),
                () = let_go(&mut self.leash) => return Ok(()),
                call = calls.recv() => match call {
                    // The answer is the end of the connection, when nothing is left.
                    None | Some(Call { request: Request::Down, .. }) => return Ok(()),
                    Some(call) => self.take(call).await,
                },
            }
        }
    }

    async fn take(&mut self, call: Call) {
        let Call { request, answer } = call;
        let response = match self.perform(request).await {
            Ok(Performed::Answer(response)) => response,
            Ok(Performed::WhenAgentEnds(number)) => {
                if let Some(host) = self.hosts.get_mut(&number) {
                    host.answer_when_agent_ends(answer);
                }
                return;
            }
            Err(error) => Response::Refused(format!("{error:#}")),
        };
        // A caller that has gone needs no answer.
        let _ = answer.send(response);
    }

    async fn perform(&mut self, request: Request) -> anyhow::Result<Performed> {
        let name = match &request {
            Request::Find { host }
            | Request::StartAgent { host, .. }
            | Request::SignalAgent { host, .. }
            | Request::SetCable { host, .. } => host.clone(),
            _ => String::new(),
        };
        let number = self
            .hosts
            .iter()
            .find(|(_, host)| host.name() == name)
            .map(|(n, _)| *n);
        let named = number.and_then(|number| Some((number, self.hosts.get_mut(&number)?)));
        let response = match (request, named) {
            (Request::Status, _) => Response::Status(self.status()),
            (Request::AddHost, _) => {
                let number = (1..=HOSTS_MAX)
                    .find(|number| !self.hosts.contains_key(number))
                    .with_context(|| format!("a lab has at most {HOSTS_MAX} hosts"))?;
                self.add_hosts(&[number], false).await?;
                let added = self.hosts.get(&number).context("the host was just added")?;
                Response::Host(added.status())
            }
            (Request::SetMtu { mtu }, _) => {
                self.set_mtu(mtu).await?;
                Response::Done
            }
            (Request::Keep, _) => {
                self.leash = None;
                Response::Done
            }
            (Request::Down, _) => Response::Done,
            (_, None) => {
                let names: Vec<&str> = self.hosts.values().map(Host::name).collect();
                Response::NoSuchHost {
                    known: names.join(", "),
                }
            }
            (Request::Find { .. }, Some((_, host))) => Response::Host(host.status()),
            (Request::StartAgent { args, .. }, Some((_, host))) => {
                host.start_agent(&self.spec.exe, &args, &self.spec.dir)?;
                Response::Host(host.status())
            }
            (Request::SignalAgent { signal, wait, .. }, Some((number, host))) => {
                host.signal_agent(Signal::try_from(signal).context("no such signal")?)?;
                if wait {
                    return Ok(Performed::WhenAgentEnds(number));
                }
                Response::Done
            }
            (Request::SetCable { cable, .. }, Some((_, host))) => {
                self.underlay.set_cable(host.name(), cable).await?;
                host.cable = cable;
                Response::Done
            }
        };
        Ok(Performed::Answer(response))
    }

    fn status(&self) -> LabStatus {
        LabStatus {
            name: self.spec.dir.name().to_owned(),
            pid: 1,
            mtu: self.underlay.mtu(),
            dir: self.spec.dir.path().to_owned(),
            hosts: self.hosts.values().map(Host::status).collect(),
        }
    }

    /// Adds hosts, all at the same time: most of it is their own work.
    async fn add_hosts(&mut self, numbers: &[u8], outside: bool) -> anyhow::Result<()> {
        let last = outside.then_some(OUTSIDE_NUMBER);
        let mut hosts = Vec::with_capacity(numbers.len() + 1);
        for number in numbers.iter().copied().chain(last) {
            let (name, address) = (underlay::host_name(number), underlay::address(number));
            hosts.push((number, Host::spawn(&self.spec, &name, address)?));
        }
        for (_, host) in &mut hosts {
            host.wait_namespaces().await?;
            self.underlay
                .connect_host(host.name(), host.address(), host.holder())
                .await?;
            host.order_cable().await?;
        }
        for (number, mut host) in hosts {
            host.wait_done().await?;
            self.hosts.insert(number, host);
        }
        Ok(())
    }

    async fn set_mtu(&mut self, mtu: u32) -> anyhow::Result<()> {
        // The bridge's ends first when growing, last when shrinking, would lose nothing either
        // way: a frame that is too long for the other end is dropped, as on a real segment.
        self.underlay.set_mtu(mtu).await?;
        for host in self.hosts.values_mut() {
            host.set_mtu(mtu).await?;
        }
        Ok(())
    }

    /// Notes every child that ended; orphans of the whole lab are children of process 1.
    fn reap(&mut self) {
        loop {
            let status = match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
                Ok(WaitStatus::Exited(pid, code)) => (pid, ExitStatus::from_raw(code << 8)),
                Ok(WaitStatus::Signaled(pid, signal, _)) => {
                    (pid, ExitStatus::from_raw(signal as i32))
                }
                Ok(WaitStatus::StillAlive) | Err(_) => return,
                Ok(_) => continue,
            };
            let (pid, status) = status;
            for host in self.hosts.values_mut() {
                host.child_ended(pid.as_raw(), &how_it_ended(status));
            }
        }
    }
}

/// The pipe whose other end the owner of the lab holds: standard input.
fn leash() -> anyhow::Result<pipe::Receiver> {
    let stdin = std::io::stdin().as_fd().try_clone_to_owned()?;
    pipe::Receiver::from_owned_fd(stdin).context("the leash is not a pipe")
}

/// Returns when the owner lets go; never if there is none.
async fn let_go(leash: &mut Option<pipe::Receiver>) {
    match leash {
        // Nothing is ever written, so whatever is read is the end.
        Some(leash) => drop(leash.read(&mut [0]).await),
        None => std::future::pending().await,
    }
}

enum Performed {
    Answer(Response),
    /// The answer waits for the end of this host's agent.
    WhenAgentEnds(u8),
}

/// Kills every other process of the lab and returns when none is left, so that whoever sees the
/// lab end sees nothing of it afterwards.
fn end_everything() {
    loop {
        // -1 is every process of the namespace but the caller (kill(2)).
        let _ = kill(Pid::from_raw(-1), Signal::SIGKILL);
        if waitpid(None, None) == Err(Errno::ECHILD) {
            return;
        }
    }
}
