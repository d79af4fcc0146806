//! What it means for two devices to agree on a buffer.

use half::{bf16, f16};
use serde_json::{Value, json};

/// A floating-point format.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Float {
    F16,
    Bf16,
    F32,
    F64,
}

impl Float {
    fn size(self) -> usize {
        match self {
            Float::F16 | Float::Bf16 => 2,
            Float::F32 => 4,
            Float::F64 => 8,
        }
    }

    fn value(self, bits: u64) -> f64 {
        match self {
            Float::F16 => f16::from_bits(bits as u16).to_f64(),
            Float::Bf16 => bf16::from_bits(bits as u16).to_f64(),
            Float::F32 => f32::from_bits(bits as u32).into(),
            Float::F64 => f64::from_bits(bits),
        }
    }

    /// Representable numbers between the two.
    fn ulps(self, a: u64, b: u64) -> u64 {
        let sign = 1u64 << (8 * self.size() - 1);
        let ordered = |bits: u64| {
            let magnitude = i128::from(bits & (sign - 1));
            if bits & sign != 0 { -magnitude } else { magnitude }
        };
        (ordered(a) - ordered(b)).unsigned_abs() as u64
    }
}

/// When a buffer counts as agreeing.
#[derive(Debug, Clone, Copy)]
pub enum Rule {
    /// Every bit.
    Exact,
    /// Each number within any of the three bounds; any NaN stands for any other. All three zero: every bit but a NaN's.
    Near {
        float: Float,
        ulps: u64,
        relative: f64,
        absolute: f64,
    },
    /// The order of threads decides what stands here, but this holds of it.
    Invariant(fn(&[u8]) -> bool),
}

impl Rule {
    pub const fn ulps(float: Float, ulps: u64) -> Self {
        Rule::Near {
            float,
            ulps,
            relative: 0.0,
            absolute: 0.0,
        }
    }

    pub const fn relative(float: Float, relative: f64) -> Self {
        Rule::Near {
            float,
            ulps: 0,
            relative,
            absolute: 0.0,
        }
    }

    pub const fn absolute(float: Float, absolute: f64) -> Self {
        Rule::Near {
            float,
            ulps: 0,
            relative: 0.0,
            absolute,
        }
    }

    fn text(self) -> String {
        match self {
            Rule::Exact => "every bit".to_owned(),
            Rule::Invariant(_) => "an invariant".to_owned(),
            Rule::Near {
                ulps,
                relative,
                absolute,
                float,
            } => {
                let mut parts = Vec::new();
                if ulps > 0 {
                    parts.push(format!("{ulps} ulp"));
                }
                if relative > 0.0 {
                    parts.push(format!("{relative:.3e} relative"));
                }
                if absolute > 0.0 {
                    parts.push(format!("{absolute:.3e} absolute"));
                }
                if parts.is_empty() {
                    parts.push("every bit but a NaN's".to_owned());
                }
                format!("{float:?}: {}", parts.join(" or "))
            }
        }
    }
}

/// Upper ends of the classes into which differences are counted, in ulp; the last class has none.
pub const ULP_CLASSES: [u64; 7] = [0, 1, 2, 4, 16, 256, 65536];

/// What comparing found.
#[derive(Debug, Default, Clone)]
pub struct Outcome {
    pub values: u64,
    /// Values whose bits differ (a NaN for a NaN among them).
    pub differing: u64,
    pub nans: u64,
    /// Values beyond the rule.
    pub wrong: u64,
    /// Greatest difference in ulp and in absolute terms, over floating-point values.
    pub worst_ulps: u64,
    pub worst_absolute: f64,
    /// Floating-point values by difference in ulp: see [`ULP_CLASSES`].
    pub classes: [u64; 8],
    /// Rules other than every bit.
    pub rules: Vec<String>,
    /// The first value beyond the rule.
    pub first: Option<String>,
}

impl Outcome {
    /// Compares what softcuda left with what the other device left.
    pub fn compare(&mut self, rule: Rule, place: &str, offset: u64, ours: &[u8], theirs: &[u8]) {
        let text = rule.text();
        if !matches!(rule, Rule::Exact) && !self.rules.contains(&text) {
            self.rules.push(text);
        }
        let size = match rule {
            Rule::Exact => 4,
            Rule::Near { float, .. } => float.size(),
            Rule::Invariant(holds) => {
                self.values += 1;
                self.differing += u64::from(ours != theirs);
                if !holds(ours) || !holds(theirs) {
                    self.wrong += 1;
                    self.first.get_or_insert_with(|| {
                        format!(
                            "{place} from byte {offset}: the invariant holds of softcuda: {}, of the device: {}",
                            holds(ours),
                            holds(theirs)
                        )
                    });
                }
                return;
            }
        };
        for (index, (a, b)) in ours.chunks(size).zip(theirs.chunks(size)).enumerate() {
            self.values += 1;
            let float = match rule {
                Rule::Near { float, .. } if a.len() == size => Some(float),
                _ => None,
            };
            let [x, y] = [a, b].map(|bytes| {
                let mut word = [0; 8];
                word[..bytes.len()].copy_from_slice(bytes);
                u64::from_le_bytes(word)
            });
            if x == y {
                self.classes[0] += u64::from(float.is_some());
                continue;
            }
            self.differing += 1;
            let mut good = false;
            let mut shown = String::new();
            if let (
                Some(float),
                Rule::Near {
                    ulps,
                    relative,
                    absolute,
                    ..
                },
            ) = (float, rule)
            {
                let (v, w) = (float.value(x), float.value(y));
                if v.is_nan() && w.is_nan() {
                    self.nans += 1;
                    self.classes[0] += 1;
                    good = true;
                } else {
                    let distance = float.ulps(x, y);
                    let class = ULP_CLASSES.iter().position(|&end| distance <= end);
                    self.classes[class.unwrap_or(7)] += 1;
                    let error = (v - w).abs();
                    if error.is_finite() {
                        self.worst_ulps = self.worst_ulps.max(distance);
                        self.worst_absolute = self.worst_absolute.max(error);
                    }
                    let loose = ulps > 0 || relative > 0.0 || absolute > 0.0;
                    good = loose
                        && !v.is_nan()
                        && !w.is_nan()
                        && (distance <= ulps
                            || (error.is_finite()
                                && (error <= absolute || error <= relative * v.abs().max(w.abs()))));
                    shown = format!(" ({v:e} and {w:e}, {distance} ulp apart)");
                }
            }
            if !good {
                self.wrong += 1;
                let width = 2 * a.len();
                self.first.get_or_insert_with(|| {
                    format!(
                        "{place}, byte {}: softcuda 0x{x:0width$x}, the device 0x{y:0width$x}{shown}",
                        offset as usize + index * size
                    )
                });
            }
        }
    }

    pub fn verdict(&self) -> &'static str {
        match (self.values, self.wrong, self.differing) {
            (0, ..) => "ran",
            (_, 0, 0) => "exact",
            (_, 0, _) => "within",
            _ => "differs",
        }
    }

    pub fn json(&self) -> Value {
        json!({
            "verdict": self.verdict(), "values": self.values, "differing": self.differing, "nans": self.nans,
            "wrong": self.wrong, "worst_ulps": self.worst_ulps, "worst_absolute": self.worst_absolute,
            "ulp_classes": self.classes, "rules": self.rules, "first": self.first,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn compared(rule: Rule, a: &[f32], b: &[f32]) -> Outcome {
        let mut outcome = Outcome::default();
        let bytes = |x: &[f32]| -> Vec<u8> { x.iter().flat_map(|v| v.to_le_bytes()).collect() };
        outcome.compare(rule, "buffer", 0, &bytes(a), &bytes(b));
        outcome
    }

    #[test]
    fn rules_tell_agreement_from_disagreement() {
        let next = f32::from_bits(1f32.to_bits() + 1);
        assert_eq!(compared(Rule::Exact, &[1.0], &[1.0]).verdict(), "exact");
        assert_eq!(compared(Rule::Exact, &[1.0], &[next]).verdict(), "differs");
        let one = compared(Rule::ulps(Float::F32, 1), &[1.0], &[next]);
        assert_eq!((one.verdict(), one.worst_ulps, one.classes[1]), ("within", 1, 1));
        let other_nan = f32::from_bits(0x7fff_ffff);
        assert_eq!(
            compared(Rule::ulps(Float::F32, 0), &[f32::NAN], &[other_nan]).verdict(),
            "within"
        );
        assert_eq!(
            compared(Rule::ulps(Float::F32, 0), &[0.0], &[-0.0]).verdict(),
            "differs"
        );
        assert_eq!(
            compared(Rule::relative(Float::F32, 0.1), &[1.0], &[f32::INFINITY]).verdict(),
            "differs"
        );
        assert_eq!(
            compared(Rule::absolute(Float::F32, 0.1), &[1.0], &[f32::NAN]).verdict(),
            "differs"
        );
        // A smallest negative and a smallest positive number are two steps apart.
        assert_eq!(Float::F32.ulps(0x8000_0001, 1), 2);
    }
}
