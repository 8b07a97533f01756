use std::sync::atomic::{AtomicU64, Ordering};

use serde::{Deserialize, Serialize};

use super::frame::FrameError;

/// Declares the counters once, as atomics and as a value.
macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident),+ $(,)?) => {
        /// What the transport has done and refused since it was bound.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
        pub struct TransportCounters {
            $($(#[$doc])* pub $name: u64,)+
            /// Connections from others that are open now.
            pub inbound_open: u64,
            /// Connections that we keep open now.
            pub outbound_open: u64,
        }

        /// The counters while they are counting.
        #[derive(Debug, Default)]
        pub(super) struct Counters {
            $(pub(super) $name: Counter,)+
        }

        impl Counters {
            pub(super) fn read(&self) -> TransportCounters {
                TransportCounters {
                    $($name: self.$name.get(),)+
                    ..TransportCounters::default()
                }
            }
        }
    };
}

counters! {
    /// Connections from others whose handshake succeeded.
    accepted,
    /// Connections that we opened.
    dialled,
    /// Dials that failed, for whatever reason.
    dials_failed,
    /// Handshakes in which we refused a certificate or the protocol.
    refused_tls,
    /// Handshakes that others began and that came to nothing otherwise.
    handshakes_failed,
    /// Connections closed for a frame that ended early.
    closed_truncated,
    /// Connections closed for a frame over the limit.
    closed_oversized,
    /// Connections closed for a stream of unknown kind.
    closed_unknown_kind,
    /// Streams that strangers tried to open.
    refused_streams,
    /// Handshakes, connections, calls and streams refused at a limit.
    overload,
    /// Addresses that were asked to prove themselves first.
    retries,
    /// Calls of others that were answered.
    calls_served,
    /// Long-lived streams that others opened.
    streams_served,
    /// Calls of others whose request did not arrive in time or whose answer was not ready or not
    /// taken in time.
    calls_timed_out,
    /// Calls that we made.
    calls_made,
    /// Datagrams that are not QUIC; dropped.
    not_quic,
    /// Datagrams received.
    datagrams_received,
    /// UDP payload received.
    bytes_received,
    /// UDP payload sent.
    bytes_sent,
}

#[derive(Debug, Default)]
pub(super) struct Counter(AtomicU64);

impl Counter {
    pub(super) fn add(&self, count: u64) {
        self.0.fetch_add(count, Ordering::Relaxed);
    }

    pub(super) fn one(&self) {
        self.add(1);
    }

    fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

impl Counters {
    /// A connection is closed for this.
    pub(super) fn bad_frame(&self, error: FrameError) {
        match error {
            FrameError::Truncated => self.closed_truncated.one(),
            FrameError::Oversized { .. } => self.closed_oversized.one(),
            FrameError::UnknownKind(_) => self.closed_unknown_kind.one(),
        }
    }
}
