//! All ports: which there are, and which have frames for a thread.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use weft_netns::Identity;

use crate::forwarding::{DropCounters, Table};
use crate::path::{PortSpec, PortState};

use super::port::{self, Device, Port};
use super::sys::Epoll;
use super::tap::{PORT_IFNAME, Tap};

/// Ports by VNI. Empty in the form without.
#[derive(Debug, Default)]
pub(super) struct Ports {
    ports: BTreeMap<u32, Port>,
    /// One for each thread: its queues of all ports that are open.
    polls: Vec<Arc<Epoll>>,
    /// Whether super-packets of UDP pass them.
    udp: bool,
}

/// What is to be made for one port.
#[derive(Clone, Copy, Debug)]
pub(super) struct Needed {
    table: bool,
    /// Where its device is.
    netns: Option<Identity>,
}

/// What was made for one port, of which nothing is as before. It takes long, so nothing waits for it.
#[derive(Debug)]
pub(super) struct Made {
    table: Option<Table>,
    device: Option<Device>,
}

/// A port that one process leaves to the next. The descriptors of its queues are beside it.
#[derive(Serialize, Deserialize)]
pub(super) struct CarriedPort {
    /// Device and inode of the namespace, if the device is there.
    netns: Option<(u64, u64)>,
    dropped: DropCounters,
}

impl Ports {
    /// None yet, for so many threads.
    pub(super) fn new(threads: usize, udp: bool) -> io::Result<Self> {
        let polls: io::Result<_> = (0..threads).map(|_| Epoll::new().map(Arc::new)).collect();
        Ok(Self {
            ports: BTreeMap::new(),
            polls: polls?,
            udp,
        })
    }

    /// Whether super-packets of UDP pass them.
    pub(super) fn takes_udp(&self) -> bool {
        self.udp
    }

    /// What tells the thread of that number which of its queues have frames.
    pub(super) fn poll(&self, thread: usize) -> Option<Arc<Epoll>> {
        self.polls.get(thread).map(Arc::clone)
    }

    /// The port of a network, if it is open.
    pub(super) fn open(&self, vni: u32) -> Option<&Port> {
        self.ports.get(&vni).filter(|port| port.device.is_some())
    }

    pub(super) fn states(&self) -> BTreeMap<u32, PortState> {
        let states = self.ports.iter();
        states.map(|(vni, port)| (*vni, port.state())).collect()
    }

    /// What has to be made for these.
    pub(super) fn needed(&self, wanted: &BTreeMap<u32, PortSpec>) -> BTreeMap<u32, Needed> {
        let needed = wanted.iter().map(|(vni, spec)| {
            let port = self.ports.get(vni);
            let needed = Needed {
                table: port.is_none_or(|port| port.spec != *spec),
                netns: port.and_then(Port::netns),
            };
            (*vni, needed)
        });
        needed.collect()
    }

    /// Makes it, for so many threads.
    pub(super) fn make(
        wanted: &BTreeMap<u32, PortSpec>,
        needed: &BTreeMap<u32, Needed>,
        threads: usize,
    ) -> BTreeMap<u32, Result<Made, String>> {
        let make = |spec: &PortSpec, needed: &Needed| {
            let table = needed.table.then(|| port::table(spec)).transpose();
            let table = table.map_err(|error| error.to_string())?;
            let device = Device::open(&spec.netns, needed.netns, threads)?;
            Ok(Made { table, device })
        };
        let made = wanted.iter().filter_map(|(vni, spec)| {
            let needed = needed.get(vni)?;
            Some((*vni, make(spec, needed)))
        });
        made.collect()
    }

    /// Has these ports from now on, and no others. Returns the devices that are no more, to be
    /// closed when nobody waits for it.
    pub(super) fn want(
        &mut self,
        wanted: &BTreeMap<u32, PortSpec>,
        made: BTreeMap<u32, Result<Made, String>>,
    ) -> Vec<Device> {
        let unwanted: Vec<u32> = { self.ports.keys() }
            .filter(|vni| !wanted.contains_key(vni))
            .copied()
            .collect();
        let unwanted = unwanted.iter().filter_map(|vni| self.ports.remove(vni));
        let mut gone: Vec<Device> = unwanted.filter_map(|port| port.device).collect();
        for (vni, made) in made {
            let Some(spec) = wanted.get(&vni) else {
                continue;
            };
            let port = self.ports.entry(vni).or_default();
            let renewed = made.and_then(|Made { table, device }| {
                if let Some(table) = table {
                    port.table = table;
                    port.spec.clone_from(spec);
                }
                if let Some(device) = device {
                    register(&device, vni, &self.polls)?;
                    gone.extend(port.device.replace(device));
                    port.opened += 1;
                }
                Ok(())
            });
            if renewed.is_err() {
                gone.extend(port.device.take());
            }
            port.error = renewed.err();
        }
        gone
    }

    /// What is left of them to the next process, beside [the queues](Self::into_queues).
    pub(super) fn carried(&self) -> BTreeMap<u32, CarriedPort> {
        let ports = self.ports.iter().map(|(vni, port)| {
            let netns = port.netns().map(|netns| (netns.device, netns.inode));
            let dropped = port.dropped();
            (*vni, CarriedPort { netns, dropped })
        });
        ports.collect()
    }

    /// The queues of all devices that are there: those of one port after those of the other.
    pub(super) fn into_queues(self) -> impl Iterator<Item = OwnedFd> {
        let ports = self.ports.into_values();
        ports
            .filter(|port| port.netns().is_some())
            .filter_map(|port| port.device)
            .flat_map(|device| device.queues)
            .map(OwnedFd::from)
    }

    /// Goes on with them. Their networks are to be said yet.
    pub(super) fn adopt(
        carried: BTreeMap<u32, CarriedPort>,
        udp: bool,
        threads: usize,
        queues: &mut impl Iterator<Item = OwnedFd>,
    ) -> io::Result<Self> {
        let mut ports = Self::new(threads, udp)?;
        for (vni, carried) in carried {
            let device = carried.netns.and_then(|(device, inode)| {
                let queues: Vec<OwnedFd> = queues.take(threads).collect();
                // Of a device that is gone all queues are.
                let queues: io::Result<_> = queues.into_iter().map(Tap::adopt).collect();
                let device = Device::new(Identity { device, inode }, queues.ok()?);
                register(&device, vni, &ports.polls).ok()?;
                Some(device)
            });
            let port = Port::adopt(device, carried.dropped);
            ports.ports.insert(vni, port);
        }
        Ok(ports)
    }
}

impl CarriedPort {
    /// Whether there are queues of it.
    pub(super) fn is_open(&self) -> bool {
        self.netns.is_some()
    }
}

/// Has the threads see its frames.
fn register(device: &Device, vni: u32, polls: &[Arc<Epoll>]) -> Result<(), String> {
    for (tap, poll) in device.queues.iter().zip(polls) {
        let added = poll.add(tap.as_fd(), vni);
        added.map_err(|error| format!("tap {PORT_IFNAME} cannot be waited for: {error}"))?;
    }
    Ok(())
}
