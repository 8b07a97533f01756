use super::cluster::{leader_of, shut, three_managers, voters};
use super::*;
use crate::command::NodeSpec;

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn removing_a_live_manager_waits_while_the_others_could_not_go_on_without_it() {
    let managers = three_managers().await;
    let leading = leader_of(&managers).unwrap();
    let [mut leader, mut live, mut dead] = [None, None, None];
    for (at, host) in managers.into_iter().enumerate() {
        match (at + 3 - leading) % 3 {
            0 => leader = Some(host),
            1 => live = Some(host),
            _ => dead = Some(host),
        }
    }
    let (leader, live, dead) = (leader.unwrap(), live.unwrap(), dead.unwrap());
    dead.plane.shutdown().await;
    let gone = dead.dir;
    // Longer than the leader takes a manager for there that it has heard.
    tokio::time::sleep(Duration::from_millis(1500)).await;
    let remove = Command::RemoveNode { id: live.id() };
    leader.plane.propose(remove, LONG).await.unwrap();
    // Long enough for a step that should not be taken.
    tokio::time::sleep(Duration::from_millis(1000)).await;
    leader
        .plane
        .propose(create_network("goes-on"), LONG)
        .await
        .unwrap();
    assert_eq!(voters(&leader), 3);
    let back = Host {
        plane: reopened(gone.path()).await,
        dir: gone,
    };
    until("the vote is gone", || {
        [&leader, &back]
            .into_iter()
            .any(|host| host.leads() && voters(host) == 2)
    })
    .await;
    back.network("and-on").await.unwrap();
    shut([leader, live, back]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_manager_that_never_came_does_not_count_for_the_quorum() {
    let host = Host::first().await;
    let running = host.plane.inner.running().unwrap();
    let ghost = NodeSpec {
        id: NodeId::new([9; 10]),
        name: "ghost".to_owned(),
        role: Role::Manager,
        addr: SocketAddr::from(([127, 0, 0, 1], 9)),
        data_path_addr: LOOPBACK.ip(),
        underlay_mtu: 1500,
        host_routes: Vec::new(),
        availability: Availability::Active,
        version: "0.0.0-test".to_owned(),
    };
    let proposal = Proposal {
        request: [3; 16],
        time_ms: 0,
        command: Command::AddNode(Box::new(ghost)),
    };
    let group = running.group.as_ref().unwrap();
    group.write(Arc::new(proposal)).await.unwrap().unwrap();
    let quorum = running.quorum();
    assert!(quorum.reachable >= quorum.needed, "{quorum:?}");
    drop(running);
    shut([host]).await;
}
