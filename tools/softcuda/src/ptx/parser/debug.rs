//! `.file`, `.loc` and `.section`: where instructions come from.
//!
//! `.loc 1 5 5, function_name $L__info_string1, inlined_at 1 8 5` says that what follows is line 5 of a function
//! inlined at line 8. Line 8 may be in an inlined function itself: the position named is that of an earlier `.loc`,
//! the latest one with this position, which says where *it* was inlined.

use std::collections::HashMap;
use std::sync::Arc;

use super::super::ast::{Loc, Location};
use super::super::lexer::Kind;
use super::{Parser, Result};

/// A function's name as `.loc` has it: a label of `.debug_str` (none for the section's begin), and an offset.
type NameRef<'a> = (Option<&'a str>, i64);

/// File, line and column.
type Position = (u32, u32, u32);

#[derive(Default)]
pub(super) struct Debug<'a> {
    /// What is in the module's table of locations already.
    known: HashMap<(Position, Option<NameRef<'a>>, Option<Loc>), Loc>,
    /// For each location, the name to find when `.debug_str` is known, which is behind the functions.
    names: Vec<Option<NameRef<'a>>>,
    /// This function's latest location at each position.
    latest: HashMap<Position, Loc>,
    /// `.debug_str`: its bytes, and where its labels point.
    strings: Vec<u8>,
    labels: HashMap<&'a str, usize>,
}

impl Debug<'_> {
    /// To be called where a function begins.
    pub fn begin_function(&mut self) {
        self.latest.clear();
    }

    /// Puts the functions' names into the locations.
    pub fn resolve(&self, locations: &mut [Location]) {
        let mut found: HashMap<usize, Option<Arc<str>>> = HashMap::new();
        for (location, name) in locations.iter_mut().zip(&self.names) {
            if let Some(start) = name.and_then(|name| self.start_of(name)) {
                location.function = found
                    .entry(start)
                    .or_insert_with(|| self.string_at(start))
                    .clone();
            }
        }
    }

    fn start_of(&self, (label, offset): NameRef) -> Option<usize> {
        let base = match label {
            Some(label) => *self.labels.get(label)?,
            None => 0,
        };
        base.checked_add_signed(offset.try_into().ok()?)
    }

    fn string_at(&self, start: usize) -> Option<Arc<str>> {
        // Only whole strings are names: suffixes of one long string would be a text's square in bytes.
        if start > 0 && self.strings.get(start - 1) != Some(&0) {
            return None;
        }
        let bytes = self.strings.get(start..)?;
        let length = bytes.iter().position(|&byte| byte == 0)?;
        Some(String::from_utf8_lossy(&bytes[..length]).into())
    }
}

impl<'a> Parser<'a> {
    /// `.file 1 "path"`; a time and a size may be behind it.
    pub(super) fn file(&mut self) -> Result<()> {
        self.bump()?;
        let number = self.unsigned32("the file's number")?;
        let Kind::Text(path) = self.token.kind else {
            return Err(self.unexpected("the file's path in quotes"));
        };
        self.bump()?;
        while self.take(b',')? {
            self.unsigned("the file's time or size")?;
        }
        let path = self.intern(path);
        self.module.files.push((number, path));
        Ok(())
    }

    fn position(&mut self) -> Result<Position> {
        Ok((
            self.unsigned32("a file's number")?,
            self.unsigned32("a line's number")?,
            self.unsigned32("a column's number")?,
        ))
    }

    /// `.loc`: the location of the instructions behind it.
    pub(super) fn loc(&mut self) -> Result<Loc> {
        self.bump()?;
        let position = self.position()?;
        let mut name = None;
        let mut inlined_at = None;
        while self.take(b',')? {
            match self.token.kind {
                Kind::Word("function_name") => {
                    self.bump()?;
                    let label = match self.token.kind {
                        Kind::Word(label) => Some(label),
                        Kind::Dot("debug_str") => None,
                        _ => return Err(self.unexpected("a label of `.debug_str` after `function_name`")),
                    };
                    self.bump()?;
                    let offset = if self.take(b'+')? { self.integer_term()? } else { 0 };
                    name = Some((label, offset));
                }
                Kind::Word("inlined_at") => {
                    self.bump()?;
                    let call = self.position()?;
                    inlined_at = Some(match self.debug.latest.get(&call) {
                        Some(&loc) => loc,
                        // Nothing is known about the call but its position.
                        None => self.location(call, None, None),
                    });
                }
                _ => return Err(self.unexpected("`function_name` or `inlined_at`")),
            }
        }
        let loc = self.location(position, name, inlined_at);
        self.debug.latest.insert(position, loc);
        Ok(loc)
    }

    /// The number of a location, a new one if need be.
    fn location(&mut self, position: Position, name: Option<NameRef<'a>>, inlined_at: Option<Loc>) -> Loc {
        let Parser { debug, module, .. } = self;
        *debug
            .known
            .entry((position, name, inlined_at))
            .or_insert_with(|| {
                let (file, line, column) = position;
                module.locations.push(Location {
                    file,
                    line,
                    column,
                    function: None,
                    inlined_at,
                });
                debug.names.push(name);
                Loc(module.locations.len() as u32 - 1)
            })
    }

    /// `.section .debug_str { … }`, which is read; other sections are for debuggers.
    pub(super) fn section(&mut self) -> Result<()> {
        self.bump()?;
        let (Kind::Dot(name) | Kind::Word(name)) = self.token.kind else {
            return Err(self.unexpected("the section's name"));
        };
        self.bump()?;
        self.expect(b'{', "before the section's contents")?;
        if name == "debug_str" {
            return self.debug_strings();
        }
        let mut open = 1;
        while open > 0 {
            match self.token.kind {
                Kind::Mark(b'{') => open += 1,
                Kind::Mark(b'}') => open -= 1,
                Kind::End => return Err(self.unexpected("`}` after the section's contents")),
                _ => {}
            }
            self.bump()?;
        }
        Ok(())
    }

    fn debug_strings(&mut self) -> Result<()> {
        while !self.take(b'}')? {
            match self.token.kind {
                Kind::Word(label) => {
                    self.bump()?;
                    self.expect(b':', "after a label of `.debug_str`")?;
                    self.debug.labels.insert(label, self.debug.strings.len());
                }
                Kind::Dot(directive @ ("b8" | "b16" | "b32" | "b64")) => {
                    self.bump()?;
                    let size = match directive {
                        "b8" => 1,
                        "b16" => 2,
                        "b32" => 4,
                        _ => 8,
                    };
                    loop {
                        let value = self.integer()?;
                        self.debug.strings.extend(&value.to_le_bytes()[..size]);
                        if !self.take(b',')? {
                            break;
                        }
                    }
                }
                Kind::Dot(directive @ ("ascii" | "asciz" | "string")) => {
                    self.bump()?;
                    let Kind::Text(text) = self.token.kind else {
                        return Err(self.unexpected("a string in quotes"));
                    };
                    self.debug.strings.extend(unescaped(text));
                    if directive != "ascii" {
                        self.debug.strings.push(0);
                    }
                    self.bump()?;
                }
                _ => return Err(self.unexpected("a label, `.b8`, `.ascii` or `}` in `.debug_str`")),
            }
        }
        Ok(())
    }
}

/// The bytes of a string: `\000` and `\n` are a byte each.
fn unescaped(text: &str) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        rest = tail;
        if *first != b'\\' {
            bytes.push(*first);
            continue;
        }
        let digits = rest
            .iter()
            .take(3)
            .take_while(|byte| (b'0'..=b'7').contains(byte))
            .count();
        if digits > 0 {
            let value = rest[..digits]
                .iter()
                .fold(0u32, |value, digit| value * 8 + u32::from(digit - b'0'));
            bytes.push(value as u8);
            rest = &rest[digits..];
        } else if let [escaped, tail @ ..] = rest {
            bytes.push(match escaped {
                b'n' => b'\n',
                b't' => b'\t',
                other => *other,
            });
            rest = tail;
        }
    }
    bytes
}
