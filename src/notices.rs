//! What the engine says beside its results, as text, for programs that listen to it without a crate that does: a setting of a
//! model that is not known, a device that is lost. It is told as events of the crate [`tracing`].

use std::fmt::{Arguments, Debug, Write as _};

use tracing::field::{Field, Visit};
use tracing::{Event, Metadata};

pub use crate::error::is_unsafe;

/// Whether this is of the engine's events, and not of a crate that it uses.
pub fn is_ours(of: &Metadata<'_>) -> bool {
    of.is_event() && of.target().starts_with("ropeway")
}

/// An event's message, and its values behind it: `a setting is not known (path: a/b, limit: 3)`.
///
/// A value may be a name from a file: whatever it holds, line ends too, is in the text. [`is_unsafe`] says which characters not
/// to show as they are.
pub fn text(event: &Event<'_>) -> String {
    let mut words = Words::default();
    event.record(&mut words);
    words.message + &words.values
}

#[derive(Default)]
struct Words {
    message: String,
    values: String,
}

impl Words {
    fn add(&mut self, field: &Field, value: Arguments<'_>) {
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
