use futures_util::future::BoxFuture;

use super::cluster::shut;
use super::*;
use crate::command::{Object, ServiceSpec};
use crate::model::ServiceId;

/// A node that says of its backends what is written here.
struct Known(NumbersOf);

impl NumbersSource for Known {
    fn numbers(&self, _service: ServiceId) -> BoxFuture<'static, NumbersOf> {
        let known = self.0.clone();
        Box::pin(async move { known })
    }
}

fn taken(connections_total: u64) -> BackendNumbers {
    BackendNumbers {
        connections_total,
        ..BackendNumbers::default()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn every_node_learns_what_the_others_have_counted() {
    let first = Host::first().await;
    let worker = Host::joined(&first, Role::Worker).await;
    let other = Host::joined(&first, Role::Worker).await;
    let made = first.network("web").await.unwrap();
    let Object::Network(network) = made.object else {
        panic!("no network");
    };
    let service = ServiceId::new(fresh());
    let spec = ServiceSpec {
        id: service,
        networks: vec![network.id],
        ..crate::state::testing::service_spec(1, &[1], "shop")
    };
    let create = Command::CreateService(Box::new(spec));
    first.plane.propose(create, LONG).await.unwrap();
    let mut ids = Vec::new();
    let mut last = 0;
    for (name, host) in [("c1", &first), ("c2", &worker), ("c3", &other)] {
        let mut command = create_endpoint(name, network.id, host.id());
        let Command::CreateEndpoint(spec) = &mut command else {
            panic!("no endpoint");
        };
        spec.service = Some(service);
        ids.push(spec.id);
        last = first.plane.propose(command, LONG).await.unwrap().revision;
    }
    for host in [&first, &worker, &other] {
        host.plane.wait_revision(last, LONG).await.unwrap();
    }
    // The last one does not count yet, and the second speaks of what is not its own.
    let of = |number: usize| (ids[number], Ok(taken(10 + number as u64)));
    first.plane.provide_numbers(Arc::new(Known([of(0)].into())));
    let forged = (ids[0], Ok(taken(99)));
    let source = Known([of(1), forged].into());
    worker.plane.provide_numbers(Arc::new(source));

    let found = first.plane.others_numbers(service).await.unwrap();
    assert_eq!(found.len(), 2);
    assert_eq!(found[&ids[1]], Ok(taken(11)));
    assert!(found[&ids[2]].is_err(), "{found:?}");
    let found = worker.plane.others_numbers(service).await.unwrap();
    assert_eq!(found.len(), 2);
    assert_eq!(found[&ids[0]], Ok(taken(10)));

    // A worker has no other worker work for it, and nobody waits for a node that is not there.
    let running = worker.plane.inner.running().unwrap();
    let request = Request::OwnNumbers(service);
    let answer = running.ask(other.addr(), other.id(), &request, LONG).await;
    assert!(
        matches!(answer, Ok(Response::Failed(Failure::Unauthorised(_)))),
        "{answer:?}"
    );
    let gone = worker.id();
    worker.plane.shutdown().await;
    let found = first.plane.others_numbers(service).await.unwrap();
    let why = found[&ids[1]].as_ref().unwrap_err();
    let name = first.plane.with_view(|view| view.nodes[&gone].name.clone());
    assert!(why.contains(&name), "{why}");
    shut([first, other]).await;
}
