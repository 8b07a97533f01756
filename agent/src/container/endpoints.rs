use std::pin::pin;
use std::time::Duration;

use nix::net::if_::if_nametoindex;
use tokio::time::{Instant, sleep, timeout_at};

use super::directory::Directory;
use super::error::RunError;
use super::files::HostsEntry;
use super::run::shown;
use super::signals::SignalStream;
use crate::api::client::Client;
use crate::api::types::{ApiError, AttachRequest, Endpoint, ErrorCode};
use crate::exit::CliError;

/// How often the interfaces are looked for; looking costs one system call each.
const WATCH_INTERVAL: Duration = Duration::from_secs(1);
/// How long a user waits for an agent that is away. It removes the endpoints of a namespace that
/// is gone by itself when it is back.
const ATTENDED_DETACH_LIMIT: Duration = Duration::from_secs(3);
const DETACH_BACKOFF_MIN: Duration = Duration::from_millis(100);
const DETACH_BACKOFF_MAX: Duration = Duration::from_secs(5);

/// A container's endpoints, as the agent gave them.
#[derive(Debug)]
pub(super) struct Endpoints {
    client: Client,
    list: Vec<Endpoint>,
}

impl Endpoints {
    pub(super) fn new(client: Client) -> Self {
        Self {
            client,
            list: Vec::new(),
        }
    }

    pub(super) fn list(&self) -> &[Endpoint] {
        &self.list
    }

    pub(super) fn first_id(&self) -> Option<&str> {
        self.list.first().map(|endpoint| endpoint.id.as_str())
    }

    pub(super) fn hosts_entries(&self) -> Vec<HostsEntry> {
        hosts_entries(&self.list)
    }

    /// Attaches. A signal that ends the wait lets the request finish first, so that it is known
    /// what is to be undone; a second one does not.
    pub(super) async fn attach(
        &mut self,
        request: &AttachRequest,
        signals: &SignalStream,
    ) -> Result<(), RunError> {
        let mut interrupted = None;
        let client = self.client.clone();
        let mut reply = pin!(client.attach(request));
        let endpoint = loop {
            tokio::select! {
                reply = &mut reply => break reply?,
                arrival = signals.next() => {
                    let arrival = arrival
                        .map_err(|error| RunError::system("no signals can be read", error))?;
                    if arrival.ends() {
                        if interrupted.is_some() {
                            return Err(RunError::Interrupted(arrival.signal));
                        }
                        interrupted = Some(arrival.signal);
                    }
                }
            }
        };
        self.list.push(endpoint);
        match interrupted {
            Some(signal) => Err(RunError::Interrupted(signal)),
            None => Ok(()),
        }
    }

    /// Says which ports of the hosts the cluster chose for the service that these make, if it was
    /// asked to choose any.
    pub(super) async fn tell_chosen_ports(&self, requests: &[AttachRequest]) {
        let wanted = { requests.iter() }.filter_map(|request| request.publish.as_ref());
        let mut left_open = wanted
            .flat_map(|publish| &publish.ports)
            .filter(|port| port.published == 0)
            .map(|port| (port.target, port.protocol));
        let service = self.list.first().and_then(|first| first.service.as_ref());
        let (Some(_), Some(service)) = (left_open.next(), service) else {
            return;
        };
        // Whoever is not told now can ask.
        let Ok(service) = self.client.service(service).await else {
            return;
        };
        for port in &service.ports {
            eprintln!("weft: published {}", shown(port));
        }
    }

    /// Returns when none of the endpoints exists any more.
    ///
    /// The agent is asked only while no interface is left in this process's namespace, so that a
    /// container whose agent is away, or busy with a repair, lives on.
    pub(super) async fn until_detached(&self) {
        loop {
            sleep(WATCH_INTERVAL).await;
            let present = |endpoint: &Endpoint| if_nametoindex(endpoint.ifname.as_str()).is_ok();
            if !self.list.iter().any(present) && self.all_gone().await {
                return;
            }
        }
    }

    async fn all_gone(&self) -> bool {
        for endpoint in &self.list {
            match self.client.endpoint(&endpoint.id).await {
                Err(error) if is_gone(&error) => {}
                _ => return false,
            }
        }
        true
    }

    /// Detaches what is left; tries again while the agent is away, as long as the container's
    /// directory is there. With `attended` a user waits, hence not for long; a signal ends it.
    pub(super) async fn detach_all(
        &mut self,
        signals: &SignalStream,
        attended: bool,
        directory: &Directory,
    ) {
        let mut left: Vec<String> = self
            .list
            .iter()
            .map(|endpoint| endpoint.id.clone())
            .collect();
        let mut detaching = pin!(self.detach(&mut left, attended, directory));
        loop {
            tokio::select! {
                () = &mut detaching => break,
                arrival = signals.next() => {
                    if arrival.map_or(true, |arrival| arrival.ends()) {
                        break;
                    }
                }
            }
        }
    }

    async fn detach(&self, left: &mut Vec<String>, attended: bool, directory: &Directory) {
        let deadline = Instant::now() + ATTENDED_DETACH_LIMIT;
        let mut backoff = DETACH_BACKOFF_MIN;
        loop {
            let attempt = self.detach_once(left);
            let last = if attended {
                timeout_at(deadline, attempt).await.unwrap_or_default()
            } else {
                attempt.await
            };
            if left.is_empty() || !directory.exists() {
                return;
            }
            if attended && Instant::now() + backoff >= deadline {
                let reason = last.map_or_else(|| "no answer".to_owned(), |e| e.to_string());
                eprintln!("weft: the agent will remove the endpoint by itself: {reason}");
                return;
            }
            sleep(backoff).await;
            backoff = (backoff * 2).min(DETACH_BACKOFF_MAX);
        }
    }

    /// Takes out of `left` what exists no more; answers with why something does.
    async fn detach_once(&self, left: &mut Vec<String>) -> Option<CliError> {
        let mut failure = None;
        let mut kept = 0;
        while let Some(id) = left.get(kept) {
            // Not drained: whoever would end its flows has ended.
            match self.client.detach(id, true).await {
                Err(error) if !is_gone(&error) => {
                    failure = Some(error);
                    kept += 1;
                }
                _ => {
                    left.remove(kept);
                }
            }
        }
        failure
    }
}

/// The lines of `/etc/hosts` for these endpoints.
pub(super) fn hosts_entries(endpoints: &[Endpoint]) -> Vec<HostsEntry> {
    endpoints
        .iter()
        .flat_map(|endpoint| {
            let mut names = vec![
                endpoint.name.clone(),
                format!("{}.{}", endpoint.name, endpoint.network),
            ];
            names.extend(endpoint.aliases.iter().cloned());
            endpoint.addresses().map(move |address| HostsEntry {
                address,
                names: names.clone(),
            })
        })
        .collect()
}

/// Whether the answer means that the endpoint does not exist, as opposed to not being known.
fn is_gone(error: &CliError) -> bool {
    let gone = [ErrorCode::NotFound, ErrorCode::NotMember];
    matches!(error, CliError::Api(ApiError { code, .. }) if gone.contains(code))
}
