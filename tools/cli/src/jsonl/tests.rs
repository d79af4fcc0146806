use half::f16;
use proptest::prelude::*;
use serde_json::Value;

use super::*;
use ropeway::{AdapterSelection, Chunking, Embed, Encoding, Input, Pooling, Request};
use ropeway::{Chunk, Embedding, Output, Vector};

#[test]
fn poolings_have_the_librarys_names() {
    let words: Vec<(&str, Pooling)> = Pooling::ALL.iter().map(|&mode| (mode.name(), mode)).collect();
    assert_eq!(super::POOLINGS, words);
}

fn request<'d>(line: &str, defaults: &'d Embed) -> Request<'d> {
    parse(line, defaults)
        .unwrap_or_else(|bad| panic!("{line}: {}", bad.problem))
        .request
}

/// The options that `{"text": "", …}` has over these defaults.
fn options(keys: &str, defaults: &Embed) -> Embed {
    request(&format!(r#"{{"text": ""{keys}}}"#), defaults)
        .options
        .into_owned()
}

fn problem(line: &str) -> String {
    match parse(line, &Embed::default()) {
        Ok(line) => panic!("accepted: {line:?}"),
        Err(bad) => bad.problem,
    }
}

#[test]
fn absent_keys_inherit_and_cost_nothing() {
    let run = Embed::task("a").dimensions(64);
    let line = parse(r#"{"text": "x"}"#, &run).unwrap();
    assert_eq!(line.id, None);
    assert_eq!(line.request.input, Input::Text("x".into()));
    assert!(matches!(line.request.options, std::borrow::Cow::Borrowed(same) if std::ptr::eq(same, &run)));
}

#[test]
fn every_key_overrides_its_flag() {
    let run = Embed::task("a")
        .prompt("p")
        .dimensions(64)
        .any_dimensions(true)
        .pooling(Pooling::Cls)
        .normalize(false)
        .truncate(false)
        .encoding(Encoding::F16)
        .window(100)
        .overlap(10);
    let all = r#", "task": "b", "prompt": "q", "dimensions": 32, "any_dimensions": false, "pooling": "mean",
        "normalize": true, "truncate": true, "encoding": "int8", "window": 50, "overlap": 5"#
        .replace('\n', " ");
    let wanted = Embed::task("b")
        .prompt("q")
        .dimensions(32)
        .pooling(Pooling::Mean)
        .normalize(true)
        .encoding(Encoding::Int8)
        .window(50)
        .overlap(5);
    assert_eq!(options(&all, &run), wanted);
    // The flags' own spelling is understood as well.
    assert_eq!(
        options(
            r#", "no-truncate": false, "any-dimensions": false, "no_normalize": true"#,
            &run
        ),
        run.clone().any_dimensions(false).truncate(true)
    );
    // `null` sets each back to none.
    let none =
        r#", "task": null, "prompt": null, "dimensions": null, "any_dimensions": null, "pooling": null,
        "normalize": null, "truncate": null, "encoding": null, "window": null, "overlap": null"#
            .replace('\n', " ");
    assert_eq!(options(&none, &run), Embed::base());
    assert_eq!(
        request(r#"{"text": null, "input_ids": [1, 2], "id": null}"#, &run).input,
        Input::Ids(vec![1, 2].into())
    );
}

#[test]
fn task_and_adapters_override_each_other() {
    let unset = Embed::default();
    let task = Embed::task("a");
    let mixture = Embed::mixture([("a", 1.0), ("b", 2.0)]);
    let adapters = |keys: &str, run: &Embed| options(keys, run).get_adapters().clone();
    let two = AdapterSelection::Mixture(vec![("z".into(), 0.5), ("y".into(), -1.0)]);
    for run in [&unset, &task, &mixture] {
        assert_eq!(
            adapters(r#", "task": "b""#, run),
            AdapterSelection::Task("b".into())
        );
        assert_eq!(
            adapters(r#", "task": "b", "adapters": null"#, run),
            AdapterSelection::Task("b".into())
        );
        // In the order of the line.
        assert_eq!(adapters(r#", "adapters": {"z": 0.5, "y": -1}"#, run), two);
        assert_eq!(
            adapters(r#", "task": null, "adapters": {"z": 0.5, "y": -1}"#, run),
            two
        );
        assert_eq!(adapters(r#", "task": null"#, run), AdapterSelection::Base);
        assert_eq!(
            adapters(r#", "task": null, "adapters": null"#, run),
            AdapterSelection::Base
        );
        assert_eq!(adapters(r#", "adapters": {}"#, run), AdapterSelection::Base);
        assert_eq!(adapters("", run), *run.get_adapters());
    }
    assert_eq!(adapters(r#", "adapters": null"#, &unset), AdapterSelection::Unset);
    assert_eq!(adapters(r#", "adapters": null"#, &task), *task.get_adapters());
    assert_eq!(
        adapters(r#", "adapters": null"#, &mixture),
        AdapterSelection::Base
    );
}

#[test]
fn chunk_keys_override_each_other() {
    let tokens = Embed::default().chunks(Chunking::Tokens(8));
    let sentences = Embed::default().chunks(Chunking::Sentences);
    let chunking = |keys: &str, run: &Embed| options(keys, run).get_chunks().cloned();
    let spans = Some(Chunking::Spans(vec![(0, 2), (1, 3)]));
    for run in [&Embed::default(), &tokens, &sentences] {
        assert_eq!(chunking(r#", "spans": [[0, 2], [1, 3]]"#, run), spans);
        assert_eq!(
            chunking(r#", "spans": [[0, 2], [1, 3]], "chunk_tokens": null"#, run),
            spans
        );
        assert_eq!(chunking(r#", "chunk_tokens": 4"#, run), Some(Chunking::Tokens(4)));
        assert_eq!(
            chunking(r#", "chunk_sentences": true"#, run),
            Some(Chunking::Sentences)
        );
        assert_eq!(chunking(r#", "spans": null"#, run), run.get_chunks().cloned());
        assert_eq!(
            chunking(r#", "chunk_tokens": null, "chunk_sentences": null"#, run),
            None
        );
    }
    assert_eq!(
        chunking(r#", "chunk_tokens": null"#, &sentences),
        sentences.get_chunks().cloned()
    );
    assert_eq!(chunking(r#", "chunk_sentences": false"#, &sentences), None);
}

#[test]
fn ids_are_echoed_as_they_were_written() {
    for id in [
        r#""a""#,
        "7",
        "-1.50",
        "1e3",
        "123456789012345678901234567890",
        r#""caf\u00e9""#,
        r#""""#,
    ] {
        let defaults = Embed::default();
        let line = parse(&format!(r#"{{"text": "x", "id": {id} }}"#), &defaults).unwrap();
        assert_eq!(line.id.unwrap().as_json(), id);
    }
    assert_eq!(Id::string("a\"b\n").as_json(), r#""a\"b\n""#);
    for id in ["true", "[1]", "{}"] {
        let problem = problem(&format!(r#"{{"text": "x", "id": {id}}}"#));
        assert_eq!(
            problem,
            format!("key `id`: wanted a string or a number, got {id}")
        );
    }
}

#[test]
fn bad_lines_say_what_is_wrong_and_keep_their_id() {
    for (line, wanted) in [
        (r#"{"id": 1}"#, "neither `text` nor `input_ids` is given"),
        (
            r#"{"text": "a", "input_ids": [1]}"#,
            "`text` and `input_ids` exclude each other",
        ),
        (
            r#"{"text": "a", "task": "b", "adapters": {"c": 1}}"#,
            "`task` and `adapters` exclude each other",
        ),
        (r#"{"text": 5}"#, "key `text`: wanted a string, got 5"),
        (
            r#"{"input_ids": [1, -2]}"#,
            "key `input_ids`: wanted a list of token ids (whole numbers), got [1, -2]",
        ),
        (
            r#"{"input_ids": [4294967296]}"#,
            "key `input_ids`: wanted a list of token ids (whole numbers), got [4294967296]",
        ),
        (r#"{"text": "a", "text": "b"}"#, "key `text`: given twice"),
        (
            r#"{"text": "a", "normalize": true, "no_normalize": true}"#,
            "key `no_normalize`: given twice",
        ),
        (
            r#"{"text": "a", "adapters": {"x": 1, "x": 2}}"#,
            "adapters: `x` is given twice",
        ),
        (
            r#"{"text": "a", "adapters": {"x": 1e39}}"#,
            "adapters: the weight of `x` is inf; wanted a finite number",
        ),
        (
            r#"{"text": "a", "dimensions": 1.5}"#,
            "key `dimensions`: wanted a whole number, got 1.5",
        ),
        (
            r#"{"text": "a", "pooling": "median"}"#,
            r#"key `pooling`: wanted "mean", "cls", "lasttoken", "max", "mean_sqrt_len_tokens", "weightedmean", "none", got "median""#,
        ),
        (
            r#"{"text": "a", "spans": [[1, 2, 3]]}"#,
            "key `spans`: wanted a list of [start, end] pairs, half-open, in code points of the text, got [[1, 2, 3]]",
        ),
        (
            r#"{"text": "a", "chunk_tokens": 4, "chunk_sentences": true}"#,
            "`spans`, `chunk_tokens` and `chunk_sentences` exclude each other",
        ),
    ] {
        assert_eq!(problem(line), wanted, "{line}");
    }
    let unknown = problem(r#"{"text": "a", "txt": 1}"#);
    assert!(
        unknown.starts_with("unknown key `txt`; known: id, text, ") && unknown.ends_with("overlap"),
        "{unknown}"
    );
    // Weights that JSON cannot even hold.
    assert!(problem(r#"{"text": "a", "adapters": {"x": NaN}}"#).starts_with("invalid JSON at column 33"));
    assert!(problem(r#"{"text": "a""#).starts_with("invalid JSON at column 12: EOF while parsing an object"));
    assert!(problem("plain text").starts_with("not a JSON object"));
    assert!(problem("[1]").starts_with("not a JSON object"));
    let bad = parse(r#"{"txt": 1, "id": "q7"}"#, &Embed::default()).unwrap_err();
    assert_eq!(bad.id, Some(Id::string("q7")));
    // However long a value is, the message is not.
    assert!(problem(&format!(r#"{{"text": ["{}"]}}"#, "é".repeat(5000))).len() < 250);
}

#[test]
fn a_line_holds_no_more_than_a_valid_one_can() {
    let mixture = |count: usize| {
        let names: Vec<String> = (0..count).map(|n| format!("\"{n}\": 1")).collect();
        format!("{{\"text\": \"a\", \"adapters\": {{{}}}}}", names.join(","))
    };
    request(&mixture(10_000), &Embed::default());
    assert_eq!(problem(&mixture(10_001)), "adapters: more than 10000 names");
    // Keys past the last that is read are looked over, in whatever they hold.
    let many = |last: &str| format!("{{{}{last}}}", "\"task\": null, ".repeat(1000));
    assert_eq!(
        problem(&many(r#""text": [[{"a": "\ud800"}]]"#)),
        "key `task`: given twice"
    );
    assert!(problem(&many(r#""text": }"#)).starts_with("invalid JSON at column 14010"));
    let long = format!("{{\"text\": \"a\", \"id\": \"{}\"}}", "x".repeat(1 << 16));
    assert_eq!(problem(&long), "key `id`: longer than 64 KiB");
}

fn row(embedding: &Embedding) -> Value {
    let mut line = Vec::new();
    write_row(&mut line, &Id::string("n"), embedding).unwrap();
    let line = String::from_utf8(line).unwrap();
    assert_eq!(
        read_row(&line),
        Some(Row {
            id: Id::string("n"),
            failed: false
        })
    );
    assert!(line.ends_with("}\n") && !line.trim_end().contains('\n'));
    serde_json::from_str(&line).unwrap()
}

#[test]
fn rows_have_the_documented_form() {
    let vector = |encoding| Vector::encode(&[0.5, -1.0, 0.1, 0.0, 1.0, 1.0, 1.0, 1.0], encoding);
    let with = |output| {
        let mut embedding = Embedding::new(output);
        (embedding.tokens, embedding.truncated) = (7, true);
        embedding
    };
    let one = |encoding| row(&with(Output::Vector(vector(encoding)))).to_string();
    assert_eq!(
        one(Encoding::F32),
        r#"{"id":"n","embedding":[0.5,-1.0,0.1,0.0,1.0,1.0,1.0,1.0],"tokens":7,"truncated":true}"#
    );
    assert_eq!(
        one(Encoding::F16),
        r#"{"id":"n","embedding":[0.5,-1.0,0.1,0.0,1.0,1.0,1.0,1.0],"tokens":7,"truncated":true}"#
    );
    assert!(one(Encoding::Int8).contains(r#""embedding":[64,-127,13,0,127,127,127,127],"scale":0.00787401"#));
    assert!(one(Encoding::Binary).contains(r#""embedding":[175],"tokens""#));
    assert!(one(Encoding::Base64).contains(r#""embedding":"AAAAPwAAgL/"#));
    let chunks = [(0, 3), (3, 9)].map(|(start, end)| Chunk::new(start, end, Vector::F32(vec![1.0])));
    assert_eq!(
        row(&with(Output::Chunks(chunks.into()))).to_string(),
        r#"{"id":"n","chunks":[{"start":0,"end":3,"embedding":[1.0]},{"start":3,"end":9,"embedding":[1.0]}],"tokens":7,"truncated":true}"#
    );
    let tokens = || {
        vec![
            Vector::encode(&[1.0, 0.0], Encoding::Int8),
            Vector::encode(&[0.0, 0.0], Encoding::Int8),
        ]
    };
    assert!(
        row(&with(Output::Tokens(tokens())))
            .to_string()
            .contains(r#""embedding":[[127,0],[0,0]],"scale":[0.0078"#)
    );
    assert_eq!(
        row(&with(Output::Tokens(Vec::new())))["embedding"],
        serde_json::json!([])
    );

    let mut line = Vec::new();
    write_error(&mut line, &Id::number(3), "a \"bad\"\nline").unwrap();
    let line = String::from_utf8(line).unwrap();
    assert_eq!(line, "{\"id\":3,\"error\":\"a \\\"bad\\\"\\nline\"}\n");
    assert_eq!(
        read_row(&line),
        Some(Row {
            id: Id::number(3),
            failed: true
        })
    );
    for other in [
        "",
        "{}",
        r#"{"id":1}"#,
        r#"{"embedding":[1]}"#,
        r#"{"id":1,"embedding":[1"#,
        "[1]",
    ] {
        assert_eq!(read_row(other), None, "{other}");
    }
}

/// Every f16 there is reads back as itself, and no shorter decimal would.
#[test]
fn f16_decimals_are_shortest_and_round_trip() {
    for bits in 0..=u16::MAX {
        let x = f16::from_bits(bits);
        if !x.is_finite() {
            continue;
        }
        let mut text = Vec::new();
        write_numbers(&mut text, &Vector::F16(vec![x])).unwrap();
        let text = String::from_utf8(text).unwrap();
        let decimal: f64 = text.trim_matches(['[', ']']).parse().unwrap();
        assert_eq!(f16::from_f64(decimal).to_bits(), bits, "{text}");
        let digits = format!("{decimal:e}")
            .chars()
            .filter(char::is_ascii_digit)
            .count();
        assert!(digits <= 8, "{text}");
    }
    let shortest = |x: f32| {
        let mut text = Vec::new();
        write_numbers(&mut text, &Vector::F16(vec![f16::from_f32(x)])).unwrap();
        String::from_utf8(text).unwrap()
    };
    assert_eq!(
        [0.1, 1.0 / 3.0, 65504.0, -2.0].map(shortest),
        ["[0.1]", "[0.3333]", "[65500.0]", "[-2.0]"]
    );
}

proptest! {
    #[test]
    fn f32_decimals_round_trip(bits in any::<u32>()) {
        let x = f32::from_bits(bits);
        let mut text = Vec::new();
        write_numbers(&mut text, &Vector::F32(vec![x])).unwrap();
        let read: Vec<Option<f32>> = serde_json::from_slice(&text).unwrap();
        prop_assert_eq!(read[0].map(f32::to_bits), x.is_finite().then_some(bits));
    }

    #[test]
    fn no_line_panics(line in "\\PC{0,80}", tail in any::<Vec<u8>>()) {
        let text = format!("{{\"text\": \"a\", {line}{}", String::from_utf8_lossy(&tail));
        let _ = parse(&text, &Embed::default());
        let _ = parse(&line, &Embed::default());
        let _ = read_row(&text);
    }

    #[test]
    fn options_survive_the_line(
        task in "[a-z.\"\\\\]{0,12}", dimensions in 1usize..5000, normalize: bool, id in "\\PC{0,10}", text in "\\PC{0,40}",
    ) {
        let line = serde_json::json!({
            "id": id, "text": text, "task": task, "dimensions": dimensions, "normalize": normalize,
        });
        let defaults = Embed::task("other").pooling(Pooling::Cls);
        let read = parse(&line.to_string(), &defaults).unwrap();
        prop_assert_eq!(read.id, Some(Id::string(&id)));
        prop_assert_eq!(read.request.input, Input::Text(text.into()));
        let wanted = Embed::task(task).pooling(Pooling::Cls).dimensions(dimensions).normalize(normalize);
        prop_assert_eq!(read.request.options.into_owned(), wanted);
    }
}
