//! PTX text to tokens, one at a time.

use super::ParseError;

/// A token, and where it stands.
#[derive(Debug, Clone, Copy)]
pub(super) struct Token<'a> {
    pub kind: Kind<'a>,
    /// Byte offset in the text.
    pub start: usize,
    /// Line of the text, from 1.
    pub line: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind<'a> {
    /// An identifier or an opcode: `add`, `%r1`, `$L__BB0_2`, `_`.
    Word(&'a str),
    /// A directive, type or modifier, without its dot: `reg`, `L2::128B`, `1d`.
    Dot(&'a str),
    /// A literal that begins with a digit, as written; whether it is a number is seen when it is read.
    Number(&'a str),
    /// What stands between double quotes.
    Text(&'a str),
    /// A punctuation character.
    Mark(u8),
    /// An operator of two characters: `<<`, `>>`, `<=`, `>=`, `==`, `!=`, `&&`, `||`.
    Double([u8; 2]),
    /// The end of the text.
    End,
}

#[derive(Clone)]
pub(super) struct Lexer<'a> {
    text: &'a str,
    at: usize,
    line: u32,
}

/// Whether a byte may go on a word.
const fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'$'
}

impl<'a> Lexer<'a> {
    pub fn new(text: &'a str) -> Lexer<'a> {
        Lexer { text, at: 0, line: 1 }
    }

    /// An error at a byte of the text.
    pub fn error(&self, at: usize, message: String) -> ParseError {
        ParseError::new(self.text, at, message)
    }

    /// Makes the next token begin at an earlier byte of this line.
    pub fn rewind(&mut self, at: usize) {
        self.at = at;
    }

    /// A part of the text between two tokens' bounds.
    pub fn between(&self, start: usize, end: usize) -> &'a str {
        &self.text[start..end]
    }

    fn byte(&self, at: usize) -> u8 {
        // NUL is no part of any token, so it serves as the byte past the end.
        self.text.as_bytes().get(at).copied().unwrap_or(0)
    }

    /// The next token; after the end, always [`Kind::End`].
    pub fn next(&mut self) -> Result<Token<'a>, ParseError> {
        self.skip_blanks()?;
        let (start, line) = (self.at, self.line);
        let kind = match self.byte(start) {
            0 if start >= self.text.len() => Kind::End,
            b'a'..=b'z' | b'A'..=b'Z' | b'_' | b'$' | b'%' => {
                self.at += 1;
                self.skip_word();
                match &self.text[start..self.at] {
                    // As an operator: the remainder, in constant expressions.
                    "%" => Kind::Mark(b'%'),
                    word => Kind::Word(word),
                }
            }
            b'0'..=b'9' => Kind::Number(self.number()),
            b'.' => {
                self.at += 1;
                self.skip_word();
                while self.at > start + 1
                    && self.byte(self.at) == b':'
                    && self.byte(self.at + 1) == b':'
                    && is_word(self.byte(self.at + 2))
                {
                    self.at += 2;
                    self.skip_word();
                }
                if self.at == start + 1 {
                    return Err(self.error(start, "expected a directive or modifier after `.`".into()));
                }
                Kind::Dot(&self.text[start + 1..self.at])
            }
            b'"' => self.string()?,
            first @ (b'<' | b'>' | b'=' | b'!' | b'&' | b'|') => {
                let second = self.byte(start + 1);
                let double = match first {
                    b'<' | b'>' => second == first || second == b'=',
                    b'=' | b'!' => second == b'=',
                    _ => second == first,
                };
                self.at += 1 + usize::from(double);
                if double {
                    Kind::Double([first, second])
                } else {
                    Kind::Mark(first)
                }
            }
            mark @ (b'{' | b'}' | b'[' | b']' | b'(' | b')' | b',' | b';' | b':' | b'+' | b'-' | b'*'
            | b'/' | b'~' | b'^' | b'?' | b'@') => {
                self.at += 1;
                Kind::Mark(mark)
            }
            _ => {
                let found = self.text[start..].chars().next().unwrap_or_default();
                let message = format!("the character {found:?} cannot stand here");
                return Err(self.error(start, message));
            }
        };
        Ok(Token { kind, start, line })
    }

    /// Goes past blanks and comments.
    fn skip_blanks(&mut self) -> Result<(), ParseError> {
        let bytes = self.text.as_bytes();
        loop {
            match self.byte(self.at) {
                b'\n' => {
                    self.line += 1;
                    self.at += 1;
                }
                b' ' | b'\t' | b'\r' | 0x0b | 0x0c => self.at += 1,
                b'/' if self.byte(self.at + 1) == b'/' => {
                    // The newline stays, to be counted above.
                    let length = bytes[self.at..].iter().position(|&byte| byte == b'\n');
                    self.at = length.map_or(bytes.len(), |length| self.at + length);
                }
                b'/' if self.byte(self.at + 1) == b'*' => {
                    let Some(length) = self.text[self.at + 2..].find("*/") else {
                        return Err(self.error(self.at, "this comment has no end: expected `*/`".into()));
                    };
                    let end = self.at + 2 + length + 2;
                    self.line += bytes[self.at..end].iter().filter(|&&byte| byte == b'\n').count() as u32;
                    self.at = end;
                }
                _ => return Ok(()),
            }
        }
    }

    fn skip_word(&mut self) {
        while is_word(self.byte(self.at)) {
            self.at += 1;
        }
    }

    fn skip_digits(&mut self) {
        while self.byte(self.at).is_ascii_digit() {
            self.at += 1;
        }
    }

    fn number(&mut self) -> &'a str {
        let start = self.at;
        self.skip_digits();
        if self.byte(self.at) == b'.' && !is_word(self.byte(self.at + 1)) {
            // `1.`
            self.at += 1;
        } else if self.byte(self.at) == b'.' && self.byte(self.at + 1).is_ascii_digit() {
            self.at += 1;
            self.skip_digits();
        }
        // Only behind decimal digits: `0x1e+5` is a sum.
        if matches!(self.byte(self.at), b'e' | b'E')
            && matches!(self.byte(self.at + 1), b'+' | b'-')
            && self.byte(self.at + 2).is_ascii_digit()
        {
            self.at += 2;
        }
        self.skip_word();
        &self.text[start..self.at]
    }

    fn string(&mut self) -> Result<Kind<'a>, ParseError> {
        let start = self.at;
        self.at += 1;
        loop {
            match self.byte(self.at) {
                b'"' => break,
                b'\\' if self.byte(self.at + 1) != b'\n' && self.at + 1 < self.text.len() => self.at += 2,
                b'\n' => return Err(self.error(start, "this string has no end: expected `\"`".into())),
                _ if self.at >= self.text.len() => {
                    return Err(self.error(start, "this string has no end: expected `\"`".into()));
                }
                _ => self.at += 1,
            }
        }
        self.at += 1;
        // A backslash may have jumped into a character of several bytes, but quotes are where characters are.
        Ok(Kind::Text(&self.text[start + 1..self.at - 1]))
    }
}
