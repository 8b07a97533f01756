//! One namespace's table, read back and changed.

use std::collections::BTreeMap;

use weft_netns::Netns;
use weft_netns::nft::{NftError, NftSocket, OwnedTable, Standing, TableError, TableFlags};

use crate::error::BalancerError;
use crate::idle::{SYSCTL_ESTABLISHED, Tracking, USUAL_ESTABLISHED};
use crate::layout::Map;
use crate::observed::{Observed, Raw};
use crate::plan::{Op, Plan};
use crate::spec::{self, Changes, Spec};
use crate::transaction::{Preface, Transaction};

/// Owner of the balancing of one network namespace.
///
/// Its calls block: a change of one service takes some tens of microseconds, and reading back and
/// loading about five microseconds for each slot.
#[derive(Debug)]
pub struct Balancer {
    table: OwnedTable,
    /// What the table says, after the last call that succeeded.
    known: Option<Known>,
    /// Where sysctls are read.
    netns: Netns,
    /// What becomes of idle flows.
    tracking: Tracking,
}

/// What a call did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// How many changes: slots, services and classes (chains) that came, went or changed. Making
    /// the table itself is none.
    pub ops: usize,
    /// In how many transactions.
    pub transactions: usize,
    /// Services in the table now.
    pub services: usize,
    /// Whether the table was made anew, because there was none or one of another shape.
    pub created: bool,
    /// Whether the kernel keeps other processes from changing the table (Linux 6.9 and later).
    pub exclusive: bool,
    /// Whether services have idle times that this kernel cannot keep
    /// (`CONFIG_NF_CONNTRACK_TIMEOUT`); their flows have the kernel's.
    pub lacks_idle: bool,
}

impl Report {
    /// What this kernel cannot do of what was asked for, and what it would take.
    pub fn lacking(&self) -> Option<&'static str> {
        self.lacks_idle.then_some(
            "idle time-outs of services need CONFIG_NF_CONNTRACK_TIMEOUT in this node's kernel; \
             flows here keep the kernel's own",
        )
    }
}

/// The content of the table as of a generation of the namespace's rules.
#[derive(Debug)]
struct Known {
    generation: u32,
    observed: Observed,
}

/// What is to be done with the table before its content.
struct Found {
    /// Of the rules when or before the table was read.
    generation: u32,
    observed: Observed,
    preface: Preface,
}

impl Balancer {
    /// Opens the balancing of a namespace; changes nothing. `table` is the name of its table, which
    /// starts with `weft`.
    ///
    /// # Errors
    /// When the name is not one of weft's, the namespace cannot be entered, the kernel has no
    /// nf_tables, or the privilege lacks.
    pub fn open(netns: &Netns, table: &str) -> Result<Self, BalancerError> {
        Ok(Self {
            table: OwnedTable::open_in(netns, table)?,
            known: None,
            netns: netns.run(Netns::current).flatten()?,
            tracking: Tracking {
                possible: true,
                lowered: false,
            },
        })
    }

    /// Makes the kernel's table say `spec` and nothing else: reads it back, whatever is remembered,
    /// and changes what differs. A table that is missing or of another shape is made anew; flows
    /// that exist live on.
    ///
    /// # Errors
    /// [`BalancerError`]. A spec that is refused changes nothing; after another error the part of
    /// the changes that came before it is in place, and every service works as before or as wanted.
    pub fn reconcile(&mut self, spec: &Spec) -> Result<Report, BalancerError> {
        self.known = None;
        self.ensure(spec)
    }

    /// As [`reconcile`](Self::reconcile), but what the last call left is read back only when another
    /// process may have changed it since, which an owned table rules out: to be called regularly.
    ///
    /// # Errors
    /// As [`reconcile`](Self::reconcile).
    pub fn ensure(&mut self, spec: &Spec) -> Result<Report, BalancerError> {
        spec::check(spec)?;
        self.look_at_sysctl();
        // It is tried again for the next that asks.
        self.tracking.possible |= spec.values().all(|service| service.idle.is_none());
        self.with_fallbacks(|balancer| {
            let found = balancer.current()?;
            let plan = Plan::full(spec, &found.observed, balancer.tracking);
            balancer.carry_out(found, &plan)
        })
    }

    /// Changes some services and leaves the others alone. Takes time in proportion to what changes,
    /// unless the table may have been changed by another process: then it is read back first. A
    /// table that is lost or of another shape comes back with these services only, which
    /// [`Report::created`] tells: [`reconcile`](Self::reconcile) then.
    ///
    /// # Errors
    /// As [`reconcile`](Self::reconcile).
    pub fn change(&mut self, changes: &Changes) -> Result<Report, BalancerError> {
        for (key, service) in changes {
            service.iter().try_for_each(|service| service.check(key))?;
        }
        self.with_fallbacks(|balancer| {
            let found = balancer.current()?;
            let present = &found.observed.services;
            let comes = |key| changes[key].is_some() && !present.contains_key(key);
            let coming = changes.keys().filter(|key| comes(key)).count();
            spec::check_count(present.len() + coming)?;
            let plan = Plan::partial(changes, &found.observed, balancer.tracking);
            balancer.carry_out(found, &plan)
        })
    }

    /// Removes the table. Done when there is none. Flows that exist keep their backends.
    ///
    /// # Errors
    /// [`BalancerError`], when another process owns it among others.
    pub fn remove(mut self) -> Result<(), BalancerError> {
        Ok(self.table.remove()?)
    }

    /// Without time-outs of flows, owner and persistence where the kernel does not know them.
    fn with_fallbacks(
        &mut self,
        mut work: impl FnMut(&mut Self) -> Result<Report, BalancerError>,
    ) -> Result<Report, BalancerError> {
        let outcome = self.with_flags(&mut work);
        match outcome {
            Err(error) if error.is_of_idle() && self.tracking.possible => {
                self.tracking.possible = false;
                self.with_flags(work)
            }
            other => other,
        }
    }

    /// Somebody may have lowered it. What cannot be read, as before there is any connection tracking
    /// in the namespace, has not been.
    fn look_at_sysctl(&mut self) {
        let seconds = self.netns.sysctl(SYSCTL_ESTABLISHED).ok().flatten();
        let seconds = seconds.and_then(|seconds| seconds.parse::<u32>().ok());
        self.tracking.lowered = seconds.is_some_and(|seconds| seconds < USUAL_ESTABLISHED.get());
    }

    fn with_flags(
        &mut self,
        mut work: impl FnMut(&mut Self) -> Result<Report, BalancerError>,
    ) -> Result<Report, BalancerError> {
        match work(self) {
            Err(error) if error.is_of_flags() && self.table.exclusive() => {
                self.table.set_exclusive(false);
                let report = work(self).inspect_err(|_| {
                    // It was not the flags.
                    self.table.set_exclusive(true);
                })?;
                self.table.warn();
                Ok(report)
            }
            other => other,
        }
    }

    /// What is remembered, if it still holds; else what is read. Nothing is remembered after this
    /// until the changes are committed.
    fn current(&mut self) -> Result<Found, BalancerError> {
        let Some(known) = self.known.take() else {
            return self.read();
        };
        let generation = self.generation()?;
        // Another's transaction cannot have changed a table that is ours alone.
        let ours = generation == known.generation
            || self.table.head()?.is_some_and(|table| {
                table.flags == TableFlags::OWNED_AND_PERSISTENT && table.owner.is_some()
            });
        if !ours {
            return self.read();
        }
        Ok(Found {
            generation,
            observed: known.observed,
            preface: Preface::None,
        })
    }

    fn read(&mut self) -> Result<Found, BalancerError> {
        let generation = self.generation()?;
        let (observed, preface) = self.read_table()?;
        Ok(Found {
            generation,
            observed,
            preface,
        })
    }

    fn read_table(&mut self) -> Result<(Observed, Preface), BalancerError> {
        let nothing = |exists| Ok((Observed::default(), Preface::Create { exists }));
        let head = self.table.head()?;
        let orphan = match self.table.standing(head.as_ref())? {
            Standing::Absent => return nothing(false),
            Standing::Different => return nothing(true),
            Standing::Orphaned => true,
            Standing::Kept => false,
        };
        // What is misread of a table that is not owned is refused by the kernel when it is changed.
        let Some((_, value)) = self.table.read(dump)? else {
            return nothing(false);
        };
        let name = self.table.name();
        let Some(observed) = Observed::read(name, &value) else {
            return nothing(true);
        };
        let preface = if orphan {
            Preface::Claim
        } else {
            Preface::None
        };
        Ok((observed, preface))
    }

    fn generation(&mut self) -> Result<u32, BalancerError> {
        let generation = self.table.socket().generation();
        Ok(generation.map_err(TableError::unread)?)
    }

    fn carry_out(&mut self, found: Found, plan: &Plan) -> Result<Report, BalancerError> {
        let Found {
            generation,
            mut observed,
            preface,
        } = found;
        let created = matches!(preface, Preface::Create { .. });
        let transactions = match preface {
            Preface::None => self.stages(plan)?,
            Preface::Claim => self.commit(preface, &[])? + self.stages(plan)?,
            Preface::Create { .. } => self.create(preface, plan)?,
        };
        plan.stages
            .iter()
            .flatten()
            .for_each(|op| observed.apply(op));
        let report = Report {
            ops: plan.ops(),
            transactions,
            services: observed.services.len(),
            created,
            exclusive: self.table.exclusive(),
            lacks_idle: !self.tracking.possible,
        };
        // Each transaction is a generation. If another's came between, this is not the current one,
        // and what is remembered is not trusted.
        let commits = u32::try_from(transactions).unwrap_or(0);
        let generation = generation.wrapping_add(commits);
        self.known = Some(Known {
            generation,
            observed,
        });
        if report.ops > 0 || created {
            tracing::debug!(
                table = self.table.name(),
                ?report,
                "service addresses changed"
            );
        }
        Ok(report)
    }

    /// A new table and all its content in one transaction, if it fits into one.
    fn create(&mut self, preface: Preface, plan: &Plan) -> Result<usize, BalancerError> {
        let all = Transaction::new(plan.stages.iter().flatten());
        let (name, flags) = (self.table.name(), self.table.flags());
        match self.table.commit(all.batch(name, flags, preface)) {
            Ok(()) => Ok(1),
            Err(error) if error.is_of_size() => Ok(self.commit(preface, &[])? + self.stages(plan)?),
            Err(error) => Err(error.into()),
        }
    }

    fn stages(&mut self, plan: &Plan) -> Result<usize, BalancerError> {
        let mut transactions = 0;
        for stage in plan.stages.iter().filter(|stage| !stage.is_empty()) {
            transactions += self.commit(Preface::None, stage)?;
        }
        Ok(transactions)
    }

    /// Changes of one stage. They do not depend on one another, but that a class comes before what
    /// needs it and goes after that.
    fn commit(&mut self, mut preface: Preface, ops: &[Op]) -> Result<usize, BalancerError> {
        let table = &mut self.table;
        let transactions = in_pieces(ops, &mut |piece| {
            let batch = Transaction::new(piece).batch(table.name(), table.flags(), preface);
            table.commit(batch)?;
            preface = Preface::None;
            Ok(())
        });
        Ok(transactions?)
    }
}

/// In as few transactions as a send buffer needs that may not be enlarged: by halves.
fn in_pieces<T>(
    items: &[T],
    commit: &mut impl FnMut(&[T]) -> Result<(), TableError>,
) -> Result<usize, TableError> {
    match commit(items) {
        Ok(()) => Ok(1),
        Err(error) if error.is_of_size() && items.len() > 1 => {
            let (first, second) = items.split_at(items.len() / 2);
            Ok(in_pieces(first, commit)? + in_pieces(second, commit)?)
        }
        Err(error) => Err(error),
    }
}

fn dump(socket: &mut NftSocket, table: &str) -> Result<Raw, NftError> {
    let mut elements = BTreeMap::new();
    for map in Map::ALL.into_iter().filter(|map| !map.is_learned()) {
        elements.insert(map, socket.map_elements(table, map.name())?);
    }
    Ok(Raw {
        chains: socket.chains(table)?,
        maps: socket.maps(table)?,
        rules: socket.rules(table)?,
        timeouts: socket.timeouts(table)?,
        elements,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What was committed when a transaction takes so many.
    fn committed(count: usize, most: usize) -> Result<Vec<Vec<usize>>, TableError> {
        let items: Vec<usize> = (0..count).collect();
        let mut pieces = Vec::new();
        let transactions = in_pieces(&items, &mut |piece: &[usize]| {
            if piece.len() > most {
                let source = NftError::TooLarge { bytes: piece.len() };
                let what = "changed";
                return Err(TableError::Nft { what, source });
            }
            pieces.push(piece.to_vec());
            Ok(())
        })?;
        assert_eq!(transactions, pieces.len());
        Ok(pieces)
    }

    #[test]
    fn what_is_too_large_for_a_transaction_is_spread_in_order() {
        assert_eq!(committed(5, 5).unwrap(), [[0, 1, 2, 3, 4]]);
        let pieces = committed(1000, 100).unwrap();
        assert_eq!(pieces.concat(), (0..1000).collect::<Vec<_>>());
        assert!(pieces.iter().all(|piece| piece.len() > 50));
        assert_eq!(committed(0, 0).unwrap(), [[]; 1]);
        assert!(committed(3, 0).is_err_and(|error| error.is_of_size()));
    }
}
