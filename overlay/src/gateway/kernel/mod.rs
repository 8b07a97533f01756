//! Reads the kernel and performs ops, over netlink.

mod apply;
mod messages;
mod observe;
mod session;
mod view;

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::path::Path;

use weft_netns::Netns;

use self::apply::{Applied, apply};
use self::observe::{observe, observe_legs};
use self::session::Session;
use super::GatewayReport;
use super::observed::Observed;
use super::plan::{Assigned, assign, plan, plan_part};
use super::spec::GatewaySpec;
use crate::ApplyError;

/// How often the gateway is looked at again after something failed: whatever was in the way may have
/// been on its way out, as a namespace that ends is.
const ROUNDS: usize = 2;

/// Makes the gateway what the spec says, or removes it. `hub` is the hub's namespace file. Blocks.
pub(super) fn reconcile(host: &Netns, hub: &Path, spec: Option<&GatewaySpec>) -> GatewayReport {
    let mut report = GatewayReport::default();
    report.error = rounds(host, hub, spec, &mut report).err();
    report
}

fn rounds(
    host: &Netns,
    hub: &Path,
    spec: Option<&GatewaySpec>,
    report: &mut GatewayReport,
) -> Result<(), ApplyError> {
    check(spec)?;
    let mut session = Session::open(host, hub, spec)?;
    let mut applied = Applied::default();
    for _ in 0..ROUNDS {
        let observed = observe(&mut session)?;
        let none = BTreeSet::new();
        let assigned = spec.map(|spec| assign(spec, &observed, &none));
        applied = apply(&mut session, &plan(spec, &observed));
        report.note(assigned.unwrap_or_default(), &applied);
        applied.failed = applied.failed.or_else(|| no_mesh(spec?, &observed));
        if applied.failed.is_none() && applied.legs.is_empty() {
            break;
        }
    }
    report.finish(applied)
}

impl GatewayReport {
    fn note(&mut self, assigned: Assigned, applied: &Applied) {
        self.ops += applied.done;
        self.legs = assigned.legs;
        self.failed = assigned.failed;
        self.gone = assigned.gone;
        self.own_way = assigned.own_way;
    }

    fn finish(&mut self, applied: Applied) -> Result<(), ApplyError> {
        let Applied { failed, legs, .. } = applied;
        self.legs.retain(|key, _| !legs.contains_key(key));
        self.failed.extend(legs);
        failed.map_or(Ok(()), Err)
    }
}

/// Makes some legs what a part of the spec says. Blocks.
pub(super) fn reconcile_legs(
    host: &Netns,
    hub: &Path,
    part: &GatewaySpec,
    keys: &BTreeSet<String>,
    taken: &BTreeSet<Ipv4Addr>,
) -> GatewayReport {
    let mut report = GatewayReport::default();
    let mut work = || {
        check(Some(part))?;
        let mut session = Session::open(host, hub, Some(part))?;
        let mut applied = Applied::default();
        for _ in 0..ROUNDS {
            let observed = observe_legs(&mut session, part, keys)?;
            applied = apply(&mut session, &plan_part(part, &observed, taken));
            report.note(assign(part, &observed, taken), &applied);
            if applied.failed.is_none() && applied.legs.is_empty() {
                break;
            }
        }
        report.finish(applied)
    };
    let error = work().err();
    GatewayReport { error, ..report }
}

/// Performs the first `limit` changes only. Returns whether that was all.
pub(super) fn first_changes(
    host: &Netns,
    hub: &Path,
    spec: Option<&GatewaySpec>,
    limit: usize,
) -> Result<bool, ApplyError> {
    check(spec)?;
    let mut session = Session::open(host, hub, spec)?;
    let observed = observe(&mut session)?;
    let ops = plan(spec, &observed);
    let now = ops.get(..limit).unwrap_or(&ops);
    let applied = apply(&mut session, now);
    applied.failed.map_or(Ok(now.len() == ops.len()), Err)
}

fn check(spec: Option<&GatewaySpec>) -> Result<(), ApplyError> {
    let fault = spec.and_then(GatewaySpec::fault);
    fault.map_or(Ok(()), |reason| Err(doing("check the gateway")(reason)))
}

fn no_mesh(spec: &GatewaySpec, observed: &Observed) -> Option<ApplyError> {
    let mesh = spec.mesh.as_ref().filter(|_| !observed.mesh)?;
    let reason = format!("there is no interface {} that is up", mesh.ifname);
    Some(doing("send replies back by other nodes")(reason))
}

fn doing(what: &str) -> impl Fn(String) -> ApplyError {
    move |reason| ApplyError {
        doing: what.to_owned(),
        reason,
    }
}
