//! Initial values of variables.

use std::sync::Arc;

use super::super::ast::{Relocation, Type};
use super::super::lexer::Kind;
use super::constant::Value;
use super::variable::LARGEST;
use super::{Parser, Result, quoted};

/// Most bytes that a module's initialised variables may have beyond the elements listed: what is declared in a few
/// characters must not take any amount of memory. Real tables list nearly all of their elements.
pub(super) const MOST_PADDING: usize = 64 << 20;

/// Bytes of an address.
const ADDRESS: usize = 8;

/// A variable's initial value so far.
#[derive(Default)]
pub(super) struct Initial {
    pub bytes: Vec<u8>,
    pub relocations: Vec<Relocation>,
    /// The bytes missing of an address that is listed byte by byte, which is the last relocation.
    missing: usize,
}

/// `symbol+8` or `generic(symbol)+8`.
#[derive(PartialEq)]
struct Symbolic {
    symbol: Arc<str>,
    addend: i64,
    generic: bool,
}

impl<'a> Parser<'a> {
    /// The values of an array (in braces) or of a scalar. Returns how many elements of the first dimension it lists.
    pub(super) fn initial_values(
        &mut self,
        ty: Type,
        dimensions: &[Option<usize>],
        initial: &mut Initial,
    ) -> Result<usize> {
        let Some((&length, inner)) = dimensions.split_first() else {
            self.initial_scalar(ty, initial)?;
            return Ok(1);
        };
        self.expect(b'{', "before the values of an array or vector")?;
        let mut stride = ty.size();
        for &length in inner {
            stride = match stride.checked_mul(length.unwrap_or(0)) {
                Some(stride) if stride <= LARGEST => stride,
                _ => return Err(self.error_here("this array is too large".into())),
            };
        }
        let begin = initial.bytes.len();
        let mut count = 0;
        if self.take(b'}')? {
            return Ok(0);
        }
        loop {
            if length == Some(count) {
                return Err(self.error_here(format!("expected at most {count} initial values here")));
            }
            // The inner array before may list fewer values than it has.
            self.pad(initial, begin + count * stride)?;
            self.initial_values(ty, inner, initial)?;
            count += 1;
            if !self.take(b',')? {
                break;
            }
        }
        self.expect(b'}', "or `,` after an initial value")?;
        Ok(count)
    }

    /// Fills up to a size with zeros.
    pub(super) fn pad(&mut self, initial: &mut Initial, size: usize) -> Result<()> {
        let padding = size.saturating_sub(initial.bytes.len());
        let Some(left) = self.padding_left.checked_sub(padding) else {
            let message = format!("initial values are not listed for more than {MOST_PADDING} bytes");
            return Err(self.error_here(message));
        };
        self.padding_left = left;
        initial.bytes.resize(initial.bytes.len() + padding, 0);
        Ok(())
    }

    fn initial_scalar(&mut self, ty: Type, initial: &mut Initial) -> Result<()> {
        let at = self.token.start;
        if let Kind::Word(word) = self.token.kind
            && word != "WARP_SZ"
        {
            self.whole_address(initial)?;
            let size = ty.size();
            let Symbolic {
                symbol,
                addend,
                generic,
            } = self.symbolic()?;
            if !matches!(size, 4 | ADDRESS) || ty.is_float() {
                return Err(self.error(at, "an address needs an integer type of 32 or 64 bits".into()));
            }
            initial.relocations.push(Relocation {
                at: initial.bytes.len(),
                size,
                symbol,
                addend,
                generic,
            });
            initial.bytes.extend(&[0; ADDRESS][..size]);
            return Ok(());
        }
        let value = self.constant()?;
        if self.take(b'(')? {
            return self.address_byte(ty, value, at, initial);
        }
        self.whole_address(initial)?;
        let Some(bytes) = bytes_of(ty, value) else {
            let ty = format!("{ty:?}").to_lowercase();
            return Err(self.error(at, format!("this value does not fit the type `.{ty}`")));
        };
        initial.bytes.extend(&bytes[..ty.size()]);
        Ok(())
    }

    /// `0xFF00(symbol+8)`, the parenthesis being behind us: a byte of an address, as nvcc initialises pointers in
    /// packed structures. All eight have to follow each other, and become one relocation.
    fn address_byte(&mut self, ty: Type, mask: Value, at: usize, initial: &mut Initial) -> Result<()> {
        let symbolic = self.symbolic()?;
        self.expect(b')', "after the symbol")?;
        if ty.size() != 1 {
            return Err(self.error(at, "bytes of addresses need a type of 8 bits".into()));
        }
        if initial.missing == 0 {
            let Symbolic {
                symbol,
                addend,
                generic,
            } = symbolic;
            let at = initial.bytes.len();
            initial.relocations.push(Relocation {
                at,
                size: ADDRESS,
                symbol,
                addend,
                generic,
            });
            initial.missing = ADDRESS;
        } else {
            let known = initial.relocations.last();
            let same = known.is_some_and(|known| {
                (&known.symbol, known.addend, known.generic)
                    == (&symbolic.symbol, symbolic.addend, symbolic.generic)
            });
            if !same {
                return self.whole_address(initial);
            }
        }
        let expected = 0xff << (8 * (ADDRESS - initial.missing));
        match value_bits(mask) {
            Some(bits) if bits == expected => {}
            _ => {
                return Err(self.error(
                    at,
                    format!("expected the byte of mask {expected:#x} of this address"),
                ));
            }
        }
        initial.missing -= 1;
        initial.bytes.push(0);
        Ok(())
    }

    /// Refuses an address of which only some bytes are listed.
    pub(super) fn whole_address(&self, initial: &Initial) -> Result<()> {
        if initial.missing == 0 {
            return Ok(());
        }
        Err(self.error(
            self.previous,
            "expected all eight bytes of an address, one after the other".into(),
        ))
    }

    fn symbolic(&mut self) -> Result<Symbolic> {
        let at = self.token.start;
        let mut name = self.word("a symbol")?;
        let mut symbol_at = at;
        let mut generic = false;
        if self.token.kind == Kind::Mark(b'(') {
            match name {
                "generic" => generic = true,
                "mask" => return Err(self.error(at, "`mask(…)` as an initial value is not supported".into())),
                _ => return Err(self.error(at, format!("{} is no operator of initial values", quoted(name)))),
            }
            self.bump()?;
            symbol_at = self.token.start;
            name = self.word("a symbol")?;
            self.expect(b')', "after the symbol")?;
        }
        let mut addend = 0i64;
        loop {
            let negative = self.token.kind == Kind::Mark(b'-');
            if !negative && self.token.kind != Kind::Mark(b'+') {
                break;
            }
            self.bump()?;
            let term = self.integer_term()?;
            addend = if negative {
                addend.wrapping_sub(term)
            } else {
                addend.wrapping_add(term)
            };
        }
        self.referenced.push((name, symbol_at));
        Ok(Symbolic {
            symbol: self.intern(name),
            addend,
            generic,
        })
    }
}

fn value_bits(value: Value) -> Option<u64> {
    match value {
        Value::Int { bits, .. } => Some(bits),
        _ => None,
    }
}

/// A value's bytes in memory as a type has them (the type's size says how many), if it fits.
fn bytes_of(ty: Type, value: Value) -> Option<[u8; 16]> {
    let bits: u128 = match (ty, value) {
        (Type::F32 | Type::B32, Value::F32(bits)) => bits.into(),
        (Type::F32 | Type::B32, Value::F64(value)) => (value as f32).to_bits().into(),
        (Type::F64 | Type::B64, Value::F64(value)) => value.to_bits().into(),
        (Type::F64, Value::F32(_)) => value.float().to_bits().into(),
        (_, Value::Int { bits, unsigned }) if !ty.is_float() => {
            let bits = if unsigned {
                bits.into()
            } else {
                bits as i64 as i128 as u128
            };
            // Sign or zero extension of what is kept must give the value again.
            let unused = 128 - 8 * ty.size() as u32;
            let signed = ((bits << unused) as i128 >> unused) as u128;
            if bits != signed && bits != bits << unused >> unused {
                return None;
            }
            bits
        }
        _ => return None,
    };
    Some(bits.to_le_bytes())
}
