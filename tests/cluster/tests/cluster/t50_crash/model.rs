//! What was asked for so far, and what is known to have come of it.

use std::collections::BTreeMap;

use anyhow::{Result, bail, ensure};
use weft_cluster_tests::api::Api;
use weft_cluster_tests::random::Random;

use super::{NAMESPACES, STEADY, STEADY_ENDPOINTS};

/// Endpoints above which more are taken away than added.
const MANY: usize = 14;

/// Whether something exists, as far as a client that may lose answers can say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Known {
    Yes,
    No,
    Maybe,
}

/// An endpoint that was asked for.
#[derive(Clone, Debug)]
struct Made {
    host: usize,
    network: String,
    /// Number of the namespace on its host; none for a container of its own.
    namespace: Option<u64>,
    known: Known,
}

/// One request.
#[derive(Clone, Debug)]
pub(super) enum Step {
    Create(String),
    Attach {
        name: String,
        network: String,
        namespace: u64,
    },
    Run {
        name: String,
        network: String,
    },
    Detach {
        name: String,
        network: String,
    },
    Remove(String),
}

/// How a request ended for its client.
#[derive(Clone, Debug)]
pub(super) enum Outcome {
    Done,
    /// Nothing was changed.
    Refused(String),
    /// The answer was lost.
    Unknown(String),
}

impl std::fmt::Display for Outcome {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Done => f.write_str("done"),
            Self::Refused(why) => write!(f, "refused: {why}"),
            Self::Unknown(why) => write!(f, "not known: {}", why.trim()),
        }
    }
}

/// What there is, as far as a client knows. Nothing in it means nothing but what is steady.
#[derive(Default)]
pub(super) struct Model {
    networks: BTreeMap<String, Known>,
    endpoints: BTreeMap<String, Made>,
    next: u64,
}

impl Model {
    fn fresh(&mut self, prefix: &str) -> String {
        self.next += 1;
        format!("{prefix}{}", self.next)
    }

    fn there(&self, host: Option<usize>) -> Vec<(&String, &Made)> {
        self.endpoints
            .iter()
            .filter(|(_, made)| made.known != Known::No && host.is_none_or(|h| h == made.host))
            .collect()
    }

    fn networks(&self) -> Vec<String> {
        let there = self
            .networks
            .iter()
            .filter(|(_, known)| **known == Known::Yes);
        there.map(|(name, _)| name.clone()).collect()
    }

    /// Something to ask on a host: one step, or the removal of a network with all that is on it.
    pub(super) fn choose(&mut self, host: usize, random: &mut Random) -> Vec<Step> {
        let many = self.there(None).len() >= MANY;
        match random.below(100) {
            0..35 if !many => self.attach(host, random),
            35..50 if !many => {
                let network = self.any_network(random);
                let name = self.fresh("r");
                vec![Step::Run { name, network }]
            }
            50..60 => vec![Step::Create(self.fresh("n"))],
            60..80 => self.remove(random),
            _ => self.detach(host, random),
        }
    }

    fn any_network(&self, random: &mut Random) -> String {
        let networks = self.networks();
        random
            .pick(&networks)
            .map_or(STEADY, String::as_str)
            .to_owned()
    }

    fn attach(&mut self, host: usize, random: &mut Random) -> Vec<Step> {
        let network = self.any_network(random);
        let namespace = random.below(NAMESPACES);
        let taken = self
            .there(Some(host))
            .iter()
            .any(|(_, made)| made.network == network && made.namespace == Some(namespace));
        if taken {
            return self.detach(host, random);
        }
        let name = self.fresh("e");
        vec![Step::Attach {
            name,
            network,
            namespace,
        }]
    }

    fn detach(&mut self, host: usize, random: &mut Random) -> Vec<Step> {
        let there = self.there(Some(host));
        match random.pick(&there) {
            Some((name, made)) => vec![Step::Detach {
                name: (*name).clone(),
                network: made.network.clone(),
            }],
            None => {
                let (name, network) = (self.fresh("e"), STEADY.to_owned());
                vec![Step::Attach {
                    name,
                    network,
                    namespace: random.below(NAMESPACES),
                }]
            }
        }
    }

    fn remove(&mut self, random: &mut Random) -> Vec<Step> {
        let mut networks = self.networks();
        networks.retain(|name| name != STEADY);
        let Some(network) = random.pick(&networks).cloned() else {
            return vec![Step::Create(self.fresh("n"))];
        };
        let there = self.there(None);
        let on_it = there.iter().filter(|(_, made)| made.network == network);
        let mut steps: Vec<Step> = on_it
            .map(|(name, _)| Step::Detach {
                name: (*name).clone(),
                network: network.clone(),
            })
            .collect();
        steps.push(Step::Remove(network));
        steps
    }

    /// Takes in how a request ended.
    pub(super) fn learn(&mut self, host: usize, step: &Step, outcome: &Outcome) {
        let (after, unchanged) = match outcome {
            Outcome::Done => (Known::Yes, false),
            Outcome::Unknown(_) => (Known::Maybe, false),
            Outcome::Refused(_) => (Known::No, true),
        };
        let gone = |known| {
            if known == Known::Yes {
                Known::No
            } else {
                Known::Maybe
            }
        };
        match step {
            Step::Create(name) => {
                self.networks.insert(name.clone(), after);
            }
            Step::Attach {
                name,
                network,
                namespace,
            } => {
                self.insert(name, host, network, Some(*namespace), after);
            }
            // A container that could not be started has no endpoint, whatever was answered.
            Step::Run { name, network } => {
                let known = if after == Known::Yes {
                    after
                } else {
                    Known::No
                };
                self.insert(name, host, network, None, known);
            }
            Step::Detach { name, .. } if !unchanged => {
                if let Some(made) = self.endpoints.get_mut(name) {
                    made.known = gone(after);
                }
            }
            Step::Remove(name) if !unchanged => {
                self.networks.insert(name.clone(), gone(after));
            }
            Step::Detach { .. } | Step::Remove(_) => {}
        }
    }

    fn insert(
        &mut self,
        name: &str,
        host: usize,
        network: &str,
        namespace: Option<u64>,
        known: Known,
    ) {
        let network = network.to_owned();
        let made = Made {
            host,
            network,
            namespace,
            known,
        };
        self.endpoints.insert(name.to_owned(), made);
    }

    /// Fails if something that was certain is not so; what was not certain is, then.
    pub(super) fn resolve(&mut self, api: &Api) -> Result<()> {
        let endpoints = api.endpoints()?;
        let networks = api.networks()?;
        let listed = |name: &str, made: &Made| {
            let mut on_it = endpoints.iter().filter(|e| e.network == made.network);
            on_it.any(|endpoint| endpoint.name == name)
        };
        for (name, made) in &self.endpoints {
            certain(
                &format!("endpoint {name} of h{}", made.host),
                made.known,
                listed(name, made),
            )?;
        }
        for (name, known) in &self.networks {
            let there = networks.iter().any(|network| network.name == *name);
            certain(&format!("network {name}"), *known, there)?;
        }
        for endpoint in &endpoints {
            let name = endpoint.name.as_str();
            let asked = self.endpoints.contains_key(name) || STEADY_ENDPOINTS.contains(&name);
            ensure!(asked, "nobody asked for {name}");
        }
        let become_known = |there| if there { Known::Yes } else { Known::No };
        for (name, made) in &mut self.endpoints {
            made.known = become_known(listed(name, made));
        }
        for (name, known) in &mut self.networks {
            *known = become_known(networks.iter().any(|network| network.name == *name));
        }
        self.endpoints.retain(|_, made| made.known == Known::Yes);
        self.networks.retain(|_, known| *known == Known::Yes);
        Ok(())
    }
}

fn certain(what: &str, known: Known, there: bool) -> Result<()> {
    match (known, there) {
        (Known::Yes, false) => bail!("{what} was answered for and is not there"),
        (Known::No, true) => bail!("{what} is there and should not be"),
        _ => Ok(()),
    }
}
