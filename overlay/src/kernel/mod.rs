//! Reads the kernel and performs ops, over netlink.

mod apply;
pub(crate) mod messages;
pub(crate) mod observe;
mod probe;
pub(crate) mod session;
pub(crate) mod view;

use std::collections::BTreeSet;
use std::path::Path;

use weft_netns::{Netns, NetnsError};

use self::apply::{Applied, apply};
use self::session::Session;
use crate::observed::{EndpointNamespace, Observed};
use crate::plan::{endpoint_faults, names, network_fault, plan};
use crate::spec::SandboxSpec;
use crate::{ApplyError, ReconcileReport};
use weft_netns::rtnl::Rtnl;

pub(crate) use probe::probe;

/// How often a network is looked at again after something failed: whatever was in the way may have
/// been on its way out, as a namespace that ends is.
const ROUNDS: usize = 2;

/// Makes one network's state in the kernel what the spec says, or removes it. Blocks.
pub(crate) fn reconcile_network(
    host: &Netns,
    netns_dir: &Path,
    network: &str,
    spec: Option<&SandboxSpec>,
) -> ReconcileReport {
    let mut report = ReconcileReport::default();
    if let Err(error) = rounds(host, netns_dir, network, spec, &mut report) {
        report.failed.insert(network.to_owned(), error);
    }
    report
}

fn rounds(
    host: &Netns,
    netns_dir: &Path,
    network: &str,
    spec: Option<&SandboxSpec>,
    report: &mut ReconcileReport,
) -> Result<(), ApplyError> {
    let fault = spec.and_then(|spec| network_fault(network, spec));
    if let Some(reason) = fault.or_else(|| bad_name(network)) {
        return Err(ApplyError {
            doing: "check the network".to_owned(),
            reason,
        });
    }
    let mut session = Session::open(network, netns_dir.join(network), host)?;
    let mut applied = Applied::default();
    for _ in 0..ROUNDS {
        let observed = session.observe(spec)?;
        note_endpoints(spec, &observed, report);
        let ops = plan(network, spec, &observed);
        applied = apply(&mut session, &ops);
        report.ops += applied.done;
        if applied.failed.is_none() && applied.endpoints.is_empty() {
            break;
        }
    }
    report.endpoints_failed.extend(applied.endpoints);
    applied.failed.map_or(Ok(()), Err)
}

/// Performs the first `limit` changes only. Returns whether that was all.
pub(crate) fn first_changes(
    host: &Netns,
    netns_dir: &Path,
    network: &str,
    spec: Option<&SandboxSpec>,
    limit: usize,
) -> Result<bool, ApplyError> {
    let mut session = Session::open(network, netns_dir.join(network), host)?;
    let observed = session.observe(spec)?;
    let ops = plan(network, spec, &observed);
    let now = ops.get(..limit).unwrap_or(&ops);
    let applied = apply(&mut session, now);
    applied.failed.map_or(Ok(now.len() == ops.len()), Err)
}

/// A path made of it must stay in its directory.
fn bad_name(network: &str) -> Option<String> {
    (!names::is_id(network)).then(|| format!("`{network}` is no network id"))
}

/// What can be said of the endpoints from looking alone.
fn note_endpoints(spec: Option<&SandboxSpec>, observed: &Observed, report: &mut ReconcileReport) {
    report.endpoints_gone.clear();
    report.endpoints_failed.clear();
    let Some(spec) = spec else {
        return;
    };
    report.endpoints_failed = endpoint_faults(spec);
    for (id, state) in &observed.endpoints {
        let why = match state {
            EndpointNamespace::Gone => {
                report.endpoints_gone.insert(id.clone());
                report.endpoints_failed.remove(id);
                continue;
            }
            EndpointNamespace::Here { taken: false, .. } => continue,
            EndpointNamespace::Here { taken: true, .. } => {
                let ifname = spec
                    .locals
                    .get(id)
                    .map_or("", |local| local.ifname.as_str());
                format!(
                    "{ifname} exists in the container and is not weft's; choose another name with \
                     --ifname"
                )
            }
            EndpointNamespace::Unusable(why) => why.clone(),
        };
        report.endpoints_failed.entry(id.clone()).or_insert(why);
    }
}

/// Networks that have a file in the directory.
pub(crate) fn present(netns_dir: &Path) -> Result<BTreeSet<String>, NetnsError> {
    let entries = weft_netns::list(netns_dir)?;
    Ok(entries.into_iter().map(|entry| entry.name).collect())
}

/// Removes what a crash left in the host's namespace. Returns how many links.
pub(crate) fn sweep_host(host: &Netns) -> Result<usize, ApplyError> {
    let doing = "remove left-over links from the host's namespace";
    let failed = |reason: String| ApplyError {
        doing: doing.to_owned(),
        reason,
    };
    let mut rtnl = Rtnl::open(host).map_err(failed)?;
    let links = observe::left_over_host_links(&mut rtnl).map_err(|e| failed(e.to_string()))?;
    for (name, owner) in &links {
        tracing::info!(
            link = name,
            owner,
            "removing a link that a crash left in the host"
        );
        rtnl.change(&messages::delete_link(name))
            .map_err(|e| failed(format!("{name}: {e}")))?;
    }
    Ok(links.len())
}
