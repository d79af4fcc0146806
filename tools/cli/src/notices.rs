//! What the engine says beside its results, on standard error: that a setting of a model is not known, that a device is
//! lost. The engine tells it to whoever listens (the crate `tracing`); this listens.

use ropeway::notices;
use tracing::level_filters::LevelFilter;
use tracing::{Event, Level, Metadata, Subscriber, span, subscriber};

use crate::exit::note;

/// Prints what is at least as grave as `level` from here on, each in one line.
pub fn show(level: LevelFilter) {
    // A second one would be refused, and is the same.
    let _ = subscriber::set_global_default(Notices { level });
}

struct Notices {
    level: LevelFilter,
}

impl Subscriber for Notices {
    fn enabled(&self, of: &Metadata<'_>) -> bool {
        *of.level() <= self.level && notices::is_ours(of)
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        Some(self.level)
    }

    fn event(&self, event: &Event<'_>) {
        let kind = match *event.metadata().level() {
            Level::ERROR => "error: ",
            Level::WARN => "warning: ",
            _ => "",
        };
        note(&format!("{kind}{}", notices::text(event)));
    }

    // No span is enabled.
    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }
    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}
    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}
    fn enter(&self, _: &span::Id) {}
    fn exit(&self, _: &span::Id) {}
}
