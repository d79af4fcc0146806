//! The inputs of a request as clients write them: a text, texts, ids, lists of ids, or Jina's `{"text": …}`.

use std::borrow::Cow;
use std::fmt;

use ropeway::{Embed, Request};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::value::{MapAccessDeserializer, SeqAccessDeserializer};
use serde::de::{Error, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};

use crate::failure::{Failure, Kind};

const WANTED: &str = "a string, an array of strings, token ids, or an array of arrays of token ids";

/// One input.
#[derive(Clone, Debug, PartialEq)]
pub enum Text {
    Words(String),
    Ids(Vec<u32>),
}

impl Text {
    fn is_empty(&self) -> bool {
        match self {
            Text::Words(text) => text.is_empty(),
            Text::Ids(ids) => ids.is_empty(),
        }
    }

    /// Code points of a text, ids of ids.
    pub fn characters(&self) -> usize {
        match self {
            Text::Words(text) => text.chars().count(),
            Text::Ids(ids) => ids.len(),
        }
    }

    /// A request for it.
    pub fn request(self, options: Embed) -> Request<'static> {
        match self {
            Text::Words(text) => Request::text(text, options),
            Text::Ids(ids) => Request::ids(ids, options),
        }
    }
}

/// The inputs of a request. It is read without a tree of values in between, which would take many times the room of ids.
#[derive(Debug, Default, PartialEq)]
pub struct Inputs(Vec<Text>);

impl Inputs {
    /// The inputs.
    ///
    /// # Errors
    /// None, an empty one, or more than `most`.
    pub fn take(self, field: &str, most: usize) -> Result<Vec<Text>, Failure> {
        check_count(field, self.0.len(), most)?;
        match self.0.iter().position(Text::is_empty) {
            None => Ok(self.0),
            Some(index) => Err(Failure::empty(field).of_input(index, self.0.len())),
        }
    }
}

/// Fails for none, or more than a request may have.
pub fn check_count(field: &str, count: usize, most: usize) -> Result<(), Failure> {
    match count {
        0 => Err(Failure::empty(field)),
        _ if count > most => Err(Failure::too_many(field, count, most)),
        _ => Ok(()),
    }
}

/// The inputs of a field that is there.
///
/// # Errors
/// A field that is missing, and those of [`Inputs::take`].
pub fn required(inputs: Option<Inputs>, field: &str, most: usize) -> Result<Vec<Text>, Failure> {
    let missing = || Failure::new(Kind::Malformed, format!("`{field}` is missing; wanted {WANTED}"));
    inputs.ok_or_else(missing)?.take(field, most)
}

/// Jina's way to write a text.
#[derive(Deserialize)]
struct Document {
    text: String,
}

/// What stands in the array of inputs: one of several, or an id of the only one.
enum Element {
    Input(Text),
    Id(u32),
}

struct ElementVisitor;

impl<'de> Visitor<'de> for ElementVisitor {
    type Value = Element;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(WANTED)
    }

    fn visit_u64<E: Error>(self, id: u64) -> Result<Element, E> {
        let id = u32::try_from(id).map_err(|_| E::custom(format!("token id {id} is out of range")))?;
        Ok(Element::Id(id))
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Element, E> {
        Ok(Element::Input(Text::Words(text.to_owned())))
    }

    fn visit_string<E: Error>(self, text: String) -> Result<Element, E> {
        Ok(Element::Input(Text::Words(text)))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, ids: A) -> Result<Element, A::Error> {
        let ids = Vec::deserialize(SeqAccessDeserializer::new(ids))?;
        Ok(Element::Input(Text::Ids(ids)))
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Element, A::Error> {
        let document = Document::deserialize(MapAccessDeserializer::new(map))?;
        Ok(Element::Input(Text::Words(document.text)))
    }
}

impl<'de> Deserialize<'de> for Element {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Element, D::Error> {
        deserializer.deserialize_any(ElementVisitor)
    }
}

struct InputsVisitor;

impl<'de> Visitor<'de> for InputsVisitor {
    type Value = Inputs;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(WANTED)
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Inputs, E> {
        Ok(Inputs(vec![Text::Words(text.to_owned())]))
    }

    fn visit_string<E: Error>(self, text: String) -> Result<Inputs, E> {
        Ok(Inputs(vec![Text::Words(text)]))
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Inputs, A::Error> {
        let document = Document::deserialize(MapAccessDeserializer::new(map))?;
        Ok(Inputs(vec![Text::Words(document.text)]))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<Inputs, A::Error> {
        let (mut inputs, mut ids) = (Vec::new(), Vec::new());
        while let Some(element) = elements.next_element()? {
            match element {
                Element::Input(input) if ids.is_empty() => inputs.push(input),
                Element::Id(id) if inputs.is_empty() => ids.push(id),
                _ => {
                    return Err(A::Error::custom(format!(
                        "token ids stand beside texts; wanted {WANTED}"
                    )));
                }
            }
        }
        if !ids.is_empty() {
            inputs.push(Text::Ids(ids));
        }
        Ok(Inputs(inputs))
    }
}

impl<'de> Deserialize<'de> for Inputs {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Inputs, D::Error> {
        deserializer.deserialize_any(InputsVisitor)
    }
}

impl JsonSchema for Inputs {
    fn schema_name() -> Cow<'static, str> {
        "Inputs".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        let text = json_schema!({"type": "string", "minLength": 1});
        let ids = json_schema!({
            "type": "array", "minItems": 1, "items": {"type": "integer", "minimum": 0, "maximum": u32::MAX},
        });
        let document = json_schema!({
            "type": "object", "properties": {"text": {"type": "string", "minLength": 1}}, "required": ["text"],
        });
        let several = json_schema!({
            "type": "array", "minItems": 1, "items": {"anyOf": [&text, &ids, &document]},
        });
        json_schema!({
            "description": "One input, or several: texts, token ids, or objects with a `text`.",
            "anyOf": [text, ids, document, several],
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn read(value: Value) -> Result<Vec<Text>, Failure> {
        let inputs = crate::body::parse::<Inputs>(value.to_string().as_bytes())?;
        inputs.take("input", 3)
    }

    #[test]
    fn inputs_are_told_apart() {
        let words = |text: &str| Text::Words(text.into());
        for (value, wanted) in [
            (json!("a"), vec![words("a")]),
            (json!({"text": "a", "more": 1}), vec![words("a")]),
            (json!(["a", {"text": "b"}]), vec![words("a"), words("b")]),
            (json!([1, 2, 3, 4]), vec![Text::Ids(vec![1, 2, 3, 4])]),
            (
                json!([[1], "b", [2, 3]]),
                vec![Text::Ids(vec![1]), words("b"), Text::Ids(vec![2, 3])],
            ),
        ] {
            assert_eq!(read(value).unwrap(), wanted);
        }
    }

    #[test]
    fn what_is_no_input_is_told_apart() {
        let kind = |value| read(value).unwrap_err().kind;
        for nothing in [json!(""), json!([]), json!(["a", ""]), json!([[]])] {
            assert_eq!(kind(nothing), Kind::Empty);
        }
        for wrong in [
            json!(null),
            json!(1),
            json!([1, -1]),
            json!([1, "a"]),
            json!(["a", 1]),
            json!([[1.5]]),
            json!([4_294_967_296_u64]),
            json!([true]),
            json!({"url": "a"}),
        ] {
            assert_eq!(kind(wrong.clone()), Kind::Malformed, "{wrong}");
        }
        assert_eq!(kind(json!(["a", "b", "c", "d"])), Kind::TooMany);
        let failure = read(json!(["a", ""])).unwrap_err();
        assert!(failure.message.contains("input 1"), "{}", failure.message);
    }
}
