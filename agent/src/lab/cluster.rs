//! One cluster of the agents of a lab, by the commands that a user would type.

use std::time::{Duration, Instant};

use super::{Host, LabError};

/// How long the cluster may take until it lists every node as ready.
const READY_LIMIT: Duration = Duration::from_secs(20);
/// How often it is asked.
const POLL: Duration = Duration::from_millis(20);
/// Hosts that join at the same time: enough to keep two processors busy.
const JOINS_AT_ONCE: usize = 4;

/// Makes `h1` the first manager and has the others join, `managers` of all as managers.
pub(crate) fn form(hosts: &[Host], managers: usize) -> Result<(), LabError> {
    let Some((first, others)) = hosts.split_first() else {
        return Ok(());
    };
    let address = first.address().to_string();
    first.weft(&["init", "--advertise-addr", &address])?;
    let (managers, workers) = others.split_at(others.len().min(managers.saturating_sub(1)));
    for (role, joining) in [("manager", managers), ("worker", workers)] {
        if joining.is_empty() {
            continue;
        }
        let token = first.weft(&["token", role, "-q"])?;
        join(joining, token.trim(), &address)?;
    }
    wait_ready(first, hosts.len())
}

fn join(hosts: &[Host], token: &str, manager: &str) -> Result<(), LabError> {
    for some in hosts.chunks(JOINS_AT_ONCE) {
        std::thread::scope(|scope| {
            let joins: Vec<_> = some
                .iter()
                .map(|host| {
                    let own = host.address().to_string();
                    scope.spawn(move || {
                        host.weft(&["join", "--token", token, "--advertise-addr", &own, manager])
                    })
                })
                .collect();
            for join in joins {
                match join.join() {
                    Ok(joined) => joined?,
                    Err(panic) => std::panic::resume_unwind(panic),
                };
            }
            Ok(())
        })?;
    }
    Ok(())
}

/// Waits until the cluster lists that many nodes, all ready.
pub(crate) fn wait_ready(host: &Host, nodes: usize) -> Result<(), LabError> {
    let start = Instant::now();
    loop {
        let list = host.weft(&["node", "ls", "--format", "json"])?;
        if ready_nodes(&list) >= nodes {
            return Ok(());
        }
        if start.elapsed() > READY_LIMIT {
            let seconds = READY_LIMIT.as_secs();
            let what = format!("the cluster should list {nodes} ready nodes, it lists {list}");
            return Err(LabError::TimedOut { what, seconds });
        }
        std::thread::sleep(POLL);
    }
}

/// Nodes that are ready in a list as `weft node ls --format json` prints it.
fn ready_nodes(list: &str) -> usize {
    let nodes: Vec<serde_json::Value> = serde_json::from_str(list).unwrap_or_default();
    nodes
        .iter()
        .filter(|node| node["status"] == "ready")
        .count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_nodes_that_are_ready_count() {
        assert_eq!(
            ready_nodes(r#"[{"status":"ready"},{"status":"down"},{}]"#),
            1
        );
        assert_eq!(ready_nodes("nonsense"), 0);
    }
}
