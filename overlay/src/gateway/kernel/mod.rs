//! Reads the kernel and performs ops, over netlink.

mod apply;
mod messages;
mod observe;
mod session;
mod view;

use std::path::Path;

use weft_netns::Netns;

use self::apply::{Applied, apply};
use self::observe::observe;
use self::session::Session;
use super::GatewayReport;
use super::observed::Observed;
use super::plan::{assign, plan};
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
        let assigned = spec.map(|spec| assign(spec, &observed)).unwrap_or_default();
        applied = apply(&mut session, &plan(spec, &observed));
        report.ops += applied.done;
        report.legs = assigned.legs;
        report.failed = assigned.failed;
        report.gone = assigned.gone;
        applied.failed = applied.failed.or_else(|| no_mesh(spec?, &observed));
        if applied.failed.is_none() && applied.legs.is_empty() {
            break;
        }
    }
    let Applied { failed, legs, .. } = applied;
    report.legs.retain(|key, _| !legs.contains_key(key));
    report.failed.extend(legs);
    failed.map_or(Ok(()), Err)
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
