//! What agents say to one another on the control port. Enums are only ever appended to; the codec
//! puts a version in front.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use ipnet::IpNet;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::command::{Outcome, Proposal, Refusal};
use crate::consensus::{
    AppendRequest, AppendResponse, RaftId, SnapshotMeta, TransferLeaderRequest, Vote, VoteRequest,
    VoteResponse,
};
use crate::control::{NumbersOf, Quorum};
use crate::model::{Availability, Change, NodeId, Revision, Role, ServiceId, View};

/// Asked in a call.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) enum Request {
    /// A stranger asks to be admitted. Any manager takes it.
    Join(Box<JoinAsk>),
    /// A manager passes on what a stranger asked it.
    RelayedJoin(Box<JoinAsk>),
    /// Replication and heartbeats.
    Append(AppendRequest),
    /// An election.
    Vote(VoteRequest),
    /// Whether an election would be won.
    PreVote(VoteRequest),
    /// A piece of a snapshot.
    Snapshot(Box<SnapshotPiece>),
    /// The leader hands over.
    TransferLeader(TransferLeaderRequest),
    /// A command for the leader.
    Propose(Arc<Proposal>),
    /// What a manager heard of nodes, for the leader.
    Reports(Vec<(NodeId, Report)>),
    /// What the ready nodes reported, from the leader.
    Applied,
    /// The join secret of a role, from the leader.
    Token(Role),
    /// Whether the manager is there and what it sees.
    Probe,
    /// Whether a membership without this Raft id is committed, from the leader.
    Removed(RaftId),
    /// What the node's own backends of a service have taken and answered.
    OwnNumbers(ServiceId),
    /// The same of all nodes but the one that asks, from a manager.
    ServiceNumbers(ServiceId),
}

/// Answers a [`Request`].
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) enum Response {
    /// To [`Request::Join`].
    Joined(Box<Joined>),
    /// To [`Request::Append`].
    Append(AppendResponse),
    /// To [`Request::Vote`] and [`Request::PreVote`].
    Vote(VoteResponse),
    /// To [`Request::Snapshot`]: so many bytes have been put together.
    SnapshotTaken(u64),
    /// To the last [`Request::Snapshot`].
    SnapshotInstalled(Vote),
    /// To [`Request::Propose`].
    Outcome(Outcome),
    /// To [`Request::Applied`].
    Applied(BTreeMap<NodeId, Revision>),
    /// To [`Request::Token`].
    Token(Secret),
    /// To [`Request::Probe`].
    Probe(ProbeAnswer),
    /// To [`Request::Removed`].
    Removed(bool),
    /// Done, with nothing to say.
    Done,
    /// Not done.
    Failed(Failure),
    /// To [`Request::OwnNumbers`] and [`Request::ServiceNumbers`].
    Numbers(NumbersOf),
}

/// Why a request was not carried out.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) enum Failure {
    /// The message cannot be read by this version.
    Undecodable(String),
    /// The caller may not ask for this.
    Unauthorised(String),
    /// Somebody else leads, as far as is known, and this is how many managers answer.
    NotLeader(Option<Leader>, Quorum),
    /// No token has this secret.
    WrongSecret,
    /// The state machine refused.
    Refused(Refusal),
    /// It did not work.
    Other(String),
}

/// Who leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Leader {
    /// Its id.
    pub(crate) node: NodeId,
    /// Its control address.
    pub(crate) addr: SocketAddr,
}

/// 128 secret bits; not printable.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Secret(pub(crate) [u8; 16]);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

/// See [`Request::Join`].
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct JoinAsk {
    /// From the join token.
    pub(crate) secret: Secret,
    /// Certificate request, PKCS #10 DER.
    pub(crate) csr: Blob,
    /// Wanted name.
    pub(crate) name: String,
    /// Control address.
    pub(crate) addr: SocketAddr,
    /// VTEP.
    pub(crate) data_path_addr: IpAddr,
    /// Bytes.
    pub(crate) underlay_mtu: u32,
    /// Prefixes that the host routes.
    pub(crate) host_routes: Vec<IpNet>,
    /// Wanted availability.
    pub(crate) availability: Availability,
    /// Agent version.
    pub(crate) version: String,
}

/// An admission.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Joined {
    /// Node certificate, DER.
    pub(crate) cert: Blob,
    /// CA certificate, DER.
    pub(crate) ca_cert: Blob,
    /// Raft id of a manager.
    pub(crate) raft_id: RaftId,
    /// The state that has the node in it.
    pub(crate) revision: Revision,
    /// All managers.
    pub(crate) managers: Vec<(NodeId, SocketAddr)>,
}

/// See [`Request::Snapshot`].
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct SnapshotPiece {
    /// Of the leader.
    pub(crate) vote: Vote,
    /// Describes the whole.
    pub(crate) meta: SnapshotMeta,
    /// Bytes of the whole.
    pub(crate) total: u64,
    /// Where this piece belongs.
    pub(crate) offset: u64,
    /// The piece.
    pub(crate) data: Blob,
}

/// What a node says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Report {
    /// What its kernel reflects.
    pub(crate) applied: Revision,
    /// Random for every start of its agent.
    pub(crate) start: u64,
    /// Counts up: with the same `start`, the larger one is newer, whichever way it took.
    pub(crate) sequence: u64,
}

/// See [`Request::Probe`].
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct ProbeAnswer {
    /// Who leads, as far as is known.
    pub(crate) leader: Option<Leader>,
    /// What the local view reflects.
    pub(crate) revision: Revision,
}

/// First frame of a stream.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) enum Opening {
    /// Follow the state from the revision that is reflected already.
    Watch {
        /// `None`: nothing is.
        from: Option<Revision>,
    },
}

/// Frames of a watch session from the manager.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) enum Down {
    /// A piece of an encoded [`View`]; the last one completes it.
    Snapshot {
        /// Whether another piece follows.
        more: bool,
        /// The piece.
        data: Blob,
    },
    /// Changed rows up to a revision.
    Changes {
        /// Reached with them.
        revision: Revision,
        /// The rows.
        changes: Arc<[Change]>,
    },
    /// The manager is there.
    Alive {
        /// Who leads, as far as it knows.
        leader: Option<Leader>,
        /// Whether it sees enough managers for the cluster to work.
        quorum: bool,
    },
    /// The session is not possible.
    Refused(Failure),
}

/// Frames of a watch session to the manager.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) enum Up {
    /// The node is there, and this is what its kernel reflects.
    Report(Report),
}

/// First frame of a connection for peering, each way. Messages follow as they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum PeerGreeting {
    /// From who dialled.
    Offer,
    /// From the other side.
    Accept,
}

/// Bytes that are encoded in one go, not one by one.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Blob(pub(crate) Vec<u8>);

impl fmt::Debug for Blob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.0.len())
    }
}

impl Serialize for Blob {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(&self.0)
    }
}

impl<'de> Deserialize<'de> for Blob {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Bytes;
        impl serde::de::Visitor<'_> for Bytes {
            type Value = Blob;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("bytes")
            }

            fn visit_bytes<E>(self, bytes: &[u8]) -> Result<Blob, E> {
                Ok(Blob(bytes.to_vec()))
            }

            fn visit_byte_buf<E>(self, bytes: Vec<u8>) -> Result<Blob, E> {
                Ok(Blob(bytes))
            }
        }
        deserializer.deserialize_byte_buf(Bytes)
    }
}

/// The pieces of a view, see [`Down::Snapshot`].
pub(crate) fn view_pieces(
    view: &View,
    piece: usize,
) -> Result<Vec<Down>, crate::codec::CodecError> {
    let bytes = crate::codec::encode(view)?;
    let pieces = bytes.len().div_ceil(piece);
    let piece_of = |(at, data): (usize, &[u8])| Down::Snapshot {
        more: at + 1 < pieces,
        data: Blob(data.to_vec()),
    };
    Ok(bytes.chunks(piece).enumerate().map(piece_of).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec;

    fn place<T: Serialize>(message: &T) -> u8 {
        codec::encode(message).unwrap()[2]
    }

    #[test]
    fn messages_keep_their_places_because_older_agents_know_them_by_those() {
        let secret = Secret([0; 16]);
        assert_eq!(place(&Request::Reports(Vec::new())), 8);
        assert_eq!(place(&Request::Applied), 9);
        assert_eq!(place(&Request::Token(Role::Worker)), 10);
        assert_eq!(place(&Request::Probe), 11);
        assert_eq!(place(&Request::Removed(0)), 12);
        let service = ServiceId::new([0; 10]);
        assert_eq!(place(&Request::OwnNumbers(service)), 13);
        assert_eq!(place(&Request::ServiceNumbers(service)), 14);
        assert_eq!(place(&Response::SnapshotTaken(0)), 3);
        assert_eq!(place(&Response::Applied(BTreeMap::new())), 6);
        assert_eq!(place(&Response::Token(secret)), 7);
        assert_eq!(place(&Response::Done), 10);
        assert_eq!(place(&Response::Failed(Failure::WrongSecret)), 11);
        assert_eq!(place(&Response::Numbers(NumbersOf::new())), 12);
        assert_eq!(place(&PeerGreeting::Offer), 0);
        assert_eq!(place(&PeerGreeting::Accept), 1);
        assert_eq!(place(&Failure::NotLeader(None, Quorum::default())), 2);
        assert_eq!(place(&Failure::Other(String::new())), 5);
        assert_eq!(
            place(&Down::Alive {
                leader: None,
                quorum: true
            }),
            2
        );
    }

    #[test]
    fn a_view_is_sent_in_pieces_that_make_it_up_again() {
        let view = View {
            revision: 7,
            ..View::default()
        };
        let pieces = view_pieces(&view, 3).unwrap();
        assert!(pieces.len() > 1);
        let mut whole = Vec::new();
        for (at, piece) in pieces.iter().enumerate() {
            let Down::Snapshot { more, data } = piece else {
                panic!("{piece:?}")
            };
            assert_eq!(*more, at + 1 < pieces.len());
            whole.extend_from_slice(&data.0);
        }
        assert_eq!(codec::decode::<View>(&whole).unwrap(), view);
    }

    #[test]
    fn secrets_are_not_printed() {
        assert_eq!(format!("{:?}", Secret([7; 16])), "Secret(..)");
    }
}
