//! Connection tracking time-outs as objects that rules give to flows.

use super::object::Object;
use crate::nfnetlink::attr::{Attr, AttrWriter, Attrs, Malformed};

/// `NFT_OBJECT_CT_TIMEOUT`.
pub(super) const TYPE_TIMEOUT: u32 = 7;

/// How long a flow is tracked without a packet, in some of its states; in the others as the
/// namespace's sysctls said when the object was made. It holds for flows that a rule gave it to with
/// their first packet, until it is deleted.
///
/// Linux with `CONFIG_NF_CONNTRACK_TIMEOUT`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Timeout {
    /// Its table.
    pub table: String,
    /// Its name.
    pub name: String,
    /// Transport protocol (`IPPROTO_*`) of the flows that it does anything to.
    pub protocol: u8,
    /// States with seconds. Read back, all there are.
    pub states: Vec<(FlowState, u32)>,
}

/// A state of a flow, by its protocol's number (linux/netfilter/nfnetlink_cttimeout.h
/// `enum ctattr_timeout_*`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlowState(pub u16);

impl FlowState {
    /// A TCP connection that both sides have opened and neither has ended.
    pub const TCP_ESTABLISHED: Self = Self(3);
    /// A flow of datagrams with no answer yet.
    pub const UDP_UNREPLIED: Self = Self(1);
    /// One with answers.
    pub const UDP_REPLIED: Self = Self(2);
}

impl Timeout {
    fn read_content(&mut self, content: Attr<'_>) -> Result<(), Malformed> {
        for attr in content.nested() {
            let attr = attr?;
            match attr.kind {
                2 => self.protocol = attr.u8()?,
                3 => {
                    for state in attr.nested() {
                        let state = state?;
                        self.states.push((FlowState(state.kind), state.u32()?));
                    }
                }
                _ => {}
            }
        }
        Ok(())
    }
}

impl Object for Timeout {
    fn write(&self, attrs: &mut AttrWriter) {
        attrs.string(1, &self.table);
        attrs.string(2, &self.name);
        attrs.u32(3, TYPE_TIMEOUT);
        attrs.nested(4, |content| {
            content.bytes(2, &[self.protocol]);
            content.nested(3, |states| {
                for (state, seconds) in &self.states {
                    states.u32(state.0, *seconds);
                }
            });
        });
    }

    fn read(attrs: Attrs<'_>) -> Result<Self, Malformed> {
        let mut timeout = Self {
            table: String::new(),
            name: String::new(),
            protocol: 0,
            states: Vec::new(),
        };
        for attr in attrs {
            let attr = attr?;
            match attr.kind {
                1 => timeout.table = attr.string(),
                2 => timeout.name = attr.string(),
                4 => timeout.read_content(attr)?,
                _ => {}
            }
        }
        Ok(timeout)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_timeout_is_read_as_it_was_written() {
        let timeout = Timeout {
            table: "weft-lb".to_owned(),
            name: "udp-300s".to_owned(),
            protocol: 17,
            states: vec![
                (FlowState::UDP_UNREPLIED, 300),
                (FlowState::UDP_REPLIED, 300),
            ],
        };
        let mut attrs = AttrWriter::default();
        timeout.write(&mut attrs);
        let bytes = attrs.finish().unwrap();
        assert_eq!(Timeout::read(Attrs::new(&bytes)), Ok(timeout));
    }
}
