use std::sync::Arc;

use weft_netns::nft::{BaseChain, Expr, ForeignSet, Hook, NftError, Step, Verdict};

use super::judge::{Judgement, Rules, judge};
use super::packet::{Device, Packet, TCP};

/// Chains by name, of a table without sets.
struct Table(Vec<(&'static str, Vec<Vec<Step>>)>);

impl Rules for Table {
    fn chain(&mut self, name: &str) -> Result<Arc<[Vec<Step>]>, NftError> {
        let found = self.0.iter().find(|(known, _)| *known == name);
        Ok(found
            .map(|(_, rules)| rules.clone())
            .unwrap_or_default()
            .into())
    }

    fn set(&mut self, _: &str) -> Result<Arc<ForeignSet>, NftError> {
        Ok(Arc::default())
    }
}

fn packet(reply: bool) -> Packet {
    Packet {
        input: Device::default(),
        output: Device::default(),
        v6: false,
        protocol: TCP,
        port: None,
        reply,
        translated: true,
    }
}

fn judged(chains: Vec<(&'static str, Vec<Vec<Step>>)>, packet: &Packet) -> Judgement {
    let base = BaseChain {
        kind: "filter".to_owned(),
        hook: Hook::FORWARD,
        priority: 0,
        accept: false,
    };
    judge(&mut Table(chains), "FORWARD", &base, packet).unwrap()
}

fn verdict(verdict: Verdict) -> Step {
    Step::Native(Expr::Verdict(verdict))
}

/// `struct xt_conntrack_mtinfo3` as `iptables-nft` puts it into a rule of `-m conntrack`.
fn conntrack(flags: u16, inverted: u16, state: u16, status: u16) -> Step {
    let mut info = vec![0; 146];
    for field in [flags, inverted, state, status, 0, 0, 0, 0, 0] {
        info.extend(field.to_ne_bytes());
    }
    Step::Match {
        name: "conntrack".to_owned(),
        info,
    }
}

fn other(name: &str) -> Step {
    Step::Match {
        name: name.to_owned(),
        info: Vec::new(),
    }
}

#[test]
fn matches_of_iptables_are_understood_where_they_can_be() {
    let accept = || verdict(Verdict::Accept);
    // --ctstate RELATED,ESTABLISHED; the same inverted; --ctstate DNAT; --ctstatus DNAT.
    let established = 1 << 1 | 1 << 2;
    for (step, first, answer) in [
        (conntrack(1, 0, established, 0), false, true),
        (conntrack(1, 1, established, 0), true, false),
        (conntrack(1, 0, 1 << 7, 0), true, true),
        (conntrack(1 << 6, 0, 0, 1 << 5), true, true),
        (conntrack(1 << 6, 1 << 6, 0, 1 << 5), false, false),
    ] {
        for (reply, passes) in [(false, first), (true, answer)] {
            let chains = vec![("FORWARD", vec![vec![step.clone(), accept()]])];
            let wanted = match passes {
                true => Judgement::Passes,
                false => Judgement::Drops,
            };
            assert_eq!(judged(chains, &packet(reply)), wanted, "{step:?} {reply}");
        }
    }
    for (step, wanted) in [
        (other("comment"), Judgement::Passes),
        (other("mark"), Judgement::MayDrop),
        // By the client's address too, which is not known; and one of another length.
        (conntrack(1 | 1 << 2, 0, 1 << 3, 0), Judgement::MayDrop),
        (other("conntrack"), Judgement::MayDrop),
    ] {
        let chains = vec![("FORWARD", vec![vec![step, accept()]])];
        assert_eq!(judged(chains, &packet(false)), wanted);
    }
}

#[test]
fn a_packet_is_followed_through_the_chains() {
    let jump = |to: &str| verdict(Verdict::Jump(to.to_owned()));
    let goto = |to: &str| verdict(Verdict::Goto(to.to_owned()));
    let accept = || vec![verdict(Verdict::Accept)];
    let back = || vec![verdict(Verdict::Return)];
    let reject = || vec![Step::Target("REJECT".to_owned())];
    let log = || vec![Step::Target("LOG".to_owned())];
    let is = |chains, wanted| assert_eq!(judged(chains, &packet(false)), wanted);
    is(
        vec![
            ("FORWARD", vec![log(), vec![jump("a")], accept()]),
            ("a", vec![back(), reject()]),
        ],
        Judgement::Passes,
    );
    is(
        vec![
            ("FORWARD", vec![vec![goto("a")], accept()]),
            ("a", vec![log()]),
        ],
        Judgement::Drops,
    );
    is(
        vec![("FORWARD", vec![reject(), accept()])],
        Judgement::Drops,
    );
    // What may be dropped goes on, and what may be accepted is not sure to be dropped.
    is(
        vec![
            ("FORWARD", vec![vec![other("set"), jump("a")], accept()]),
            ("a", vec![reject()]),
        ],
        Judgement::Passes,
    );
    is(
        vec![
            ("FORWARD", vec![vec![other("set"), jump("a")]]),
            ("a", vec![accept()]),
        ],
        Judgement::MayDrop,
    );
    // Two that call each other, which the kernel refuses, are not followed for ever.
    is(
        vec![
            ("FORWARD", vec![vec![jump("a")]]),
            ("a", vec![vec![jump("FORWARD")]]),
        ],
        Judgement::Drops,
    );
}
