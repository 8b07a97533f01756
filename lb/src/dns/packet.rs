//! From a query's packet to an answer's.

use std::net::IpAddr;

use domain::base::iana::{Class, Opcode, OptRcode, Rcode, Rtype};
use domain::base::message_builder::{AdditionalBuilder, AnswerBuilder, PushError};
use domain::base::name::ToName;
use domain::base::opt::{Opt, OptRecord};
use domain::base::{Message, MessageBuilder, Name, ParsedName, Question, StaticCompressor, Ttl};
use domain::rdata::{A, Aaaa, Ptr, Srv};

use super::site::{Known, Meaning};
use super::{Site, TCP_MAX, TTL_S, UDP_MAX};

/// Longest message over UDP for who says nothing else, in bytes (RFC 1035 section 4.2.1).
const UDP_PLAIN: u16 = 512;
/// Length of an OPT record without options (RFC 6891 section 6.1.2).
const OPT_LENGTH: usize = 11;
/// Room that an answer is given at first.
const ROOM: usize = 256;

/// How a query came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// One datagram for each message.
    Udp,
    /// A stream of messages.
    Tcp,
}

/// What becomes of a packet.
#[derive(Debug)]
pub enum Verdict {
    /// This is sent back.
    Answer(Vec<u8>, Kind),
    /// Others are asked.
    Forward(Query),
    /// Nothing: it is no query.
    Ignore,
}

/// What an answer is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// Records.
    Answered,
    /// The name is there and has no such records.
    NoData,
    /// There is no such name.
    NoName,
    /// Nobody here answers that.
    Refused,
    /// The query was not understood.
    Malformed,
}

/// A query that others are asked.
#[derive(Clone, Debug)]
pub struct Query {
    pub(super) id: u16,
    pub(super) rd: bool,
    pub(super) ad: bool,
    pub(super) cd: bool,
    pub(super) question: Question<Name<Vec<u8>>>,
    /// Whether the client uses EDNS, and whether it wants signatures then.
    pub(super) edns: Option<bool>,
    /// Longest answer in bytes.
    pub(super) limit: u16,
}

type Target = StaticCompressor<Vec<u8>>;
type Asked<'a> = Question<ParsedName<&'a [u8]>>;

/// What becomes of a packet that came from a container. All of an answer is of what the site is at that
/// moment. `turn` is another number each time: of several addresses it says which comes first.
pub fn resolve(site: &Site, packet: &[u8], transport: Transport, turn: u64) -> Verdict {
    let Ok(message) = Message::from_slice(packet) else {
        return Verdict::Ignore;
    };
    // Whoever answers answers makes packets go round for ever.
    if message.header().qr() {
        return Verdict::Ignore;
    }
    let message = message.for_slice_ref();
    let plain = Reply::new(&message, None, transport);
    if message.header().opcode() != Opcode::QUERY {
        return plain.error(OptRcode::NOTIMP, Kind::Refused);
    }
    let Ok(edns) = edns(&message) else {
        return plain.error(OptRcode::FORMERR, Kind::Malformed);
    };
    let reply = Reply::new(&message, edns.as_ref(), transport);
    if edns.is_some_and(|edns| edns.version() != 0) {
        return reply.error(OptRcode::BADVERS, Kind::Malformed);
    }
    let Ok(asked) = message.sole_question() else {
        return reply.error(OptRcode::FORMERR, Kind::Malformed);
    };
    if asked.qclass() != Class::IN || is_no_lookup(asked.qtype()) {
        return reply.error(OptRcode::REFUSED, Kind::Refused);
    }
    // A label with a dot in it is in no name of a zone.
    let name = key(asked.qname());
    let meaning = name
        .as_deref()
        .map_or(Meaning::Foreign, |name| site.meaning(name));
    match meaning {
        Meaning::Known(known) => reply.known(site, &asked, &known, turn),
        Meaning::Missing => reply.own_error(OptRcode::NXDOMAIN, Kind::NoName),
        Meaning::Foreign if site.forwards => reply.forward(&asked),
        // Nobody else is there who could have it.
        Meaning::Foreign if asked.qname().label_count() <= 2 => {
            reply.own_error(OptRcode::NXDOMAIN, Kind::NoName)
        }
        Meaning::Foreign => reply.error(OptRcode::REFUSED, Kind::Refused),
    }
}

/// The EDNS part of a message, of which there is at most one (RFC 6891 section 6.1.1). Reads all of the
/// message on the way.
fn edns<'a>(message: &Message<&'a [u8]>) -> Result<Option<OptRecord<&'a [u8]>>, ()> {
    let mut found = None;
    for record in message.additional().map_err(drop)? {
        let record = record.map_err(drop)?;
        if record.rtype() != Rtype::OPT {
            continue;
        }
        let record = record.to_record::<Opt<&[u8]>>().map_err(drop)?.ok_or(())?;
        if found.replace(OptRecord::from(record)).is_some() {
            return Err(());
        }
    }
    Ok(found)
}

/// Transfers and other requests that are no lookup (RFC 6895 section 3.1: 128 to 255), all records of a
/// name excepted.
fn is_no_lookup(rtype: Rtype) -> bool {
    let number = rtype.to_int();
    rtype == Rtype::OPT || ((128..=255).contains(&number) && rtype != Rtype::ANY)
}

/// A name as zones have it.
fn key(name: &ParsedName<&[u8]>) -> Option<String> {
    let mut key = String::with_capacity(64);
    for label in name.iter().filter(|label| !label.is_root()) {
        if !key.is_empty() {
            key.push('.');
        }
        for byte in label.as_slice() {
            if !byte.is_ascii_graphic() || *byte == b'.' {
                return None;
            }
            key.push(char::from(byte.to_ascii_lowercase()));
        }
    }
    Some(key)
}

/// An answer that is being made.
struct Reply<'a> {
    message: &'a Message<&'a [u8]>,
    /// Whether the client wants signatures, if it uses EDNS.
    edns: Option<bool>,
    limit: u16,
}

impl<'a> Reply<'a> {
    fn new(
        message: &'a Message<&'a [u8]>,
        edns: Option<&OptRecord<&[u8]>>,
        transport: Transport,
    ) -> Self {
        let limit = match (transport, edns) {
            (Transport::Tcp, _) => TCP_MAX,
            (Transport::Udp, None) => UDP_PLAIN,
            (Transport::Udp, Some(edns)) => edns.udp_payload_size().clamp(UDP_PLAIN, UDP_MAX),
        };
        Self {
            message,
            edns: edns.map(OptRecord::dnssec_ok),
            limit,
        }
    }

    fn forward(&self, asked: &Asked<'_>) -> Verdict {
        let header = self.message.header();
        Verdict::Forward(Query {
            id: header.id(),
            rd: header.rd(),
            ad: header.ad(),
            cd: header.cd(),
            question: Question::new(asked.qname().to_vec(), asked.qtype(), asked.qclass()),
            edns: self.edns,
            limit: self.limit,
        })
    }

    fn known(&self, site: &Site, asked: &Asked<'_>, known: &Known<'_>, turn: u64) -> Verdict {
        let mut answer = self.start(Rcode::NOERROR);
        answer.header_mut().set_aa(true);
        answer.header_mut().set_ra(site.forwards);
        // What does not fit is left out, and that is said: whoever wants it all comes by TCP.
        if self.push_answers(&mut answer, asked, known, turn).is_err() {
            answer.header_mut().set_tc(true);
        }
        let kind = match answer.counts().ancount() {
            0 => Kind::NoData,
            _ => Kind::Answered,
        };
        let mut additional = answer.additional();
        if asked.qtype() == Rtype::SRV && !additional.header().tc() {
            // Nobody needs these.
            let _ = push_targets(&mut additional, known);
        }
        Verdict::Answer(self.finish(additional, OptRcode::NOERROR), kind)
    }

    fn push_answers(
        &self,
        answer: &mut AnswerBuilder<Target>,
        asked: &Asked<'_>,
        known: &Known<'_>,
        turn: u64,
    ) -> Result<(), PushError> {
        let (owner, rtype) = (asked.qname(), asked.qtype());
        let wants = |one| rtype == one || rtype == Rtype::ANY;
        for address in rotated(known.addresses, turn) {
            match address {
                IpAddr::V4(address) if wants(Rtype::A) => {
                    answer.push((owner, TTL, A::new(*address)))?;
                }
                IpAddr::V6(address) if wants(Rtype::AAAA) => {
                    answer.push((owner, TTL, Aaaa::new(*address)))?;
                }
                _ => {}
            }
        }
        if let Some((zone, targets)) = known.services.filter(|_| wants(Rtype::SRV)) {
            for target in rotated(targets, turn) {
                if let Some(name) = qualified(&target.name, &zone.name) {
                    let service = Srv::new(0, target.weight, target.port, name);
                    answer.push((owner, TTL, service))?;
                }
            }
        }
        let named = known.owner.filter(|_| wants(Rtype::PTR));
        if let Some(name) = named.and_then(|(name, zone)| qualified(name, zone)) {
            answer.push((owner, TTL, Ptr::new(name)))?;
        }
        Ok(())
    }

    /// An error that is ours to tell.
    fn own_error(&self, rcode: OptRcode, kind: Kind) -> Verdict {
        self.failure(rcode, kind, true)
    }

    fn error(&self, rcode: OptRcode, kind: Kind) -> Verdict {
        self.failure(rcode, kind, false)
    }

    fn failure(&self, rcode: OptRcode, kind: Kind, own: bool) -> Verdict {
        let mut answer = self.start(rcode.rcode());
        answer.header_mut().set_aa(own);
        Verdict::Answer(self.finish(answer.additional(), rcode), kind)
    }

    fn start(&self, rcode: Rcode) -> AnswerBuilder<Target> {
        let target = StaticCompressor::new(Vec::with_capacity(ROOM));
        let mut builder = match MessageBuilder::from_target(target) {
            Ok(builder) => builder,
            // A vector takes everything.
            Err(never) => match never {},
        };
        let reserved = self.edns.map_or(0, |_| OPT_LENGTH);
        builder.set_push_limit(usize::from(self.limit) - reserved);
        match self.message.sole_question() {
            Ok(_) => builder.start_error(self.message, rcode),
            // What cannot be read is not repeated.
            Err(_) => {
                let header = builder.header_mut();
                header.set_id(self.message.header().id());
                header.set_qr(true);
                header.set_opcode(self.message.header().opcode());
                header.set_rd(self.message.header().rd());
                header.set_rcode(rcode);
                builder.answer()
            }
        }
    }

    fn finish(&self, mut additional: AdditionalBuilder<Target>, rcode: OptRcode) -> Vec<u8> {
        additional.clear_push_limit();
        if let Some(dnssec_ok) = self.edns {
            // Room was kept for it.
            let _ = additional.opt(|opt| {
                opt.set_udp_payload_size(UDP_MAX);
                opt.set_dnssec_ok(dnssec_ok);
                opt.set_rcode(rcode);
                Ok(())
            });
        }
        additional.finish().into_target()
    }
}

const TTL: Ttl = Ttl::from_secs(TTL_S);

/// All of them, another first each turn.
fn rotated<T>(all: &[T], turn: u64) -> impl Iterator<Item = &T> {
    let length = (all.len() as u64).max(1);
    let first = usize::try_from(turn % length).unwrap_or_default();
    let (before, from) = all.split_at(first);
    from.iter().chain(before)
}

fn push_targets(
    additional: &mut AdditionalBuilder<Target>,
    known: &Known<'_>,
) -> Result<(), PushError> {
    let Some((zone, targets)) = known.services else {
        return Ok(());
    };
    for target in targets {
        let Some(owner) = qualified(&target.name, &zone.name) else {
            continue;
        };
        for address in zone.names.get(&target.name).into_iter().flatten() {
            match address {
                IpAddr::V4(address) => additional.push((&owner, TTL, A::new(*address)))?,
                IpAddr::V6(address) => additional.push((&owner, TTL, Aaaa::new(*address)))?,
            }
        }
    }
    Ok(())
}

/// A name of a network as the whole world would write it.
fn qualified(name: &str, zone: &str) -> Option<Name<Vec<u8>>> {
    let text = format!("{name}.{zone}.");
    Name::vec_from_str(&text).ok()
}
