//! Requests to a lab's supervisor: one JSON line each way over its Unix socket.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::Ipv4Addr,
    os::{fd::AsRawFd, unix::net::UnixStream},
    path::PathBuf,
    time::Duration,
};

use nix::{
    errno::Errno,
    sys::socket::{MsgFlags, getsockopt, recv, sockopt::PeerCredentials},
};
use serde::{Deserialize, Serialize};

use super::{LabDir, LabError};

/// Longest line on the socket; a status of the largest lab is a tenth of it.
pub(crate) const LINE_MAX: u64 = 64 * 1024;
/// Longest a supervisor may take: ending an agent gracefully is the slowest thing it does.
const ANSWER_LIMIT: Duration = Duration::from_secs(20);

/// How a host hangs on the underlay.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Cable {
    /// Connected.
    In,
    /// Pulled out: the host sees that its carrier is gone.
    Out,
    /// Everything is lost on the way, and the host sees nothing of it (a partition).
    Silent,
}

/// What a supervisor can be asked.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Request {
    Find {
        host: String,
    },
    Status,
    AddHost,
    StartAgent {
        host: String,
        args: Vec<String>,
    },
    SignalAgent {
        host: String,
        signal: i32,
        wait: bool,
    },
    SetCable {
        host: String,
        cable: Cable,
    },
    SetMtu {
        mtu: u32,
    },
    /// Go on without the owner.
    Keep,
    Down,
}

/// What it answers.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Response {
    Done,
    Host(HostStatus),
    Status(LabStatus),
    NoSuchHost { known: String },
    Refused(String),
}

/// A lab as `weft lab status` shows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LabStatus {
    /// The lab's name.
    pub name: String,
    /// Process id of the supervisor, as the caller sees it.
    pub pid: i32,
    /// MTU of the underlay in bytes.
    pub mtu: u32,
    /// Where the lab's logs are.
    pub dir: PathBuf,
    /// Its hosts, `outside` last.
    pub hosts: Vec<HostStatus>,
}

/// One host of a lab.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostStatus {
    /// Its name, which is also its hostname.
    pub name: String,
    /// Its address on the underlay.
    pub address: Ipv4Addr,
    /// The process that holds its namespaces, as processes in the lab see it.
    pub holder: i32,
    /// Its agent, if one was ever started.
    pub agent: Option<AgentStatus>,
    /// How it hangs on the underlay.
    pub cable: Cable,
}

/// An agent that the lab started.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AgentStatus {
    /// Its process id, as processes in the lab see it.
    pub pid: i32,
    /// How it ended, if it did: `exit status 1`, `signal SIGKILL`.
    pub ended: Option<String>,
}

impl AgentStatus {
    /// Whether it runs.
    pub fn is_alive(&self) -> bool {
        self.ended.is_none()
    }
}

/// A connection to a supervisor.
#[derive(Debug)]
pub(crate) struct Control {
    lab: String,
    stream: BufReader<UnixStream>,
    supervisor: i32,
}

impl Control {
    /// Connects to the lab of that directory.
    pub(crate) fn connect(dir: &LabDir) -> Result<Self, LabError> {
        let stream = UnixStream::connect(dir.control()).map_err(|_| LabError::NotUp {
            name: dir.name().to_owned(),
        })?;
        let peer = getsockopt(&stream, PeerCredentials)
            .map_err(|error| LabError::io("cannot ask who serves the lab")(error.into()))?;
        stream
            .set_read_timeout(Some(ANSWER_LIMIT))
            .map_err(LabError::io("cannot limit the wait for the lab"))?;
        Ok(Self {
            lab: dir.name().to_owned(),
            stream: BufReader::new(stream),
            supervisor: peer.pid(),
        })
    }

    /// Process id of the supervisor in the caller's pid namespace; it is that process for as long
    /// as [`is_open`](Self::is_open) holds.
    pub(crate) fn supervisor(&self) -> i32 {
        self.supervisor
    }

    /// Whether the supervisor still holds its end.
    pub(crate) fn is_open(&self) -> bool {
        let flags = MsgFlags::MSG_PEEK | MsgFlags::MSG_DONTWAIT;
        // Nothing is ever sent unasked.
        recv(self.stream.get_ref().as_raw_fd(), &mut [0], flags) == Err(Errno::EAGAIN)
    }

    /// Asks, and returns the answer; a refusal is an error.
    pub(crate) fn ask(&mut self, request: &Request) -> Result<Response, LabError> {
        let broken = |error| LabError::io(format!("lab {:?} does not answer", self.lab))(error);
        let mut line = serde_json::to_vec(request).map_err(|error| broken(error.into()))?;
        line.push(b'\n');
        self.stream.get_mut().write_all(&line).map_err(broken)?;
        let mut answer = String::new();
        self.stream
            .by_ref()
            .take(LINE_MAX)
            .read_line(&mut answer)
            .map_err(broken)?;
        match serde_json::from_str(&answer) {
            Ok(Response::Refused(reason)) => Err(LabError::Refused(reason)),
            Ok(Response::NoSuchHost { known }) => {
                let host = match request {
                    Request::Find { host }
                    | Request::StartAgent { host, .. }
                    | Request::SignalAgent { host, .. }
                    | Request::SetCable { host, .. } => host.clone(),
                    _ => String::new(),
                };
                Err(LabError::NoSuchHost {
                    lab: self.lab.clone(),
                    host,
                    known,
                })
            }
            Ok(response) => Ok(response),
            Err(error) => Err(broken(error.into())),
        }
    }

    /// Asks for something that has no answer but yes or no.
    pub(crate) fn order(&mut self, request: &Request) -> Result<(), LabError> {
        self.ask(request).map(|_| ())
    }

    /// Asks for one host.
    pub(crate) fn find(&mut self, host: &str) -> Result<HostStatus, LabError> {
        match self.ask(&Request::Find {
            host: host.to_owned(),
        })? {
            Response::Host(status) => Ok(status),
            other => Err(LabError::Refused(format!("unexpected answer {other:?}"))),
        }
    }

    /// Asks for everything.
    pub(crate) fn status(&mut self) -> Result<LabStatus, LabError> {
        match self.ask(&Request::Status)? {
            Response::Status(mut status) => {
                status.pid = self.supervisor;
                Ok(status)
            }
            other => Err(LabError::Refused(format!("unexpected answer {other:?}"))),
        }
    }
}
