//! The requests of `tests/c/embed.c`, in the same order, made with the Rust interface and printed
//! the same way.

use std::fmt::Write;
use std::path::Path;

use ropeway::{
    Chunk, Chunking, Embed, Embedding, Encoding, Engine, Error, Output, Pooling, Request, RequestError,
    Vector,
};

const TEXT: &str = "half past four";
const DOCUMENT: &str = "Über den Gletscher fährt eine Seilbahn. The last cabin leaves at half past four. \
                        Канатная дорога закрыта. How many fit in?";
const IDS: &[u32] = &[0, 17, 404, 999, 23, 5, 2];

/// What the request is made of: a text or ids.
enum Of {
    Text(&'static str),
    Ids(&'static [u32]),
}
use Of::{Ids, Text};

fn cases() -> Vec<(&'static str, Of, Embed)> {
    let plain = Embed::default;
    let task = Embed::task;
    let blend = Embed::mixture([("separation", 0.7), ("classification", -0.3)]);
    let spans = || plain().chunks(Chunking::Spans(vec![(0, 5), (3, 20), (40, 60)]));
    let sentences = || plain().chunks(Chunking::Sentences);
    let tokens = || plain().pooling(Pooling::None);
    vec![
        ("defaults", Text(TEXT), plain()),
        ("length", Text("half"), plain()),
        ("nul inside", Text("a\0b"), plain()),
        ("empty", Text(""), plain()),
        ("ids", Ids(IDS), plain()),
        ("task", Text(TEXT), task("retrieval.query")),
        ("task, ids", Ids(IDS), task("separation")),
        ("base", Text(TEXT), Embed::base()),
        ("mixture", Text(TEXT), blend),
        ("prompt", Text(TEXT), task("retrieval.query").prompt("ask: ")),
        ("no prompt", Text(TEXT), task("retrieval.query").prompt("")),
        ("dimensions", Text(TEXT), plain().dimensions(32)),
        (
            "any dimensions",
            Text(TEXT),
            plain().dimensions(7).any_dimensions(true),
        ),
        ("mean", Text(TEXT), plain().pooling(Pooling::Mean)),
        ("cls", Text(TEXT), plain().pooling(Pooling::Cls)),
        ("last token", Text(TEXT), plain().pooling(Pooling::LastToken)),
        ("max", Text(TEXT), plain().pooling(Pooling::Max)),
        ("sqrt", Text(TEXT), plain().pooling(Pooling::MeanSqrtLen)),
        ("weighted", Text(TEXT), plain().pooling(Pooling::WeightedMean)),
        ("tokens", Text(TEXT), tokens()),
        ("normalised", Text(TEXT), plain().normalize(true)),
        ("not normalised", Text(TEXT), plain().normalize(false)),
        ("f16", Text(TEXT), plain().encoding(Encoding::F16)),
        ("int8", Text(TEXT), plain().encoding(Encoding::Int8)),
        ("binary", Text(TEXT), plain().encoding(Encoding::Binary)),
        ("base64", Text(TEXT), plain().encoding(Encoding::Base64)),
        (
            "base64, 7",
            Text("x"),
            plain()
                .encoding(Encoding::Base64)
                .dimensions(7)
                .any_dimensions(true),
        ),
        ("tokens, int8", Ids(IDS), tokens().encoding(Encoding::Int8)),
        ("tokens, f16", Ids(IDS), tokens().encoding(Encoding::F16)),
        ("tokens, base64", Ids(IDS), tokens().encoding(Encoding::Base64)),
        ("sentences", Text(DOCUMENT), sentences()),
        (
            "chunks of tokens",
            Text(DOCUMENT),
            plain().chunks(Chunking::Tokens(9)),
        ),
        ("spans", Text(DOCUMENT), spans()),
        (
            "spans, binary",
            Text(DOCUMENT),
            spans().encoding(Encoding::Binary),
        ),
        ("windows", Text(DOCUMENT), sentences().window(16).overlap(4)),
        (
            "windows, no overlap",
            Text(DOCUMENT),
            sentences().window(16).overlap(0),
        ),
        ("windows, default overlap", Text(DOCUMENT), sentences().window(16)),
        ("bad task", Text("x"), task("retrieval.nothing")),
        ("bad ids", Ids(&[0, 1000, 2]), plain()),
        ("no ids", Ids(&[]), plain()),
        ("bad weight", Text("x"), Embed::mixture([("separation", 2000.0)])),
        ("bad dimensions", Text("x"), plain().dimensions(7)),
        ("bad chunking", Text("x"), plain().chunks(Chunking::Tokens(0))),
        ("last", Text(TEXT), task("text-matching").truncate(false)),
    ]
}

/// As in the header.
fn status(error: &Error) -> i32 {
    match error {
        Error::Adapter { .. } => 6,
        Error::Request(RequestError::UnknownTask { .. }) => 14,
        Error::Request(RequestError::UntrainedDimensions { .. }) => 16,
        Error::Request(RequestError::NoIds | RequestError::IdOutOfRange { .. }) => 17,
        Error::Request(_) => 7,
        other => panic!("no case has this error: {other}"),
    }
}

/// A vector's dimensions and how a row of it is printed.
fn row(vector: &Vector) -> (usize, String) {
    let hex = |bytes: &mut dyn Iterator<Item = u8>| bytes.map(|b| format!("{b:02x}")).collect::<String>();
    match vector {
        Vector::F32(x) => (x.len(), hex(&mut x.iter().flat_map(|x| x.to_ne_bytes()))),
        Vector::F16(x) => (x.len(), hex(&mut x.iter().flat_map(|x| x.to_ne_bytes()))),
        Vector::Int8 { values, scale } => {
            let bytes = hex(&mut values.iter().map(|&x| x as u8));
            (values.len(), format!("{} {bytes}", hexadecimal(*scale)))
        }
        Vector::Binary(bits) => (8 * bits.len(), hex(&mut bits.iter().copied())),
        // Four characters for three bytes, padded with at most two `=`.
        Vector::Base64(text) => (text.trim_end_matches('=').len() * 3 / 4 / 4, text.clone()),
        other => panic!("no case has this encoding: {other:?}"),
    }
}

/// C's `%a` of a double that holds this float.
fn hexadecimal(x: f32) -> String {
    let bits = f64::from(x).to_bits();
    let sign = if x.is_sign_negative() { "-" } else { "" };
    let exponent = (bits >> 52 & 0x7ff) as i64 - 1023;
    let fraction = format!("{:013x}", bits & ((1 << 52) - 1));
    match fraction.trim_end_matches('0') {
        _ if x == 0.0 => format!("{sign}0x0p+0"),
        "" => format!("{sign}0x1p{exponent:+}"),
        digits => format!("{sign}0x1.{digits}p{exponent:+}"),
    }
}

fn embedding(name: &str, result: &Result<Embedding, Error>) -> String {
    let embedding = match result {
        Ok(embedding) => embedding,
        Err(error) => return format!("{name}: status {}: {error}\n", status(error)),
    };
    let span = |chunk: &Chunk| format!("{}..{} ", chunk.start, chunk.end);
    let (kind, rows): (i32, Vec<(String, &Vector)>) = match &embedding.output {
        Output::Vector(vector) => (0, vec![(String::new(), vector)]),
        Output::Tokens(vectors) => (1, vectors.iter().map(|v| (String::new(), v)).collect()),
        Output::Chunks(chunks) => (2, chunks.iter().map(|c| (span(c), &c.vector)).collect()),
        other => panic!("no case has this form: {other:?}"),
    };
    let encoding = match rows[0].1 {
        Vector::F32(_) => 0,
        Vector::F16(_) => 1,
        Vector::Int8 { .. } => 2,
        Vector::Binary(_) => 3,
        Vector::Base64(_) => 4,
        other => panic!("no case has this encoding: {other:?}"),
    };
    let cut = if embedding.truncated { ", truncated" } else { "" };
    let (count, dimensions, tokens) = (rows.len(), row(rows[0].1).0, embedding.tokens);
    let mut text =
        format!("{name}: kind {kind}, encoding {encoding}, {count} of {dimensions}, {tokens} tokens{cut}\n");
    for (span, vector) in rows {
        writeln!(text, "{span}{}", row(vector).1).unwrap();
    }
    text
}

fn open(folder: &Path, device: &str) -> Engine {
    let builder = Engine::builder().device(device.parse().unwrap()).threads(2);
    builder.open(folder).unwrap()
}

/// All that `embed.c` prints.
pub fn print(jina: &Path, bert: &Path, device: &str) -> String {
    let mut text = String::new();
    let engine = open(jina, device);
    let (model, memory) = (engine.config(), engine.memory());
    writeln!(
        text,
        "{}: {} {} {} {}, {} {} {}, {} {}: {}",
        engine.device_name(),
        model.hidden_size,
        model.max_tokens,
        model.vocab_size,
        model.num_hidden_layers,
        engine.threads(),
        memory.concurrency,
        engine.batch_tokens(),
        memory.weights,
        memory.arena,
        model
            .matryoshka
            .iter()
            .map(usize::to_string)
            .collect::<Vec<_>>()
            .join(" ")
    )
    .unwrap();
    writeln!(text, "tasks: {}", model.task_names().join(" ")).unwrap();
    for (name, of, options) in cases() {
        // Alone, while C sends all at once.
        let request = match of {
            Text(text) => Request::text(text, &options),
            Ids(ids) => Request::ids(ids, &options),
        };
        text += &embedding(name, &engine.embed_batch(&[request]).remove(0));
    }
    let whole = engine.embed(&[TEXT], &Embed::default()).unwrap();
    for &x in whole[0].as_f32().unwrap() {
        write!(text, "{} ", hexadecimal(x)).unwrap();
    }
    text.push('\n');
    let engine = open(bert, device);
    engine.add_adapter("user", bert.join("user")).unwrap();
    writeln!(text, "adapters: {}", engine.adapters().join(" ")).unwrap();
    let user = engine.embed(&[TEXT], &Embed::task("user")).unwrap().remove(0);
    text + &embedding("user", &Ok(user))
}
