//! For tests of what is said beside results.

use std::sync::{Arc, Mutex};

use tracing::{Event, Metadata, span};

use crate::notices;

/// Keeps what is said.
#[derive(Clone, Default)]
pub(super) struct Said(Arc<Mutex<Vec<String>>>);

impl Said {
    pub(super) fn texts(&self) -> Vec<String> {
        self.0.lock().unwrap().clone()
    }
}

impl tracing::Subscriber for Said {
    fn enabled(&self, of: &Metadata<'_>) -> bool {
        notices::is_ours(of)
    }
    fn event(&self, event: &Event<'_>) {
        self.0.lock().unwrap().push(notices::text(event));
    }
    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }
    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}
    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}
    fn enter(&self, _: &span::Id) {}
    fn exit(&self, _: &span::Id) {}
}
