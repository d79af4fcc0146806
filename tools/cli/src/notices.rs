//! What the engine says beside its results, on standard error: that a setting of a model is not known, that a device is
//! lost. The engine tells it to whoever listens (the crate `tracing`); this listens.

use std::fmt::{Debug, Write as _};

use tracing::field::{Field, Visit};
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
        of.is_event() && *of.level() <= self.level && of.target().starts_with("ropeway")
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        Some(self.level)
    }

    fn event(&self, event: &Event<'_>) {
        let mut words = Words::default();
        event.record(&mut words);
        let kind = match *event.metadata().level() {
            Level::ERROR => "error: ",
            Level::WARN => "warning: ",
            _ => "",
        };
        note(&format!("{kind}{}{}", words.message, words.values));
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

/// An event's message, and its values behind it: ` (path: a/b, limit: 3)`.
#[derive(Default)]
struct Words {
    message: String,
    values: String,
}

impl Words {
    fn add(&mut self, field: &Field, value: std::fmt::Arguments<'_>) {
        if field.name() == "message" {
            let _ = write!(self.message, "{value}");
            return;
        }
        // The closing bracket moves on.
        let start = match self.values.pop() {
            None => " (",
            Some(_) => ", ",
        };
        let _ = write!(self.values, "{start}{}: {value})", field.name());
    }
}

impl Visit for Words {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.add(field, format_args!("{value:?}"));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.add(field, format_args!("{value}"));
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.add(field, format_args!("{value:.3}"));
    }
}
