use super::*;
use crate::command::EndpointChange;
use crate::model::BackendState::{Draining, Ready, Starting, Unhealthy};
use crate::model::{BackendState, EndpointId};

fn member(number: u32, network: u8, service: u8) -> EndpointSpec {
    EndpointSpec {
        service: Some(service_id(service)),
        ..endpoint_spec(number, network, &format!("c{number}"))
    }
}

/// A cluster with service 1, `shop`, on network 1, `web`, and not on network 2, `db`.
fn cluster() -> Pair {
    let mut pair = Pair::cluster();
    pair.network(network_spec(1, "web"));
    pair.network(network_spec(2, "db"));
    pair.service(service_spec(1, &[1], "shop"));
    pair
}

fn state(pair: &Pair, number: u32) -> BackendState {
    pair.state.view().endpoints[&endpoint_id(number)].backend
}

fn heard(states: &[(u32, BackendState)]) -> Command {
    let id = |number: u32| -> EndpointId { endpoint_id(number) };
    Command::SetBackends(states.iter().map(|(n, state)| (id(*n), *state)).collect())
}

#[test]
fn an_endpoint_joins_a_service_of_its_network() {
    let mut pair = cluster();
    let joined = pair.endpoint(EndpointSpec {
        weight: 0,
        ..member(1, 1, 1)
    });
    assert_eq!(joined.service, Some(service_id(1)));
    assert_eq!((joined.weight, joined.backend), (0, Starting));

    let create = |spec| Command::CreateEndpoint(Box::new(spec));
    assert_eq!(
        pair.refused(create(member(2, 2, 1))),
        (
            RefusalKind::Invalid,
            "service shop is not on network db; attach to one of its networks, such as web, or use \
             `weft service update --network-add db shop`"
                .to_owned()
        )
    );
    assert_eq!(
        pair.refused(create(member(2, 1, 9))),
        (
            RefusalKind::NotFound,
            "there is no service aqeqaaaaaaaaaaaa; `weft service ls` lists all".to_owned()
        )
    );
}

#[test]
fn the_endpoints_of_a_service_are_limited() {
    let mut pair = Pair::cluster();
    pair.network(NetworkSpec {
        subnets: vec![subnet("172.16.0.0/16")],
        ..network_spec(1, "web")
    });
    pair.service(service_spec(1, &[1], "shop"));
    let limit = limits::ENDPOINTS_PER_SERVICE as u32;
    for number in 1..=limit {
        pair.endpoint(member(number, 1, 1));
    }
    assert_eq!(
        pair.refused(Command::CreateEndpoint(Box::new(member(limit + 1, 1, 1)))),
        (
            RefusalKind::Exhausted,
            "service shop has 512 of 512 endpoints; detach some first, or use another service"
                .to_owned()
        )
    );
    pair.done(Command::RemoveEndpoint { id: endpoint_id(7) });
    pair.endpoint(member(limit + 1, 1, 1));
    // What a frame holds, the rows of all of them do not exceed.
    pair.done(Command::RemoveService { id: service_id(1) });
    assert!((pair.state.view().endpoints.values()).all(|endpoint| endpoint.service.is_none()));
}

#[test]
fn what_nodes_found_out_changes_members_that_it_is_news_of() {
    let mut pair = cluster();
    pair.endpoint(member(1, 1, 1));
    pair.endpoint(endpoint_spec(2, 1, "single"));
    pair.done(heard(&[(1, Unhealthy), (2, Ready), (9, Ready), (1, Ready)]));
    assert_eq!(state(&pair, 1), Ready);
    assert_eq!(state(&pair, 2), Starting);
    let revision = pair.state.view().endpoints[&endpoint_id(1)].revision;
    assert_eq!(revision, pair.state.view().revision);

    pair.done(heard(&[(1, Ready)]));
    let row = &pair.state.view().endpoints[&endpoint_id(1)];
    assert_eq!(row.revision, revision, "no change, no new revision");

    let many = vec![(endpoint_id(1), Ready); limits::BACKENDS_PER_COMMAND + 1];
    assert_eq!(
        pair.refused(Command::SetBackends(many)),
        (
            RefusalKind::Invalid,
            "513 states of endpoints are too many; at most 512 are accepted".to_owned()
        )
    );
}

#[test]
fn nothing_leads_back_from_draining() {
    let mut pair = cluster();
    pair.endpoint(member(1, 1, 1));
    pair.endpoint(member(2, 1, 1));
    pair.done(heard(&[(1, Draining), (2, Draining), (2, Ready)]));
    for next in [Starting, Ready, Unhealthy] {
        pair.done(heard(&[(1, next), (2, next)]));
        assert_eq!((state(&pair, 1), state(&pair, 2)), (Draining, Draining));
    }
}

#[test]
fn a_weight_is_changed_by_name() {
    let mut pair = cluster();
    let before = pair.endpoint(member(1, 1, 1));
    let update = |number, weight| Command::UpdateEndpoint {
        id: endpoint_id(number),
        change: EndpointChange { weight },
    };
    let Object::Endpoint(after) = pair.done(update(1, Some(65_535))) else {
        panic!("not an endpoint")
    };
    let expected = Endpoint {
        weight: 65_535,
        revision: pair.state.view().revision,
        ..Endpoint::clone(&before)
    };
    assert_eq!(*after, expected);
    for weight in [None, Some(65_535)] {
        pair.done(update(1, weight));
        assert_eq!(*pair.state.view().endpoints[&endpoint_id(1)], expected);
    }
    assert_eq!(pair.refused(update(9, None)).0, RefusalKind::NotFound);
}
