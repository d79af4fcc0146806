//! Tokens to the syntax tree: the module's level. Functions, variables and constants have files of their own.

mod body;
mod constant;
mod debug;
mod function;
mod initial;
mod operand;
mod scope;
mod variable;

use std::collections::HashMap;
use std::sync::Arc;

use super::ParseError;
use super::ast::{FunctionKind, Linkage, Module, Space};
use super::lexer::{Kind, Lexer, Token};

pub(super) type Result<T> = std::result::Result<T, ParseError>;

/// How deep parentheses, braces of operands and of initialisers may nest. Real texts stay below 8.
const DEEPEST: usize = 64;

pub(super) struct Parser<'a> {
    lexer: Lexer<'a>,
    /// The token to look at next.
    token: Token<'a>,
    /// Where the token before it stands.
    previous: usize,
    module: Module,
    symbols: HashMap<&'a str, Symbol>,
    strings: HashMap<&'a str, Arc<str>>,
    debug: debug::Debug<'a>,
    /// Symbols that initialisers refer to, which may be declared later.
    referenced: Vec<(&'a str, usize)>,
    /// Bytes that initialised arrays may still have beyond their listed elements.
    padding_left: usize,
}

/// What a name of the module's scope is: an index into the module's variables or functions.
#[derive(Debug, Clone, Copy)]
enum Symbol {
    Variable(u32),
    Function(u32),
}

impl<'a> Parser<'a> {
    pub fn new(text: &'a str) -> Result<Parser<'a>> {
        let mut lexer = Lexer::new(text);
        Ok(Parser {
            token: lexer.next()?,
            lexer,
            previous: 0,
            module: Module::default(),
            symbols: HashMap::new(),
            strings: HashMap::new(),
            debug: Default::default(),
            referenced: Vec::new(),
            padding_left: initial::MOST_PADDING,
        })
    }

    /// The whole text.
    pub fn module(mut self) -> Result<Module> {
        if self.token.kind != Kind::Dot("version") {
            return Err(self.unexpected("`.version`, with which a PTX module begins"));
        }
        self.bump()?;
        self.version()?;
        while self.token.kind != Kind::End {
            self.module_item()?;
        }
        if self.module.target.is_empty() {
            return Err(self.unexpected("`.target`"));
        }
        for &(name, at) in &self.referenced {
            if !self.symbols.contains_key(name) {
                return Err(self.error(
                    at,
                    format!("no variable or function {} is declared", quoted(name)),
                ));
            }
        }
        self.debug.resolve(&mut self.module.locations);
        Ok(self.module)
    }

    fn module_item(&mut self) -> Result<()> {
        let Kind::Dot(name) = self.token.kind else {
            return Err(self.unexpected("a directive"));
        };
        match name {
            "target" => {
                self.bump()?;
                self.target()
            }
            "address_size" => {
                self.bump()?;
                let at = self.token.start;
                match self.unsigned("the address size, 64")? {
                    64 => Ok(()),
                    other => {
                        let message = format!("addresses of {other} bits are not supported: expected 64");
                        Err(self.error(at, message))
                    }
                }
            }
            "file" => self.file(),
            "section" => self.section(),
            "pragma" => self.pragma(),
            "version" => {
                Err(self.error_here("a second `.version`: expected one module in a text".to_string()))
            }
            _ => self.declaration(),
        }
    }

    /// A variable, a function or an entry, with its linkage.
    fn declaration(&mut self) -> Result<()> {
        if self.module.target.is_empty() {
            return Err(self.unexpected("`.target` before any declaration"));
        }
        let mut linkage = Linkage::Internal;
        if let Kind::Dot(name) = self.token.kind {
            linkage = match name {
                "extern" => Linkage::Extern,
                "visible" => Linkage::Visible,
                "weak" => Linkage::Weak,
                "common" => Linkage::Common,
                _ => Linkage::Internal,
            };
        }
        if linkage != Linkage::Internal {
            self.bump()?;
        }
        let Kind::Dot(name) = self.token.kind else {
            return Err(
                self.unexpected("`.global`, `.const`, `.shared`, `.func` or `.entry` after the linkage")
            );
        };
        match name {
            "global" => self.module_variables(Space::Global, linkage),
            "const" => self.module_variables(Space::Const, linkage),
            "shared" => self.module_variables(Space::Shared, linkage),
            "entry" => self.function(FunctionKind::Kernel, linkage),
            "func" => self.function(FunctionKind::Device, linkage),
            "tex" => Err(self.error_here("texture variables (`.tex`) are not supported".into())),
            "local" => Err(self.error_here("`.local` variables outside functions are not supported".into())),
            "param" => {
                Err(self.error_here("`.param` variables belong into functions and their signatures".into()))
            }
            "reg" => Err(self.error_here("registers belong into functions".into())),
            "alias" => Err(self.error_here("`.alias` is not supported".into())),
            _ if linkage != Linkage::Internal => {
                Err(self.unexpected("`.global`, `.const`, `.shared`, `.func` or `.entry` after the linkage"))
            }
            _ => Err(self.unknown_directive(name)),
        }
    }

    /// `9.0`, behind `.version`.
    fn version(&mut self) -> Result<()> {
        let Kind::Number(text) = self.token.kind else {
            return Err(self.unexpected("a version such as `9.0`"));
        };
        let version = text
            .split_once('.')
            .and_then(|(major, minor)| Some((major.parse().ok()?, minor.parse().ok()?)));
        let Some(version) = version else {
            return Err(self.unexpected("a version such as `9.0`"));
        };
        self.module.version = version;
        self.bump()
    }

    /// `sm_90a, debug`, behind `.target`. Only the first name says something about the code.
    fn target(&mut self) -> Result<()> {
        let target = self.word("an architecture such as `sm_80`")?;
        if self.module.target.is_empty() {
            self.module.target = target.to_string();
        }
        while self.take(b',')? {
            self.word("another target option")?;
        }
        Ok(())
    }

    /// `.pragma "…", "…";`: hints for ptxas, which say nothing about the result.
    fn pragma(&mut self) -> Result<()> {
        self.bump()?;
        loop {
            let Kind::Text(_) = self.token.kind else {
                return Err(self.unexpected("a string after `.pragma`"));
            };
            self.bump()?;
            if !self.take(b',')? {
                return self.expect(b';', "after the pragma");
            }
        }
    }

    /// Goes to the next token.
    fn bump(&mut self) -> Result<()> {
        self.previous = self.token.start;
        self.token = self.lexer.next()?;
        Ok(())
    }

    /// What follows the next token.
    fn peek(&self) -> Result<Kind<'a>> {
        Ok(self.lexer.clone().next()?.kind)
    }

    /// Goes past a mark if it is next.
    fn take(&mut self, mark: u8) -> Result<bool> {
        let found = self.token.kind == Kind::Mark(mark);
        if found {
            self.bump()?;
        }
        Ok(found)
    }

    /// Goes past a mark that must be next. `place` says where, for the message.
    fn expect(&mut self, mark: u8, place: &str) -> Result<()> {
        if self.token.kind != Kind::Mark(mark) {
            return Err(self.unexpected(&format!("`{}` {place}", mark as char)));
        }
        self.bump()
    }

    /// Goes past a word that must be next, and returns it.
    fn word(&mut self, expected: &str) -> Result<&'a str> {
        let Kind::Word(word) = self.token.kind else {
            return Err(self.unexpected(expected));
        };
        self.bump()?;
        Ok(word)
    }

    /// A word that is the name of something, which `_` is not.
    fn name(&mut self, expected: &str) -> Result<&'a str> {
        if self.token.kind == Kind::Word("_") {
            return Err(self.unexpected(expected));
        }
        self.word(expected)
    }

    /// One copy of each string of the text.
    fn intern(&mut self, text: &'a str) -> Arc<str> {
        self.strings.entry(text).or_insert_with(|| text.into()).clone()
    }

    fn error(&self, at: usize, message: String) -> ParseError {
        self.lexer.error(at, message)
    }

    fn error_here(&self, message: String) -> ParseError {
        self.error(self.token.start, message)
    }

    /// An error about the next token, where something else is expected.
    fn unexpected(&self, expected: &str) -> ParseError {
        let found = match self.token.kind {
            Kind::Word(text) | Kind::Number(text) => quoted(text),
            Kind::Dot(text) => quoted(&format!(".{text}")),
            Kind::Text(_) => "a string".to_string(),
            Kind::Mark(mark) => format!("`{}`", mark as char),
            Kind::Double([first, second]) => format!("`{}{}`", first as char, second as char),
            Kind::End => "the end of the text".to_string(),
        };
        self.error_here(format!("expected {expected}, found {found}"))
    }

    fn unknown_directive(&self, name: &str) -> ParseError {
        self.error_here(format!("unknown directive {}", quoted(&format!(".{name}"))))
    }
}

/// A part of the text for a message: in backquotes, and not too long.
fn quoted(text: &str) -> String {
    const LONGEST: usize = 60;
    let mut chars = text.chars();
    let mut shown: String = chars.by_ref().take(LONGEST).collect();
    if chars.next().is_some() {
        shown.push('…');
    }
    format!("`{shown}`")
}
