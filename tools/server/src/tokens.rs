//! `/tokenize` and `/decode` of text-embeddings-inference.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::app::{Answer, Call};
use crate::failure::{Failure, Kind};
use crate::inputs::{Inputs, Text};
use crate::reply::Growing;
use crate::tei::check_prompt;

/// Bytes of all texts of a request to `/tokenize`, each with its prompt, and token ids of one to `/decode`. What is made of
/// one of them may be long, 18 tokens of U+FDFA and a kilobyte of an id: answers have a bound of their own
/// ([`Limits::vector_bytes`](crate::Limits::vector_bytes)).
const LIMIT: usize = 1 << 20;

/// Bytes of the shortest token in an answer, with what stands between two.
const SHORTEST: usize = r#"{"id":0,"text":"","special":false,"start":0,"stop":0},"#.len();

/// What to tokenise with the first model's tokenizer. Unknown fields are ignored.
#[derive(Deserialize, JsonSchema)]
pub struct TokenizeRequest {
    #[schemars(with = "Texts")]
    inputs: Inputs,
    /// Whether the model's special tokens go around each text; true if it is missing.
    #[serde(default = "yes")]
    add_special_tokens: bool,
    /// A task or prompt of the model, put before each text.
    prompt_name: Option<String>,
}

/// A text, or several.
#[derive(JsonSchema)]
#[schemars(untagged)]
#[expect(dead_code, reason = "the shape of those `Inputs` that are taken here")]
enum Texts {
    One(#[schemars(length(min = 1))] String),
    More(#[schemars(length(min = 1))] Vec<String>),
}

/// Ids of the first model's tokens. Unknown fields are ignored.
#[derive(Deserialize, JsonSchema)]
pub struct DecodeRequest {
    #[schemars(with = "Ids")]
    ids: Inputs,
    /// Whether special tokens are left out; true if it is missing.
    #[serde(default = "yes")]
    skip_special_tokens: bool,
}

/// The ids of a text, or of several.
#[derive(JsonSchema)]
#[schemars(untagged)]
#[expect(dead_code, reason = "the shape of those `Inputs` that are taken here")]
enum Ids {
    One(#[schemars(length(min = 1))] Vec<u32>),
    More(#[schemars(length(min = 1))] Vec<Vec<u32>>),
}

/// A token of a text.
#[derive(Serialize, JsonSchema)]
pub struct Token {
    id: u32,
    /// The part of the text that it stands for; of a special token, its name.
    text: String,
    special: bool,
    /// Bytes `[start, stop)` of prompt and text; null for special tokens.
    start: Option<usize>,
    stop: Option<usize>,
}

fn yes() -> bool {
    true
}

fn check_size(field: &str, size: usize, what: &str) -> Result<(), Failure> {
    match size > LIMIT {
        false => Ok(()),
        true => Err(Failure::new(
            Kind::TooLarge,
            format!("`{field}` has {size} {what}; wanted at most {LIMIT} in a request"),
        )),
    }
}

/// Makes an answer on a thread that may take its time. Two at a time: what passes need of the processor is theirs, and what
/// is held beside an answer, for the text that is being worked on, has no room of its own.
async fn aside(
    call: Call,
    work: impl FnOnce(&mut Growing) -> Result<(), Failure> + Send + 'static,
) -> Answer {
    let Call {
        app, caller, share, ..
    } = call;
    let turn = app.tokenizing.clone().acquire_owned();
    let turn = turn.await.map_err(Failure::internal)?;
    let mut json = Growing::within(app.room_for_answer(&caller.0), app.limits.vector_bytes);
    let answer = move || {
        // Turn and room are its own until it is done, also where the client has gone away.
        let _held = (turn, share);
        work(&mut json)?;
        Ok(json.response())
    };
    tokio::task::spawn_blocking(answer)
        .await
        .map_err(Failure::internal)?
}

/// `POST /tokenize`.
pub async fn tokenize(mut call: Call) -> Answer {
    let request: TokenizeRequest = call.read().await?;
    let app = &call.app;
    let model = app.model(None)?;
    let words = |text| match text {
        Text::Words(text) => Ok(text),
        Text::Ids(_) => Err(Failure::new(
            Kind::Invalid,
            "`inputs` holds token ids; wanted texts",
        )),
    };
    let texts = request.inputs.take("inputs", app.limits.inputs)?.into_iter();
    let texts: Vec<String> = texts.map(words).collect::<Result<_, _>>()?;
    let prompt = match &request.prompt_name {
        Some(name) => check_prompt(model, name)?,
        None => String::new(),
    };
    // The prompt's tokens are told for each text.
    let bytes = texts.iter().map(|text| prompt.len() + text.len()).sum();
    check_size("inputs", bytes, "bytes")?;
    let engine = model.engine()?;
    let add_special_tokens = request.add_special_tokens;
    let tokens = move |json: &mut Growing| {
        json.list(&texts, |json, text| {
            let whole = [prompt.as_str(), text].concat();
            let tokens = engine.tokenize_within(&whole, add_special_tokens, json.left() / SHORTEST)?;
            let tokens = tokens.ok_or_else(|| json.too_large())?;
            // Where each code point starts in bytes.
            let bytes = whole.char_indices().map(|(at, _)| at).chain([whole.len()]);
            let bytes: Vec<usize> = bytes.collect();
            json.list(tokens, |json, token| {
                let span = token.span.map(|(start, end)| (bytes[start], bytes[end]));
                json.add(&Token {
                    id: token.id,
                    text: match span {
                        Some((start, stop)) => whole[start..stop].to_owned(),
                        None => token.name.unwrap_or_default(),
                    },
                    special: span.is_none(),
                    start: span.map(|span| span.0),
                    stop: span.map(|span| span.1),
                })
            })
        })
    };
    aside(call, tokens).await
}

/// `POST /decode`.
pub async fn decode(mut call: Call) -> Answer {
    let request: DecodeRequest = call.read().await?;
    let app = &call.app;
    let ids = |ids| match ids {
        Text::Ids(ids) => Ok(ids),
        Text::Words(_) => Err(Failure::new(Kind::Invalid, "`ids` holds texts; wanted token ids")),
    };
    let all = request.ids.take("ids", app.limits.inputs)?.into_iter();
    let all: Vec<Vec<u32>> = all.map(ids).collect::<Result<_, _>>()?;
    check_size("ids", all.iter().map(Vec::len).sum(), "token ids")?;
    let engine = app.model(None)?.engine()?;
    let texts = move |json: &mut Growing| {
        // Known before any text is made.
        let mut bytes = 0;
        for ids in &all {
            bytes += engine.decoded_at_most(ids)?;
            if bytes > json.left() {
                return Err(json.too_large());
            }
        }
        json.list(&all, |json, ids| {
            json.add(&engine.decode(ids, request.skip_special_tokens)?)
        })
    };
    aside(call, texts).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_token_is_shorter_than_the_shortest() {
        for special in [false, true] {
            let at = (!special).then_some(0);
            let token = Token {
                id: 0,
                text: String::new(),
                special,
                start: at,
                stop: at,
            };
            assert!(serde_json::to_string(&token).unwrap().len() + 1 >= SHORTEST);
        }
    }
}
