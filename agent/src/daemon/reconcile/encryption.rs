//! What encrypted networks need of a node, before anything rests on it and after nothing does any more.

use tracing::{debug, warn};
use weft_encrypt::path::{Form, PathSpec};
use weft_overlay::Tunnel;
use weft_raft::model::{NetworkId, NodeId};

use super::Reconciler;
use crate::daemon::encryption::{Choice, Wanted};
use crate::translate;

/// Why no frame of an encrypted network may leave where encryption was not asked for.
pub(super) const UNPREPARED: &str = "encrypted networks are not prepared on this node";

impl Reconciler {
    /// Whether a network's frames must not cross the underlay in clear.
    pub(super) fn is_encrypted(&self, network: NetworkId) -> bool {
        let row = self.view.networks.get(&network);
        row.is_some_and(|row| row.encrypted)
    }

    /// At the next pass.
    pub(super) fn look_at_encrypted(&mut self) {
        let networks = self.view.networks.values();
        let encrypted = networks.filter(|network| network.encrypted);
        self.dirty
            .networks
            .extend(encrypted.map(|network| network.id));
    }

    /// What encryption has to be on this node, before anything rests on it.
    pub(super) async fn encryption_pass(&mut self, node: NodeId) {
        let mut encryption = translate::encryption(&self.view, &self.index, node);
        let mut path = Err(UNPREPARED.to_owned());
        if let Some(encryption) = &mut encryption {
            path = self.encryptor.choose(encryption.path.local).await;
            if path == Ok(Choice::Userspace(Form::Port)) {
                self.add_ports(&mut encryption.path, node);
            }
        }
        if encryption != self.encryption {
            let peers = encryption.as_ref().map(|wanted| wanted.peers.len());
            debug!(?peers, "what encryption has to be has changed");
            self.encryption = encryption;
        }
        if let Some(encryption) = self.encryption.clone() {
            self.last = Some(encryption.clone());
            let tunnel = match encryption.path.form {
                Form::Vxlan => Tunnel::Vxlan,
                Form::Port => Tunnel::Port,
            };
            let wanted = Wanted {
                node,
                encryption,
                path,
            };
            let closed = self.encryptor.want(Some(wanted)).await.map(|()| tunnel);
            if closed.as_ref().ok() != self.closed.as_ref().ok() {
                self.look_at_encrypted();
            }
            self.closed = closed;
        }
    }

    /// Of the encrypted networks that have a sandbox here.
    fn add_ports(&self, path: &mut PathSpec, node: NodeId) {
        path.form = Form::Port;
        let networks = self.view.networks.values();
        for network in networks.filter(|row| row.encrypted && row.vni.is_some()) {
            if let Some(sandbox) = self.sandbox(network.id, node) {
                let netns = self.netns_dir.join(network.id.to_string());
                path.ports
                    .insert(sandbox.vni, translate::port(&sandbox, netns));
            }
        }
    }

    /// What encryption needs no more, after nothing rests on it any more. A network that could not
    /// be taken away may still have its tunnel: then there are no keys left, and all stays closed.
    pub(super) async fn without_encryption(&mut self, node: NodeId, all_gone: bool) {
        if self.encryption.is_some() {
            return;
        }
        self.closed = Err(UNPREPARED.to_owned());
        match (all_gone, self.last.clone()) {
            (true, _) => self.take_encryption_away().await,
            (false, Some(last)) => {
                let encryption = last.without_peers();
                let path = self.encryptor.choose(encryption.path.local).await;
                let wanted = Wanted {
                    node,
                    encryption,
                    path,
                };
                if let Err(error) = self.encryptor.want(Some(wanted)).await {
                    warn!(error, "what is left of encrypted networks may be in clear");
                }
            }
            // What an earlier agent left goes on.
            (false, None) => {}
        }
    }

    pub(super) async fn take_encryption_away(&mut self) {
        self.last = None;
        self.closed = Err(UNPREPARED.to_owned());
        if let Err(error) = self.encryptor.want(None).await {
            debug!(error, "what encrypted networks needed is still there");
        }
    }
}
