//! What an operator does with services that is not everyday: another ingress network, another
//! endpoint mode.

use std::net::IpAddr;

use anyhow::{Context, Result, ensure};
use weft_cluster_tests::cluster::{Cluster, OUTSIDE};
use weft_cluster_tests::{eventually, kernel};

use crate::Case;

/// The cases of this file.
pub(crate) const CASES: &[Case] = &[(
    "control_services::the_ingress_network_is_removed_and_made_again",
    another_ingress_network,
)];

const OUTSIDE_ADDRESS: &str = "198.18.0.254";

/// Three of four hosts in a cluster, with a network.
fn three_of_four() -> Result<Cluster> {
    let cluster = Cluster::unformed(4)?;
    cluster.weft(1, "init")?;
    for host in [2, 3] {
        join(&cluster, host)?;
    }
    cluster.weft(1, "network create app")?;
    Ok(cluster)
}

fn join(cluster: &Cluster, host: usize) -> Result<()> {
    let token = cluster.weft(1, "token worker -q")?;
    let join = format!("join --token {} 198.18.0.1", token.trim());
    cluster.weft(host, &join).map(drop)
}

fn underlay(host: usize) -> String {
    format!("198.18.0.{host}")
}

/// The backend answers on port 8080 of every one of `hosts`, and sees the client.
fn answered_by_all(cluster: &Cluster, hosts: &[usize], backend: &str) -> Result<()> {
    let outside: IpAddr = OUTSIDE_ADDRESS.parse()?;
    for host in hosts {
        let what = format!("h{host} answers for {backend}");
        eventually(&what, || {
            let answers = cluster.client(OUTSIDE).tcp(&underlay(*host), 8080, 3)?;
            let right = |name: &str, peer: IpAddr| name == backend && peer == outside;
            ensure!(
                answers.iter().all(|a| right(&a.name, a.peer)),
                "{answers:?}"
            );
            Ok(())
        })?;
    }
    Ok(())
}

/// The IPv4 addresses, with their prefix lengths, and the MTU of a host's place on the mesh.
fn mesh_device(cluster: &Cluster, host: usize) -> Result<(Vec<String>, u64)> {
    let argv = ["ip", "-j", "addr", "show", "dev", "wf-ingress"];
    let found = kernel::ip(cluster, host, None, &argv)?;
    let addresses = found[0]["addr_info"].as_array().context("no addresses")?;
    let v4 = addresses
        .iter()
        .filter(|address| address["family"] == "inet");
    let v4 = v4.map(|address| {
        let local = address["local"].as_str().unwrap_or_default();
        format!("{local}/{}", address["prefixlen"])
    });
    Ok((v4.collect(), found[0]["mtu"].as_u64().context("no MTU")?))
}

/// Nothing of the ingress network `id` is on any of `hosts`.
fn nothing_is_left(cluster: &Cluster, hosts: &[usize], id: &str) -> Result<()> {
    for host in hosts {
        eventually("nothing of the ingress network is left", || {
            let links = kernel::links(cluster, *host, None)?;
            let sandboxes = kernel::sandboxes(cluster, *host)?;
            let left = links.iter().any(|link| link == "wf-ingress")
                || sandboxes.iter().any(|sandbox| sandbox == id);
            ensure!(!left, "h{host}: {links:?}, {sandboxes:?}");
            Ok(())
        })?;
    }
    Ok(())
}

fn another_ingress_network() -> Result<()> {
    let cluster = three_of_four()?;
    let create = "service create web --network app --health tcp:80 --publish 8080:80";
    cluster.weft(1, create)?;
    cluster.backend(2, "app", "b2", 80, "--service web")?;
    answered_by_all(&cluster, &[1, 2, 3], "b2")?;
    ensure!(mesh_device(&cluster, 3)? == (vec!["10.0.0.4/24".to_owned()], 1450));
    for host in [1, 3] {
        let says = ["ingress", "8080/tcp", "service web"];
        cluster.refused(host, "network rm ingress", 1, &says)?;
    }
    answered_by_all(&cluster, &[3], "b2")?;

    let first = cluster.json(1, "network inspect ingress")?;
    let first = first["id"].as_str().context("no id")?;
    cluster.weft(1, "service rm web")?;
    cluster.weft(3, "network rm ingress")?;
    nothing_is_left(&cluster, &[1, 2, 3], first)?;
    let says = ["ingress network", "network create ingress --ingress"];
    cluster.refused(2, create, 1, &says)?;
    let too_small = "network create ingress --ingress --mtu 1279";
    cluster.refused(1, too_small, 1, &["1279", "IPv6", "1280"])?;

    // Another subnet and MTU, and a name of its own.
    let again = "network create mesh --ingress --subnet 10.99.0.0/24 --mtu 1300";
    cluster.weft(2, again)?;
    let second = cluster.json(3, "network inspect mesh")?;
    ensure!(
        second["vni"] == 4096 && second["mtu"] == 1300 && second["ingress"] == true,
        "{second}"
    );
    ensure!(second["subnets"][0]["used"] == 3, "{second}");
    cluster.weft(1, create)?;
    cluster.backend(2, "app", "b3", 80, "--service web")?;
    answered_by_all(&cluster, &[1, 2, 3], "b3")?;
    let mut devices = Vec::new();
    for host in 1..=3 {
        let (addresses, mtu) = mesh_device(&cluster, host)?;
        ensure!(mtu == 1300, "h{host}: {mtu}");
        devices.extend(addresses);
    }
    devices.sort();
    let expected = ["10.99.0.2/24", "10.99.0.3/24", "10.99.0.4/24"];
    ensure!(devices == expected, "{devices:?}");

    join(&cluster, 4)?;
    answered_by_all(&cluster, &[1, 2, 3, 4], "b3")?;
    ensure!(mesh_device(&cluster, 4)? == (vec!["10.99.0.5/24".to_owned()], 1300));
    Ok(())
}
