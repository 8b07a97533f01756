//! The scheduler `least-conn`: who has fewer connections gets more of the new ones.

use anyhow::{Result, ensure};
use weft_cluster_tests::backend::{Client, spread};
use weft_cluster_tests::cluster::{Cluster, OUTSIDE};
use weft_cluster_tests::eventually;

use crate::Case;

/// The cases of this file.
pub(crate) const CASES: &[Case] = &[(
    "least::the_idle_backend_is_favoured_until_the_other_is_idle_too",
    idle_is_favoured,
)];

const PORT: u16 = 80;
const PUBLISHED: u16 = 8080;
/// A host without a backend.
const ENTRY: &str = "198.18.0.1";
/// Connections that keep a backend busy.
const HELD: usize = 50;
/// New ones that are looked at together.
const NEW: usize = 100;

fn idle_is_favoured() -> Result<()> {
    let cluster = Cluster::up(3)?;
    cluster.weft(1, "network create app")?;
    let create = format!(
        "service create web --network app --scheduler least-conn --publish {PUBLISHED}:{PORT}"
    );
    cluster.weft(1, &create)?;
    cluster.container(1, "app", "c1")?;
    cluster.backend(2, "app", "b2", PORT, "--service web")?;
    cluster.weft(1, "wait --service web --timeout 60s")?;
    let service = cluster.json(1, "service inspect web")?;
    let vip = service["networks"][0]["vip"].as_str().unwrap_or_default();
    let ways = [
        (cluster.client_in(1, "c1.app"), vip, PORT),
        (cluster.client(OUTSIDE), ENTRY, PUBLISHED),
    ];
    let mut held = Vec::new();
    for (client, to, port) in &ways {
        held.push(client.hold_many(to, *port, HELD)?);
    }

    cluster.backend(3, "app", "b3", PORT, "--service web")?;
    cluster.weft(1, "wait --service web --timeout 60s")?;
    for (client, to, port) in &ways {
        eventually(&format!("b3 is favoured at {to}"), || {
            let b3 = share_of_b3(client, to, *port)?;
            ensure!(b3 >= NEW * 8 / 10, "{b3} of {NEW}");
            Ok(())
        })?;
    }
    for talk in &mut held {
        talk.tell()?;
    }
    for (client, to, port) in &ways {
        eventually(&format!("both have their part at {to}"), || {
            let b3 = share_of_b3(client, to, *port)?;
            ensure!((NEW * 3 / 10..=NEW * 7 / 10).contains(&b3), "{b3} of {NEW}");
            Ok(())
        })?;
    }
    Ok(())
}

fn share_of_b3(client: &Client<'_>, to: &str, port: u16) -> Result<usize> {
    let answers = spread(&client.tcp(to, port, NEW)?);
    Ok(answers.get("b3").copied().unwrap_or(0))
}
