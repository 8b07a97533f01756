//! The process itself: how it starts, whom it answers, and when it ends.

use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::unistd::{geteuid, setsid};
use tokio::net::{TcpListener, UnixListener, UnixStream};
use tokio::sync::Semaphore;
use tokio::task::block_in_place;
use tokio::time::{Instant, interval, sleep, sleep_until};
use tracing::{debug, info, warn};
use weft_encrypt::keys::SaKey;

use super::client::Link;
use super::dns::{self, Dns, DnsSocket};
use super::esp::Esp;
use super::place::Place;
use super::relay::Relay;
use super::wire::{self, Hello, KeyBytes, PROTOCOL, Request, Response};
use super::{build, descriptors};
use crate::core_dumps;

/// Threads that copy.
const WORKER_THREADS: usize = 2;
/// A process that nobody tells anything is nobody's.
const UNTOLD: Duration = Duration::from_mins(1);
/// How often it is looked whether the last queries have been answered.
const BUSY_LOOK: Duration = Duration::from_millis(200);
/// Clients at a time: agent, successors.
const CLIENTS_MAX: usize = 16;

/// Runs until nothing is left to do.
pub(super) fn run(place: Place) -> anyhow::Result<()> {
    // Away from the agent's terminal and process group. One that a service manager has started may
    // lead its own already.
    let _ = setsid();
    std::env::set_current_dir("/").context("cannot change to /")?;
    let descriptors = raise_descriptor_limit();
    core_dumps::prevent();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(WORKER_THREADS)
        .thread_name("weft-dataplane")
        .enable_all()
        .build()
        .context("the runtime cannot be started")?;
    runtime.block_on(serve(place, descriptors))
}

/// Whether the other side of a connection is this process's own user.
///
/// # Errors
/// When it is not.
pub(super) fn check_peer(stream: &UnixStream) -> io::Result<()> {
    match stream.peer_cred()?.uid() == geteuid().as_raw() {
        true => Ok(()),
        false => Err(ErrorKind::PermissionDenied.into()),
    }
}

/// As many as the administrator lets; how many that is.
fn raise_descriptor_limit() -> u64 {
    match getrlimit(Resource::RLIMIT_NOFILE) {
        Ok((_, hard)) if setrlimit(Resource::RLIMIT_NOFILE, hard, hard).is_ok() => hard,
        Ok((soft, _)) => soft,
        // What a login has.
        Err(_) => 1024,
    }
}

/// All that it does.
struct Work {
    relay: Arc<Relay>,
    esp: Esp,
    dns: Dns,
    hello: Hello,
}

impl Work {
    /// Whether anybody has told it what to do.
    fn is_told(&self) -> bool {
        self.relay.is_told() || self.esp.is_needed() || self.dns.is_needed()
    }

    /// Whether there is nothing that it is needed for.
    fn is_done(&self) -> bool {
        let needed = self.esp.is_needed() || self.dns.is_needed();
        self.relay.is_done() && !needed && !self.dns.is_busy()
    }
}

async fn serve(place: Place, descriptors: u64) -> anyhow::Result<()> {
    let hello = Hello {
        protocol: PROTOCOL,
        build: build().context("this program's own file is not known")?,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        pid: std::process::id(),
    };
    let work = Arc::new(Work {
        relay: Arc::new(Relay::new(descriptors)),
        esp: Esp::new(place.run_dir().to_owned()),
        dns: Dns::new(),
        hello,
    });
    let listener = take_over(&place, &work).await?;
    let clients = tokio::spawn(answer_all(listener, work.clone()));
    let untold = Instant::now() + UNTOLD;
    let mut looks = interval(dns::LOOK);
    while !work.is_done() {
        tokio::select! {
            () = work.relay.changed.notified() => {}
            _ = looks.tick() => block_in_place(|| work.dns.look()),
            () = sleep(BUSY_LOOK), if work.dns.is_busy() => {}
            () = sleep_until(untold), if !work.is_told() => break,
        }
    }
    info!("nothing is left to do");
    let _lock = lock(&place).await?;
    place.leave()?;
    clients.abort();
    Ok(())
}

async fn lock(place: &Place) -> anyhow::Result<impl Sized + use<>> {
    let dir = place.run_dir().display().to_string();
    let place = place.clone();
    let locked = tokio::task::spawn_blocking(move || place.lock()).await?;
    locked.with_context(|| format!("cannot lock the run directory {dir}"))
}

/// Goes on where others are, and takes charge.
async fn take_over(place: &Place, work: &Work) -> anyhow::Result<UnixListener> {
    let Work {
        relay,
        esp,
        dns,
        hello,
    } = work;
    let _lock = lock(place).await?;
    let mut others = Vec::new();
    for path in place.all() {
        match Link::connect(&path).await {
            Ok(link) if link.is_understood() => others.push(link),
            Ok(link) => {
                let theirs = &link.hello().version;
                warn!(
                    theirs,
                    "cannot go on with what this version does; ending it"
                );
                link.kill();
            }
            Err(error) if error.kind() == ErrorKind::ConnectionRefused => Place::forget(&path),
            Err(error) => debug!(path = %path.display(), %error, "no process there"),
        }
    }
    for other in &mut others {
        let pid = other.hello().pid;
        match other.hand_over().await {
            Ok((wanted, sockets)) => {
                info!(pid, listeners = sockets.len(), "taking over");
                relay.adopt(wanted, sockets)?;
            }
            Err(error) => warn!(pid, %error, "a process did not hand over"),
        }
        take_esp(other, esp).await;
        take_dns(other, dns).await;
    }
    let listener = place.listen().context("cannot make the socket")?;
    let listener = UnixListener::from_std(listener)?;
    place
        .take_charge()
        .context("cannot make the socket known")?;
    info!(pid = hello.pid, version = hello.version, "in charge");
    for other in &mut others {
        if let Err(error) = other.succeed().await {
            let pid = other.hello().pid;
            warn!(pid, %error, "a process does not know that it is succeeded");
        }
    }
    Ok(listener)
}

/// Goes on with the encrypted networks of another process. Without its keys the agents agree on new
/// ones.
async fn take_esp(other: &mut Link, esp: &Esp) {
    let pid = other.hello().pid;
    let taken = match other.hand_over_esp().await {
        Ok(None) => return,
        Ok(Some((state, descriptors))) => esp.adopt(&state, descriptors),
        Err(error) => Err(error.to_string()),
    };
    match taken {
        Ok(()) => info!(pid, "taking over encrypted networks"),
        Err(error) => warn!(pid, error, "encrypted networks could not be taken over"),
    }
}

/// Goes on with the names of another process. Without its sockets new ones are opened when it is gone.
async fn take_dns(other: &mut Link, dns: &Dns) {
    let pid = other.hello().pid;
    let taken = match other.hand_over_dns().await {
        Ok(None) => return,
        Ok(Some((handed, sockets))) => dns.adopt(handed, sockets),
        Err(error) => Err(error),
    };
    match taken {
        Ok(()) => info!(pid, "taking over names"),
        Err(error) => warn!(pid, %error, "names could not be taken over"),
    }
}

async fn answer_all(listener: UnixListener, work: Arc<Work>) {
    let places = Arc::new(Semaphore::new(CLIENTS_MAX));
    loop {
        let Ok(place) = places.clone().acquire_owned().await else {
            return;
        };
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                debug!(%error, "a client could not be accepted");
                sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        let work = work.clone();
        tokio::spawn(async move {
            if let Err(error) = answer(stream, &work).await {
                debug!(%error, "a client has gone");
            }
            drop(place);
        });
    }
}

async fn answer(mut stream: UnixStream, work: &Work) -> io::Result<()> {
    check_peer(&stream)?;
    let relay = &work.relay;
    loop {
        let request = wire::read(&mut stream).await?;
        // Sockets are opened, and a packet is sent through them to see whether they work.
        let (response, sockets) = block_in_place(|| work.answer(request));
        wire::write(&mut stream, &response).await?;
        let descriptors: Vec<_> = sockets.iter().map(Descriptor::as_fd).collect();
        descriptors::send(&stream, &descriptors).await?;
        relay.changed.notify_one();
    }
}

/// What is sent after an answer.
enum Descriptor {
    Listener(Arc<TcpListener>),
    Esp(OwnedFd),
    Dns(DnsSocket),
}

impl Descriptor {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Listener(listener) => listener.as_fd(),
            Self::Esp(descriptor) => descriptor.as_fd(),
            Self::Dns(socket) => socket.as_fd(),
        }
    }
}

impl Work {
    fn answer(&self, request: Request) -> (Response, Vec<Descriptor>) {
        let response = match request {
            Request::Hello { .. } => Response::Hello(self.hello.clone()),
            Request::Want { relay, esp, dns } => {
                // Before the relay may find that nothing is left to do.
                if let Some(needed) = esp {
                    self.esp.need(needed);
                }
                if let Some(needed) = dns {
                    self.dns.need(needed);
                }
                match relay.map_or(Ok(()), |relay| self.relay.want(relay)) {
                    Ok(()) => Response::State(self.relay.state()),
                    Err(error) => Response::Refused(error.to_string()),
                }
            }
            Request::HandOver => {
                let (wanted, sockets) = self.relay.to_hand_over();
                let listeners = sockets.iter().map(|(at, _)| *at).collect();
                let sockets = sockets.into_iter();
                let sockets = sockets.map(|(_, socket)| Descriptor::Listener(socket));
                return (Response::HandOver { wanted, listeners }, sockets.collect());
            }
            Request::Succeeded => {
                // An agent that has not noticed yet asks here, for as long as there are connections.
                self.esp.succeeded();
                self.dns.succeeded();
                self.relay.succeeded();
                Response::State(self.relay.state())
            }
            Request::Esp { spec, path } => match self.esp.want(spec, path) {
                Ok(state) => Response::Esp(Box::new(state)),
                Err(why) => Response::Refused(why),
            },
            Request::InstallInbound(name, key) => {
                done(with(key, |key| self.esp.install_inbound(name, key)))
            }
            Request::SwitchOutbound(name, key) => {
                done(with(key, |key| self.esp.switch_outbound(name, key)))
            }
            Request::RemoveInbound(spi) => done(self.esp.remove_inbound(spi)),
            Request::HandOverEsp => return self.hand_over_esp(),
            Request::Dns(update) => match self.dns.want(update) {
                Ok(state) => Response::Dns(state),
                Err(why) => Response::Refused(why),
            },
            Request::HandOverDns => {
                let (handed, sockets) = self.dns.to_hand_over().unzip();
                let sockets = sockets.into_iter().flatten().map(Descriptor::Dns);
                return (Response::DnsHandedOver(handed), sockets.collect());
            }
        };
        (response, Vec::new())
    }

    fn hand_over_esp(&self) -> (Response, Vec<Descriptor>) {
        match self.esp.hand_over() {
            Ok(handed) => {
                let (state, descriptors) = handed.unzip();
                let sockets: Vec<_> = descriptors.into_iter().flatten().collect();
                let descriptors = sockets.len();
                let sockets = sockets.into_iter().map(Descriptor::Esp).collect();
                (Response::EspHandedOver { state, descriptors }, sockets)
            }
            Err(error) => (Response::Refused(error.to_string()), Vec::new()),
        }
    }
}

fn with(key: KeyBytes, change: impl FnOnce(SaKey) -> Result<(), String>) -> Result<(), String> {
    change(key.to_key().ok_or("a key of another length")?)
}

fn done(outcome: Result<(), String>) -> Response {
    match outcome {
        Ok(()) => Response::Done,
        Err(why) => Response::Refused(why),
    }
}
