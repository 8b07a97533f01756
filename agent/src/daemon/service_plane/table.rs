//! One container's table, read and changed on a thread that may block.

use std::collections::BTreeSet;
use std::sync::Arc;

use tracing::{debug, info, warn};
use weft_lb::spec::{Changes, Spec};
use weft_lb::{Balancer, BalancerError};
use weft_netns::Identity;
use weft_overlay::NetnsRef;

use super::flows;
use super::namespace::{Unopened, open};
use crate::translate::services::Members;

/// Name of the nftables table with the service addresses of a namespace.
pub(super) const TABLE: &str = "weft-lb";

/// What is to be done with the table of a container.
#[derive(Debug)]
pub(super) struct Job {
    /// Which container.
    pub(super) place: Identity,
    /// Ways to its namespace.
    pub(super) netns: BTreeSet<NetnsRef>,
    /// Its table, if it is held open.
    pub(super) balancer: Option<Balancer>,
    /// What to do.
    pub(super) work: Work,
}

/// What to do.
#[derive(Clone, Debug)]
pub(super) enum Work {
    /// Make the table say this and nothing else.
    Make {
        /// What it is to say.
        spec: Arc<Spec>,
        /// To forget the flows to backends that are not among these, if given.
        members: Option<Arc<Members>>,
    },
    /// Change these services of a table that is held open.
    Change(Changes),
    /// Let there be no table.
    Remove,
    /// The same where none is known to be: whatever stands in the way is no failure.
    Sweep,
}

/// What came of a [`Job`].
#[derive(Debug)]
pub(super) struct Done {
    /// Which container.
    pub(super) place: Identity,
    /// Its table, to be held open. An open one keeps the namespace alive.
    pub(super) balancer: Option<Balancer>,
    /// How it ended.
    pub(super) outcome: Outcome,
    /// What this kernel cannot do of what is wanted, although it ended well.
    pub(super) lacking: Option<&'static str>,
}

/// How a [`Job`] ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// As wanted, after so many changes.
    Done(usize),
    /// The container has ended.
    Gone,
    /// The table was not there any more and has been made with the changed services alone.
    Lost(usize),
    /// Why it could not be done.
    Failed(String),
}

impl From<BalancerError> for Unopened {
    fn from(error: BalancerError) -> Self {
        Self::Failed(error.to_string())
    }
}

/// Does it. Blocks.
pub(super) fn carry_out(job: Job) -> Done {
    let Job {
        place,
        netns,
        balancer,
        work,
    } = job;
    let mut lacking = None;
    let done = match work {
        Work::Make { spec, members } => {
            make(&netns, balancer, &spec, members.as_deref(), &mut lacking)
        }
        Work::Change(changes) => match balancer {
            Some(balancer) => change(balancer, &changes, &mut lacking),
            // Nothing is held open: there is nothing that only some services could be changed of.
            None => Ok((None, Outcome::Lost(0))),
        },
        Work::Remove => remove(&netns, balancer).map(|()| (None, Outcome::Done(1))),
        Work::Sweep => {
            if let Err(Unopened::Failed(why)) = remove(&netns, None) {
                debug!(?place, why, "not looked for a left-over table");
            }
            Ok((None, Outcome::Done(0)))
        }
    };
    let (balancer, outcome) = done.unwrap_or_else(|unopened| match unopened {
        Unopened::Gone => (None, Outcome::Gone),
        // A socket that an error came from may have more of it to say: it is opened anew.
        Unopened::Failed(why) => (None, Outcome::Failed(why)),
    });
    Done {
        place,
        balancer,
        outcome,
        lacking,
    }
}

fn make(
    netns: &BTreeSet<NetnsRef>,
    balancer: Option<Balancer>,
    spec: &Spec,
    members: Option<&Members>,
    lacking: &mut Option<&'static str>,
) -> Result<(Option<Balancer>, Outcome), Unopened> {
    // Also when the table is held open, or the container would never be seen to end.
    let namespace = open(netns)?;
    let mut balancer = match balancer {
        Some(balancer) => balancer,
        None => Balancer::open(&namespace, TABLE)?,
    };
    let report = balancer.ensure(spec)?;
    *lacking = report.lacking();
    let ops = report.ops + usize::from(report.created);
    let strays = members.map(|members| flows::forget_strays(&namespace, members));
    match strays.transpose() {
        Ok(None | Some(0)) => {}
        Ok(Some(backends)) => info!(backends, "forgot flows to backends that are no more"),
        Err(error) => warn!(%error, "flows to backends that are no more may hang"),
    }
    Ok((Some(balancer), Outcome::Done(ops)))
}

fn change(
    mut balancer: Balancer,
    changes: &Changes,
    lacking: &mut Option<&'static str>,
) -> Result<(Option<Balancer>, Outcome), Unopened> {
    let report = balancer.change(changes)?;
    *lacking = report.lacking();
    let outcome = match report.created {
        true => Outcome::Lost(report.ops),
        false => Outcome::Done(report.ops),
    };
    Ok((Some(balancer), outcome))
}

fn remove(netns: &BTreeSet<NetnsRef>, balancer: Option<Balancer>) -> Result<(), Unopened> {
    let balancer = match balancer {
        Some(balancer) => balancer,
        None => Balancer::open(&open(netns)?, TABLE)?,
    };
    Ok(balancer.remove()?)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    fn reference(path: &std::path::Path, inode: u64) -> NetnsRef {
        let device = std::fs::metadata(path).map_or(0, |found| found.dev());
        NetnsRef {
            path: path.to_owned(),
            device,
            inode,
        }
    }

    fn ended(netns: NetnsRef, work: Work) -> Outcome {
        let job = Job {
            place: Identity {
                device: netns.device,
                inode: netns.inode,
            },
            netns: BTreeSet::from([netns]),
            balancer: None,
            work,
        };
        carry_out(job).outcome
    }

    #[test]
    fn a_container_whose_path_leads_elsewhere_has_ended() {
        let own = std::path::Path::new("/proc/self/ns/net");
        let missing = std::path::Path::new("/nonexistent/net");
        for netns in [reference(own, 1), reference(missing, 1)] {
            let make = Work::Make {
                spec: Arc::new(Spec::new()),
                members: None,
            };
            assert_eq!(ended(netns.clone(), make), Outcome::Gone);
            assert_eq!(ended(netns.clone(), Work::Remove), Outcome::Gone);
            assert_eq!(ended(netns, Work::Sweep), Outcome::Done(0));
        }
    }

    #[test]
    fn a_change_of_a_table_that_is_not_open_asks_for_the_whole() {
        let own = std::path::Path::new("/proc/self/ns/net");
        let outcome = ended(reference(own, 1), Work::Change(Changes::new()));
        assert_eq!(outcome, Outcome::Lost(0));
    }
}
