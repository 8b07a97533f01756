//! A process as the agent and its successor speak to it.

use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::io::Interest;
use tokio::net::UnixStream;
use tokio::time::timeout;
use weft_encrypt::path::{PathSpec, PathState};
use weft_lb::relay::RelaySpec;

use super::dns::{DnsHandedOver, DnsState, DnsUpdate};
use super::wire::{self, EspPath, Hello, PROTOCOL, Request, Response, Sealed, State};
use super::{descriptors, process};

/// How long an answer may take. It takes milliseconds on a machine that has time.
const ANSWER: Duration = Duration::from_secs(10);

/// A connection to a process.
#[derive(Debug)]
pub(crate) struct Link {
    stream: UnixStream,
    hello: Hello,
}

impl Link {
    /// Connects to the process whose socket that is.
    ///
    /// # Errors
    /// When there is none, it is another user's, or it does not answer.
    pub(crate) async fn connect(path: &Path) -> io::Result<Self> {
        let mut stream = UnixStream::connect(path).await?;
        process::check_peer(&stream)?;
        let hello = Request::Hello { protocol: PROTOCOL };
        match call(&mut stream, &hello).await? {
            Response::Hello(hello) => Ok(Self { stream, hello }),
            other => Err(unexpected(&other)),
        }
    }

    /// Who it is.
    pub(crate) fn hello(&self) -> &Hello {
        &self.hello
    }

    /// Whether it understands what this program says.
    pub(crate) fn is_understood(&self) -> bool {
        self.hello.protocol == PROTOCOL
    }

    /// Tells it what to do; what it does then.
    ///
    /// # Errors
    /// When it does not, or has gone. The connection is of no more use then.
    pub(crate) async fn want(
        &mut self,
        relay: Option<&RelaySpec>,
        esp: Option<bool>,
        dns: Option<bool>,
    ) -> io::Result<State> {
        let relay = relay.cloned();
        self.state_after(&Request::Want { relay, esp, dns }).await
    }

    /// Tells it which names to answer where; what it answers then.
    ///
    /// # Errors
    /// When it refuses ([`ErrorKind::Other`]), or has gone. Then the connection is of no more use.
    pub(crate) async fn dns(&mut self, update: DnsUpdate) -> io::Result<DnsState> {
        match call(&mut self.stream, &Request::Dns(update)).await? {
            Response::Dns(state) => Ok(state),
            other => Err(unexpected(&other)),
        }
    }

    /// Takes the names that it answers, and its sockets in containers.
    ///
    /// # Errors
    /// As [`want`](Self::want).
    pub(super) async fn hand_over_dns(
        &mut self,
    ) -> io::Result<Option<(DnsHandedOver, Vec<OwnedFd>)>> {
        match call(&mut self.stream, &Request::HandOverDns).await? {
            Response::DnsHandedOver(None) => Ok(None),
            Response::DnsHandedOver(Some(handed)) => {
                let receive = descriptors::receive(&self.stream, handed.descriptors());
                let sockets = timeout(ANSWER, receive).await??;
                Ok(Some((handed, sockets)))
            }
            other => Err(unexpected(&other)),
        }
    }

    /// Tells it which encrypted networks to carry; what it carries then.
    ///
    /// # Errors
    /// When it refuses ([`ErrorKind::Other`]), or has gone. Then the connection is of no more use.
    pub(crate) async fn esp(&mut self, spec: PathSpec, path: EspPath) -> io::Result<PathState> {
        match call(&mut self.stream, &Request::Esp { spec, path }).await? {
            Response::Esp(state) => Ok(*state),
            other => Err(unexpected(&other)),
        }
    }

    /// Tells it of a key of encrypted networks.
    ///
    /// # Errors
    /// As [`esp`](Self::esp).
    pub(crate) async fn change_key(&mut self, request: &Request) -> io::Result<()> {
        match call(&mut self.stream, request).await? {
            Response::Done => Ok(()),
            other => Err(unexpected(&other)),
        }
    }

    /// Takes all that it carries of encrypted networks. It does no longer then.
    ///
    /// # Errors
    /// As [`want`](Self::want).
    pub(super) async fn hand_over_esp(&mut self) -> io::Result<Option<(Sealed, Vec<OwnedFd>)>> {
        match call(&mut self.stream, &Request::HandOverEsp).await? {
            Response::EspHandedOver { state, descriptors } => {
                let receive = descriptors::receive(&self.stream, descriptors);
                let descriptors = timeout(ANSWER, receive).await??;
                Ok(state.map(|state| (state, descriptors)))
            }
            other => Err(unexpected(&other)),
        }
    }

    /// Takes what it was told, and its listening sockets.
    ///
    /// # Errors
    /// As [`want`](Self::want).
    pub(super) async fn hand_over(
        &mut self,
    ) -> io::Result<(Option<RelaySpec>, Vec<(SocketAddr, OwnedFd)>)> {
        match call(&mut self.stream, &Request::HandOver).await? {
            Response::HandOver { wanted, listeners } => {
                let receive = descriptors::receive(&self.stream, listeners.len());
                let sockets = timeout(ANSWER, receive).await??;
                Ok((wanted, listeners.into_iter().zip(sockets).collect()))
            }
            other => Err(unexpected(&other)),
        }
    }

    /// Tells it that another process listens.
    ///
    /// # Errors
    /// As [`want`](Self::want).
    pub(super) async fn succeed(&mut self) -> io::Result<State> {
        self.state_after(&Request::Succeeded).await
    }

    /// Until the process is gone.
    pub(crate) async fn gone(&self) {
        // What was read does not make the stream unreadable before another try says so.
        while self.stream.ready(Interest::READABLE).await.is_ok() {
            match self.stream.try_read(&mut [0]) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                // It says nothing unasked.
                _ => return,
            }
        }
    }

    /// Ends a process that cannot be spoken to.
    pub(crate) fn kill(self) {
        if let Ok(Some(pid)) = self.stream.peer_cred().map(|peer| peer.pid()) {
            // It may have gone by itself.
            let _ = kill(Pid::from_raw(pid), Signal::SIGTERM);
        }
    }

    async fn state_after(&mut self, request: &Request) -> io::Result<State> {
        match call(&mut self.stream, request).await? {
            Response::State(state) => Ok(state),
            other => Err(unexpected(&other)),
        }
    }
}

async fn call(stream: &mut UnixStream, request: &Request) -> io::Result<Response> {
    let talk = async {
        wire::write(stream, request).await?;
        wire::read(stream).await
    };
    timeout(ANSWER, talk).await?
}

fn unexpected(response: &Response) -> io::Error {
    match response {
        Response::Refused(why) => io::Error::other(why.clone()),
        _ => io::Error::new(ErrorKind::InvalidData, "it answers something else"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_process_is_gone_when_it_is_and_not_before() {
        let (here, mut there) = UnixStream::pair().unwrap();
        let mut link = Link {
            stream: here,
            hello: Hello {
                protocol: PROTOCOL,
                build: String::new(),
                version: String::new(),
                pid: 1,
            },
        };
        let serving = tokio::spawn(async move {
            let _: Request = wire::read(&mut there).await.unwrap();
            let state = Response::State(State::default());
            wire::write(&mut there, &state).await.unwrap();
            there
        });
        link.want(Some(&RelaySpec::new()), None, None)
            .await
            .unwrap();
        let there = serving.await.unwrap();
        let pause = Duration::from_millis(50);
        assert!(timeout(pause, link.gone()).await.is_err());
        drop(there);
        link.gone().await;
    }
}
