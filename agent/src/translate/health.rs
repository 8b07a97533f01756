//! Health checks of services, in the words of the prober.

use std::collections::BTreeMap;
use std::time::Duration;

use weft_raft::model::{BackendState, EndpointId, HealthCheck, NodeId, Probe, View};

use super::netns;
use crate::health::{self, Check, Target};

/// What `local` is to look after: its members of services that have a health check, unless they
/// are about to leave or were attached before this boot.
pub(crate) fn health_targets(
    view: &View,
    local: NodeId,
    boot_id: &str,
) -> BTreeMap<EndpointId, Target> {
    let rows = view.endpoints.values().filter(|row| {
        row.node == local
            && row.backend != BackendState::Draining
            && row.attachment.boot_id == boot_id
    });
    rows.filter_map(|row| {
        let service = view.services.get(&row.service?)?;
        let target = Target {
            netns: netns(&row.attachment),
            address: row.addresses().next()?,
            check: service.health.as_ref()?.into(),
        };
        Some((row.id, target))
    })
    .collect()
}

/// What the cluster is to be told of endpoints that were found healthy or not: where their rows say
/// something else, and are not those of members that are about to leave.
pub(crate) fn health_news(
    view: &View,
    found: impl Iterator<Item = (EndpointId, bool)>,
) -> Vec<(EndpointId, BackendState)> {
    let news = found.filter_map(|(id, healthy)| {
        let row = view.endpoints.get(&id)?;
        let state = match healthy {
            true => BackendState::Ready,
            false => BackendState::Unhealthy,
        };
        let same = row.backend == state || row.backend == BackendState::Draining;
        (row.service.is_some() && !same).then_some((id, state))
    });
    news.collect()
}

impl From<&HealthCheck> for Check {
    fn from(check: &HealthCheck) -> Self {
        Self {
            probe: match check.probe.clone() {
                Probe::Tcp { port } => health::Probe::Tcp { port },
                Probe::Http { port, path } => health::Probe::Http { port, path },
                Probe::Exec { command } => health::Probe::Exec { command },
            },
            interval: Duration::from_millis(check.interval_ms.into()),
            timeout: Duration::from_millis(check.timeout_ms.into()),
            retries: check.retries,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;
    use std::sync::Arc;

    use weft_raft::model::*;

    use super::*;
    use crate::translate::tests::{endpoint, view};

    const BOOT: &str = "this boot";

    fn service(number: u8, health: Option<HealthCheck>) -> Change {
        Change::Service(Arc::new(Service {
            id: ServiceId::new([number; 10]),
            name: format!("s{number}"),
            networks: Vec::new(),
            ports: Vec::new(),
            mode: EndpointMode::Vip,
            scheduler: Scheduler::RoundRobin,
            affinity: None,
            drain_timeout_ms: 0,
            idle_timeout_s: None,
            health,
            labels: Labels::new(),
            revision: 1,
            ends_with_endpoints: false,
        }))
    }

    fn check(probe: Probe) -> HealthCheck {
        HealthCheck {
            probe,
            interval_ms: 1500,
            timeout_ms: 700,
            retries: 3,
        }
    }

    fn member(number: u8, node: u8, service: u8, backend: BackendState) -> Endpoint {
        let mut row = endpoint(number, 1, node);
        row.attachment.boot_id = BOOT.to_owned();
        (row.service, row.backend) = (Some(ServiceId::new([service; 10])), backend);
        row
    }

    fn id(number: u8) -> EndpointId {
        EndpointId::new([number; 10])
    }

    /// Service 1 has a health check and service 2 has none.
    fn view_with(rows: impl IntoIterator<Item = Endpoint>) -> View {
        let mut view = view();
        view.apply(
            6,
            &[
                service(1, Some(check(Probe::Tcp { port: 80 }))),
                service(2, None),
            ],
        );
        let rows = rows.into_iter().map(|row| Change::Endpoint(Arc::new(row)));
        view.apply(7, &rows.collect::<Vec<_>>());
        view
    }

    #[test]
    fn own_members_of_services_with_a_health_check_are_looked_after() {
        let mut earlier = member(14, 1, 1, BackendState::Ready);
        earlier.attachment.boot_id = "another boot".to_owned();
        let mut stranger = member(15, 1, 1, BackendState::Starting);
        stranger.service = None;
        let view = view_with([
            member(10, 1, 1, BackendState::Starting),
            member(11, 1, 1, BackendState::Unhealthy),
            member(12, 1, 1, BackendState::Draining),
            member(13, 2, 1, BackendState::Ready),
            earlier,
            stranger,
            member(16, 1, 2, BackendState::Starting),
        ]);
        let targets = health_targets(&view, NodeId::new([1; 10]), BOOT);
        assert_eq!(
            targets.keys().copied().collect::<Vec<_>>(),
            [id(10), id(11)]
        );
        let target = &targets[&id(10)];
        assert_eq!(target.address, IpAddr::from([10, 0, 1, 10]));
        assert_eq!(target.netns.inode, 10);
        let expected = Check {
            probe: health::Probe::Tcp { port: 80 },
            interval: Duration::from_millis(1500),
            timeout: Duration::from_millis(700),
            retries: 3,
        };
        assert_eq!(target.check, expected);
    }

    #[test]
    fn every_kind_of_probe_has_its_word() {
        let (path, command) = ("/health".to_owned(), vec!["true".to_owned()]);
        let http = Check::from(&check(Probe::Http {
            port: 81,
            path: path.clone(),
        }));
        assert_eq!(http.probe, health::Probe::Http { port: 81, path });
        let exec = Check::from(&check(Probe::Exec {
            command: command.clone(),
        }));
        assert_eq!(exec.probe, health::Probe::Exec { command });
    }

    #[test]
    fn only_what_the_row_does_not_say_is_news_and_a_member_that_leaves_is_left_alone() {
        use BackendState::{Draining, Ready, Starting, Unhealthy};
        let states = [Starting, Ready, Unhealthy, Draining];
        let numbered = (10..).zip(states);
        let mut rows: Vec<Endpoint> = numbered.map(|(n, state)| member(n, 1, 1, state)).collect();
        rows.push(Endpoint {
            service: None,
            ..member(14, 1, 1, Starting)
        });
        let view = view_with(rows);
        // The last one is gone by now.
        let news = |healthy| health_news(&view, (10..=15).map(|n| (id(n), healthy)));
        assert_eq!(news(true), [(id(10), Ready), (id(12), Ready)]);
        assert_eq!(news(false), [(id(10), Unhealthy), (id(11), Unhealthy)]);
    }
}
