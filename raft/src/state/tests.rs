use super::testing::*;
use super::*;
use crate::codec::{decode, encode};
use crate::command::{EndpointSpec, NetworkSpec, RefusalKind, ServiceSpec};
use crate::model::{Endpoint, Network, Service};

mod backend;
mod cluster;
mod endpoint;
mod ingress;
mod mode;
mod network;
mod node;
mod oracle;
mod pool;
mod ports;
mod properties;
mod requests;
mod service;

/// A state, and a replica that knows only the changes.
pub(super) struct Pair {
    pub(super) state: State,
    replica: View,
    requests: u64,
}

impl Pair {
    pub(super) fn new() -> Self {
        Self {
            state: State::new(),
            replica: View::default(),
            requests: 0,
        }
    }

    /// With [`init_cluster`] done and nodes 1 (manager) and 2 (worker).
    pub(super) fn cluster() -> Self {
        let mut pair = Self::new();
        pair.done(Command::Init(Box::new(init_cluster())));
        pair.done(Command::AddNode(Box::new(node_spec(
            2,
            crate::model::Role::Worker,
        ))));
        pair
    }

    pub(super) fn apply(&mut self, command: Command) -> Outcome {
        self.requests += 1;
        let proposal = proposal(self.requests, command);
        let index = self.state.view().revision + 1;
        let before = self.state.clone();
        let (outcome, changes) = self.state.apply(index, &proposal);
        self.replica.apply(index, &changes);
        assert_eq!(&self.replica, self.state.view());
        if let Err(refusal) = &outcome {
            assert_eq!(changes, []);
            assert_eq!(self.state.secrets, before.secrets);
            assert!(!refusal.message.contains('\n') && refusal.message.len() < 1000);
            let mut unchanged = before.view;
            unchanged.revision = index;
            assert_eq!(&unchanged, self.state.view());
        }
        outcome
    }

    pub(super) fn done(&mut self, command: Command) -> Object {
        self.apply(command).unwrap().object
    }

    pub(super) fn refused(&mut self, command: Command) -> (RefusalKind, String) {
        let refusal = self.apply(command).unwrap_err();
        (refusal.kind, refusal.message)
    }

    pub(super) fn network(&mut self, spec: NetworkSpec) -> Arc<Network> {
        match self.done(Command::CreateNetwork(Box::new(spec))) {
            Object::Network(network) => network,
            other => panic!("not a network: {other:?}"),
        }
    }

    pub(super) fn endpoint(&mut self, spec: EndpointSpec) -> Arc<Endpoint> {
        match self.done(Command::CreateEndpoint(Box::new(spec))) {
            Object::Endpoint(endpoint) => endpoint,
            other => panic!("not an endpoint: {other:?}"),
        }
    }

    pub(super) fn service(&mut self, spec: ServiceSpec) -> Arc<Service> {
        match self.done(Command::CreateService(Box::new(spec))) {
            Object::Service(service) => service,
            other => panic!("not a service: {other:?}"),
        }
    }

    pub(super) fn node(&self, number: u8) -> &Node {
        &self.state.view().nodes[&node_id(number)]
    }
}
