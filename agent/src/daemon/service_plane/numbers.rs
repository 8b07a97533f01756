//! What this node's backends have taken and answered, and the flows that they have now, as the
//! backends' own namespaces count and track them: the whole of it, wherever the clients are.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::num::NonZeroU16;

use weft_lb::spec::Protocol;
use weft_lb::stats::{Counts, Stats};
use weft_netns::conntrack::Flow;
use weft_raft::control::{BackendNumbers, NumbersOf};
use weft_raft::model::{EndpointId, ServiceId, View};

use super::counting::TABLE;
use super::flows::each_begun_by_others;
use super::namespace::{Unopened, open};
use crate::daemon::backend::Daemon;
use crate::translate::services::counted::{Counted, Target, counted_on};

/// Backends whose numbers are asked for, each with why it failed if it did.
type Asked = BTreeMap<EndpointId, Option<String>>;

/// The numbers of this node's backends, of one service or all.
pub(in crate::daemon) async fn numbers(daemon: &Daemon, service: Option<ServiceId>) -> NumbersOf {
    let Ok(this) = daemon.this() else {
        return NumbersOf::new();
    };
    let kernel = daemon.kernel.borrow().clone();
    let wanted = |view: &View, id: EndpointId| {
        let row = view.endpoints.get(&id)?;
        let asked = service.is_none_or(|service| row.service == Some(service));
        asked.then(|| (id, kernel.failure(row).cloned()))
    };
    let places: Vec<(Counted, Asked)> = daemon.control.with_view(|view| {
        let places = counted_on(view, this).into_values().map(|counted| {
            let ids = counted.addresses.values().flatten();
            let asked: Asked = ids.filter_map(|id| wanted(view, *id)).collect();
            (counted, asked)
        });
        places.filter(|(_, asked)| !asked.is_empty()).collect()
    });
    let read = move || {
        let places = places.into_iter();
        places
            .flat_map(|(counted, asked)| of_place(&counted, asked))
            .collect()
    };
    tokio::task::spawn_blocking(read).await.unwrap_or_default()
}

/// Those of a container's backends that are asked for. Blocks.
fn of_place(counted: &Counted, asked: Asked) -> NumbersOf {
    let read = read(counted).map_err(|unopened| unopened.to_string());
    let of = |id: &EndpointId, failure: Option<String>| {
        if let Some(why) = failure {
            return Err(why);
        }
        let found = read.as_ref().map_err(Clone::clone)?.get(id);
        found
            .copied()
            .ok_or_else(|| "its connections are not counted yet".to_owned())
    };
    let asked = asked.into_iter();
    asked.map(|(id, failure)| (id, of(&id, failure))).collect()
}

fn read(counted: &Counted) -> Result<BTreeMap<EndpointId, BackendNumbers>, Unopened> {
    let namespace = open(&counted.netns)?;
    let totals = Stats::open(&namespace, TABLE)?.read()?;
    let shares = counted.share(&totals.unwrap_or_default()).into_iter();
    let mut found: BTreeMap<EndpointId, BackendNumbers> =
        shares.map(|(id, counts)| (id, idle(counts))).collect();
    if found.is_empty() {
        return Ok(found);
    }
    let is_own = |address: IpAddr| counted.own.contains(&address);
    each_begun_by_others(&namespace, is_own, |flow| {
        let to = flow.original.destination.address;
        for id in counted.backends_at(to, target(flow)) {
            if let Some(numbers) = found.get_mut(&id) {
                numbers.connections += 1;
            }
        }
    })?;
    Ok(found)
}

/// What was counted, with no flow now.
fn idle(counts: Counts) -> BackendNumbers {
    BackendNumbers {
        connections: 0,
        connections_total: counts.connections,
        packets_in: counts.packets_in,
        bytes_in: counts.bytes_in,
        packets_out: counts.packets_out,
        bytes_out: counts.bytes_out,
    }
}

/// The port that a flow was sent to.
fn target(flow: &Flow) -> Option<Target> {
    let protocol = match i32::from(flow.original.protocol) {
        libc::IPPROTO_TCP => Protocol::Tcp,
        libc::IPPROTO_UDP => Protocol::Udp,
        _ => return None,
    };
    Some((protocol, NonZeroU16::new(flow.original.destination.port)?))
}
