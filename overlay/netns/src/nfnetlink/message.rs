//! Netlink messages as the kernel sends and takes them (RFC 3549 section 2.3.2; linux/netlink.h).

use super::attr::{AttrWriter, Attrs, Malformed};

/// `struct nlmsghdr`.
const HEADER_LEN: usize = 16;
/// `struct nfgenmsg`: family, version, resource id.
pub(crate) const NFGENMSG_LEN: usize = 4;
/// `NLMSG_ERROR`, also an acknowledgement (error 0).
const TYPE_ERROR: u16 = 2;
/// `NLMSG_DONE`: the end of a dump.
const TYPE_DONE: u16 = 3;
/// `NLM_F_REQUEST`.
pub(crate) const REQUEST: u16 = 0x1;
/// `NLM_F_ACK`.
pub(crate) const ACK: u16 = 0x4;
/// `NLM_F_ROOT | NLM_F_MATCH`.
pub(crate) const DUMP: u16 = 0x300;
/// Types below belong to netlink itself (`NLMSG_MIN_TYPE`).
const TYPE_MIN: u16 = 16;
/// `NLM_F_DUMP_INTR`: the dump is not of one moment.
const FLAG_DUMP_INTERRUPTED: u16 = 0x10;
/// `NLM_F_CAPPED`: an error repeats the request's header only.
const FLAG_CAPPED: u16 = 0x100;
/// `NLM_F_ACK_TLVS`: an error has attributes after the repeated request.
const FLAG_ACK_TLVS: u16 = 0x200;
/// `NLMSGERR_ATTR_MSG`.
const ERROR_ATTR_MSG: u16 = 1;
/// `NLMSGERR_ATTR_OFFS`.
const ERROR_ATTR_OFFS: u16 = 2;

/// One message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Message<'a> {
    /// The request that it answers.
    pub(crate) sequence: u32,
    /// Whether a dump was interrupted by a change.
    pub(crate) interrupted: bool,
    /// What it says.
    pub(crate) body: Body<'a>,
}

/// What a message says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Body<'a> {
    /// The request was carried out.
    Ack,
    /// It was refused.
    Refused(Refusal),
    /// A dump is complete.
    Done,
    /// An object of a netfilter subsystem: type, and attributes after the `nfgenmsg`.
    Object {
        /// Subsystem in the upper byte, message in the lower.
        kind: u16,
        /// The attributes.
        attrs: &'a [u8],
    },
    /// Nothing of interest (`NLMSG_NOOP`, ..).
    Other,
}

/// Why the kernel refused a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// Positive error number.
    pub errno: i32,
    /// The kernel's own words, where it has some (extended acknowledgement).
    pub text: Option<String>,
    /// Offset in bytes of the attribute to blame in the request's message.
    pub offset: Option<u32>,
}

/// Reads the messages of one datagram; ends after the first malformed one.
#[derive(Clone, Debug)]
pub(crate) struct Messages<'a> {
    rest: &'a [u8],
}

impl<'a> Messages<'a> {
    /// The messages of a datagram.
    pub(crate) const fn new(datagram: &'a [u8]) -> Self {
        Self { rest: datagram }
    }

    fn split(&mut self) -> Result<Message<'a>, Malformed> {
        let header = self.rest.get(..HEADER_LEN).ok_or(Malformed)?;
        let len = usize::try_from(u32_at(header, 0)?).map_err(|_| Malformed)?;
        let kind = u16_at(header, 4)?;
        let flags = u16_at(header, 6)?;
        let payload = self.rest.get(HEADER_LEN..len).ok_or(Malformed)?;
        let message = Message {
            sequence: u32_at(header, 8)?,
            interrupted: flags & FLAG_DUMP_INTERRUPTED != 0,
            body: body(kind, flags, payload)?,
        };
        self.rest = self.rest.get(len.next_multiple_of(4)..).unwrap_or_default();
        Ok(message)
    }
}

impl<'a> Iterator for Messages<'a> {
    type Item = Result<Message<'a>, Malformed>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let message = self.split();
        if message.is_err() {
            self.rest = &[];
        }
        Some(message)
    }
}

fn body(kind: u16, flags: u16, payload: &[u8]) -> Result<Body<'_>, Malformed> {
    match kind {
        TYPE_ERROR => answer(flags, payload),
        TYPE_DONE => Ok(Body::Done),
        kind if kind < TYPE_MIN => Ok(Body::Other),
        kind => {
            let attrs = payload.get(NFGENMSG_LEN..).ok_or(Malformed)?;
            Ok(Body::Object { kind, attrs })
        }
    }
}

/// `struct nlmsgerr`: error number, the request (its header only if capped), attributes.
fn answer(flags: u16, payload: &[u8]) -> Result<Body<'_>, Malformed> {
    let errno = u32_at(payload, 0)?
        .cast_signed()
        .checked_neg()
        .ok_or(Malformed)?;
    if errno == 0 {
        return Ok(Body::Ack);
    }
    let mut refusal = Refusal {
        errno,
        text: None,
        offset: None,
    };
    if flags & FLAG_ACK_TLVS != 0 {
        let request_len = if flags & FLAG_CAPPED != 0 {
            HEADER_LEN
        } else {
            usize::try_from(u32_at(payload, 4)?).map_err(|_| Malformed)?
        };
        let start = request_len
            .checked_add(4)
            .ok_or(Malformed)?
            .next_multiple_of(4);
        for attr in Attrs::new(payload.get(start..).ok_or(Malformed)?) {
            let attr = attr?;
            match attr.kind {
                ERROR_ATTR_MSG => refusal.text = Some(attr.string()),
                ERROR_ATTR_OFFS => refusal.offset = Some(u32_at(attr.value, 0)?),
                _ => {}
            }
        }
    }
    Ok(Body::Refused(refusal))
}

/// One message: `nlmsghdr`, `nfgenmsg`, attributes. None when it cannot be encoded.
pub(crate) fn request(
    kind: u16,
    flags: u16,
    sequence: u32,
    nfgenmsg: [u8; NFGENMSG_LEN],
    content: impl FnOnce(&mut AttrWriter),
) -> Option<Vec<u8>> {
    let mut attrs = AttrWriter::default();
    content(&mut attrs);
    let attrs = attrs.finish()?;
    let len = u32::try_from(HEADER_LEN + NFGENMSG_LEN + attrs.len()).ok()?;
    let mut bytes = Vec::with_capacity(HEADER_LEN + NFGENMSG_LEN + attrs.len());
    bytes.extend(len.to_ne_bytes());
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(flags.to_ne_bytes());
    bytes.extend(sequence.to_ne_bytes());
    // The kernel knows the sender by its socket.
    bytes.extend([0; 4]);
    bytes.extend(nfgenmsg);
    bytes.extend(attrs);
    Some(bytes)
}

fn u32_at(bytes: &[u8], at: usize) -> Result<u32, Malformed> {
    let field = bytes
        .get(at..)
        .and_then(<[u8]>::first_chunk)
        .ok_or(Malformed)?;
    Ok(u32::from_ne_bytes(*field))
}

fn u16_at(bytes: &[u8], at: usize) -> Result<u16, Malformed> {
    let field = bytes
        .get(at..)
        .and_then(<[u8]>::first_chunk)
        .ok_or(Malformed)?;
    Ok(u16::from_ne_bytes(*field))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn message(kind: u16, flags: u16, payload: &[u8]) -> Vec<u8> {
        let len = u32::try_from(HEADER_LEN + payload.len()).unwrap();
        let mut bytes = len.to_ne_bytes().to_vec();
        bytes.extend(kind.to_ne_bytes());
        bytes.extend(flags.to_ne_bytes());
        bytes.extend(7u32.to_ne_bytes());
        bytes.extend([0; 4]);
        bytes.extend(payload);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

    fn bodies(datagram: &[u8]) -> Vec<Result<Body<'_>, Malformed>> {
        Messages::new(datagram).map(|m| m.map(|m| m.body)).collect()
    }

    #[test]
    fn acknowledgements_and_refusals_are_told_apart() {
        let mut refused = (-17i32).to_ne_bytes().to_vec();
        refused.extend([0; HEADER_LEN]);
        refused.extend([8, 0, 2, 0]);
        refused.extend(36u32.to_ne_bytes());
        let mut datagram = message(TYPE_ERROR, FLAG_CAPPED | FLAG_ACK_TLVS, &refused);
        datagram.extend(message(TYPE_ERROR, FLAG_CAPPED, &[0; 20]));
        let refusal = Refusal {
            errno: 17,
            text: None,
            offset: Some(36),
        };
        assert_eq!(
            bodies(&datagram),
            [Ok(Body::Refused(refusal)), Ok(Body::Ack)]
        );
    }

    #[test]
    fn an_object_has_its_attributes_after_the_netfilter_header() {
        let datagram = message(0x0a00, 0, &[1, 0, 0, 0, 9, 9]);
        assert_eq!(
            bodies(&datagram),
            [Ok(Body::Object {
                kind: 0x0a00,
                attrs: &[9, 9]
            })]
        );
    }

    #[test]
    fn a_length_past_the_end_is_malformed() {
        let mut datagram = message(TYPE_DONE, 0, &[0; 4]);
        datagram[0] = 200;
        assert_eq!(bodies(&datagram), [Err(Malformed)]);
    }

    proptest! {
        #[test]
        fn random_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            prop_assert!(Messages::new(&bytes).count() <= bytes.len() / HEADER_LEN + 1);
        }

        #[test]
        fn random_payloads_never_panic(
            kind in 0u16..20,
            flags in any::<u16>(),
            payload in prop::collection::vec(any::<u8>(), 0..100),
        ) {
            let datagram = message(kind, flags, &payload);
            prop_assert!(Messages::new(&datagram).count() >= 1);
        }
    }
}
