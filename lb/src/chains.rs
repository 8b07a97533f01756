//! The table's chains and rules.
//!
//! For each element that is added to a map, the kernel goes through all rules that look values up
//! in it; for each rule that does, through all elements. So these rules are few and always there,
//! and the chains of classes, which come and go and may be many, look nothing up.

use weft_netns::nft::{BaseChain, Chain, Expr, Hook, Rule, Verdict};

use crate::class::{Class, PLACES, Pick, Place};
use crate::exprs;
use crate::spec::Family;

/// `NF_IP_PRI_NAT_DST`: where destinations are rewritten.
const PRIORITY_DNAT: i32 = -100;
/// The chain that both hooks run.
const SERVICES: &str = "services";
/// Base chains with their hooks.
const HOOKS: [(&str, Hook); 2] = [("prerouting", Hook::PREROUTING), ("output", Hook::OUTPUT)];

/// Chains that are there whatever the services, in the order in which they are made.
pub(crate) fn chains(table: &str) -> Vec<Chain> {
    let places = PLACES.iter();
    let mut chains: Vec<Chain> = places
        .map(|(place, family, _)| chain(table, rewriting(*place, *family)))
        .collect();
    chains.extend(Class::PERMANENT.map(|class| class_chain(table, class)));
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
    let mut rules = Class::PERMANENT
        .map(|class| class_rules(table, class))
        .concat();
    rules.extend(PLACES.map(|(place, family, _)| {
        let exprs = exprs::rewrite(family, place);
        rule(&rewriting(place, family), exprs)
    }));
    rules.extend(PLACES.map(|(place, family, _)| rule(SERVICES, exprs::dispatch(family, place))));
    let jump = || vec![Expr::Verdict(Verdict::Jump(SERVICES.to_owned()))];
    rules.extend(HOOKS.map(|(name, _)| rule(name, jump())));
    rules
}

pub(crate) fn class_chain(table: &str, class: Class) -> Chain {
    chain(table, class.to_string())
}

pub(crate) fn class_rules(table: &str, class: Class) -> Vec<Rule> {
    let rules = match class {
        Class::Empty => exprs::refusal(),
        Class::Slots {
            family,
            place,
            pick,
            slots,
            ..
        } => {
            let mut picks = vec![pick];
            if (place, pick) == (Place::Address, Pick::Flow) {
                // For packets that end before ports would.
                picks.push(Pick::Source);
            }
            let to = Expr::Verdict(Verdict::Goto(rewriting(place, family)));
            let rule = |pick| [exprs::pick(family, pick, slots), vec![to.clone()]].concat();
            picks.into_iter().map(rule).collect()
        }
    };
    let rules = rules.into_iter().map(|exprs| Rule {
        table: table.to_owned(),
        chain: class.to_string(),
        exprs,
    });
    rules.collect()
}

/// The chain that rewrites to the backend whose slot was picked.
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
