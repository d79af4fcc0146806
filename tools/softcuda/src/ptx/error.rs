//! The one error of parsing: what is wrong, and where.

use std::fmt;

/// Why a text is not a PTX module that this library takes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ParseError {
    /// Line of the text, from 1.
    pub line: u32,
    /// Character in the line, from 1.
    pub column: u32,
    /// What is wrong, and what was expected.
    pub message: String,
    /// The offending line, or the part of a long line around the error.
    source: String,
    /// Characters of `source` before the error.
    indent: usize,
}

/// Characters of the offending line to show on each side of the error.
const SHOWN: usize = 80;

impl ParseError {
    /// An error at a byte of the text.
    pub(super) fn new(text: &str, at: usize, message: String) -> ParseError {
        let mut at = at.min(text.len());
        while !text.is_char_boundary(at) {
            at -= 1;
        }
        let before = &text[..at];
        let start = before.rfind('\n').map_or(0, |newline| newline + 1);
        let end = text[at..].find('\n').map_or(text.len(), |newline| at + newline);
        let column = text[start..at].chars().count();
        let skipped = column.saturating_sub(SHOWN);
        let shown = |c: char| if c.is_control() { ' ' } else { c };
        ParseError {
            line: 1 + before.bytes().filter(|&byte| byte == b'\n').count() as u32,
            column: 1 + column as u32,
            message,
            source: text[start..at]
                .chars()
                .skip(skipped)
                .chain(text[at..end].trim_end().chars().take(SHOWN))
                .map(shown)
                .collect(),
            indent: column - skipped,
        }
    }
}

impl fmt::Display for ParseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ParseError {
            line,
            column,
            message,
            source,
            indent,
        } = self;
        let margin = line.to_string().len();
        writeln!(f, "PTX line {line}:{column}: {message}")?;
        writeln!(f, "{line} | {source}")?;
        write!(f, "{:margin$} | {:indent$}^", "", "")
    }
}

impl std::error::Error for ParseError {}
