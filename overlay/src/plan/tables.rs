use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::{Planner, Target, names};
use crate::observed::{Forward, Neighbour};
use crate::op::Op;
use crate::spec::{Mac, Tunnel};

impl Planner<'_> {
    /// Brings the VXLAN device's and the bridge's tables into shape, except for what is behind ports
    /// that may have to be made first.
    pub(super) fn tables(&mut self) {
        self.stations();
        self.forwards();
        self.neighbours();
    }

    /// MAC addresses of endpoints on this node, with the names of their ports.
    pub(super) fn local_stations(&self) -> BTreeMap<Mac, String> {
        let attached = |id: &&str| match self.targets.get(id) {
            Some(Target::Attach { .. }) => true,
            Some(Target::Leave) => self.ports.contains_key(names::port(id).as_str()),
            Some(Target::Drop) | None => false,
        };
        let locals = self.spec.locals.iter();
        locals
            .filter(|(id, _)| attached(&id.as_str()))
            .map(|(id, local)| (local.mac, names::port(id)))
            .collect()
    }

    /// A station as the bridge has it now, unless it goes with the link that it is behind.
    pub(super) fn station(&self, mac: Mac) -> Option<&String> {
        self.sandbox
            .stations
            .get(&mac)
            .filter(|port| self.stays(port))
    }

    fn stays(&self, port: &str) -> bool {
        match port {
            names::VXLAN => self.vxlan.is_some(),
            names::TAP => self.tap.is_some(),
            names::BRIDGE => true,
            port => self.ports.contains_key(port),
        }
    }

    /// A MAC address of a remote endpoint that is not one of ours too: an endpoint that has moved
    /// here is here. Without a way out nobody is remote.
    fn remote_macs(&self) -> BTreeMap<Mac, IpAddr> {
        let locals: BTreeSet<Mac> = self.spec.locals.values().map(|l| l.mac).collect();
        let remotes = self.spec.remotes.iter();
        remotes
            .filter(|(mac, _)| self.way_out().is_some() && !locals.contains(mac))
            .map(|(mac, remote)| (*mac, remote.vtep))
            .collect()
    }

    /// The bridge's entries. They are static, so that no port can take another's address and nothing
    /// that is known is sent to every port.
    fn stations(&mut self) {
        let locals = self.local_stations();
        let remotes = self.remote_macs();
        let stations = &self.sandbox.stations;
        let attaches = |target: &Target| matches!(target, Target::Attach { .. });
        let attaching = { self.spec.locals.iter() }
            .filter(|(id, _)| self.targets.get(id.as_str()).is_some_and(attaches))
            .map(|(_, local)| local.mac);
        // Theirs are replaced, so that they are behind some port meanwhile.
        let replaced: BTreeSet<Mac> = attaching.chain(remotes.keys().copied()).collect();
        let unwanted = stations
            .iter()
            .filter(|(mac, port)| !replaced.contains(mac) && locals.get(mac) != Some(port))
            .filter(|(_, port)| self.stays(port))
            .map(|(mac, port)| Op::RemoveStation {
                port: port.clone(),
                mac: *mac,
            });
        let missing = remotes
            .keys()
            .filter(|mac| self.station(**mac).map(String::as_str) != self.way_out())
            .filter_map(|mac| {
                let port = self.way_out()?.to_owned();
                let (endpoint, mac) = (None, *mac);
                Some(Op::SetStation {
                    port,
                    endpoint,
                    mac,
                })
            });
        let ops: Vec<Op> = unwanted.chain(missing).collect();
        self.ops.extend(ops);
    }

    fn forwards(&mut self) {
        if self.spec.tunnel != Tunnel::Vxlan {
            return;
        }
        let mut wanted: BTreeMap<Mac, BTreeSet<Forward>> = BTreeMap::new();
        for (mac, vtep) in self.remote_macs() {
            wanted.insert(mac, BTreeSet::from([Forward::to(mac, vtep)]));
        }
        if self.spec.multicast && !self.spec.flood.is_empty() {
            let all = self.spec.flood.iter();
            let all = all.map(|vtep| Forward::to(Mac::ZERO, *vtep)).collect();
            wanted.insert(Mac::ZERO, all);
        }
        let mut there: BTreeMap<Mac, BTreeSet<Forward>> = BTreeMap::new();
        for forward in self.vxlan.iter().flat_map(|vxlan| &vxlan.forwards) {
            there.entry(forward.mac).or_default().insert(*forward);
        }
        let none = BTreeSet::new();
        let macs: BTreeSet<Mac> = wanted.keys().chain(there.keys()).copied().collect();
        for mac in macs {
            let wanted = wanted.get(&mac).unwrap_or(&none);
            let there = there.get(&mac).unwrap_or(&none);
            self.forwards_of(mac, wanted, there);
        }
    }

    fn forwards_of(&mut self, mac: Mac, wanted: &BTreeSet<Forward>, there: &BTreeSet<Forward>) {
        let name = || names::VXLAN.to_owned();
        let replaced = match (wanted.first(), there.first()) {
            // Changed in place, an entry is never missing. The kernel does that to one of the
            // ordinary kind only.
            (Some(_), Some(old)) => {
                mac != Mac::ZERO
                    && there.len() == 1
                    && old.vtep.is_some()
                    && old.port.is_none()
                    && old.vni.is_none()
            }
            _ => false,
        };
        if !replaced {
            let unwanted = there.difference(wanted).map(|forward| Op::RemoveForward {
                name: name(),
                forward: *forward,
            });
            self.ops.extend(unwanted);
        }
        let missing = wanted.difference(there).filter_map(|forward| {
            let vtep = forward.vtep?;
            Some(if mac == Mac::ZERO {
                Op::AddFlood { name: name(), vtep }
            } else {
                Op::SetForward {
                    name: name(),
                    mac,
                    vtep,
                }
            })
        });
        self.ops.extend(missing);
    }

    fn neighbours(&mut self) {
        if self.spec.tunnel != Tunnel::Vxlan {
            return;
        }
        let locals: BTreeSet<IpAddr> = self
            .spec
            .locals
            .values()
            .flat_map(|local| local.addresses.iter().map(|net| net.addr()))
            .collect();
        let local_macs: BTreeSet<Mac> = self.spec.locals.values().map(|l| l.mac).collect();
        let mut wanted = BTreeMap::new();
        for (mac, remote) in &self.spec.remotes {
            for address in &remote.addresses {
                // Answering for an endpoint of ours would send its neighbours elsewhere.
                if !locals.contains(address) && !local_macs.contains(mac) {
                    wanted.entry(*address).or_insert(Neighbour {
                        mac: *mac,
                        permanent: true,
                    });
                }
            }
        }
        let none = BTreeMap::new();
        let there = self.vxlan.map_or(&none, |vxlan| &vxlan.neighbours);
        let name = || names::VXLAN.to_owned();
        let unwanted = there
            .keys()
            .filter(|address| !wanted.contains_key(address))
            .map(|address| Op::RemoveNeighbour {
                name: name(),
                address: *address,
            });
        let missing = wanted
            .iter()
            .filter(|(address, neighbour)| there.get(address) != Some(neighbour))
            .map(|(address, neighbour)| Op::SetNeighbour {
                name: name(),
                address: *address,
                mac: neighbour.mac,
            });
        self.ops.extend(unwanted.chain(missing));
    }
}
