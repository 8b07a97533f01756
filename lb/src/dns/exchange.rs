use std::net::SocketAddr;
use std::time::Duration;

use domain::base::iana::{OptRcode, Rcode};
use domain::base::{Message, MessageBuilder};

use super::packet::Query;
use super::{Transport, UPSTREAM_UDP_MAX};

/// Where the message's number is.
const ID: std::ops::Range<usize> = 0..2;

/// How patiently others are asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy {
    /// How long one of them may take to answer.
    pub timeout: Duration,
    /// How often all of them are asked.
    pub attempts: u32,
    /// How long all of it may take.
    pub limit: Duration,
}

/// A query on its way through the resolvers of the host. Time is since any fixed moment.
///
/// Each of them is asked in turn until one has an answer, which may be that there is no such name. One
/// that fails or refuses is passed over, and asked again in the next round.
#[derive(Debug)]
pub struct Exchange {
    query: Query,
    upstreams: Vec<SocketAddr>,
    policy: Policy,
    ends_at: Duration,
    tries: usize,
    /// The last message that was sent.
    packet: Vec<u8>,
    transport: Transport,
    /// The beginning of an answer whose end nobody has brought.
    beginning: Option<Vec<u8>>,
    /// What the last one said that did not answer.
    refusal: Option<Vec<u8>>,
}

/// What is to be done next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// To send [`packet`](Exchange::packet) there, from a new socket, and wait.
    Ask {
        /// Whom to ask.
        upstream: SocketAddr,
        /// How.
        transport: Transport,
        /// Until when an answer is waited for.
        until: Duration,
    },
    /// To send this to the client.
    Answer(Vec<u8>),
    /// To send this to the client: nobody has answered.
    Fail(Vec<u8>),
}

impl Exchange {
    /// Nobody is asked yet.
    pub fn new(query: Query, upstreams: Vec<SocketAddr>, policy: Policy, now: Duration) -> Self {
        Self {
            query,
            upstreams,
            policy,
            ends_at: now + policy.limit,
            tries: 0,
            packet: Vec::new(),
            transport: Transport::Udp,
            beginning: None,
            refusal: None,
        }
    }

    /// Begins, or goes on after whoever was asked has not answered. `id` is a new random number.
    pub fn next(&mut self, id: u16, now: Duration) -> Step {
        let attempts = usize::try_from(self.policy.attempts).unwrap_or(usize::MAX);
        let most = self.upstreams.len().saturating_mul(attempts);
        match self.upstream(self.tries) {
            Some(upstream) if self.tries < most && now < self.ends_at => {
                self.tries += 1;
                self.ask(upstream, Transport::Udp, id, now)
            }
            _ => self.give_up(),
        }
    }

    /// What is to be sent.
    pub fn packet(&self) -> &[u8] {
        &self.packet
    }

    /// Takes a message from whoever was asked, which is what it sent over the transport that it was
    /// asked by. `None`: it is no answer to this; one may still come.
    pub fn take(&mut self, message: &[u8], id: u16, now: Duration) -> Option<Step> {
        let (rcode, truncated) = self.judge(message)?;
        let upstream = self.upstream(self.tries.checked_sub(1)?)?;
        if matches!(rcode, Rcode::NOERROR | Rcode::NXDOMAIN) {
            if truncated && self.transport == Transport::Udp {
                self.beginning = Some(message.to_vec());
                return Some(self.ask(upstream, Transport::Tcp, id, now));
            }
            return Some(Step::Answer(self.for_client(message)));
        }
        self.refusal = Some(message.to_vec());
        Some(self.next(id, now))
    }

    /// Who is asked in one of the tries.
    fn upstream(&self, number: usize) -> Option<SocketAddr> {
        let index = number.checked_rem(self.upstreams.len())?;
        self.upstreams.get(index).copied()
    }

    fn ask(&mut self, upstream: SocketAddr, transport: Transport, id: u16, now: Duration) -> Step {
        self.packet = self.message(id);
        self.transport = transport;
        Step::Ask {
            upstream,
            transport,
            until: (now + self.policy.timeout).min(self.ends_at.max(now)),
        }
    }

    fn message(&self, id: u16) -> Vec<u8> {
        let mut builder = MessageBuilder::new_vec();
        let header = builder.header_mut();
        header.set_id(id);
        header.set_rd(self.query.rd);
        header.set_ad(self.query.ad);
        header.set_cd(self.query.cd);
        let mut question = builder.question();
        // A vector takes everything.
        let _ = question.push(&self.query.question);
        let mut additional = question.additional();
        if let Some(dnssec_ok) = self.query.edns {
            let _ = additional.opt(|opt| {
                opt.set_udp_payload_size(UPSTREAM_UDP_MAX);
                opt.set_dnssec_ok(dnssec_ok);
                Ok(())
            });
        }
        additional.finish()
    }

    /// What an answer says, if it is one to what was asked, and well-formed.
    fn judge(&self, message: &[u8]) -> Option<(Rcode, bool)> {
        let message = Message::from_slice(message).ok()?;
        let header = message.header();
        if !header.qr() || self.packet.get(ID) != Some(&header.id().to_be_bytes()) {
            return None;
        }
        let rcode = header.rcode();
        let succeeds = matches!(rcode, Rcode::NOERROR | Rcode::NXDOMAIN);
        match message.sole_question() {
            Ok(question) if question == self.query.question => {}
            // Some leave the question out of an error.
            _ if !succeeds && message.header_counts().qdcount() == 0 => {}
            _ => return None,
        }
        // The end of a truncated one may be missing.
        if !header.tc() {
            let mut records = message.additional().ok()?;
            if records.any(|record| record.is_err()) {
                return None;
            }
        }
        Some((rcode, header.tc()))
    }

    fn give_up(&mut self) -> Step {
        if let Some(beginning) = self.beginning.take() {
            return Step::Answer(self.for_client(&beginning));
        }
        Step::Fail(match self.refusal.take() {
            Some(refusal) => self.for_client(&refusal),
            None => self.query.failure(Rcode::SERVFAIL, false),
        })
    }

    /// An answer as the client is to have it.
    fn for_client(&self, message: &[u8]) -> Vec<u8> {
        if message.len() > usize::from(self.query.limit) {
            let rcode = Message::from_slice(message).map(|message| message.header().rcode());
            return self.query.failure(rcode.unwrap_or(Rcode::SERVFAIL), true);
        }
        let mut message = message.to_vec();
        if let Some(id) = message.get_mut(ID) {
            id.copy_from_slice(&self.query.id.to_be_bytes());
        }
        message
    }
}

impl Query {
    /// An answer without records.
    fn failure(&self, rcode: Rcode, truncated: bool) -> Vec<u8> {
        let mut builder = MessageBuilder::new_vec();
        let header = builder.header_mut();
        header.set_id(self.id);
        header.set_qr(true);
        header.set_rd(self.rd);
        header.set_cd(self.cd);
        header.set_ra(true);
        header.set_tc(truncated);
        header.set_rcode(rcode);
        let mut question = builder.question();
        // A vector takes everything.
        let _ = question.push(&self.question);
        let mut additional = question.additional();
        if let Some(dnssec_ok) = self.edns {
            let _ = additional.opt(|opt| {
                opt.set_udp_payload_size(super::UDP_MAX);
                opt.set_dnssec_ok(dnssec_ok);
                opt.set_rcode(OptRcode::from_rcode(rcode));
                Ok(())
            });
        }
        additional.finish()
    }

    /// The answer when there is nobody, or no time, to ask.
    pub fn refused(&self) -> Vec<u8> {
        self.failure(Rcode::REFUSED, false)
    }
}
