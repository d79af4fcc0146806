//! A tokenizer that cannot be read, and a model without one.

use std::fs;

use model_maker::{Family, ModelSpec};
use ropeway::{Embed, Request};

use crate::common::{Scratch, Table, model, tiny};
use crate::{engine, open};

#[test]
fn a_broken_tokenizer_is_refused() {
    let mut table = Table::new("tokenizers");
    for text in ["", "{}", "[1", "\u{0}\u{1}"] {
        let scratch = Scratch::model(&tiny(Family::Bert));
        fs::write(scratch.path().join("tokenizer.json"), text).unwrap();
        table.refused(
            &format!("tokenizer.json {text:?}"),
            &["tokenizer.json", "is not a tokenizer that can be read"],
            || open(scratch.path()),
        );
    }
    table.finish();
}

#[test]
fn a_model_without_a_tokenizer_serves_ids() {
    let spec = ModelSpec {
        tokenizer: false,
        ..tiny(Family::Jina)
    };
    let with = engine(&model(&tiny(Family::Jina)));
    let without = engine(&model(&spec));
    let default = Embed::default();
    let (text, ids) = (
        Request::text("x", &default),
        Request::ids(vec![0u32, 9, 2], &default),
    );
    let mut results = without.embed_batch(&[ids.clone(), text, ids.clone()]).into_iter();
    let mut next = || results.next().unwrap();
    let expected = with.embed_batch(&[ids]).remove(0).unwrap();
    assert_eq!(next().unwrap(), expected);
    let error = next().unwrap_err().to_string();
    assert!(
        error.contains("tokenizer.json") && error.contains("ids"),
        "{error}"
    );
    assert_eq!(next().unwrap(), expected);
}
