//! Application error codes (RFC 9000 section 20.2): why one of us closed a connection or ended a
//! stream early. They are part of the wire format.

use quinn::VarInt;

/// The agent shuts down, or a stream is no longer wanted. QUIC libraries use 0 by themselves.
pub(super) const CLOSING: VarInt = VarInt::from_u32(0);
/// A frame that makes no sense.
pub(super) const BAD_FRAME: VarInt = VarInt::from_u32(1);
/// At one of our limits; nothing was done.
pub(super) const OVERLOADED: VarInt = VarInt::from_u32(2);
/// This caller may not do this; nothing was done.
pub(super) const REFUSED: VarInt = VarInt::from_u32(3);
/// Connections with this node are not wanted any more, or an older one makes room.
pub(super) const DISCONNECTED: VarInt = VarInt::from_u32(4);
/// A stranger took too long.
pub(super) const EXPIRED: VarInt = VarInt::from_u32(5);
/// Whoever wanted the answer gave up.
pub(super) const CANCELLED: VarInt = VarInt::from_u32(6);
/// The request did not lead to an answer in time, or to one that is too large.
pub(super) const FAILED: VarInt = VarInt::from_u32(7);
/// No session with this member is wanted, yet or any more.
pub(super) const NOT_WANTED: VarInt = VarInt::from_u32(8);
/// Another session with the same member counts.
pub(super) const SUPERSEDED: VarInt = VarInt::from_u32(9);
/// This session ends so that a new one, with new secrets, follows.
pub(super) const RENEWED: VarInt = VarInt::from_u32(10);
