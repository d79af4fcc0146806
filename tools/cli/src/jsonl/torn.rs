//! Whether bytes are the beginning of a line out: what a run leaves that was ended while it wrote one.
//!
//! Each form takes what it knows from the front of the bytes and gives the rest.

use serde::de::IgnoredAny;
use serde_json::value::RawValue;

use super::Id;
use super::write::ROW_BEGIN;

/// Why a form gives no rest.
enum End {
    /// The bytes end here, and a line out could go on.
    Torn,
    /// No line out begins like this.
    Foreign,
}

type Rest<'a> = Result<&'a [u8], End>;

/// Whether some line that [`write_row`](super::write_row) or [`write_error`](super::write_error) writes begins with these
/// bytes, in which there is no line feed.
pub fn is_row_begin(bytes: &[u8]) -> bool {
    match row(bytes) {
        Ok(rest) => rest.is_empty(),
        Err(end) => matches!(end, End::Torn),
    }
}

fn row(bytes: &[u8]) -> Rest<'_> {
    let rest = id(word(bytes, ROW_BEGIN)?)?;
    let failed = |rest| word(string(word(rest, ",\"error\":")?)?, "}");
    let embedded = |rest| {
        let rest = either(rest, &[&vectors, &chunks])?;
        let rest = count(word(rest, ",\"tokens\":")?)?;
        let rest = word(rest, ",\"truncated\":")?;
        either(rest, &[&|rest| word(rest, "true}"), &|rest| word(rest, "false}")])
    };
    either(rest, &[&failed, &embedded])
}

fn id(bytes: &[u8]) -> Rest<'_> {
    let rest = either(bytes, &[&string, &number])?;
    let raw = serde_json::from_slice::<&RawValue>(&bytes[..bytes.len() - rest.len()]);
    match raw.ok().and_then(Id::read) {
        Some(_) => Ok(rest),
        None => Err(End::Foreign),
    }
}

/// An input's vector, or one for each of its tokens.
fn vectors(bytes: &[u8]) -> Rest<'_> {
    let one = |rest| optional(vector(rest)?, &|rest| scale(rest, &float));
    let many = |rest| {
        optional(list(rest, &vector)?, &|rest| {
            scale(rest, &|rest| list(rest, &float))
        })
    };
    either(word(bytes, ",\"embedding\":")?, &[&one, &many])
}

fn chunks(bytes: &[u8]) -> Rest<'_> {
    let chunk = |rest| {
        let rest = count(word(rest, "{\"start\":")?)?;
        let rest = count(word(rest, ",\"end\":")?)?;
        let rest = vector(word(rest, ",\"embedding\":")?)?;
        word(optional(rest, &|rest| scale(rest, &float))?, "}")
    };
    list(word(bytes, ",\"chunks\":")?, &chunk)
}

fn vector(bytes: &[u8]) -> Rest<'_> {
    either(bytes, &[&base64, &|rest| list(rest, &float)])
}

fn scale<'a>(bytes: &'a [u8], of: &dyn Fn(&'a [u8]) -> Rest<'a>) -> Rest<'a> {
    of(word(bytes, ",\"scale\":")?)
}

fn float(bytes: &[u8]) -> Rest<'_> {
    either(bytes, &[&number, &|rest| word(rest, "null")])
}

fn base64(bytes: &[u8]) -> Rest<'_> {
    let rest = word(bytes, "\"")?;
    let is_digit = |byte: &u8| byte.is_ascii_alphanumeric() || b"+/=".contains(byte);
    let digits = rest.iter().take_while(|byte| is_digit(byte)).count();
    word(&rest[digits..], "\"")
}

fn count(bytes: &[u8]) -> Rest<'_> {
    let digits = bytes.iter().take_while(|byte| byte.is_ascii_digit()).count();
    match bytes.split_at(digits) {
        (_, []) => Err(End::Torn),
        ([], _) => Err(End::Foreign),
        (_, rest) => Ok(rest),
    }
}

fn number(bytes: &[u8]) -> Rest<'_> {
    let is_part = |byte: &u8| byte.is_ascii_digit() || b"+-.eE".contains(byte);
    let length = bytes.iter().take_while(|byte| is_part(byte)).count();
    match bytes.split_at(length) {
        (number, []) if goes_on(number, &["", "0"]) => Err(End::Torn),
        (number, rest) if !rest.is_empty() && goes_on(number, &[""]) => Ok(rest),
        _ => Err(End::Foreign),
    }
}

fn string(bytes: &[u8]) -> Rest<'_> {
    let inner = word(bytes, "\"")?;
    let mut is_escaped = false;
    let end = inner.iter().position(|&byte| {
        let is_end = byte == b'"' && !is_escaped;
        is_escaped = byte == b'\\' && !is_escaped;
        is_end
    });
    if let Some(end) = end {
        let (string, rest) = bytes.split_at(end + 2);
        return match goes_on(string, &[""]) {
            true => Ok(rest),
            false => Err(End::Foreign),
        };
    }
    // A character may be torn as well.
    let whole = match std::str::from_utf8(bytes) {
        Ok(_) => bytes,
        Err(error) if error.error_len().is_none() => &bytes[..error.valid_up_to()],
        Err(_) => return Err(End::Foreign),
    };
    // What ends a string, and an escape in it, wherever that was cut.
    match goes_on(whole, &["\"", "\\\"", "0000\"", "000\"", "00\"", "0\""]) {
        true => Err(End::Torn),
        false => Err(End::Foreign),
    }
}

/// Whether one of these makes a JSON value of the bytes.
fn goes_on(bytes: &[u8], ends: &[&str]) -> bool {
    ends.iter().any(|end| {
        let value = [bytes, end.as_bytes()].concat();
        serde_json::from_slice::<IgnoredAny>(&value).is_ok() && std::str::from_utf8(&value).is_ok()
    })
}

fn word<'a>(bytes: &'a [u8], word: &str) -> Rest<'a> {
    match bytes.strip_prefix(word.as_bytes()) {
        Some(rest) => Ok(rest),
        None if word.as_bytes().starts_with(bytes) => Err(End::Torn),
        None => Err(End::Foreign),
    }
}

fn list<'a>(bytes: &'a [u8], item: &dyn Fn(&'a [u8]) -> Rest<'a>) -> Rest<'a> {
    let mut rest = word(bytes, "[")?;
    if let Ok(rest) = word(rest, "]") {
        return Ok(rest);
    }
    loop {
        rest = item(rest)?;
        match word(rest, ",") {
            Err(End::Foreign) => return word(rest, "]"),
            more => rest = more?,
        }
    }
}

/// The first of these forms that the bytes may be of.
fn either<'a>(bytes: &'a [u8], forms: &[&dyn Fn(&'a [u8]) -> Rest<'a>]) -> Rest<'a> {
    let mut taken = forms.iter().map(|form| form(bytes));
    taken
        .find(|taken| !matches!(taken, Err(End::Foreign)))
        .unwrap_or(Err(End::Foreign))
}

fn optional<'a>(bytes: &'a [u8], form: &dyn Fn(&'a [u8]) -> Rest<'a>) -> Rest<'a> {
    match form(bytes) {
        Err(End::Foreign) => Ok(bytes),
        taken => taken,
    }
}

#[cfg(test)]
mod tests {
    use ropeway::{Chunk, Embedding, Encoding, Output, Vector};

    use super::*;
    use crate::jsonl::{write_error, write_row};

    #[test]
    fn a_row_of_any_form_is_known_by_each_beginning() {
        let values = [0.5_f32, -1.25e-9, 3e8, 0.0, 1.0, -0.1, 0.3, 7.0];
        let encodings = [
            Encoding::F32,
            Encoding::F16,
            Encoding::Int8,
            Encoding::Binary,
            Encoding::Base64,
        ];
        let mut outputs = vec![Output::Vector(Vector::F32(vec![f32::NAN, 1.0]))];
        for encoding in encodings {
            let vector = || Vector::encode(&values, encoding);
            let chunk = |start, end| Chunk::new(start, end, vector());
            outputs.push(Output::Vector(vector()));
            outputs.push(Output::Tokens(vec![vector(), vector()]));
            outputs.push(Output::Chunks(vec![chunk(0, 12), chunk(12, 30)]));
        }
        outputs.push(Output::Chunks(Vec::new()));
        let id = |json: &str| Id::read(&RawValue::from_string(json.to_owned()).unwrap()).unwrap();
        let ids = [r#""é\ud83d\ude42\n\"\\ ,x""#, "-1.50E+07", "0"].map(id);
        let mut lines = Vec::new();
        for id in &ids {
            for output in &outputs {
                let mut line = Vec::new();
                write_row(&mut line, id, &Embedding::new(output.clone())).unwrap();
                lines.push(line);
            }
            let mut line = Vec::new();
            write_error(&mut line, id, "é \"bad\"\\ \u{1}\n").unwrap();
            lines.push(line);
        }
        for line in &lines {
            let line = &line[..line.len() - 1];
            for cut in 0..=line.len() {
                let text = String::from_utf8_lossy(&line[..cut]);
                assert!(is_row_begin(&line[..cut]), "{text}");
                // What no row has at any place.
                for foreign in [&b"\0"[..], b"\xff", b"\t"] {
                    assert!(!is_row_begin(&[&line[..cut], foreign].concat()), "{text}");
                }
            }
        }
    }

    #[test]
    fn what_no_row_begins_like_is_foreign() {
        for foreign in [
            r#"{"id":0,"my":"notes""#,
            r#"{"id":0,"text""#,
            r#"{"id": 0"#,
            r#"{ "#,
            r#"{"id":0} "#,
            r#"{"id":0}"#,
            r#"{"id":01"#,
            r#"{"id":+1"#,
            r#"{"id":1e999,"#,
            r#"{"id":"\ud800","#,
            r#"{"id":"\x"#,
            r#"{"id":null"#,
            r#"{"id":[0"#,
            r#"{"id":0,"embedding":{"#,
            r#"{"id":0,"embedding":"base 64"#,
            r#"{"id":0,"embedding":[1,]"#,
            r#"{"id":0,"embedding":[1,[2"#,
            r#"{"id":0,"embedding":[0.1]}"#,
            r#"{"id":0,"embedding":[0.1],"tokens":1.5"#,
            r#"{"id":0,"embedding":[0.1],"tokens":1,"note"#,
            r#"{"id":0,"embedding":[0.1],"tokens":1,"truncated":null"#,
            r#"{"id":0,"chunks":[[0"#,
            r#"{"id":0,"chunks":[{"start":0,"text"#,
            r#"{"id":0,"error":"e","more"#,
            r#"{"id":0,"error":"e"}{"#,
            r#"{"id":0,"error":12"#,
        ] {
            assert!(!is_row_begin(foreign.as_bytes()), "{foreign}");
        }
    }
}
