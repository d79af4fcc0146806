//! Requests that a model cannot serve, and those at the edges that it can.

use model_maker::Family;
use ropeway::{Chunking, Embed, Embedding, Encoding, Error, Output, Pooling, Request, RequestError};

use crate::common::{Table, model, tiny};
use crate::engine;

fn good() -> Vec<(&'static str, Embed)> {
    vec![
        ("The first good text.", Embed::task("retrieval.query")),
        ("Another, without a task", Embed::default().dimensions(32)),
        ("One. Two. Three.", Embed::default().chunks(Chunking::Sentences)),
        ("Rows", Embed::task("separation").pooling(Pooling::None)),
    ]
}

/// A request that must fail: its text or ids, its options, and the words of its error.
type BadRequest = (
    &'static str,
    Result<&'static str, &'static [u32]>,
    Embed,
    &'static [&'static str],
);

fn bad_requests() -> Vec<BadRequest> {
    let text = Ok("One, two and three.");
    let spans = |spans: &[(usize, usize)]| Embed::default().chunks(Chunking::Spans(spans.to_vec()));
    let long: &str = "a b c d e f g h i j k l m n o p q r s t u v w x y z a b c d e f g h i j k l m n o p";
    vec![
        (
            "unknown task",
            text,
            Embed::task("translation"),
            &["`translation`", "retrieval.query", "text-matching"],
        ),
        (
            "unknown adapter",
            text,
            Embed::mixture([("nobody", 1.0)]),
            &["`nobody`", "separation"],
        ),
        (
            "NaN weight",
            text,
            Embed::mixture([("separation", f32::NAN)]),
            &["`separation`", "NaN", "finite"],
        ),
        (
            "Inf weight",
            text,
            Embed::mixture([("separation", f32::INFINITY)]),
            &["`separation`", "inf", "finite"],
        ),
        (
            "adapter twice",
            text,
            Embed::mixture([("separation", 0.5), ("separation", 0.5)]),
            &["`separation`", "twice"],
        ),
        (
            "no dimensions",
            text,
            Embed::default().dimensions(0),
            &["dimensions is 0", "1 to 64"],
        ),
        (
            "too many dimensions",
            text,
            Embed::default().dimensions(65).any_dimensions(true),
            &["dimensions is 65", "1 to 64"],
        ),
        (
            "absurd dimensions",
            text,
            Embed::default().dimensions(usize::MAX).any_dimensions(true),
            &["dimensions", "1 to 64"],
        ),
        (
            "untrained size",
            text,
            Embed::default().dimensions(33),
            &["dimensions is 33", "32 and 64", "any_dimensions"],
        ),
        (
            "binary of 12",
            text,
            Embed::default()
                .dimensions(12)
                .any_dimensions(true)
                .encoding(Encoding::Binary),
            &["multiple of 8", "12"],
        ),
        (
            "too long",
            Ok(long),
            Embed::default().truncate(false),
            &["tokens", "40", "allow truncation"],
        ),
        (
            "too many ids",
            Err(&[5; 41]),
            Embed::default().truncate(false),
            &["41 tokens", "40", "allow truncation"],
        ),
        ("no ids", Err(&[]), Embed::default(), &["no token ids"]),
        (
            "id past the vocabulary",
            Err(&[0, 160, 2]),
            Embed::default(),
            &["token id 160", "position 1", "vocabulary of 160"],
        ),
        (
            "id absurd",
            Err(&[u32::MAX]),
            Embed::default(),
            &["token id 4294967295", "position 0"],
        ),
        (
            "span outside",
            text,
            spans(&[(0, 3), (4, 20)]),
            &["[4, 20)", "19 code points"],
        ),
        (
            "span absurd",
            text,
            spans(&[(0, usize::MAX)]),
            &["[0, 18446744073709551615)", "19 code points"],
        ),
        ("span empty", text, spans(&[(3, 3)]), &["[3, 3)", "empty"]),
        ("span backwards", text, spans(&[(3, 1)]), &["[3, 1)"]),
        (
            "span of a space",
            text,
            spans(&[(4, 5)]),
            &["[4, 5)", "white space"],
        ),
        (
            "span of ids",
            Err(&[5; 4]),
            spans(&[(0, 5)]),
            &["[0, 5)", "4 tokens"],
        ),
        (
            "span of nothing",
            Ok(""),
            spans(&[(0, 1)]),
            &["[0, 1)", "0 code points"],
        ),
        (
            "chunks of 0",
            text,
            Embed::default().chunks(Chunking::Tokens(0)),
            &["chunks of 0 tokens", "1 or more"],
        ),
        (
            "sentences of ids",
            Err(&[5; 4]),
            Embed::default().chunks(Chunking::Sentences),
            &["no sentences", "spans"],
        ),
        (
            "chunks by CLS",
            text,
            Embed::default().chunks(Chunking::Sentences).pooling(Pooling::Cls),
            &["mean"],
        ),
        (
            "window too large",
            text,
            Embed::default().chunks(Chunking::Sentences).window(41).overlap(0),
            &["41", "1 to 40"],
        ),
        (
            "window of 0",
            text,
            Embed::default().chunks(Chunking::Sentences).window(0).overlap(0),
            &["0 tokens", "1 to 40"],
        ),
        (
            "all overlap",
            Ok(long),
            Embed::default().chunks(Chunking::Sentences).window(8).overlap(8),
            &["overlap by 8", "wanted up to"],
        ),
        (
            "absurd overlap",
            Ok(long),
            Embed::default()
                .chunks(Chunking::Sentences)
                .window(8)
                .overlap(usize::MAX),
            &["overlap"],
        ),
    ]
}

#[test]
fn bad_requests_are_refused_and_do_not_hurt_good_ones() {
    let engine = engine(&model(&tiny(Family::Jina)));
    let good = good();
    let bad = bad_requests();
    let request = |input: &Result<&'static str, &'static [u32]>, options| match *input {
        Ok(text) => Request::text(text, options),
        Err(ids) => Request::ids(ids, options),
    };
    let alone: Vec<Embedding> = good
        .iter()
        .map(|(text, options)| {
            engine
                .embed_batch(&[Request::text(*text, options)])
                .remove(0)
                .unwrap()
        })
        .collect();
    let mut table = Table::new("requests");
    for (case, input, options, words) in &bad {
        let request = request(input, options);
        table.refused(case, words, || engine.validate(&request));
        table.refused(case, words, || {
            engine.embed_batch(std::slice::from_ref(&request)).remove(0)
        });
    }
    table.finish();

    // All of them in one call, every bad one between two good ones.
    let mut requests = Vec::new();
    for (i, (_, input, options, _)) in bad.iter().enumerate() {
        let (text, good_options) = &good[i % good.len()];
        requests.extend([Request::text(*text, good_options), request(input, options)]);
    }
    let results = engine.embed_batch(&requests);
    assert_eq!(results.len(), requests.len());
    for (i, result) in results.iter().enumerate() {
        if i % 2 == 0 {
            let expected = &alone[i / 2 % good.len()];
            assert_eq!(result.as_ref().unwrap(), expected, "beside {}", bad[i / 2].0);
        } else {
            assert!(result.is_err(), "{}", bad[i / 2].0);
        }
    }
    // `embed` names the first bad text.
    let texts = ["short", "t ".repeat(99).leak()];
    let error = engine
        .embed(&texts, &Embed::default().truncate(false))
        .unwrap_err();
    assert!(matches!(error, Error::Input { index: 1, .. }), "{error}");
}

#[test]
fn requests_at_the_edges_are_served() {
    let engine = engine(&model(&tiny(Family::Jina)));
    let one = |request: Request<'_>| engine.embed_batch(&[request]).remove(0).unwrap();
    let default = Embed::default();

    assert!(engine.embed_batch(&[]).is_empty());
    assert!(engine.embed::<&str>(&[], &default).unwrap().is_empty());

    // Empty text is the embedding of the special tokens.
    let empty = one(Request::text("", &default));
    assert_eq!(empty, one(Request::ids(&[0u32, 2][..], &default)));
    assert_eq!((empty.tokens, empty.truncated), (2, false));
    let norm: f32 = empty.as_f32().unwrap().iter().map(|x| x * x).sum();
    assert!((norm - 1.0).abs() < 1e-5, "{norm}");
    let chunked = Embed::default().chunks(Chunking::Tokens(usize::MAX));
    assert_eq!(one(Request::text("", &chunked)).chunks().unwrap().len(), 1);

    // Any size when asked for, and whole bytes of bits.
    let three = Embed::default().dimensions(3).any_dimensions(true);
    assert_eq!(one(Request::text("x", &three)).as_f32().unwrap().len(), 3);
    let bits = Embed::default()
        .dimensions(16)
        .any_dimensions(true)
        .encoding(Encoding::Binary);
    let Output::Vector(ropeway::Vector::Binary(bytes)) = one(Request::text("x", &bits)).output else {
        panic!("not binary")
    };
    assert_eq!(bytes.len(), 2);

    // Cut at the limit, and said so; ids keep their first tokens.
    let cut = one(Request::text("word ".repeat(60), &default));
    assert_eq!((cut.tokens, cut.truncated), (40, true));
    let cut = one(Request::ids(vec![7u32; 41], &default));
    assert_eq!((cut.tokens, cut.truncated), (40, true));
    assert_eq!(
        cut.output,
        one(Request::ids(vec![7u32; 40], default.clone().truncate(false))).output
    );

    // No adapter at all: an empty mixture, and weights of zero.
    let base = one(Request::text("base", Embed::default()));
    for mixture in [vec![], vec![("separation", 0.0)], vec![("separation", -0.0)]] {
        assert_eq!(one(Request::text("base", Embed::mixture(mixture))), base);
    }

    // No chunks asked for: none come back.
    let none = Embed::default().chunks(Chunking::Spans(Vec::new()));
    assert!(
        one(Request::text("some text", &none))
            .chunks()
            .unwrap()
            .is_empty()
    );

    // A document past the context, in windows.
    let windows = Embed::default().chunks(Chunking::Tokens(7)).window(16).overlap(5);
    let document = one(Request::ids(vec![9u32; 100], &windows));
    assert_eq!((document.chunks().unwrap().len(), document.tokens), (15, 100));
    assert!(!document.truncated);
    // The default overlap is larger than this model's context; half the context is taken then.
    let default = Embed::default().chunks(Chunking::Tokens(7));
    let half = default.clone().window(40).overlap(20);
    let document = vec![9u32; 100];
    assert_eq!(
        one(Request::ids(&document, &default)),
        one(Request::ids(&document, &half))
    );
}

/// A server answers by the kind and its fields, not by the text.
#[test]
fn kinds_of_bad_requests_are_told_apart() {
    let engine = engine(&model(&tiny(Family::Jina)));
    let default = Embed::default();
    let refused = |request: Request<'_>| match engine.validate(&request).unwrap_err() {
        Error::Request(problem) => problem,
        other => panic!("{other:?}"),
    };
    let unknown = refused(Request::text("x", Embed::task("nothing")));
    let RequestError::UnknownTask { name, known } = unknown else {
        panic!("{unknown:?}")
    };
    assert_eq!((name.as_str(), known.first.len(), known.count), ("nothing", 5, 5));
    assert!(matches!(
        refused(Request::text("x", Embed::mixture([("nothing", 1.0)]))),
        RequestError::UnknownAdapter { name, .. } if name == "nothing"
    ));
    assert_eq!(
        refused(Request::ids(vec![5; 41], default.clone().truncate(false))),
        RequestError::TooLong {
            tokens: 41,
            limit: 40
        }
    );
    assert_eq!(
        refused(Request::text("x", default.clone().dimensions(33))),
        RequestError::UntrainedDimensions {
            dimensions: 33,
            trained: engine.config().matryoshka.clone(),
            full: 64
        }
    );
    assert_eq!(refused(Request::ids(vec![], &default)), RequestError::NoIds);
    assert_eq!(
        refused(Request::ids(vec![5, 160], &default)),
        RequestError::IdOutOfRange {
            id: 160,
            position: 1,
            vocabulary: 160
        }
    );
    // What was asked for is not what is taken.
    let rows = engine
        .embed(&["x"], &default.pooling(Pooling::None))
        .unwrap()
        .remove(0);
    assert!(matches!(
        rows.into_f32(),
        Err(Error::Request(RequestError::Form {
            found: "one vector per token",
            ..
        }))
    ));
}
