//! Why a service gives no result.

use std::time::Duration;

use crate::error::Error;

/// Why a service gives no result.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServiceError {
    /// The queue is full. Nothing was computed; the request can be sent again.
    #[error("too many requests wait; send this one again in {retry_after:.3?}")]
    Overloaded {
        /// After this time there should be room.
        retry_after: Duration,
    },
    /// The deadline cannot be met. Nothing was computed.
    #[error(
        "the deadline cannot be met: the result would take {needs:.3?}; allow more time, or send it when less waits"
    )]
    Unreachable {
        /// The predicted time from the submission to the result.
        needs: Duration,
    },
    /// The deadline passed, or could no longer be met, while the request waited.
    #[error("the deadline passed while the request waited; allow more time, or send it when less waits")]
    Expired,
    /// The service stopped before the request was computed.
    #[error("the service is stopped; start another")]
    Stopped,
    /// The engine's error for this request.
    #[error(transparent)]
    Engine(#[from] Error),
}
