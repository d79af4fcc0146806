//! Literals and constant expressions.

use super::super::lexer::Kind;
use super::{DEEPEST, Parser, Result, quoted};

/// Lanes of a warp, for `WARP_SZ` within an expression.
const WARP_SIZE: u64 = 32;

/// The value of a constant expression. Integers are 64 bits wide, and signed or not, as in C.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Value {
    Int {
        bits: u64,
        unsigned: bool,
    },
    /// `0f3F800000`
    F32(u32),
    F64(f64),
}

impl Value {
    fn signed(value: i64) -> Value {
        Value::Int {
            bits: value as u64,
            unsigned: false,
        }
    }

    fn is_true(self) -> bool {
        match self {
            Value::Int { bits, .. } => bits != 0,
            other => other.float() != 0.0,
        }
    }

    /// The value as a double.
    pub fn float(self) -> f64 {
        match self {
            Value::Int { bits, unsigned: true } => bits as f64,
            Value::Int {
                bits,
                unsigned: false,
            } => bits as i64 as f64,
            Value::F32(bits) => f32::from_bits(bits).into(),
            Value::F64(value) => value,
        }
    }
}

/// A binary operator's binding strength (a higher one binds tighter) and spelling; one of a single character has a
/// blank behind it.
type Operator = (u8, [u8; 2]);

/// The strength of `?:`, the weakest.
const CONDITIONAL: u8 = 1;
/// The strength of `*`, `/` and `%`, the strongest.
const PRODUCT: u8 = 11;

impl<'a> Parser<'a> {
    /// A constant expression.
    pub(super) fn constant(&mut self) -> Result<Value> {
        self.expression(CONDITIONAL, 0)
    }

    /// A constant expression that is an integer.
    pub(super) fn integer(&mut self) -> Result<i64> {
        self.integer_of(CONDITIONAL)
    }

    /// What may stand behind the `+` of an address: an integer expression without sums outside parentheses.
    pub(super) fn integer_term(&mut self) -> Result<i64> {
        self.integer_of(PRODUCT)
    }

    fn integer_of(&mut self, weakest: u8) -> Result<i64> {
        let at = self.token.start;
        match self.expression(weakest, 0)? {
            Value::Int { bits, .. } => Ok(bits as i64),
            _ => Err(self.error(at, "expected an integer, found a floating-point number".into())),
        }
    }

    /// A number of a directive: a literal without sign.
    pub(super) fn unsigned(&mut self, what: &str) -> Result<u64> {
        let Kind::Number(text) = self.token.kind else {
            return Err(self.unexpected(what));
        };
        match literal(text) {
            Some(Value::Int { bits, .. }) => {
                self.bump()?;
                Ok(bits)
            }
            _ => Err(self.unexpected(what)),
        }
    }

    /// As [`Parser::unsigned`], for numbers that have to fit 32 bits.
    pub(super) fn unsigned32(&mut self, what: &str) -> Result<u32> {
        let at = self.token.start;
        let value = self.unsigned(what)?;
        u32::try_from(value).map_err(|_| self.error(at, format!("{value} is too large for {what}")))
    }

    fn expression(&mut self, weakest: u8, depth: usize) -> Result<Value> {
        if depth > DEEPEST {
            return Err(self.error_here("this expression nests too deep".into()));
        }
        let mut left = self.unary(depth)?;
        loop {
            let Some((strength, operator)) = self.operator()? else {
                return Ok(left);
            };
            if strength < weakest {
                return Ok(left);
            }
            let at = self.token.start;
            self.bump()?;
            if strength == CONDITIONAL {
                let yes = self.expression(CONDITIONAL, depth + 1)?;
                self.expect(b':', "in the conditional expression")?;
                let no = self.expression(CONDITIONAL, depth + 1)?;
                left = if left.is_true() { yes } else { no };
                continue;
            }
            let right = self.expression(strength + 1, depth + 1)?;
            left = binary(operator, left, right).map_err(|message| self.error(at, message.into()))?;
        }
    }

    /// The binary operator that the next token is.
    fn operator(&mut self) -> Result<Option<Operator>> {
        if let Kind::Word(word) = self.token.kind
            && word.as_bytes()[0] == b'%'
            && word[1..].bytes().all(|byte| byte.is_ascii_digit())
        {
            // `7%4`, which reads as a register's name elsewhere.
            self.lexer.rewind(self.token.start + 1);
            self.token.kind = Kind::Mark(b'%');
        }
        Ok(match self.token.kind {
            Kind::Mark(mark) => {
                let strength = match mark {
                    b'?' => CONDITIONAL,
                    b'|' => 4,
                    b'^' => 5,
                    b'&' => 6,
                    b'<' | b'>' => 8,
                    b'+' | b'-' => 10,
                    b'*' | b'/' | b'%' => PRODUCT,
                    _ => return Ok(None),
                };
                Some((strength, [mark, b' ']))
            }
            Kind::Double(double) => {
                let strength = match &double {
                    b"||" => 2,
                    b"&&" => 3,
                    b"==" | b"!=" => 7,
                    b"<=" | b">=" => 8,
                    _ => 9,
                };
                Some((strength, double))
            }
            _ => None,
        })
    }

    fn unary(&mut self, depth: usize) -> Result<Value> {
        if depth > DEEPEST {
            return Err(self.error_here("this expression nests too deep".into()));
        }
        let at = self.token.start;
        match self.token.kind {
            Kind::Number(text) => {
                let Some(value) = literal(text) else {
                    return Err(self.error_here(format!("{} is not a number that PTX knows", quoted(text))));
                };
                self.bump()?;
                Ok(value)
            }
            Kind::Dot(text) if text.as_bytes()[0].is_ascii_digit() => {
                let Ok(value) = format!("0.{text}").parse() else {
                    return Err(self.unexpected("a constant"));
                };
                self.bump()?;
                Ok(Value::F64(value))
            }
            Kind::Word("WARP_SZ") => {
                self.bump()?;
                Ok(Value::Int {
                    bits: WARP_SIZE,
                    unsigned: false,
                })
            }
            Kind::Mark(b'(') => {
                self.bump()?;
                let cast = match self.token.kind {
                    Kind::Dot("s64") => Some(false),
                    Kind::Dot("u64") => Some(true),
                    _ => None,
                };
                if let Some(unsigned) = cast {
                    self.bump()?;
                    self.expect(b')', "after the type of a cast")?;
                    return match self.unary(depth + 1)? {
                        Value::Int { bits, .. } => Ok(Value::Int { bits, unsigned }),
                        _ => Err(self.error(at, "only integers can be cast".into())),
                    };
                }
                let value = self.expression(CONDITIONAL, depth + 1)?;
                self.expect(b')', "after the expression")?;
                Ok(value)
            }
            Kind::Mark(b'+') => {
                self.bump()?;
                self.unary(depth + 1)
            }
            Kind::Mark(b'-') => {
                self.bump()?;
                Ok(match self.unary(depth + 1)? {
                    Value::Int { bits, unsigned } => Value::Int {
                        bits: bits.wrapping_neg(),
                        unsigned,
                    },
                    Value::F32(bits) => Value::F32(bits ^ 1 << 31),
                    Value::F64(value) => Value::F64(-value),
                })
            }
            Kind::Mark(b'!') => {
                self.bump()?;
                Ok(Value::signed(i64::from(!self.unary(depth + 1)?.is_true())))
            }
            Kind::Mark(b'~') => {
                self.bump()?;
                match self.unary(depth + 1)? {
                    Value::Int { bits, unsigned } => Ok(Value::Int {
                        bits: !bits,
                        unsigned,
                    }),
                    _ => Err(self.error(at, "`~` takes an integer".into())),
                }
            }
            _ => Err(self.unexpected("a constant")),
        }
    }
}

/// The value of a literal's text.
fn literal(text: &str) -> Option<Value> {
    let hexadecimal = |digits: &str, length: usize| {
        (digits.len() == length && digits.bytes().all(|byte| byte.is_ascii_hexdigit()))
            .then(|| u64::from_str_radix(digits, 16).ok())
            .flatten()
    };
    let radix = |digits: &str, radix: u32| {
        let (digits, unsigned) = match digits.strip_suffix('U') {
            Some(digits) => (digits, true),
            None => (digits, false),
        };
        let bits = u64::from_str_radix(digits, radix).ok()?;
        Some(Value::Int {
            bits,
            unsigned: unsigned || bits > i64::MAX as u64,
        })
    };
    match text.as_bytes() {
        [b'0', b'f' | b'F', ..] => Some(Value::F32(hexadecimal(&text[2..], 8)? as u32)),
        [b'0', b'd' | b'D', ..] => Some(Value::F64(f64::from_bits(hexadecimal(&text[2..], 16)?))),
        [b'0', b'x' | b'X', ..] => radix(&text[2..], 16),
        [b'0', b'b' | b'B', ..] => radix(&text[2..], 2),
        [b'0', b'0'..=b'9', ..] if !text.contains(['.', 'e', 'E']) => radix(&text[1..], 8),
        _ if text.contains(['.', 'e', 'E']) => text.parse().ok().map(Value::F64),
        _ => radix(text, 10),
    }
}

fn binary([first, second]: [u8; 2], left: Value, right: Value) -> std::result::Result<Value, &'static str> {
    let truth = |truth: bool| Ok(Value::signed(i64::from(truth)));
    let (
        Value::Int {
            bits: a,
            unsigned: left_unsigned,
        },
        Value::Int {
            bits: b,
            unsigned: right_unsigned,
        },
    ) = (left, right)
    else {
        let (a, b) = (left.float(), right.float());
        return match [first, second] {
            [b'+', _] => Ok(Value::F64(a + b)),
            [b'-', _] => Ok(Value::F64(a - b)),
            [b'*', _] => Ok(Value::F64(a * b)),
            [b'/', _] => Ok(Value::F64(a / b)),
            [b'<', b' '] => truth(a < b),
            [b'>', b' '] => truth(a > b),
            [b'<', b'='] => truth(a <= b),
            [b'>', b'='] => truth(a >= b),
            [b'=', _] => truth(a == b),
            [b'!', _] => truth(a != b),
            _ => Err("this operator takes integers"),
        };
    };
    let unsigned = left_unsigned || right_unsigned;
    let (x, y) = (a as i64, b as i64);
    let int = |bits: u64| Ok(Value::Int { bits, unsigned });
    let shifted = |bits: u64| {
        Ok(Value::Int {
            bits,
            unsigned: left_unsigned,
        })
    };
    match [first, second] {
        [b'+', _] => int(a.wrapping_add(b)),
        [b'-', _] => int(a.wrapping_sub(b)),
        [b'*', _] => int(a.wrapping_mul(b)),
        [b'/' | b'%', _] if b == 0 => Err("division by zero"),
        [b'/', _] if unsigned => int(a / b),
        [b'/', _] => int(x.wrapping_div(y) as u64),
        [b'%', _] if unsigned => int(a % b),
        [b'%', _] => int(x.wrapping_rem(y) as u64),
        [b'<' | b'>', b'<' | b'>'] if b > 63 => Err("a shift by more than 63 bits"),
        [b'<', b'<'] => shifted(a << b),
        [b'>', b'>'] if left_unsigned => shifted(a >> b),
        [b'>', b'>'] => shifted((x >> b) as u64),
        [b'<', b' '] => truth(if unsigned { a < b } else { x < y }),
        [b'>', b' '] => truth(if unsigned { a > b } else { x > y }),
        [b'<', b'='] => truth(if unsigned { a <= b } else { x <= y }),
        [b'>', b'='] => truth(if unsigned { a >= b } else { x >= y }),
        [b'=', _] => truth(a == b),
        [b'!', _] => truth(a != b),
        [b'&', b'&'] => truth(a != 0 && b != 0),
        [b'|', b'|'] => truth(a != 0 || b != 0),
        [b'&', _] => int(a & b),
        [b'|', _] => int(a | b),
        [b'^', _] => int(a ^ b),
        _ => Err("unknown operator"),
    }
}
