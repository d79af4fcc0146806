//! The names of a function: nested scopes, flattened.

use std::collections::HashMap;
use std::sync::Arc;

use super::super::ast::{LabelId, RegId, Register, Type, VarId};

/// What a name of a function is.
#[derive(Debug, Clone, Copy)]
pub(super) enum Local {
    Register(RegId),
    Variable(VarId),
    /// A `.global` or `.const` variable declared in a function: the module has it.
    Global(u32),
    Label(LabelId),
    /// The label of `.branchtargets`, `.callprototype` or `.calltargets`: an index into the function's list.
    Named(u32),
}

#[derive(Debug, Clone, Copy)]
struct Entry {
    /// How deep the scope is nested that declares the name; the function's own is 0.
    depth: usize,
    local: Local,
}

/// `%r<100>`, which declares `%r0` to `%r99`. A register of it is made when it is mentioned: the count costs nothing.
#[derive(Debug, Clone, Copy)]
struct Range {
    depth: usize,
    count: u32,
    ty: Type,
    /// The range with this prefix in the scopes outside: `%r10` is of it if this one has fewer registers.
    outer: Option<usize>,
}

/// A mention of a label, which may be declared later.
#[derive(Debug, Clone, Copy)]
pub(super) struct Mention<'a> {
    pub name: &'a str,
    /// Where it stands.
    pub at: usize,
    pub local: Option<Local>,
}

/// A scope: what it has to take back when it closes.
#[derive(Debug, Default)]
struct Scope<'a> {
    /// Names it declares, and what they were outside.
    names: Vec<(&'a str, Option<Entry>)>,
    /// Prefixes of the ranges it declares.
    ranges: Vec<&'a str>,
    /// Mentions of labels not known yet.
    pending: Vec<usize>,
}

/// A name is declared already in this scope.
pub(super) struct Duplicate;

pub(super) struct Names<'a> {
    entries: HashMap<&'a str, Entry>,
    /// The innermost range with each prefix, as an index into `all_ranges`.
    ranges: HashMap<&'a str, usize>,
    all_ranges: Vec<Range>,
    scopes: Vec<Scope<'a>>,
    pub registers: Vec<Register>,
    pub mentions: Vec<Mention<'a>>,
}

impl<'a> Names<'a> {
    pub fn new() -> Names<'a> {
        Names {
            entries: HashMap::new(),
            ranges: HashMap::new(),
            all_ranges: Vec::new(),
            scopes: vec![Scope::default()],
            registers: Vec::new(),
            mentions: Vec::new(),
        }
    }

    /// Open scopes within the function's own.
    pub fn depth(&self) -> usize {
        self.scopes.len() - 1
    }

    pub fn open(&mut self) {
        self.scopes.push(Scope::default());
    }

    /// Closes the innermost scope. Mentions that it cannot resolve go to the one around it, if there is one.
    pub fn close(&mut self) {
        let depth = self.depth();
        let Some(scope) = self.scopes.pop() else { return };
        for mention in scope.pending {
            let Mention { name, local, .. } = &mut self.mentions[mention];
            match self.entries.get(name) {
                Some(Entry {
                    depth: own,
                    local: found @ (Local::Label(_) | Local::Named(_)),
                }) if *own == depth => {
                    *local = Some(*found);
                }
                _ => {
                    if let Some(outer) = self.scopes.last_mut() {
                        outer.pending.push(mention);
                    }
                }
            }
        }
        for (name, outer) in scope.names.into_iter().rev() {
            match outer {
                Some(entry) => self.entries.insert(name, entry),
                None => self.entries.remove(name),
            };
        }
        for prefix in scope.ranges {
            if let Some(range) = self.ranges.remove(prefix)
                && let Some(outer) = self.all_ranges[range].outer
            {
                self.ranges.insert(prefix, outer);
            }
        }
    }

    /// Declares a name in the innermost scope.
    pub fn declare(&mut self, name: &'a str, local: Local) -> Result<(), Duplicate> {
        let depth = self.depth();
        let in_range = !self.scopes[depth].ranges.is_empty()
            && self.range_of(name).is_some_and(|range| range.depth == depth);
        if in_range || self.entries.get(name).is_some_and(|entry| entry.depth == depth) {
            return Err(Duplicate);
        }
        self.enter(name, depth, local);
        Ok(())
    }

    pub fn declare_register(&mut self, name: &'a str, ty: Type) -> Result<(), Duplicate> {
        self.declare(name, Local::Register(RegId(self.registers.len() as u32)))?;
        self.registers.push(Register {
            name: name.into(),
            ty,
        });
        Ok(())
    }

    /// Declares `prefix<count>`.
    pub fn declare_range(&mut self, prefix: &'a str, count: u32, ty: Type) -> Result<(), Duplicate> {
        let depth = self.depth();
        let outer = self.ranges.get(prefix).copied();
        if outer.is_some_and(|outer| self.all_ranges[outer].depth == depth) {
            return Err(Duplicate);
        }
        self.ranges.insert(prefix, self.all_ranges.len());
        self.all_ranges.push(Range {
            depth,
            count,
            ty,
            outer,
        });
        self.scopes[depth].ranges.push(prefix);
        Ok(())
    }

    /// What a name is here, except that a label that is not known yet may be meant.
    pub fn find(&mut self, name: &'a str) -> Option<Local> {
        let entry = self.entries.get(name).copied();
        // Only a scope further in than the name's own can shadow it by a range.
        let shadowable = match entry {
            Some(entry) => self.scopes[entry.depth + 1..]
                .iter()
                .any(|scope| !scope.ranges.is_empty()),
            None => true,
        };
        if shadowable
            && let Some(range) = self.range_of(name)
            && entry.is_none_or(|entry| entry.depth < range.depth)
        {
            let register = Local::Register(RegId(self.registers.len() as u32));
            self.registers.push(Register {
                name: Arc::from(name),
                ty: range.ty,
            });
            self.enter(name, range.depth, register);
            return Some(register);
        }
        entry.map(|entry| entry.local)
    }

    /// Notes a mention of a label and returns its number, which stands for the label until the function ends.
    pub fn mention(&mut self, name: &'a str, at: usize) -> usize {
        self.mentions.push(Mention {
            name,
            at,
            local: None,
        });
        let depth = self.depth();
        self.scopes[depth].pending.push(self.mentions.len() - 1);
        self.mentions.len() - 1
    }

    /// The count of registers that a name's prefix has here, for messages: `(%r, 100)` for `%r100`.
    pub fn range_beside(&self, name: &'a str) -> Option<(&'a str, u32)> {
        let prefix = name.trim_end_matches(|c: char| c.is_ascii_digit());
        if prefix == name {
            return None;
        }
        self.ranges
            .get(prefix)
            .map(|&range| (prefix, self.all_ranges[range].count))
    }

    fn enter(&mut self, name: &'a str, depth: usize, local: Local) {
        let outer = self.entries.insert(name, Entry { depth, local });
        self.scopes[depth].names.push((name, outer));
    }

    /// The innermost range that has a name.
    fn range_of(&self, name: &'a str) -> Option<Range> {
        // `%r12` may be of `%r<13>` and of `%r1<3>`; a number has at most ten digits.
        let digits = name.bytes().rev().take(10).take_while(u8::is_ascii_digit).count();
        (1..=digits)
            .filter_map(|digits| {
                let (prefix, number) = name.split_at(name.len() - digits);
                let mut range = self.all_ranges[*self.ranges.get(prefix)?];
                if number.len() > 1 && number.starts_with('0') {
                    return None;
                }
                let number: u32 = number.parse().ok()?;
                while number >= range.count {
                    range = self.all_ranges[range.outer?];
                }
                Some(range)
            })
            .max_by_key(|range| range.depth)
    }
}
