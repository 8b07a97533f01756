//! Reads the kernel and performs ops, over netlink.

mod apply;
mod messages;
mod observe;
mod view;

use std::collections::BTreeMap;

use weft_netns::Netns;

use self::apply::{Applied, apply};
use self::observe::observe;
use super::GatewayReport;
use super::observed::Observed;
use super::plan::{assign, plan};
use super::spec::GatewaySpec;
use crate::ApplyError;
use crate::kernel::rtnl::Rtnl;

/// How often the gateway is looked at again after something failed: whatever was in the way may have
/// been on its way out, as a namespace that ends is.
const ROUNDS: usize = 2;

/// Makes the gateway what the spec says, or removes it. Blocks.
pub(super) fn reconcile(host: &Netns, spec: Option<&GatewaySpec>) -> GatewayReport {
    let mut report = GatewayReport::default();
    report.error = rounds(host, spec, &mut report).err();
    report
}

fn rounds(
    host: &Netns,
    spec: Option<&GatewaySpec>,
    report: &mut GatewayReport,
) -> Result<(), ApplyError> {
    let mut rtnl = open(host, spec)?;
    let mut applied = Applied::default();
    for _ in 0..ROUNDS {
        let observed = observe(host, &mut rtnl, spec)?;
        let assigned = spec.map(|spec| assign(spec, &observed)).unwrap_or_default();
        applied = apply(host, &mut rtnl, spec, &plan(spec, &observed));
        report.ops += applied.done;
        (report.legs, report.failed, report.gone) = (assigned.legs, assigned.failed, assigned.gone);
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
    spec: Option<&GatewaySpec>,
    limit: usize,
) -> Result<bool, ApplyError> {
    let mut rtnl = open(host, spec)?;
    let observed = observe(host, &mut rtnl, spec)?;
    let ops = plan(spec, &observed);
    let now = ops.get(..limit).unwrap_or(&ops);
    let applied = apply(host, &mut rtnl, spec, now);
    applied.failed.map_or(Ok(now.len() == ops.len()), Err)
}

fn open(host: &Netns, spec: Option<&GatewaySpec>) -> Result<Rtnl, ApplyError> {
    if let Some(reason) = spec.and_then(GatewaySpec::fault) {
        return Err(doing("check the gateway")(reason));
    }
    let rtnl = Rtnl::open(host).map_err(doing("open a netlink socket"))?;
    let strict = rtnl.strict().map_err(|e| e.to_string());
    strict.map_err(doing("open a netlink socket"))?;
    Ok(rtnl)
}

fn no_mesh(spec: &GatewaySpec, observed: &Observed) -> Option<ApplyError> {
    let mesh = spec.mesh.as_ref().filter(|_| !observed.mesh)?;
    let reason = format!("there is no interface {} that is up", mesh.ifname);
    Some(doing("send replies back by other nodes")(reason))
}

/// Changes that failed, by the leg that they are of.
type Failures = BTreeMap<String, String>;

fn doing(what: &str) -> impl Fn(String) -> ApplyError {
    move |reason| ApplyError {
        doing: what.to_owned(),
        reason,
    }
}
