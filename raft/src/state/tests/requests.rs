use super::*;

#[test]
fn a_repeated_request_gets_the_first_outcome_and_changes_nothing() {
    let mut pair = Pair::cluster();
    let create = proposal(50, Command::CreateNetwork(Box::new(network_spec(1, "web"))));
    let (first, changes) = pair.state.apply(10, &create);
    assert_eq!(changes.len(), 1);
    let (again, changes) = pair.state.apply(11, &create);
    assert_eq!(again, first);
    assert_eq!(changes, []);
    assert_eq!(pair.state.view().revision, 11);

    // Also when the network is gone, and after a restart from a snapshot.
    let remove = proposal(51, Command::RemoveNetwork { id: network_id(1) });
    pair.state.apply(12, &remove).0.unwrap();
    let mut restored: State = decode(&encode(&pair.state).unwrap()).unwrap();
    let (again, changes) = restored.apply(13, &create);
    assert_eq!(again, first);
    assert_eq!(changes, []);
    assert_eq!(restored.view().networks.len(), 1);
}

#[test]
fn a_refusal_is_remembered_too() {
    let mut pair = Pair::cluster();
    let remove = proposal(50, Command::RemoveNetwork { id: network_id(1) });
    let (first, _) = pair.state.apply(10, &remove);
    pair.network(network_spec(1, "web"));
    let (again, _) = pair.state.apply(100, &remove);
    assert_eq!(again, first);
    assert!(again.is_err());
}

#[test]
fn the_oldest_outcomes_are_forgotten() {
    let mut pair = Pair::cluster();
    let remove = |request| proposal(request, Command::RemoveNetwork { id: network_id(9) });
    for request in 0..limits::REQUESTS as u64 + 10 {
        pair.state
            .apply(1000 + request, &remove(1000 + request))
            .0
            .unwrap_err();
    }
    assert_eq!(pair.state.requests.len(), limits::REQUESTS);
    assert!(pair.state.requests.get(&remove(1009).request).is_none());
    assert!(pair.state.requests.get(&remove(1010).request).is_some());
}

#[test]
fn remembered_outcomes_take_bounded_memory() {
    let mut requests = Requests::default();
    let refusal = refuse::invalid("x".repeat(1 << 20));
    for request in 0..20u8 {
        requests.record([request; 16], Err(refusal.clone()));
    }
    // A message of a mebibyte and what holds it are more than a mebibyte.
    assert_eq!(requests.len(), (limits::REQUESTS_BYTES >> 20) - 1);
    let restored: Requests = decode(&encode(&requests).unwrap()).unwrap();
    assert_eq!(encode(&restored).unwrap(), encode(&requests).unwrap());
}
