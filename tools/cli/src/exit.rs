//! How a run ends: exit codes, and errors in one line on standard error.

use std::borrow::Cow;
use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;

use ropeway::notices::is_unsafe;

use crate::device;

/// Some inputs failed, the others were done.
pub const INPUTS: u8 = 1;
/// Wrong usage or options, or the model could not be opened.
pub const USAGE: u8 = 2;
/// The output could not be written.
pub const OUTPUT: u8 = 3;
/// The device failed.
pub const DEVICE: u8 = 4;

/// Why a run ends before its end, or with something to tell.
#[derive(Debug)]
pub struct Exit {
    code: u8,
    /// Empty: end quietly.
    message: String,
}

impl Exit {
    /// Wrong usage or options.
    pub fn usage(message: impl Into<String>) -> Exit {
        Exit {
            code: USAGE,
            message: message.into(),
        }
    }

    /// Some inputs failed.
    pub fn inputs(message: impl Into<String>) -> Exit {
        Exit {
            code: INPUTS,
            message: message.into(),
        }
    }

    /// An input's error: the device's exit code if the device failed, else `code`.
    pub fn of_input(error: ropeway::Error, code: u8) -> Exit {
        Exit {
            code: if device::failed(&error) { DEVICE } else { code },
            message: error.to_string(),
        }
    }

    /// With this code, and no message: it has been told.
    pub fn quietly(code: i32) -> Exit {
        Exit {
            code: u8::try_from(code).unwrap_or(USAGE),
            message: String::new(),
        }
    }

    /// The output cannot be written. A reader that has had enough is no error.
    pub fn output(name: &str, error: &io::Error) -> Exit {
        match error.kind() {
            io::ErrorKind::BrokenPipe => Exit {
                code: 0,
                message: String::new(),
            },
            _ => Exit {
                code: OUTPUT,
                message: format!("{name}: {error}"),
            },
        }
    }

    /// The output file cannot be written.
    pub fn output_file(path: &Path, error: &io::Error) -> Exit {
        Exit::output(&path.display().to_string(), error)
    }

    /// Adds to the message what the user can do.
    pub fn hint(mut self, hint: &str) -> Exit {
        if !self.message.is_empty() {
            self.message.push_str("; ");
            self.message.push_str(hint);
        }
        self
    }

    /// Prints the message and gives the exit code.
    pub fn report(self) -> ExitCode {
        if !self.message.is_empty() {
            report_error(&self.message);
        }
        ExitCode::from(self.code)
    }
}

impl From<anyhow::Error> for Exit {
    fn from(error: anyhow::Error) -> Exit {
        let failed = error.downcast_ref().is_some_and(device::failed);
        Exit {
            code: if failed { DEVICE } else { USAGE },
            message: format!("{error:#}"),
        }
    }
}

impl From<ropeway::Error> for Exit {
    fn from(error: ropeway::Error) -> Exit {
        Exit::of_input(error, USAGE)
    }
}

/// What went wrong.
pub fn message(exit: &Exit) -> &str {
    &exit.message
}

/// The exit code of a command's result; an error is printed.
pub fn code(result: Result<(), Exit>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(exit) => exit.report(),
    }
}

/// Prints an error on standard error, in one line.
pub fn report_error(message: &str) {
    // Where even standard error is closed there is nobody left to tell.
    let line = shown(message);
    let _ = writeln!(io::stderr().lock(), "ropeway: error: {line}");
}

/// Writes what the user may want to know to standard error, in one line.
pub fn note(message: &str) {
    let line = shown(message);
    let _ = writeln!(io::stderr().lock(), "ropeway: {line}");
}

/// A message without its middle where it is too long to be read: it may quote an input of any length.
pub fn shortened(message: &str) -> Cow<'_, str> {
    const HEAD: usize = 2048;
    const TAIL: usize = 1024;
    if message.len() <= HEAD + TAIL {
        return message.into();
    }
    let (head, _) = message.split_at(character_start(message, HEAD));
    let (_, tail) = message.split_at(character_start(message, message.len() - TAIL));
    format!("{head} … {tail}").into()
}

/// The last place up to this byte where a character starts.
pub fn character_start(text: &str, byte: usize) -> usize {
    (0..=byte)
        .rev()
        .find(|&at| text.is_char_boundary(at))
        .unwrap_or(0)
}

/// Line breaks and other unsafe characters become visible escapes.
pub fn one_line(message: &str) -> String {
    escaped(message, is_unsafe)
}

/// The same of a text of several lines: what ends lines as text does stays.
pub fn some_lines(text: &str) -> String {
    escaped(text, |c| c != '\n' && is_unsafe(c))
}

fn escaped(text: &str, is_escaped: impl Fn(char) -> bool) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match is_escaped(c) {
            true => escaped.extend(c.escape_default()),
            false => escaped.push(c),
        }
    }
    escaped
}

/// A name or a text from a file, as people may see it: in one line, and without its middle where it is long.
pub fn shown(text: &str) -> String {
    one_line(&shortened(text))
}

/// clap's message in one line: what is wrong, its tips, and where help is.
pub fn one_line_usage(error: &clap::Error) -> String {
    let text = error.render().to_string();
    let mut parts = Vec::new();
    let mut command = None;
    for line in text.lines().map(str::trim).filter(|line| !line.is_empty()) {
        if let Some(usage) = line.strip_prefix("Usage: ") {
            let words = usage.split_whitespace();
            let names = words.take_while(|word| word.starts_with(|c: char| c.is_ascii_lowercase()));
            command = Some(names.collect::<Vec<_>>().join(" "));
        } else if !line.starts_with("For more information") {
            parts.push(
                line.strip_prefix("error: ")
                    .or_else(|| line.strip_prefix("tip: "))
                    .unwrap_or(line),
            );
        }
    }
    let command = command.unwrap_or_else(|| "ropeway".into());
    format!("{} (see `{command} --help`)", parts.join("; "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_one_line() {
        assert_eq!(one_line("a\nb\tc\u{1b}[0m é 漢"), "a\\nb\\tc\\u{1b}[0m é 漢");
        // C1 controls, and a file's name that would read backwards.
        assert_eq!(
            one_line("\u{9b}31m \u{202e}txt.exe \u{2028}"),
            "\\u{9b}31m \\u{202e}txt.exe \\u{2028}"
        );
        // What nobody sees.
        assert_eq!(
            one_line("a\u{200b}b\u{feff}\u{ad}"),
            "a\\u{200b}b\\u{feff}\\u{ad}"
        );
        assert_eq!(
            some_lines("a\nb\r\u{1b}[0m\u{200b}\n"),
            "a\nb\\r\\u{1b}[0m\\u{200b}\n"
        );
    }

    #[test]
    fn long_messages_lose_their_middle() {
        let message = format!("é: {}; the way out: ü", "é".repeat(1 << 20));
        let short = shortened(&message);
        assert!(short.len() < 4096 && short.starts_with("é: éé") && short.ends_with("; the way out: ü"));
        assert_eq!(shortened("short"), "short");
    }

    #[test]
    fn a_broken_pipe_is_quiet_and_a_full_disk_is_not() {
        let pipe = Exit::output("standard output", &io::ErrorKind::BrokenPipe.into());
        assert_eq!((pipe.code, pipe.hint("x").message.as_str()), (0, ""));
        let full = Exit::output("out", &io::Error::from(io::ErrorKind::StorageFull)).hint("free some");
        assert_eq!(full.code, OUTPUT);
        assert!(full.message.starts_with("out: ") && full.message.ends_with("; free some"));
    }
}
