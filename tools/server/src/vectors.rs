//! Vectors as the interfaces write them.

use ropeway::{Encoding, Vector};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::failure::{Failure, Kind};

/// A type of numbers: floats, base64 of little-endian float32, eight-bit numbers, or bits packed eight to a number, the
/// first the highest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum NumberType {
    Float,
    Base64,
    Int8,
    Uint8,
    Binary,
    Ubinary,
}

impl NumberType {
    /// Whether a vector of so many dimensions can be written in it.
    ///
    /// # Errors
    /// Bits of dimensions that do not fill bytes.
    pub fn check(self, dimensions: usize) -> Result<(), Failure> {
        let packed = matches!(self, NumberType::Binary | NumberType::Ubinary);
        match packed && !dimensions.is_multiple_of(8) {
            false => Ok(()),
            true => Err(Failure::new(
                Kind::Invalid,
                format!(
                    "binary and ubinary pack eight dimensions into a number, and there are {dimensions}; ask for a \
                     multiple of 8 dimensions"
                ),
            )),
        }
    }

    /// Adds a vector in this type, as JSON. Binary is packed bits minus 128, as clients of Jina and Cohere undo it; uint8 is
    /// int8 plus 128.
    pub fn write(self, vector: &[f32], json: &mut Vec<u8>) {
        // What `Vector::encode` gives for each encoding is known; the library may get further ones.
        let written = match self {
            NumberType::Float => serde_json::to_writer(json, vector),
            NumberType::Base64 => match Vector::encode(vector, Encoding::Base64) {
                Vector::Base64(text) => serde_json::to_writer(json, &text),
                _ => unreachable!("an encoding gives its own kind of vector"),
            },
            NumberType::Int8 | NumberType::Uint8 => match Vector::encode(vector, Encoding::Int8) {
                Vector::Int8 { values, .. } => {
                    let offset = if self == NumberType::Uint8 { 128 } else { 0 };
                    whole(json, values.into_iter().map(|x| i16::from(x) + offset))
                }
                _ => unreachable!("an encoding gives its own kind of vector"),
            },
            NumberType::Binary | NumberType::Ubinary => match Vector::encode(vector, Encoding::Binary) {
                Vector::Binary(bytes) => {
                    let offset = if self == NumberType::Binary { 128 } else { 0 };
                    whole(json, bytes.into_iter().map(|x| i16::from(x) - offset))
                }
                _ => unreachable!("an encoding gives its own kind of vector"),
            },
        };
        written.expect("numbers and text of base64 can be written to memory");
    }
}

fn whole(json: &mut Vec<u8>, numbers: impl Iterator<Item = i16>) -> serde_json::Result<()> {
    serde_json::to_writer(json, &numbers.collect::<Vec<i16>>())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    #[test]
    fn packed_bits_are_those_that_clients_unpack() {
        let vector = [1.0, -1.0, 0.0, 2.0, -0.0, 1e-30, -3.0, 4.0];
        let of = |number: NumberType, vector: &[f32]| -> Value {
            let mut json = Vec::new();
            number.write(vector, &mut json);
            serde_json::from_slice(&json).unwrap()
        };
        assert_eq!(of(NumberType::Ubinary, &vector), json!([149]));
        assert_eq!(of(NumberType::Binary, &vector), json!([21]));
        let whole = |number| -> Vec<i64> { serde_json::from_value(of(number, &vector)).unwrap() };
        let signed = whole(NumberType::Int8);
        assert_eq!((signed[7], signed[0]), (127, 32));
        let unsigned: Vec<i64> = signed.iter().map(|x| x + 128).collect();
        assert_eq!(whole(NumberType::Uint8), unsigned);
        assert_eq!(of(NumberType::Base64, &[1.0, -2.0]), json!("AACAPwAAAMA="));
        assert!(NumberType::Binary.check(7).is_err() && NumberType::Float.check(7).is_ok());
    }
}
