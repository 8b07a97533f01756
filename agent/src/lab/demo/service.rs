//! The demo's published service.

use std::{collections::BTreeMap, net::IpAddr, time::Instant};

use super::steps::{Checked, MATRIX_MAX, NETWORK, POLL, RETURN_LIMIT, check, failed, first, read};
use crate::{
    api::types::{BackendState, Service},
    lab::{Answer, FetchSpec, Host, Lab, LabError, ServeSpec},
};

/// What the demo publishes.
pub(super) const CREATE: &str =
    "weft service create web --network demo --publish 8080:80 --health tcp:80";
/// How its backends are started.
pub(super) const RUN: &str = "weft run --network demo --service web --name web1 --detach -- ...";
const NAME: &str = "web";
const PUBLISHED: u16 = 8080;
const TARGET: u16 = 80;
/// Requests through each host for each backend.
const PART: usize = 3;

/// Publishes a service with a backend on each host, and asks it through each host from a machine
/// that has no agent.
pub(super) fn publish(lab: &Lab, hosts: &[Host]) -> Checked<()> {
    let asked = first(hosts)?;
    asked.weft(&CREATE.split(' ').skip(1).collect::<Vec<_>>())?;
    let names: Vec<String> = (1..=hosts.len())
        .map(|number| format!("{NAME}{number}"))
        .collect();
    for (host, name) in hosts.iter().zip(&names) {
        start(host, name)?;
    }
    wait_serving(asked, hosts.len())?;
    let outside = lab.outside()?;
    let mut text =
        format!("port {PUBLISHED} of every host is {NAME}; requests of outside, taken by:\n     ");
    let shown = names.len().min(MATRIX_MAX);
    for name in &names[..shown] {
        text.push_str(&format!("{name:>9}"));
    }
    for host in hosts {
        let spec = FetchSpec {
            to: (host.address(), PUBLISHED).into(),
            count: u32::try_from(PART * names.len()).unwrap_or(u32::MAX),
        };
        let answers = outside.fetch(None, &spec)?;
        let taken = spread(&answers, outside.address().into())?;
        text.push_str(&format!("\n{:<5}", host.name()));
        for name in &names {
            let count = taken.get(name.as_str()).copied().unwrap_or(0);
            check(count > 0, || {
                format!("{name} takes nothing through {}", host.name())
            })?;
        }
        for name in &names[..shown] {
            text.push_str(&format!(
                "{:>9}",
                taken.get(name.as_str()).copied().unwrap_or(0)
            ));
        }
    }
    text.push_str(&format!(
        "\nthe address that every backend saw: {} (outside)",
        outside.address()
    ));
    Ok(((), text))
}

fn start(host: &Host, name: &str) -> Result<(), LabError> {
    let serve = Host::serve_args(&ServeSpec {
        name: name.to_owned(),
        port: TARGET,
    })?;
    let run = [
        "run",
        "--network",
        NETWORK,
        "--service",
        NAME,
        "--name",
        name,
        "--detach",
        "--",
    ];
    let args = run
        .into_iter()
        .chain(["weft"])
        .chain(serve.iter().map(String::as_str));
    host.weft(&args.collect::<Vec<_>>()).map(drop)
}

/// Until every backend is ready and every kernel knows.
fn wait_serving(host: &Host, backends: usize) -> Result<(), LabError> {
    let start = Instant::now();
    loop {
        let service: Service = read(host, &["service", "inspect", NAME, "--format", "json"])?;
        let ready = service
            .endpoints
            .iter()
            .filter(|endpoint| endpoint.state == BackendState::Ready);
        if ready.count() == backends {
            return host
                .weft(&["wait", "--service", NAME, "--timeout", "5s"])
                .map(drop);
        }
        if start.elapsed() > RETURN_LIMIT {
            return Err(failed(format!(
                "the backends are not ready: {:?}",
                service.endpoints
            )));
        }
        std::thread::sleep(POLL);
    }
}

/// Requests by backend, all of which must have seen this client.
fn spread(answers: &[Answer], client: IpAddr) -> Result<BTreeMap<&str, usize>, LabError> {
    let mut spread = BTreeMap::new();
    for answer in answers {
        let Answer { name, peer } = answer;
        check(*peer == client, || {
            format!("{name} saw {peer} instead of {client}")
        })?;
        *spread.entry(name.as_str()).or_default() += 1;
    }
    Ok(spread)
}
