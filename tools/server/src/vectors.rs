//! Vectors as the interfaces write them.

use ropeway::{Encoding, Vector};
use serde::{Deserialize, Serialize};

use crate::failure::{Failure, Kind};

/// The types of numbers that clients ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Deserialize)]
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
    /// The word for it in requests and responses.
    pub fn name(self) -> &'static str {
        match self {
            NumberType::Float => "float",
            NumberType::Base64 => "base64",
            NumberType::Int8 => "int8",
            NumberType::Uint8 => "uint8",
            NumberType::Binary => "binary",
            NumberType::Ubinary => "ubinary",
        }
    }

    /// A vector in this type. Binary is packed bits minus 128, as clients of Jina and Cohere undo it; uint8 is int8 plus
    /// 128.
    ///
    /// # Errors
    /// Bits of dimensions that do not fill bytes.
    pub fn write(self, vector: &[f32]) -> Result<Numbers, Failure> {
        let encoding = match self {
            NumberType::Float => return Ok(Numbers::Floats(vector.to_vec())),
            NumberType::Base64 => Encoding::Base64,
            NumberType::Int8 | NumberType::Uint8 => Encoding::Int8,
            NumberType::Binary | NumberType::Ubinary => Encoding::Binary,
        };
        if encoding == Encoding::Binary && !vector.len().is_multiple_of(8) {
            return Err(Failure::new(
                Kind::Invalid,
                format!(
                    "{} packs eight dimensions into a number, and there are {}; ask for a multiple of 8 dimensions",
                    self.name(),
                    vector.len()
                ),
            ));
        }
        Ok(match (Vector::encode(vector, encoding), self) {
            (Vector::Base64(text), _) => Numbers::Text(text),
            (Vector::Int8 { values, .. }, NumberType::Uint8) => {
                Numbers::Whole(values.into_iter().map(|x| i16::from(x) + 128).collect())
            }
            (Vector::Int8 { values, .. }, _) => Numbers::Whole(values.into_iter().map(i16::from).collect()),
            (Vector::Binary(bytes), NumberType::Binary) => {
                Numbers::Whole(bytes.into_iter().map(|x| i16::from(x) - 128).collect())
            }
            (Vector::Binary(bytes), _) => Numbers::Whole(bytes.into_iter().map(i16::from).collect()),
            _ => return Err(Failure::new(Kind::Internal, "a vector has an unknown encoding")),
        })
    }
}

/// A vector in JSON.
#[derive(Debug, PartialEq, Serialize)]
#[serde(untagged)]
pub enum Numbers {
    Floats(Vec<f32>),
    Whole(Vec<i16>),
    Text(String),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packed_bits_are_those_that_clients_unpack() {
        let vector = [1.0, -1.0, 0.0, 2.0, -0.0, 1e-30, -3.0, 4.0];
        let of = |number: NumberType| number.write(&vector).unwrap();
        assert_eq!(of(NumberType::Ubinary), Numbers::Whole(vec![149]));
        assert_eq!(of(NumberType::Binary), Numbers::Whole(vec![21]));
        let whole = |number| match of(number) {
            Numbers::Whole(values) => values,
            other => panic!("{other:?}"),
        };
        let signed = whole(NumberType::Int8);
        assert_eq!((signed[7], signed[0]), (127, 32));
        let unsigned: Vec<i16> = signed.iter().map(|x| x + 128).collect();
        assert_eq!(whole(NumberType::Uint8), unsigned);
        assert_eq!(
            NumberType::Base64.write(&[1.0, -2.0]).unwrap(),
            Numbers::Text("AACAPwAAAMA=".into())
        );
        assert!(NumberType::Binary.write(&vector[1..]).is_err());
    }
}
