//! Writing to standard output and to the terminal: tables cut to its width, the progress bar.

use std::io::{self, IsTerminal, Write};
use std::time::Duration;

use console::{Term, measure_text_width, truncate_str};
use indicatif::{ProgressBar, ProgressStyle};

use ropeway::notices::is_unsafe;
use serde_json::Value;

use super::exit::{Exit, one_line, report_error, some_lines};

/// Writes all of it to standard output.
pub fn print(bytes: &[u8]) -> Result<(), Exit> {
    let mut out = io::stdout().lock();
    out.write_all(bytes)
        .and_then(|()| out.flush())
        .map_err(|e| Exit::output("standard output", &e))
}

/// Writes lines for people to standard output. Names from files and drivers may be in them: what a terminal would act on is
/// escaped.
pub fn print_text(text: &str) -> Result<(), Exit> {
    print(some_lines(text).as_bytes())
}

/// Writes an object in one line to standard output.
pub fn print_json(object: &Value) -> Result<(), Exit> {
    print(format!("{}\n", json_line(object)).as_bytes())
}

/// JSON that can be shown on a terminal as well: what it would act on is escaped as JSON has it, so that the value is the same.
pub fn json_line(object: &Value) -> String {
    let text = object.to_string();
    let mut line = String::with_capacity(text.len());
    for c in text.chars() {
        match is_unsafe(c) {
            true => c
                .encode_utf16(&mut [0; 2])
                .iter()
                .for_each(|unit| line += &format!("\\u{unit:04x}")),
            false => line.push(c),
        }
    }
    line
}

/// Whether standard output is a terminal, so that a person reads it.
pub fn for_people() -> bool {
    io::stdout().is_terminal()
}

/// A table whose last column gets the room that is left.
pub struct Table {
    width: usize,
    rows: Vec<Vec<String>>,
    /// Columns that are numbers, and so end at the right.
    right: &'static [usize],
}

impl Table {
    /// A table with this head; the columns numbered in `right` are aligned to the right.
    pub fn new(head: &[&str], right: &'static [usize]) -> Table {
        let width = Term::stdout()
            .size_checked()
            .map_or(80, |(_, columns)| usize::from(columns));
        Table {
            width,
            rows: vec![head.iter().map(|name| (*name).to_owned()).collect()],
            right,
        }
    }

    /// Adds a row; its cells are put on one line each.
    pub fn row(&mut self, cells: Vec<String>) {
        self.rows.push(cells.iter().map(|cell| squeeze(cell)).collect());
    }

    /// The lines. Widths are those of the terminal: wide characters count two.
    pub fn lines(&self) -> String {
        let columns = self.rows[0].len();
        let last = columns - 1;
        let wide = |column: usize| {
            self.rows
                .iter()
                .map(|row| measure_text_width(&row[column]))
                .max()
                .unwrap_or(0)
        };
        let widths: Vec<usize> = (0..last).map(wide).collect();
        let used: usize = widths.iter().map(|width| width + 2).sum();
        // However narrow the terminal, some of the text is shown.
        let room = self.width.saturating_sub(used).max(20);
        let mut text = String::new();
        for row in &self.rows {
            for (column, width) in widths.iter().enumerate() {
                let blanks = " ".repeat(width.saturating_sub(measure_text_width(&row[column])));
                match self.right.contains(&column) {
                    true => text += &format!("{blanks}{}  ", row[column]),
                    false => text += &format!("{}{blanks}  ", row[column]),
                }
            }
            text += truncate_str(&row[last], room, "…").trim_end();
            text.push('\n');
        }
        text
    }
}

/// What is kept of a cell at most, in bytes: more than fits in a line of any terminal.
const LONGEST_CELL: usize = 4096;

/// Runs of white space and unsafe characters become one blank. Characters that join or part letters stay: words need them, and
/// emoji.
pub fn squeeze(text: &str) -> String {
    let mut line = String::with_capacity(text.len().min(LONGEST_CELL));
    for c in text.chars() {
        if line.len() >= LONGEST_CELL {
            line.push('…');
            break;
        }
        let joins = matches!(c, '\u{200c}' | '\u{200d}');
        match c.is_whitespace() || is_unsafe(c) && !joins {
            true if line.ends_with(' ') || line.is_empty() => {}
            true => line.push(' '),
            false => line.push(c),
        }
    }
    line.truncate(line.trim_end().len());
    line
}

/// Progress on standard error, where that is a terminal and nothing else is written to it.
pub struct Progress(Option<ProgressBar>);

impl Progress {
    /// A bar over `total` bytes, or a count where that is not known.
    pub fn new(shown: bool, total: Option<u64>) -> Progress {
        if !shown || !io::stderr().is_terminal() {
            return Progress(None);
        }
        let (bar, template) = match total {
            Some(total) => (
                ProgressBar::new(total),
                "{wide_bar} {percent:>3} % · {msg} · {eta} left",
            ),
            None => (
                ProgressBar::new_spinner(),
                "{spinner} {bytes} · {msg} · {elapsed}",
            ),
        };
        bar.set_style(
            ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar()),
        );
        bar.enable_steady_tick(Duration::from_millis(200));
        Progress(Some(bar))
    }

    /// So many bytes and inputs are done.
    pub fn set(&self, bytes: u64, inputs: u64) {
        if let Some(bar) = &self.0 {
            bar.set_position(bytes);
            bar.set_message(format!("{inputs} inputs"));
        }
    }

    /// Says what is being done, e.g. which file is downloaded.
    pub fn say(&self, what: &str, done: u64, total: u64) {
        if let Some(bar) = &self.0 {
            bar.set_length(total);
            bar.set_position(done);
            bar.set_message(one_line(what));
        }
    }

    /// Prints an error without tearing the bar.
    pub fn report_error(&self, message: &str) {
        match &self.0 {
            Some(bar) => bar.suspend(|| report_error(message)),
            None => report_error(message),
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(bar) = &self.0 {
            bar.finish_and_clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_are_cut_to_the_width_by_what_the_terminal_shows() {
        let mut table = Table {
            width: 30,
            ..Table::new(&["rank", "text"], &[0])
        };
        table.row(vec!["1".into(), "水温が低いと\n寒い。水温が低いと寒い。".into()]);
        table.row(vec!["10".into(), "short".into()]);
        let lines: Vec<String> = table.lines().lines().map(str::to_owned).collect();
        assert_eq!(lines[0], "rank  text");
        assert_eq!(lines[2], "  10  short");
        assert!(
            lines[1].ends_with('…') && measure_text_width(&lines[1]) <= 30,
            "{}",
            lines[1]
        );
    }

    #[test]
    fn json_is_the_same_value_and_safe_to_show() {
        let value = serde_json::json!({"a\u{9b}": "\u{1b}\u{202e}\u{e0041}\n é", "b": [1.5]});
        let line = json_line(&value);
        assert!(!line.chars().any(is_unsafe), "{line}");
        assert_eq!(serde_json::from_str::<Value>(&line).unwrap(), value);
    }

    #[test]
    fn squeezed_text_is_one_line() {
        assert_eq!(squeeze(" a\n\n b\t\u{7}c "), "a b c");
        assert_eq!(squeeze("a\u{9b}2Jb\u{202e}c\u{feff}d"), "a 2Jb c d");
        assert_eq!(
            squeeze("\u{645}\u{6cc}\u{200c}\u{62e}"),
            "\u{645}\u{6cc}\u{200c}\u{62e}"
        );
        let long = squeeze(&"x".repeat(1 << 20));
        assert!(long.len() < 5000 && long.ends_with('…'));
    }
}
