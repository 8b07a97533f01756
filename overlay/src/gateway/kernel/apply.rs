use std::collections::BTreeMap;
use std::os::fd::{AsFd as _, AsRawFd as _};

use super::messages;
use super::observe::rule_messages;
use super::session::Session;
use crate::ApplyError;
use crate::gateway::observed::Rule;
use crate::gateway::op::{Op, Place};
use crate::kernel::messages as link_messages;
use crate::kernel::messages::VethEnds;
use crate::kernel::observe::get_link;
use crate::kernel::session::{self, Unopened};
use crate::kernel::view::link_query;
use crate::op::SWITCHES;
use crate::plan::names;
use crate::spec::NetnsRef;
use weft_netns::rtnl::{Request, Rtnl, RtnlError};

/// What became of a list of ops.
#[derive(Debug, Default)]
pub(super) struct Applied {
    /// How many were performed.
    pub(super) done: usize,
    /// The first that failed and concerns the gateway as a whole.
    pub(super) failed: Option<ApplyError>,
    /// Legs that could not be attached, each with the reason.
    pub(super) legs: BTreeMap<String, String>,
}

/// Performs ops in order. One that concerns the gateway as a whole ends it when it fails, unless the
/// others can do without; one that concerns a leg ends that leg's part.
pub(super) fn apply(session: &mut Session<'_>, ops: &[Op]) -> Applied {
    let mut applied = Applied::default();
    let mut hands = Hands {
        session,
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
        for (op, result) in now.iter().zip(&results) {
            applied.note(op, result);
        }
        if results.iter().any(Result::is_err) && !op.is_apart() && op.leg().is_none() {
            break;
        }
    }
    applied
}

impl Applied {
    fn note(&mut self, op: &Op, result: &Result<(), String>) {
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
                let (doing, reason) = (op.to_string(), reason.clone());
                self.failed.get_or_insert(ApplyError { doing, reason });
            }
        }
    }
}

/// What is held while ops are performed.
struct Hands<'s, 'a> {
    session: &'s mut Session<'a>,
    /// Indices of the host's links, looked up once.
    indices: BTreeMap<String, u32>,
    /// The container of the leg that is worked on.
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

const NO_HUB: &str = "the hub's namespace is not there";

impl Hands<'_, '_> {
    /// Of a link of the host's.
    fn index(&mut self, name: &str) -> Result<u32, String> {
        if let Some(index) = self.indices.get(name) {
            return Ok(*index);
        }
        let link = get_link(&mut self.session.rtnl, link_query(Some(name), 0)).map_err(text)?;
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
        let mut answers = self.session.rtnl.change_all(&sendable).into_iter();
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
        match op {
            Op::SetSwitch { name, value } => {
                let set = self.session.host.set_sysctls(&[(name, value)]);
                set.map_err(|e| e.to_string())
            }
            Op::DeleteHostLink { name } => {
                self.indices.remove(name);
                let request = link_messages::delete_link(name);
                self.session.rtnl.change(&request).map_err(text)
            }
            Op::CreateNamespace => {
                let netns = weft_netns::create(self.session.path).map_err(|e| e.to_string())?;
                self.session.hub = Some(session::Place::new(netns)?);
                Ok(())
            }
            Op::DeleteNamespace => {
                self.session.hub = None;
                weft_netns::delete(self.session.path).map_err(|e| e.to_string())
            }
            Op::ClearContainer { netns } => self.clear(netns),
            Op::SetInner { place, .. }
            | Op::AddAddress { place, .. }
            | Op::RemoveAddress { place, .. }
            | Op::SetRoute { place, .. }
            | Op::RemoveRoute { place, .. }
            | Op::AddRule { place, .. }
            | Op::RemoveRule { place, .. } => self.at(place, op),
            Op::Tune
            | Op::DeleteLink { .. }
            | Op::CreateBridge { .. }
            | Op::SimplifyBridge
            | Op::SetBridge { .. }
            | Op::CreatePair { .. }
            | Op::SetPort { .. } => self.in_hub(op),
        }
    }

    fn in_hub(&mut self, op: &Op) -> Result<(), String> {
        let requests = match op {
            Op::DeleteLink { name } => vec![link_messages::delete_link(name)],
            Op::CreateBridge { mtu } => vec![link_messages::create_bridge(names::BRIDGE, *mtu)],
            Op::SimplifyBridge => link_messages::simplify_bridge(names::BRIDGE).into(),
            Op::SetBridge { change } => link_messages::set_link(names::BRIDGE, change, None),
            Op::CreatePair {
                place,
                port,
                mtu,
                mac,
            } => {
                let bridge = self.hub_index(names::BRIDGE)?;
                let netns = match place {
                    Place::Host => self.session.host,
                    Place::Leg(key) => &self.leg(key)?.place.netns,
                };
                let ends = VethEnds {
                    port,
                    bridge,
                    mtu: *mtu,
                    ifname: place.ifname(),
                    mac: *mac,
                    container: netns.as_fd().as_raw_fd(),
                };
                let hub = self.session.hub.as_mut().ok_or(NO_HUB)?;
                return link_messages::make_veth(&mut hub.rtnl, &ends).map_err(|e| e.to_string());
            }
            Op::SetPort {
                port,
                isolate,
                link,
                ..
            } => {
                let bridge = link.bridge.as_ref();
                let bridge = bridge.map(|bridge| self.hub_index(bridge)).transpose()?;
                let mut requests = link_messages::set_link(port, link, bridge);
                if *isolate {
                    // Once it is a port, and before it is up.
                    let at = requests.len() - usize::from(link.raise);
                    requests.insert(at, messages::isolate(port));
                }
                requests
            }
            Op::Tune => {
                let hub = self.session.hub.as_ref().ok_or(NO_HUB)?;
                return hub.netns.set_sysctls(&SWITCHES).map_err(|e| e.to_string());
            }
            other => return Err(format!("{other} cannot be done in the hub")),
        };
        all(
            &mut self.session.hub.as_mut().ok_or(NO_HUB)?.rtnl,
            &requests,
        )
    }

    fn hub_index(&mut self, name: &str) -> Result<u32, String> {
        let hub = self.session.hub.as_mut().ok_or(NO_HUB)?;
        let link = get_link(&mut hub.rtnl, link_query(Some(name), 0)).map_err(text)?;
        Ok(link.ok_or_else(|| format!("there is no {name}"))?.index)
    }

    /// Changes our interface, a route or a rule at a place.
    fn at(&mut self, place: &Place, op: &Op) -> Result<(), String> {
        let index = self.inner_index(place)?;
        let (netns, rtnl) = match place {
            Place::Host => (self.session.host, &mut self.session.rtnl),
            Place::Leg(key) => {
                let place = &mut self.leg(key)?.place;
                (&place.netns, &mut place.rtnl)
            }
        };
        let requests = match op {
            Op::SetInner { change, .. } => {
                if change.ipv6 {
                    let switch = format!("ipv6/conf/{}/disable_ipv6", place.ifname());
                    let set = netns.set_sysctls(&[(&switch, "0")]);
                    set.map_err(|e| e.to_string())?;
                }
                link_messages::set_inner(index?, change)
            }
            Op::AddAddress { address, .. } => vec![link_messages::add_address(index?, *address)],
            Op::RemoveAddress { address, .. } => {
                vec![link_messages::remove_address(index?, *address)]
            }
            // What says more than we can is taken away as the kernel tells it.
            Op::RemoveRule { rule, .. } => removals(rtnl, place.protocol(), |other| other == rule)?,
            routing => vec![routing_request(routing, |_| index)?],
        };
        all(rtnl, &requests)
    }

    /// The container of a leg, opened unless it is.
    fn leg(&mut self, key: &str) -> Result<&mut Leg, String> {
        let leg = match self.leg.take().filter(|leg| leg.key == key) {
            Some(leg) => leg,
            None => {
                let netns = self.session.spec.and_then(|spec| spec.legs.get(key));
                let netns = netns.ok_or("its namespace is not known")?;
                let opened = self.session.container(netns);
                let place = opened.map_err(|unopened| match unopened {
                    Unopened::Gone => "its namespace is gone".to_owned(),
                    Unopened::Unusable(why) => why,
                })?;
                let (key, index) = (key.to_owned(), None);
                Leg { key, place, index }
            }
        };
        Ok(self.leg.insert(leg))
    }

    /// Our interface at a place is named by the index that the hub's end of the pair tells, so a
    /// foreign one that has taken its name is never touched. The inner error is for where there is none.
    fn inner_index(&mut self, place: &Place) -> Result<Result<u32, String>, String> {
        let known = match place {
            Place::Host => self.indices.get(place.ifname()).copied(),
            Place::Leg(key) => self.leg(key)?.index,
        };
        if let Some(index) = known {
            return Ok(Ok(index));
        }
        let Some(hub) = &mut self.session.hub else {
            return Ok(Err(NO_HUB.to_owned()));
        };
        let port = get_link(&mut hub.rtnl, link_query(Some(&place.port()), 0)).map_err(text)?;
        let Some(index) = port.and_then(|port| port.peer) else {
            return Ok(Err("its veth pair is not there".to_owned()));
        };
        match place {
            Place::Host => {
                self.indices.insert(place.ifname().to_owned(), index);
            }
            Place::Leg(key) => self.leg(key)?.index = Some(index),
        }
        Ok(Ok(index))
    }

    /// A container that is gone has no rules.
    fn clear(&self, netns: &NetnsRef) -> Result<(), String> {
        let mut place = match self.session.container(netns) {
            Ok(place) => place,
            Err(Unopened::Gone) => return Ok(()),
            Err(Unopened::Unusable(why)) => return Err(why),
        };
        let protocol = Place::Leg(String::new()).protocol();
        let requests = removals(&mut place.rtnl, protocol, |_| true)?;
        all(&mut place.rtnl, &requests)
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
