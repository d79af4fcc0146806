//! Ids: what joins a row to its input.

use serde_json::value::RawValue;

/// The longest id, in bytes of JSON.
pub const LONGEST_ID: usize = 64 << 10;

/// What an input is called: a JSON string or number, kept as it was written.
///
/// It is one that every reader of JSON takes back: no half of a surrogate pair, and no number that a 64-bit float makes
/// infinite, or zero where it is not. Two ids are equal if they are written alike.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Id(String);

impl Id {
    /// The id of an input that has none: its running number, from 0.
    pub fn number(number: u64) -> Id {
        Id(number.to_string())
    }

    /// A string as an id.
    pub fn string(text: &str) -> Id {
        Id(serde_json::Value::from(text).to_string())
    }

    /// The id as JSON, byte for byte as it was given.
    pub fn as_json(&self) -> &str {
        &self.0
    }

    /// Whether both are the same JSON value, however they are written: `"\u00e9"` is `"é"`, and `1e2` is `100`.
    pub fn same_value(&self, other: &Id) -> bool {
        self == other
            || match (self.text(), other.text()) {
                (Some(a), Some(b)) => a == b,
                (None, None) => Decimal::new(&self.0) == Decimal::new(&other.0),
                _ => false,
            }
    }

    pub(super) fn read(raw: &RawValue) -> Option<Id> {
        let json = raw.get();
        if json.len() > LONGEST_ID {
            return None;
        }
        let taken_back = match json.starts_with('"') {
            true => serde_json::from_str::<String>(json).is_ok(),
            // No other JSON value parses as a float.
            false => json.parse::<f64>().is_ok_and(|value| {
                value.is_finite()
                    && (value != 0.0) == Decimal::new(json).is_some_and(|decimal| !decimal.is_zero())
            }),
        };
        taken_back.then(|| Id(json.into()))
    }

    fn text(&self) -> Option<String> {
        serde_json::from_str(&self.0).ok()
    }
}

/// The exact value of a JSON number: digits without zeros around them, times a power of ten. Zero has no digits.
#[derive(Debug, PartialEq, Eq)]
struct Decimal {
    negative: bool,
    digits: String,
    exponent: i64,
}

impl Decimal {
    /// `None` where the power of ten is beyond all numbers that an id may be.
    fn new(json: &str) -> Option<Decimal> {
        let (mantissa, power) = json.split_once(['e', 'E']).unwrap_or((json, "0"));
        let (negative, mantissa) = mantissa
            .strip_prefix('-')
            .map_or((false, mantissa), |rest| (true, rest));
        let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
        let all = [whole, fraction].concat();
        let digits = all.trim_start_matches('0').trim_end_matches('0');
        if digits.is_empty() {
            return Some(Decimal {
                negative: false,
                digits: String::new(),
                exponent: 0,
            });
        }
        let zeros = all.len() - all.trim_end_matches('0').len();
        let shift = zeros as i64 - fraction.len() as i64;
        Some(Decimal {
            negative,
            digits: digits.to_owned(),
            exponent: power.parse::<i64>().ok()?.checked_add(shift)?,
        })
    }

    fn is_zero(&self) -> bool {
        self.digits.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(json: &str) -> Option<Id> {
        Id::read(&RawValue::from_string(json.to_owned()).unwrap())
    }

    #[test]
    fn ids_that_readers_do_not_take_back_are_none() {
        for bad in [
            r#""\ud800""#,
            r#""a\udfff b""#,
            r#""\ud800\ud800""#,
            "1e999",
            "-1E+400",
            "1e-999",
            "0.00e999999999999999999999x",
            "1e99999999999999999999",
            "true",
            "null",
            "[1]",
            "{}",
        ] {
            // Some are not even JSON.
            if let Ok(raw) = RawValue::from_string(bad.to_owned()) {
                assert_eq!(Id::read(&raw), None, "{bad}");
            }
        }
        let long = "9".repeat(300);
        for good in [
            r#""\ud83d\ude42""#,
            "-0",
            "0e99999999999999999999",
            "1e308",
            "123456789012345678901234567890",
            &long,
        ] {
            assert_eq!(id(good).unwrap().as_json(), good);
        }
        let string = |length: usize| format!("\"{}\"", "x".repeat(length - 2));
        assert!(id(&string(LONGEST_ID)).is_some() && id(&string(LONGEST_ID + 1)).is_none());
    }

    #[test]
    fn ids_are_compared_by_value() {
        let same = |a: &str, b: &str| id(a).unwrap().same_value(&id(b).unwrap());
        for (a, b) in [
            (r#""caf\u00e9""#, r#""café""#),
            (r#""a\/b""#, r#""a/b""#),
            ("1", "1.0"),
            ("100", "1e2"),
            ("-0.50", "-5E-1"),
            ("0", "-0.0"),
            ("1e-2", "0.01"),
        ] {
            assert!(same(a, b), "{a} {b}");
        }
        for (a, b) in [
            // Equal only as 64-bit floats.
            ("123456789012345678901234567890", "123456789012345678901234567891"),
            ("1", "\"1\""),
            ("1", "-1"),
            ("1", "10"),
            ("1.01", "1.1"),
            (r#""a""#, r#""A""#),
        ] {
            assert!(!same(a, b), "{a} {b}");
        }
    }
}
