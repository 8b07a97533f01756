//! One host of a lab, from the outside.

use std::{
    ffi::OsStr,
    fs,
    io::{self, Read, Write},
    net::Ipv4Addr,
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use nix::sys::signal::Signal;

use super::{
    Cable, LabError, PingReport, PingSpec, Pinger, PullSpec, Pulled, Running, WatchReport,
    control::{AgentStatus, HostStatus, Request},
    exec::proc_dir,
    helper::{Role, arguments, how_it_ended, weft},
    lab::Shared,
    web::{Answer, FetchSpec, ServeSpec},
};

/// How often an agent that is starting is looked at.
const POLL: Duration = Duration::from_millis(3);
/// How long an agent that listens may take to answer.
const ANSWER_LIMIT: Duration = Duration::from_secs(2);
/// The beginning of the answer of an agent that is up (RFC 9112, section 4).
const OK: &[u8; 12] = b"HTTP/1.1 200";
/// How much of an agent's log is quoted when it does not come up.
const LOG_TAIL_LINES: usize = 5;

/// One host of a lab; cheap to clone.
#[derive(Debug, Clone)]
pub struct Host {
    lab: Arc<Shared>,
    name: String,
    address: Ipv4Addr,
    holder: i32,
}

impl Host {
    pub(crate) fn new(lab: Arc<Shared>, status: &HostStatus) -> Self {
        let HostStatus {
            name,
            address,
            holder,
            ..
        } = status;
        Self {
            lab,
            name: name.clone(),
            address: *address,
            holder: *holder,
        }
    }

    /// Its name, which is also its hostname.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its address on the underlay.
    pub fn address(&self) -> Ipv4Addr {
        self.address
    }

    /// A command that runs `program` on the host, as `weft lab exec` does.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = weft(&self.lab.weft_exe);
        command.args([
            "lab",
            "exec",
            "--name",
            self.lab.dir.name(),
            &self.name,
            "--",
        ]);
        command.arg(program);
        command
    }

    /// Runs a command line on the host, with nothing on its standard input.
    ///
    /// # Errors
    /// `weft lab exec` cannot be started; how the command ends is in the output.
    pub fn run<S: AsRef<OsStr>>(&self, argv: &[S]) -> Result<Output, LabError> {
        let Some((program, args)) = argv.split_first() else {
            return Err(LabError::Refused("no command given".to_owned()));
        };
        let output = self
            .command(program)
            .args(args)
            .stdin(Stdio::null())
            .output();
        output.map_err(LabError::io(format!(
            "cannot run a command on {}",
            self.name
        )))
    }

    /// Runs `weft` on the host; its standard output, if it succeeds.
    ///
    /// # Errors
    /// It does not succeed; the error carries what it says.
    pub fn weft<S: AsRef<OsStr>>(&self, args: &[S]) -> Result<String, LabError> {
        let mut argv: Vec<&OsStr> = vec![OsStr::new("weft")];
        argv.extend(args.iter().map(AsRef::as_ref));
        let output = self.run(&argv)?;
        if output.status.success() {
            return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
        }
        let said = String::from_utf8_lossy(&output.stderr)
            .trim()
            .replace('\n', "; ");
        Err(LabError::Command {
            host: self.name.clone(),
            command: argv.join(OsStr::new(" ")).to_string_lossy().into_owned(),
            reason: if said.is_empty() {
                how_it_ended(output.status)
            } else {
                said
            },
        })
    }

    /// Starts a ping from the host itself, or from the endpoint of that name on it.
    ///
    /// # Errors
    /// `weft lab exec` cannot be started.
    pub fn start_ping(&self, from: Option<&str>, spec: &PingSpec) -> Result<Pinger, LabError> {
        let mut command = self.command("weft");
        if let Some(endpoint) = from {
            command.args(["exec", endpoint, "--", "weft"]);
        }
        let what = format!("a ping from {} to {}", from.unwrap_or(&self.name), spec.to);
        let ping = arguments(&Role::Ping(spec.clone()));
        command.args(ping.map_err(|error| LabError::io(what.as_str())(error.into()))?);
        Pinger::spawn(command, what)
    }

    /// Pings from the host itself, or from the endpoint of that name on it.
    ///
    /// # Errors
    /// There is no report. Lost packets are in the report.
    pub fn ping(&self, from: Option<&str>, spec: &PingSpec) -> Result<PingReport, LabError> {
        self.start_ping(from, spec)?.finish()
    }

    /// The arguments of `weft` that make it say who it is and whom it sees.
    ///
    /// # Errors
    /// The name cannot be written.
    pub fn serve_args(spec: &ServeSpec) -> Result<[String; 3], LabError> {
        let args = arguments(&Role::Serve(spec.clone()));
        args.map_err(|error| LabError::io("a server's arguments")(error.into()))
    }

    /// Asks such servers, from the host itself or from the endpoint of that name on it.
    ///
    /// # Errors
    /// A request is not answered.
    pub fn fetch(&self, from: Option<&str>, spec: &FetchSpec) -> Result<Vec<Answer>, LabError> {
        let what = format!(
            "requests from {} to {}",
            from.unwrap_or(&self.name),
            spec.to
        );
        let failed = |error: serde_json::Error| LabError::io(what.as_str())(error.into());
        let mut args: Vec<String> = Vec::new();
        if let Some(endpoint) = from {
            args.extend(["exec", endpoint, "--", "weft"].map(str::to_owned));
        }
        args.extend(arguments(&Role::Fetch(spec.clone())).map_err(failed)?);
        serde_json::from_str(&self.weft(&args)?).map_err(failed)
    }

    /// Has such a server send bytes over one connection, to the host itself or to the endpoint of that
    /// name on it.
    ///
    /// # Errors
    /// Not all of them come.
    pub fn pull(&self, to: Option<&str>, spec: &PullSpec) -> Result<Pulled, LabError> {
        let what = format!("a transfer from {}", spec.from);
        let failed = |error: serde_json::Error| LabError::io(what.as_str())(error.into());
        let mut args: Vec<String> = Vec::new();
        if let Some(endpoint) = to {
            args.extend(["exec", endpoint, "--", "weft"].map(str::to_owned));
        }
        args.extend(arguments(&Role::Pull(spec.clone())).map_err(failed)?);
        serde_json::from_str(&self.weft(&args)?).map_err(failed)
    }

    /// Begins to look at what goes over the host's wire. It is looked at when this returns.
    ///
    /// # Errors
    /// It cannot be.
    pub fn start_watch(&self) -> Result<Running<WatchReport>, LabError> {
        let mut command = self.command("weft");
        let what = format!("a look at the wire of {}", self.name);
        let watch = arguments(&Role::Watch);
        command.args(watch.map_err(|error| LabError::io(what.as_str())(error.into()))?);
        let mut running = Running::spawn(command, what)?;
        running.wait_ready()?;
        Ok(running)
    }

    /// Starts the agent, which must not be running, with the lab's arguments.
    ///
    /// # Errors
    /// It runs already, cannot be started, or the lab has ended.
    pub fn start_agent(&self) -> Result<(), LabError> {
        let host = self.name.clone();
        let own = self.lab.host_args.get(&host).into_iter().flatten();
        let args = self.lab.agent_args.iter().chain(own).cloned().collect();
        self.lab
            .control()?
            .order(&Request::StartAgent { host, args })
    }

    /// Waits until the agent answers on its socket.
    ///
    /// # Errors
    /// It ends, or does not answer in time; its last words are in the error.
    pub fn wait_ready(&self, limit: Duration) -> Result<(), LabError> {
        let socket = self.agent_socket();
        let start = Instant::now();
        while !answers(&socket) {
            let ended = self.agent()?.and_then(|agent| agent.ended);
            if let Some(how) = ended {
                let tail = self.log_tail(LOG_TAIL_LINES).join("; ");
                let reason = format!("the agent of {} ended with {how}: {tail}", self.name);
                return Err(LabError::Refused(reason));
            }
            if start.elapsed() > limit {
                let tail = self.log_tail(LOG_TAIL_LINES).join("; ");
                let what = format!("the agent of {} should answer ({tail})", self.name);
                return Err(LabError::TimedOut {
                    what,
                    seconds: limit.as_secs(),
                });
            }
            std::thread::sleep(POLL);
        }
        Ok(())
    }

    /// Sends the agent a signal.
    ///
    /// # Errors
    /// No agent runs, or the lab has ended.
    pub fn signal_agent(&self, signal: Signal) -> Result<(), LabError> {
        self.signal(signal, false)
    }

    /// Kills the agent (SIGKILL) and returns when it is gone.
    ///
    /// # Errors
    /// As [`Host::signal_agent`].
    pub fn kill_agent(&self) -> Result<(), LabError> {
        self.signal(Signal::SIGKILL, true)
    }

    /// Asks the agent to end (SIGTERM) and returns when it is gone.
    ///
    /// # Errors
    /// As [`Host::signal_agent`], or it takes longer than 20 s.
    pub fn stop_agent(&self) -> Result<(), LabError> {
        self.signal(Signal::SIGTERM, true)
    }

    /// The agent that was started last, if any.
    ///
    /// # Errors
    /// The lab has ended.
    pub fn agent(&self) -> Result<Option<AgentStatus>, LabError> {
        Ok(self.lab.control()?.find(&self.name)?.agent)
    }

    /// Process id of the running agent, as processes in the lab see it.
    ///
    /// # Errors
    /// No agent runs, or the lab has ended.
    pub fn agent_pid(&self) -> Result<i32, LabError> {
        match self.agent()?.filter(AgentStatus::is_alive) {
            Some(agent) => Ok(agent.pid),
            None => Err(LabError::Refused(format!("no agent runs on {}", self.name))),
        }
    }

    /// The `/proc` directory, seen from outside, of a process of the lab.
    pub fn proc_dir(&self, pid: i32) -> PathBuf {
        proc_dir(self.lab.supervisor, pid)
    }

    /// The host's root directory, seen from outside: files and sockets can be used through it.
    pub fn root(&self) -> PathBuf {
        self.proc_dir(self.holder).join("root")
    }

    /// The agent's socket, seen from outside.
    pub fn agent_socket(&self) -> PathBuf {
        self.root().join("run/weft/weft.sock")
    }

    /// Plugs, pulls or cuts the host's cable to the underlay.
    ///
    /// # Errors
    /// The lab has ended.
    pub fn set_cable(&self, cable: Cable) -> Result<(), LabError> {
        let host = self.name.clone();
        self.lab
            .control()?
            .order(&Request::SetCable { host, cable })
    }

    /// The log of the host's agents.
    pub fn log(&self) -> PathBuf {
        self.lab.dir.host_log(&self.name)
    }

    /// The last lines of the agents' log.
    pub fn log_tail(&self, lines: usize) -> Vec<String> {
        let log = fs::read(self.log()).unwrap_or_default();
        let log = String::from_utf8_lossy(&log);
        let all: Vec<&str> = log.lines().collect();
        let first = all.len().saturating_sub(lines);
        all.into_iter().skip(first).map(str::to_owned).collect()
    }

    fn signal(&self, signal: Signal, wait: bool) -> Result<(), LabError> {
        let host = self.name.clone();
        self.lab.control()?.order(&Request::SignalAgent {
            host,
            signal: signal as i32,
            wait,
        })
    }
}

/// Whether an agent answers a request on that socket: it listens before it can do anything.
fn answers(socket: &Path) -> bool {
    let ask = || -> io::Result<bool> {
        let mut stream = UnixStream::connect(socket)?;
        stream.set_read_timeout(Some(ANSWER_LIMIT))?;
        stream.write_all(b"GET /v1/status HTTP/1.1\r\nHost: weft\r\nConnection: close\r\n\r\n")?;
        let mut answer = [0; OK.len()];
        stream.read_exact(&mut answer)?;
        Ok(&answer == OK)
    };
    ask().unwrap_or(false)
}
