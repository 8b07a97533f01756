//! Endpoints as members of services.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::refuse::{exhausted, invalid};
use super::{Change, Decision, Object, Revision, State, check, limits};
use crate::command::Refusal;
use crate::model::{BackendState, Endpoint, EndpointId, Network, ServiceId};

impl State {
    /// Whether a new endpoint on `network` may join.
    pub(super) fn check_membership(
        &self,
        network: &Network,
        service: ServiceId,
    ) -> Result<(), Refusal> {
        let service = self.known_service(service)?;
        if !service.networks.iter().any(|on| on.network == network.id) {
            let example =
                (service.networks.first()).map_or("?", |on| self.network_name(on.network));
            return Err(invalid(format_args!(
                "service {0} is not on network {1}; attach to one of its networks, such as \
                 {example}, or use `weft service update --network-add {1} {0}`",
                service.name, network.name
            )));
        }
        if self.index.backends(service.id).count() >= limits::ENDPOINTS_PER_SERVICE {
            return Err(exhausted(format_args!(
                "service {} has {1} of {1} endpoints; detach some first, or use another service",
                service.name,
                limits::ENDPOINTS_PER_SERVICE
            )));
        }
        Ok(())
    }

    pub(super) fn set_backends(
        &self,
        index: Revision,
        heard: &[(EndpointId, BackendState)],
    ) -> Result<Decision, Refusal> {
        if heard.len() > limits::BACKENDS_PER_COMMAND {
            return Err(check::too_many(
                "states of endpoints",
                heard.len(),
                limits::BACKENDS_PER_COMMAND,
            ));
        }
        let mut states = BTreeMap::new();
        for (id, next) in heard {
            let Some(endpoint) = self.view.endpoints.get(id) else {
                continue;
            };
            let state = states.entry(*id).or_insert(endpoint.backend);
            if endpoint.service.is_some() && *state != BackendState::Draining {
                *state = *next;
            }
        }
        let changes = (states.into_iter())
            .filter_map(|(id, state)| Some((self.view.endpoints.get(&id)?, state)))
            .filter(|(endpoint, state)| endpoint.backend != *state)
            .map(|(endpoint, backend)| {
                Change::Endpoint(Arc::new(Endpoint {
                    backend,
                    revision: index,
                    ..Endpoint::clone(endpoint)
                }))
            })
            .collect();
        Ok(Decision::new(Object::None, changes))
    }

    /// The services that end with these endpoints, the last that they have.
    pub(super) fn ending_with(&self, gone: &BTreeSet<EndpointId>) -> Vec<Change> {
        let rows = gone.iter().filter_map(|id| self.view.endpoints.get(id));
        let services: BTreeSet<ServiceId> = rows.filter_map(|row| row.service).collect();
        let ends = |id: &ServiceId| {
            let service = self.view.services.get(id);
            service.is_some_and(|service| service.ends_with_endpoints)
                && self
                    .index
                    .backends(*id)
                    .all(|member| gone.contains(&member))
        };
        { services.into_iter() }
            .filter(ends)
            .map(Change::ServiceGone)
            .collect()
    }

    /// The endpoints of a service as they are without it.
    pub(super) fn released(&self, index: Revision, service: ServiceId) -> Vec<Change> {
        (self.index.backends(service))
            .filter_map(|id| self.view.endpoints.get(&id))
            .map(|endpoint| {
                Change::Endpoint(Arc::new(Endpoint {
                    service: None,
                    backend: BackendState::Starting,
                    revision: index,
                    ..Endpoint::clone(endpoint)
                }))
            })
            .collect()
    }
}
