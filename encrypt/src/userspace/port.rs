//! A port of one network's bridge: the device in its sandbox, and what is known of the network.

use std::io::IoSlice;
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};

use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{LinkAttribute, LinkMessage};
use weft_netns::rtnl::{Request, Rtnl};
use weft_netns::{Identity, Netns};

use crate::forwarding::{DropCounters, Dropped, Table, TableError};
use crate::host::TAP_QUEUE;
use crate::path::{PortSpec, PortState};

use super::sys::Epoll;
use super::tap::{PORT_IFNAME, Tap};

/// The port of one network, open or not.
#[derive(Debug, Default)]
pub(super) struct Port {
    /// What the table was made of.
    pub(super) spec: PortSpec,
    pub(super) table: Table,
    /// Nothing while it could not be opened.
    pub(super) device: Option<Device>,
    /// Why not, if so.
    pub(super) error: Option<String>,
    /// How often there was another device.
    pub(super) opened: u64,
    dropped: Mutex<DropCounters>,
}

/// A device, which is there as long as this is.
#[derive(Debug)]
pub(super) struct Device {
    /// Where it is. That namespace lives as long as the device.
    pub(super) netns: Identity,
    /// One for each thread.
    pub(super) queues: Vec<Tap>,
    /// Somebody has removed it.
    pub(super) lost: AtomicBool,
}

impl Port {
    /// One of another process, of which all else is to be said yet.
    pub(super) fn adopt(device: Option<Device>, dropped: DropCounters) -> Self {
        Self {
            device,
            dropped: Mutex::new(dropped),
            ..Self::default()
        }
    }

    /// Where its device is, if it is there.
    pub(super) fn netns(&self) -> Option<Identity> {
        let device = self.device.as_ref()?;
        (!device.lost.load(Relaxed)).then_some(device.netns)
    }

    /// The queue of the thread with this number.
    pub(super) fn queue(&self, thread: usize) -> Option<&Tap> {
        self.device.as_ref()?.queues.get(thread)
    }

    /// Writes so many frames at once to the bridge, or counts that it did not take them.
    pub(super) fn write(&self, thread: usize, parts: &[IoSlice<'_>], frames: usize) {
        let written = self.queue(thread).map(|tap| tap.write(parts));
        if !matches!(written, Some(Ok(()))) {
            self.drop_frames(Dropped::Undelivered, frames as u64);
        }
    }

    /// Counts frames that went nowhere.
    pub(super) fn drop_frames(&self, cause: Dropped, frames: u64) {
        let mut dropped = self.dropped.lock().unwrap_or_else(PoisonError::into_inner);
        dropped.count(cause, frames);
    }

    /// How many frames went nowhere.
    pub(super) fn dropped(&self) -> DropCounters {
        *self.dropped.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A read has failed: somebody has removed the device. It is not looked at until there is
    /// another one.
    pub(super) fn lose(&self, thread: usize, poll: &Epoll) {
        if let Some(device) = &self.device {
            device.lost.store(true, Relaxed);
            if let Some(tap) = device.queues.get(thread) {
                // It is among them, or was.
                let _ = poll.remove(tap.as_fd());
            }
        }
    }

    pub(super) fn state(&self) -> PortState {
        let lost = self.device.as_ref().is_some_and(|d| d.lost.load(Relaxed));
        let lost = lost.then(|| format!("device {PORT_IFNAME} is gone, and is made again"));
        PortState {
            error: self.error.clone().or(lost),
            opened: self.opened,
            dropped: self.dropped(),
        }
    }
}

/// The table of a specification.
pub(super) fn table(spec: &PortSpec) -> Result<Table, TableError> {
    if spec.multicast {
        Table::new(&spec.remotes, &spec.flood)
    } else {
        Table::new(&spec.remotes, &Default::default())
    }
}

impl Device {
    pub(super) fn new(netns: Identity, queues: Vec<Tap>) -> Self {
        Self {
            netns,
            queues,
            lost: AtomicBool::new(false),
        }
    }

    /// Makes the device in that sandbox, with so many queues; nothing if that is the namespace that
    /// there is one in already.
    pub(super) fn open(
        sandbox: &Path,
        there: Option<Identity>,
        queues: usize,
    ) -> Result<Option<Self>, String> {
        let netns = Netns::open(sandbox).map_err(|error| error.to_string())?;
        if there == Some(netns.identity()) {
            return Ok(None);
        }
        let (queues, _) = open(&netns, queues)?;
        Ok(Some(Self::new(netns.identity(), queues)))
    }
}

/// Makes the device in that namespace. Says also whether super-packets of UDP pass it.
pub(super) fn open(netns: &Netns, queues: usize) -> Result<(Vec<Tap>, bool), String> {
    let opened = netns
        .run(|| Tap::open_port(queues))
        .map_err(|e| e.to_string())?;
    let opened =
        opened.map_err(|(what, e)| format!("tap {PORT_IFNAME} cannot be used: {what}: {e}"))?;
    // As long as the device of the other form.
    let mut message = LinkMessage::default();
    message.attributes = vec![
        LinkAttribute::IfName(PORT_IFNAME.to_owned()),
        LinkAttribute::TxQueueLen(TAP_QUEUE),
    ];
    let bound = Request {
        message: RouteNetlinkMessage::SetLink(message),
        flags: 0,
        tolerate: &[],
    };
    Rtnl::open(netns)?
        .change(&bound)
        .map_err(|e| format!("queue of tap {PORT_IFNAME} cannot be bounded: {e}"))?;
    Ok(opened)
}
