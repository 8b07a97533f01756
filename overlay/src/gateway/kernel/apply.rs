use std::collections::BTreeMap;
use std::os::fd::{AsFd as _, AsRawFd as _};

use weft_netns::Netns;

use super::observe::rule_messages;
use super::{Failures, messages};
use crate::ApplyError;
use crate::gateway::layout::{self, BRIDGE, LEG, LEG_PROTOCOL, PROTOCOL};
use crate::gateway::observed::Rule;
use crate::gateway::op::{Op, Place};
use crate::gateway::spec::GatewaySpec;
use crate::kernel::messages as link_messages;
use crate::kernel::messages::VethEnds;
use crate::kernel::observe::get_link;
use crate::kernel::rtnl::{Request, Rtnl, RtnlError};
use crate::kernel::session::{self, Unopened, open_endpoint};
use crate::kernel::view::link_query;
use crate::spec::NetnsRef;

/// What became of a list of ops.
#[derive(Debug, Default)]
pub(super) struct Applied {
    /// How many were performed.
    pub(super) done: usize,
    /// The first that failed and concerns the gateway as a whole.
    pub(super) failed: Option<ApplyError>,
    /// Legs that could not be attached, each with the reason.
    pub(super) legs: Failures,
}

/// Performs ops in order. One that concerns the gateway as a whole ends it when it fails, unless the
/// others can do without; one that concerns a leg ends that leg's part.
pub(super) fn apply(
    host: &Netns,
    rtnl: &mut Rtnl,
    spec: Option<&GatewaySpec>,
    ops: &[Op],
) -> Applied {
    let mut applied = Applied::default();
    let mut hands = Hands {
        host,
        rtnl,
        spec,
        indices: BTreeMap::new(),
        leg: None,
    };
    let mut rest = ops;
    while let Some(op) = rest.first() {
        let entries = rest.iter().take_while(|op| op.is_entry()).count();
        let (now, later) = rest.split_at(entries.max(1));
        rest = later;
        let results = if entries > 0 {
            hands.entries(now)
        } else if op.leg().is_some_and(|leg| applied.legs.contains_key(leg)) {
            continue;
        } else {
            vec![hands.perform(op)]
        };
        for (op, result) in now.iter().zip(results) {
            applied.note(op, result);
        }
        if applied.failed.is_some() && !op.is_apart() && op.leg().is_none() {
            break;
        }
    }
    applied
}

impl Applied {
    fn note(&mut self, op: &Op, result: Result<(), String>) {
        match (result, op.leg()) {
            (Ok(()), _) => {
                tracing::debug!(%op, "done");
                self.done += 1;
            }
            (Err(reason), Some(leg)) => {
                tracing::warn!(%op, leg, reason, "failed");
                let line = format!("cannot {op}: {reason}");
                self.legs.entry(leg.to_owned()).or_insert(line);
            }
            (Err(reason), None) => {
                tracing::warn!(%op, reason, "failed");
                let doing = op.to_string();
                self.failed.get_or_insert(ApplyError { doing, reason });
            }
        }
    }
}

/// What is held while ops are performed.
struct Hands<'a> {
    host: &'a Netns,
    rtnl: &'a mut Rtnl,
    spec: Option<&'a GatewaySpec>,
    /// Indices of the host's links, looked up once.
    indices: BTreeMap<String, u32>,
    /// The container of the leg that is worked on. One at a time: a host may have more of them than
    /// this process may have open files.
    leg: Option<Leg>,
}

struct Leg {
    key: String,
    place: session::Place,
    /// Of its interface, once that is there.
    index: Option<u32>,
}

fn text(error: RtnlError) -> String {
    error.to_string()
}

fn all(rtnl: &mut Rtnl, requests: &[Request]) -> Result<(), String> {
    let results = rtnl.change_all(requests);
    results.into_iter().collect::<Result<(), _>>().map_err(text)
}

impl Hands<'_> {
    fn index(&mut self, name: &str) -> Result<u32, String> {
        if let Some(index) = self.indices.get(name) {
            return Ok(*index);
        }
        let link = get_link(self.rtnl, link_query(Some(name), 0)).map_err(text)?;
        let index = link.ok_or_else(|| format!("there is no {name}"))?.index;
        self.indices.insert(name.to_owned(), index);
        Ok(index)
    }

    /// Performs changes of the host's routes and rules, many at a time.
    fn entries(&mut self, ops: &[Op]) -> Vec<Result<(), String>> {
        let requests: Vec<Result<Request, String>> = ops
            .iter()
            .map(|op| routing_request(op, |device| self.index(device)))
            .collect();
        let sendable: Vec<Request> = requests.iter().flatten().cloned().collect();
        let mut answers = self.rtnl.change_all(&sendable).into_iter();
        requests
            .into_iter()
            .map(|request| {
                request?;
                let answer = answers.next();
                answer.map_or_else(|| Err("no answer".to_owned()), |a| a.map_err(text))
            })
            .collect()
    }

    fn perform(&mut self, op: &Op) -> Result<(), String> {
        let requests = match op {
            Op::ClearContainer { netns } => return clear(netns),
            Op::SetSwitch { name, value } => {
                let set = self.host.set_sysctls(&[(name, value)]);
                return set.map_err(|e| e.to_string());
            }
            Op::DeleteLink { name } => {
                self.indices.remove(name);
                vec![link_messages::delete_link(name)]
            }
            Op::CreateBridge { mtu, mac } => vec![
                link_messages::create_bridge(BRIDGE, *mtu),
                messages::set_mac(BRIDGE, *mac),
            ],
            Op::SimplifyBridge => link_messages::simplify_bridge(BRIDGE).into(),
            Op::SetBridge { mac, link } => {
                let mac = mac.map(|mac| messages::set_mac(BRIDGE, mac));
                let link = link_messages::set_link(BRIDGE, link, None);
                mac.into_iter().chain(link).collect()
            }
            Op::SetPort {
                port,
                isolate,
                link,
                ..
            } => {
                let bridge = link.bridge.as_ref();
                let bridge = bridge.map(|bridge| self.index(bridge)).transpose()?;
                let mut requests = link_messages::set_link(port, link, bridge);
                if *isolate {
                    // Once it is a port, and before it is up.
                    let at = requests.len() - usize::from(link.raise);
                    requests.insert(at, messages::isolate(port));
                }
                requests
            }
            Op::CreateLeg {
                leg,
                port,
                mtu,
                mac,
            } => {
                let bridge = self.index(BRIDGE)?;
                let container = self.leg(leg)?.place.netns.as_fd().as_raw_fd();
                vec![link_messages::create_veth(&VethEnds {
                    port,
                    bridge,
                    mtu: *mtu,
                    ifname: LEG,
                    mac: *mac,
                    container,
                })]
            }
            Op::AddAddress {
                place: Place::Host,
                address,
            } => {
                vec![link_messages::add_address(self.index(BRIDGE)?, *address)]
            }
            Op::RemoveAddress {
                place: Place::Host,
                address,
            } => {
                vec![link_messages::remove_address(self.index(BRIDGE)?, *address)]
            }
            Op::RemoveRule {
                place: Place::Host,
                rule,
            } => removals(self.rtnl, PROTOCOL, |other| other == rule)?,
            inside => return self.inside(inside),
        };
        all(self.rtnl, &requests)
    }

    fn inside(&mut self, op: &Op) -> Result<(), String> {
        let key = op.leg().ok_or_else(|| format!("{op} is of no leg"))?;
        let index = self.leg_index(key)?;
        let place = &mut self.leg(key)?.place;
        let requests = match op {
            Op::SetInner { change, .. } => {
                if change.ipv6 {
                    let switch = format!("ipv6/conf/{LEG}/disable_ipv6");
                    let set = place.netns.set_sysctls(&[(&switch, "0")]);
                    set.map_err(|e| e.to_string())?;
                }
                link_messages::set_inner(index, change)
            }
            Op::AddAddress { address, .. } => vec![link_messages::add_address(index, *address)],
            Op::RemoveAddress { address, .. } => {
                vec![link_messages::remove_address(index, *address)]
            }
            Op::RemoveRule { rule, .. } => {
                removals(&mut place.rtnl, LEG_PROTOCOL, |other| other == rule)?
            }
            routing => vec![routing_request(routing, |_| Ok(index))?],
        };
        all(&mut place.rtnl, &requests)
    }

    /// The container of a leg, opened unless it is.
    fn leg(&mut self, key: &str) -> Result<&mut Leg, String> {
        let leg = match self.leg.take().filter(|leg| leg.key == key) {
            Some(leg) => leg,
            None => {
                let netns = self.spec.and_then(|spec| spec.legs.get(key));
                let netns = netns.ok_or("its namespace is not known")?;
                let place = open_endpoint(netns).map_err(|unopened| match unopened {
                    Unopened::Gone => "its namespace is gone".to_owned(),
                    Unopened::Unusable(why) => why,
                })?;
                let (key, index) = (key.to_owned(), None);
                Leg { key, place, index }
            }
        };
        Ok(self.leg.insert(leg))
    }

    /// The interface inside is named by the index that the host's end of the pair tells, so a foreign
    /// one that has taken its name is never touched.
    fn leg_index(&mut self, key: &str) -> Result<u32, String> {
        if let Some(index) = self.leg(key)?.index {
            return Ok(index);
        }
        let port = layout::port(key);
        let port = get_link(self.rtnl, link_query(Some(&port), 0)).map_err(text)?;
        let index = port
            .and_then(|port| port.peer)
            .ok_or("its veth pair is not there")?;
        self.leg(key)?.index = Some(index);
        Ok(index)
    }
}

fn routing_request(
    op: &Op,
    device: impl FnOnce(&str) -> Result<u32, String>,
) -> Result<Request, String> {
    Ok(match op {
        Op::SetRoute {
            place,
            route,
            replace,
        } => {
            let device = device(route.device.as_deref().unwrap_or_default())?;
            messages::set_route(route, place.protocol(), device, *replace)
        }
        Op::RemoveRoute { place, route } => messages::remove_route(route, place.protocol()),
        Op::AddRule { place, rule } => messages::add_rule(rule, place.protocol()),
        Op::RemoveRule { place, rule } => messages::remove_rule(rule, place.protocol()),
        other => return Err(format!("{other} is no change of a route or rule")),
    })
}

/// A container that is gone has no rules.
fn clear(netns: &NetnsRef) -> Result<(), String> {
    let mut place = match open_endpoint(netns) {
        Ok(place) => place,
        Err(Unopened::Gone) => return Ok(()),
        Err(Unopened::Unusable(why)) => return Err(why),
    };
    let requests = removals(&mut place.rtnl, LEG_PROTOCOL, |_| true)?;
    all(&mut place.rtnl, &requests)
}

/// Takes rules away as the kernel tells them, whatever they say.
fn removals(
    rtnl: &mut Rtnl,
    protocol: u8,
    which: impl Fn(&Rule) -> bool,
) -> Result<Vec<Request>, String> {
    let ours = rule_messages(rtnl, protocol).map_err(text)?;
    let meant = ours.into_iter().filter(|(rule, _)| which(rule));
    Ok(meant
        .map(|(_, message)| messages::remove_told_rule(message))
        .collect())
}
