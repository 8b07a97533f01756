//! The process itself: how it starts, whom it answers, and when it ends.

use std::io::{self, ErrorKind};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::unistd::{geteuid, setsid};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep_until};
use tracing::{debug, info, warn};

use super::client::Link;
use super::place::Place;
use super::relay::Relay;
use super::wire::{self, Hello, PROTOCOL, Request, Response};
use super::{build, descriptors};

/// Threads that copy.
const WORKER_THREADS: usize = 2;
/// A process that nobody tells anything is nobody's.
const UNTOLD: Duration = Duration::from_mins(1);
/// Clients at a time: agent, successors.
const CLIENTS_MAX: usize = 16;

/// Runs until nothing is left to do.
pub(super) fn run(place: Place) -> anyhow::Result<()> {
    // Away from the agent's terminal and process group. One that a service manager has started may
    // lead its own already.
    let _ = setsid();
    std::env::set_current_dir("/").context("cannot change to /")?;
    let descriptors = raise_descriptor_limit();
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

async fn serve(place: Place, descriptors: u64) -> anyhow::Result<()> {
    let hello = Hello {
        protocol: PROTOCOL,
        build: build().context("this program's own file is not known")?,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        pid: std::process::id(),
    };
    let relay = Arc::new(Relay::new(descriptors));
    let listener = take_over(&place, &relay, &hello).await?;
    let clients = tokio::spawn(answer_all(listener, relay.clone(), Arc::new(hello)));
    let untold = Instant::now() + UNTOLD;
    while !relay.is_done() {
        tokio::select! {
            () = relay.changed.notified() => {}
            () = sleep_until(untold), if !relay.is_told() => break,
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
async fn take_over(
    place: &Place,
    relay: &Arc<Relay>,
    hello: &Hello,
) -> anyhow::Result<UnixListener> {
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

async fn answer_all(listener: UnixListener, relay: Arc<Relay>, hello: Arc<Hello>) {
    let places = Arc::new(Semaphore::new(CLIENTS_MAX));
    loop {
        let Ok(place) = places.clone().acquire_owned().await else {
            return;
        };
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                debug!(%error, "a client could not be accepted");
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        let (relay, hello) = (relay.clone(), hello.clone());
        tokio::spawn(async move {
            if let Err(error) = answer(stream, &relay, &hello).await {
                debug!(%error, "a client has gone");
            }
            drop(place);
        });
    }
}

async fn answer(mut stream: UnixStream, relay: &Arc<Relay>, hello: &Hello) -> io::Result<()> {
    check_peer(&stream)?;
    loop {
        let (response, sockets) = match wire::read(&mut stream).await? {
            Request::Hello { .. } => (Response::Hello(hello.clone()), Vec::new()),
            Request::Want(spec) => match relay.want(spec) {
                Ok(()) => (Response::State(relay.state()), Vec::new()),
                Err(error) => (Response::Refused(error.to_string()), Vec::new()),
            },
            Request::HandOver => {
                let (wanted, sockets) = relay.to_hand_over();
                let listeners = sockets.iter().map(|(at, _)| *at).collect();
                (Response::HandOver { wanted, listeners }, sockets)
            }
            Request::Succeeded => {
                relay.succeeded();
                (Response::State(relay.state()), Vec::new())
            }
        };
        wire::write(&mut stream, &response).await?;
        let descriptors: Vec<_> = sockets.iter().map(|(_, socket)| socket.as_fd()).collect();
        descriptors::send(&stream, &descriptors).await?;
    }
}
