//! Flows to backends whose node is down.
//!
//! A node is down when its agent is not heard of. Its containers may well go on, as they do while
//! an agent is replaced, and so may the flows that they have. These are forgotten only when the
//! backend does not answer any more: asked from where the flow is, at the port that it uses, by a
//! connection attempt, which a host that lives takes or refuses.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::TcpSocket;
use tokio::sync::watch;
use tokio::task::{JoinHandle, spawn_blocking};
use tokio::time::{sleep, timeout};
use tracing::{debug, info};
use weft_lb::spec::{Backend, ServiceKey};
use weft_netns::Netns;
use weft_overlay::NetnsRef;

use super::flows;
use super::namespace::{Unopened, open};

/// How long an answer may take.
const ANSWER: Duration = Duration::from_millis(500);
/// From one question to the next, and from one answer to the next question at most.
const PAUSE: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(10));
/// Questions in a row without an answer after which a backend is given up.
const UNANSWERED_MAX: u32 = 3;
/// Backends that are asked at a time.
const AT_A_TIME: usize = 64;

/// Where flows are.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Site {
    /// In the host's own namespace.
    Host,
    /// In a container; ways to its namespace.
    Container(BTreeSet<NetnsRef>),
}

/// A backend on a node that is down, of a service.
pub(super) type Suspect = (ServiceKey, Backend);
/// All of them, by where there may be flows to them.
pub(super) type Suspects = BTreeMap<Site, BTreeSet<Suspect>>;

type Asked = BTreeMap<(Site, Suspect), bool>;

/// Gives up flows to backends that do not answer.
#[derive(Debug)]
pub(super) struct Lost {
    suspects: watch::Sender<Arc<Suspects>>,
    task: JoinHandle<()>,
}

impl Lost {
    /// Starts with none. To be called inside a tokio runtime.
    pub(super) fn start() -> Self {
        let (suspects, follow) = watch::channel(Arc::default());
        Self {
            suspects,
            task: tokio::spawn(keep(follow)),
        }
    }

    /// These are to be asked from now on.
    pub(super) fn set(&self, suspects: Suspects) {
        self.suspects.send_if_modified(|now| {
            let changed = **now != suspects;
            if changed {
                *now = Arc::new(suspects);
            }
            changed
        });
    }
}

impl Drop for Lost {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn keep(mut follow: watch::Receiver<Arc<Suspects>>) {
    let mut unanswered = Unanswered::default();
    let mut watched = Arc::<Suspects>::default();
    let mut pause = PAUSE.0;
    loop {
        tokio::select! {
            changed = follow.changed() => match changed {
                Ok(()) => {
                    watched = follow.borrow_and_update().clone();
                    pause = PAUSE.0;
                }
                Err(_) => return,
            },
            () = sleep(pause), if !watched.is_empty() => {}
        }
        let asked = ask(watched).await;
        for (site, suspect) in unanswered.note(&asked) {
            // Whoever's node has come back meanwhile is not given up.
            let still = follow.borrow().clone();
            if still.get(&site).is_some_and(|all| all.contains(&suspect)) {
                give_up(site, suspect).await;
            }
        }
        pause = match asked.values().all(|answered| *answered) {
            true => (pause * 2).min(PAUSE.1),
            false => PAUSE.0,
        };
        // Nobody begins a flow with the others, since no table leads to them.
        let mut used = Suspects::new();
        for (site, suspect) in asked.into_keys() {
            used.entry(site).or_default().insert(suspect);
        }
        watched = Arc::new(used);
    }
}

/// How often in a row each was asked in vain.
#[derive(Debug, Default)]
struct Unanswered {
    times: BTreeMap<(Site, Suspect), u32>,
}

impl Unanswered {
    /// Takes in who was asked and whether they answered; tells whom to give up. Who is not asked
    /// any more, because nobody has a flow with them, is forgotten.
    fn note(&mut self, asked: &Asked) -> Vec<(Site, Suspect)> {
        let before = std::mem::take(&mut self.times);
        let mut given_up = Vec::new();
        for (who, _) in asked.iter().filter(|(_, answered)| !**answered) {
            let times = before.get(who).copied().unwrap_or(0) + 1;
            if times >= UNANSWERED_MAX {
                given_up.push(who.clone());
            } else {
                self.times.insert(who.clone(), times);
            }
        }
        given_up
    }
}

/// Asks those that somebody has flows with.
async fn ask(suspects: Arc<Suspects>) -> Asked {
    let questions = spawn_blocking(move || questions(&suspects));
    let questions = questions.await.unwrap_or_default();
    let asking = questions.into_iter().map(|question| async move {
        let Question {
            who,
            netns,
            address,
        } = question;
        let socket = spawn_blocking(move || socket(&netns, address)).await;
        let answered = match socket.map_err(io::Error::other).flatten() {
            Ok(socket) => answers(socket, address).await,
            Err(error) => {
                debug!(%address, %error, "cannot be asked; its flows stay");
                true
            }
        };
        (who, answered)
    });
    let asking = stream::iter(asking).buffer_unordered(AT_A_TIME);
    asking.collect().await
}

/// Where a flow is, and what it leads to.
struct Question {
    who: (Site, Suspect),
    netns: Arc<Netns>,
    address: SocketAddr,
}

/// Blocks.
fn questions(suspects: &Suspects) -> Vec<Question> {
    let mut questions = Vec::new();
    for (site, suspects) in suspects {
        match questions_from(site, suspects) {
            Ok(more) => questions.extend(more),
            Err(unopened) => debug!(?site, %unopened, "flows to nodes that are down stay"),
        }
    }
    questions
}

fn questions_from(site: &Site, suspects: &BTreeSet<Suspect>) -> Result<Vec<Question>, Unopened> {
    let netns = Arc::new(site.open()?);
    let in_use = flows::in_use(&netns, suspects)?.into_iter();
    let question = |(suspect, address)| Question {
        who: (site.clone(), suspect),
        netns: netns.clone(),
        address,
    };
    Ok(in_use.map(question).collect())
}

/// Blocks.
fn socket(netns: &Netns, address: SocketAddr) -> io::Result<Socket> {
    let domain = Domain::for_address(address);
    let socket = netns.socket(domain, Type::STREAM, Some(Protocol::TCP));
    let socket = socket.map_err(io::Error::other)?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

/// Whether there is anybody.
async fn answers(socket: Socket, address: SocketAddr) -> bool {
    let connect = TcpSocket::from_std_stream(socket.into()).connect(address);
    match timeout(ANSWER, connect).await {
        Ok(Ok(_)) => true,
        Ok(Err(error)) => error.kind() == io::ErrorKind::ConnectionRefused,
        Err(_) => false,
    }
}

async fn give_up(site: Site, (service, backend): Suspect) {
    info!(%service, %backend, "gone with its node; its flows are forgotten");
    let forgotten = spawn_blocking(move || -> Result<(), Unopened> {
        flows::forget(&site.open()?, &[(service, backend)])
    });
    match forgotten.await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => debug!(%error, "flows stay with a backend that is gone"),
        Err(error) => debug!(%error, "flows stay with a backend that is gone"),
    }
}

impl Site {
    pub(super) fn open(&self) -> Result<Netns, Unopened> {
        match self {
            Self::Host => Netns::current().map_err(|error| Unopened::Failed(error.to_string())),
            Self::Container(netns) => open(netns),
        }
    }
}

#[cfg(test)]
mod tests {
    use weft_lb::spec::{Address, Ports};

    use super::*;

    fn suspect(host: u8) -> (Site, Suspect) {
        let address = |last| std::net::IpAddr::from([10, 0, 1, last]);
        let service = ServiceKey {
            address: Address::Vip(address(200)),
            ports: Ports::All,
        };
        let backend = Backend {
            address: address(host),
            port: None,
        };
        (Site::Host, (service, backend))
    }

    #[test]
    fn who_does_not_answer_several_times_in_a_row_is_given_up_once() {
        let mut unanswered = Unanswered::default();
        let none = Vec::new();
        let both = |first, second| Asked::from([(suspect(1), first), (suspect(2), second)]);
        assert_eq!(unanswered.note(&both(false, false)), none);
        assert_eq!(unanswered.note(&both(false, false)), none);
        assert_eq!(unanswered.note(&both(true, false)), [suspect(2)]);
        assert_eq!(unanswered.note(&both(false, false)), none);
        // Without flows nobody is asked, and the count begins anew.
        assert_eq!(unanswered.note(&Asked::new()), none);
        assert_eq!(unanswered.note(&both(false, true)), none);
        assert_eq!(unanswered.note(&both(false, true)), none);
        assert_eq!(unanswered.note(&both(false, true)), [suspect(1)]);
    }

    #[tokio::test]
    async fn a_host_that_lives_takes_or_refuses_a_connection() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let socket = || {
            let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
            socket.set_nonblocking(true).unwrap();
            socket
        };
        assert!(answers(socket(), address).await);
        drop(listener);
        assert!(answers(socket(), address).await);
    }
}
