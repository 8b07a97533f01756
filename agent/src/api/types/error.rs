use serde::{Deserialize, Serialize};
use thiserror::Error;
use utoipa::ToSchema;
use weft_raft::command::{Refusal, RefusalKind};

/// Why a request was not carried out. Nothing was changed, unless the code is `timed_out` or
/// `failed`, where the message says what is known.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema, Error)]
#[error("{message}")]
pub struct ApiError {
    /// For programs.
    pub code: ErrorCode,
    /// For people: what was refused, why, and what would be accepted, in one line.
    pub message: String,
}

/// Kind of an [`ApiError`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ErrorCode {
    /// The request makes no sense in any state.
    Invalid,
    /// It names what does not exist.
    NotFound,
    /// It clashes with what exists.
    Conflict,
    /// What it would remove is used.
    InUse,
    /// Nothing is left to assign, or the agent has as many requests as it takes.
    Exhausted,
    /// The node is in no cluster.
    NotMember,
    /// The node is in a cluster already.
    AlreadyMember,
    /// Too few managers are reachable to decide anything.
    NoLeader,
    /// It did not happen in the time given; it may happen still.
    TimedOut,
    /// This version or this kernel cannot do it.
    Unsupported,
    /// The agent could not do what it should have been able to.
    Failed,
}

impl ErrorCode {
    /// All of them.
    pub const ALL: [Self; 11] = [
        Self::Invalid,
        Self::NotFound,
        Self::Conflict,
        Self::InUse,
        Self::Exhausted,
        Self::NotMember,
        Self::AlreadyMember,
        Self::NoLeader,
        Self::TimedOut,
        Self::Unsupported,
        Self::Failed,
    ];

    /// The HTTP status that carries it (RFC 9110 section 15).
    pub const fn http_status(self) -> u16 {
        match self {
            Self::Invalid => 400,
            Self::NotFound => 404,
            Self::Conflict | Self::InUse | Self::NotMember | Self::AlreadyMember => 409,
            Self::Failed => 500,
            Self::Unsupported => 501,
            Self::Exhausted | Self::NoLeader => 503,
            Self::TimedOut => 504,
        }
    }
}

impl ApiError {
    /// An error with its message.
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
        }
    }

    /// [`ErrorCode::Invalid`].
    pub fn invalid(message: impl Into<String>) -> Self {
        Self::new(ErrorCode::Invalid, message)
    }

    /// [`ErrorCode::NotFound`].
    pub fn not_found(message: impl Into<String>) -> Self {
        Self::new(ErrorCode::NotFound, message)
    }

    /// [`ErrorCode::Failed`].
    pub fn failed(message: impl Into<String>) -> Self {
        Self::new(ErrorCode::Failed, message)
    }

    /// What every verb but `init`, `join` and `status` is told on a node without a cluster.
    pub fn not_member() -> Self {
        Self::new(
            ErrorCode::NotMember,
            "this node is in no cluster; start one with 'weft init' or enter one with 'weft join'",
        )
    }
}

impl From<Refusal> for ApiError {
    fn from(refusal: Refusal) -> Self {
        let code = match refusal.kind {
            RefusalKind::Invalid => ErrorCode::Invalid,
            RefusalKind::NotFound => ErrorCode::NotFound,
            RefusalKind::Conflict | RefusalKind::Outdated => ErrorCode::Conflict,
            RefusalKind::InUse => ErrorCode::InUse,
            RefusalKind::Exhausted => ErrorCode::Exhausted,
        };
        Self::new(code, refusal.message)
    }
}
