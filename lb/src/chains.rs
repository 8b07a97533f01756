//! The table's chains and rules.
//!
//! For each element that is added to a map, the kernel goes through all rules that look values up
//! in it; for each rule that does, through all elements. So these rules are few and always there,
//! and the chains of classes, which come and go and may be many, look nothing up.

use weft_netns::nft::{BaseChain, Chain, Expr, Hook, Rule, Verdict};

use crate::class::{Affinity, Class, PLACES, Pick, Place};
use crate::exprs;
use crate::spec::Family;

/// `NF_IP_PRI_NAT_DST`: where destinations are rewritten.
const PRIORITY_DNAT: i32 = -100;
/// The chain that both hooks run.
const SERVICES: &str = "services";
/// Base chains with their hooks.
const HOOKS: [(&str, Hook); 2] = [("prerouting", Hook::PREROUTING), ("output", Hook::OUTPUT)];

const PERMANENT: [Part; 1] = [Part::Class(Class::Empty)];

/// Chains that are there whatever the services, in the order in which they are made.
pub(crate) fn chains(table: &str) -> Vec<Chain> {
    let places = PLACES.iter();
    let mut chains: Vec<Chain> = places
        .map(|(place, family, _)| chain(table, rewriting(*place, *family)))
        .collect();
    chains.extend(PERMANENT.iter().flat_map(|part| part.chains(table)));
    chains.push(chain(table, SERVICES.to_owned()));
    chains.extend(HOOKS.map(|(name, hook)| Chain {
        table: table.to_owned(),
        name: name.to_owned(),
        base: Some(BaseChain {
            kind: "nat".to_owned(),
            hook,
            priority: PRIORITY_DNAT,
            accept: true,
        }),
    }));
    chains
}

/// Their rules.
pub(crate) fn rules(table: &str) -> Vec<Rule> {
    let rule = |chain: &str, exprs| Rule {
        table: table.to_owned(),
        chain: chain.to_owned(),
        exprs,
    };
    let mut rules = PERMANENT.map(|part| part.rules(table)).concat();
    rules.extend(PLACES.iter().flat_map(|(place, family, _)| {
        let to = rewriting(*place, *family);
        [exprs::idle, exprs::rewrite].map(|exprs| rule(&to, exprs(*family, *place)))
    }));
    rules.extend(PLACES.map(|(place, family, _)| rule(SERVICES, exprs::dispatch(family, place))));
    let jump = || vec![Expr::Verdict(Verdict::Jump(SERVICES.to_owned()))];
    rules.extend(HOOKS.map(|(name, _)| rule(name, jump())));
    rules
}

/// Chains that come and go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Part {
    Affinity(Affinity),
    Class(Class),
}

impl Part {
    /// Its chains, each before those that lead to it.
    pub(crate) fn chains(self, table: &str) -> Vec<Chain> {
        let names = match self {
            Self::Affinity(affinity) => vec![affinity.learn(), affinity.kept(), affinity.keep()],
            Self::Class(class) => vec![class.to_string()],
        };
        names.into_iter().map(|name| chain(table, name)).collect()
    }

    pub(crate) fn rules(self, table: &str) -> Vec<Rule> {
        let rule = |(chain, exprs)| Rule {
            table: table.to_owned(),
            chain,
            exprs,
        };
        match self {
            Self::Affinity(affinity) => affinity_rules(affinity).map(rule).to_vec(),
            Self::Class(class) => {
                let rules = class_rules(class).into_iter();
                rules
                    .map(|exprs| rule((class.to_string(), exprs)))
                    .collect()
            }
        }
    }
}

fn class_rules(class: Class) -> Vec<Vec<Expr>> {
    let Class::Slots {
        family,
        place,
        pick,
        slots,
        ..
    } = class
    else {
        return exprs::refusal();
    };
    let (mut rules, to) = match class.affinity() {
        Some(affinity) => {
            let keep = Expr::Verdict(Verdict::Jump(affinity.keep()));
            (vec![vec![keep]], affinity.learn())
        }
        None => (vec![], rewriting(place, family)),
    };
    let to = Expr::Verdict(Verdict::Goto(to));
    let mut rule = |pick| {
        let mut exprs = exprs::pick(family, place, pick, slots);
        exprs.push(to.clone());
        rules.push(exprs);
    };
    rule(pick);
    if (place, pick) == (Place::Address, Pick::Flow) {
        // For packets that end before ports would.
        rule(Pick::Source);
    }
    rules
}

/// A client that has a backend goes there. One whose backend is gone comes back without it, and one
/// that has none gets the one that is picked for it.
fn affinity_rules(affinity: Affinity) -> [(String, Vec<Expr>); 7] {
    let goto = |mut exprs: Vec<Expr>, chain| {
        exprs.push(Expr::Verdict(Verdict::Goto(chain)));
        exprs
    };
    let to = rewriting(affinity.place, affinity.family);
    [
        (
            affinity.keep(),
            goto(exprs::keep(affinity), affinity.kept()),
        ),
        (
            affinity.kept(),
            exprs::idle(affinity.family, affinity.place),
        ),
        (affinity.kept(), exprs::kept(affinity)),
        (affinity.kept(), exprs::forget(affinity)),
        (affinity.learn(), exprs::learn(affinity)),
        (affinity.learn(), exprs::learned(affinity)),
        (affinity.learn(), goto(vec![], to)),
    ]
}

/// The chain that rewrites to the backend whose slot was picked, and gives the flow its time-out.
fn rewriting(place: Place, family: Family) -> String {
    format!("to-{}", place.word(family))
}

fn chain(table: &str, name: String) -> Chain {
    Chain {
        table: table.to_owned(),
        name,
        base: None,
    }
}
