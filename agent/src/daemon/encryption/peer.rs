//! One peer: the agreement with it, and what it is derived from.

use std::collections::BTreeSet;
use std::net::IpAddr;

use tokio::time::Instant;
use weft_encrypt::keys::{self, Epoch, KeyContext, NetworkClass, Party, SaKey, SessionSecret};
use weft_encrypt::path::{PathState, SaName};
use weft_encrypt::rotation::{KeyId, Rotation, SessionId, Timing};
use weft_raft::model::NodeId;
use weft_raft::peering::PeerSession;

use super::report::{PeerReport, Protection};

/// The class of all encrypted networks.
const CLASS: NetworkClass = NetworkClass(1);

/// A peer.
pub(super) struct Peer {
    pub(super) vtep: IpAddr,
    pub(super) rotation: Rotation,
    /// When the key that is sealed with was switched to.
    pub(super) switched: Option<Instant>,
}

/// A session with a peer, and what keys are derived from while it lasts.
pub(super) struct Session {
    pub(super) link: PeerSession,
    secret: SessionSecret,
    /// Keys were agreed on in it, by an agreement that counts them.
    used: bool,
}

impl Session {
    /// Takes the secret from a session.
    ///
    /// # Errors
    /// When the session has none to give.
    pub(super) fn of(link: PeerSession) -> Result<Self, String> {
        let secret = SessionSecret::export(|out, label, context| link.export(out, label, context));
        let secret = secret.map_err(|_| "the session gives no key material".to_owned())?;
        let used = false;
        Ok(Self { link, secret, used })
    }

    pub(super) fn id(&self) -> SessionId {
        SessionId(self.link.id)
    }

    /// An agreement begins with it: the only one. Another would count from where this one began.
    pub(super) fn take_up(&mut self) -> SessionId {
        self.used = true;
        self.id()
    }

    /// Whether one has.
    pub(super) fn is_used(&self) -> bool {
        self.used
    }

    /// The key of a direction. None of another session.
    pub(super) fn key(&self, sender: NodeId, receiver: NodeId, key: KeyId) -> Option<SaKey> {
        let context = KeyContext {
            sender: Party(sender.0.bytes()),
            receiver: Party(receiver.0.bytes()),
            class: CLASS,
            epoch: Epoch(key.epoch.0),
        };
        (key.session == self.id()).then(|| keys::derive(&self.secret, &context))
    }
}

impl Peer {
    /// Goes on with what the data path holds for it.
    pub(super) fn adopt(vtep: IpAddr, timing: Timing, state: &PathState) -> Self {
        let is_its = |name: &SaName| name.peer == vtep;
        let outbound = state.outbound.iter().map(|sa| sa.name).find(is_its);
        let inbound = state.inbound.iter().map(|sa| sa.name).filter(is_its);
        let inbound = inbound.map(|name| (name.key, name.spi));
        Self {
            vtep,
            rotation: Rotation::adopt(timing, outbound.map(|name| name.key), inbound),
            switched: None,
        }
    }

    /// Whether the data path holds every key that was agreed on.
    pub(super) fn is_held(&self, state: &PathState) -> bool {
        let sealing = |key| {
            let mut names = state.outbound.iter().map(|sa| sa.name);
            names.any(|name| name.peer == self.vtep && name.key == key)
        };
        let opening: BTreeSet<KeyId> = self.names(state).map(|name| name.key).collect();
        self.rotation.outbound().is_none_or(sealing)
            && self
                .rotation
                .inbound()
                .all(|(key, _)| opening.contains(&key))
    }

    /// What the data path still accepts although it was given up.
    pub(super) fn leftovers(&self, state: &PathState) -> Vec<SaName> {
        let agreed: BTreeSet<KeyId> = self.rotation.inbound().map(|(key, _)| key).collect();
        let names = self.names(state);
        names.filter(|name| !agreed.contains(&name.key)).collect()
    }

    /// Whether the key that is sealed with has reached a soft limit.
    pub(super) fn is_due(&self, state: &PathState) -> bool {
        let using = self.rotation.outbound();
        let mut sealing = state.outbound.iter();
        sealing.any(|sa| sa.rekey_due && sa.name.peer == self.vtep && Some(sa.name.key) == using)
    }

    /// What there is to be known of it; `trouble` is why there is no session, if so.
    pub(super) fn report(&self, state: &PathState, trouble: Option<&String>) -> PeerReport {
        let newest = self.rotation.inbound().map(|(key, _)| key.epoch.0).last();
        let outbound = self.rotation.outbound();
        let protection = match (outbound, newest, trouble) {
            (Some(_), Some(_), _) => Protection::Protected,
            (_, _, Some(why)) => Protection::Blocked(why.clone()),
            _ => Protection::Blocked("no keys were agreed on yet".to_owned()),
        };
        PeerReport {
            vtep: self.vtep,
            protection,
            epoch_out: outbound.map(|key| key.epoch.0),
            epoch_in: newest,
            age: self.switched.map(|at| at.elapsed()),
            state: state.peers.get(&self.vtep).cloned().unwrap_or_default(),
        }
    }

    fn names<'a>(&self, state: &'a PathState) -> impl Iterator<Item = SaName> + use<'a> {
        let vtep = self.vtep;
        let names = state.inbound.iter().map(|sa| sa.name);
        names.filter(move |name| name.peer == vtep)
    }
}
