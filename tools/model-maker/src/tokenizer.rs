//! A small tokenizer in the form of the real ones: Unigram as XLM-RoBERTa has it, WordPiece as BERT has it.
//!
//! The pieces come from pair merges over a small multilingual corpus, the Unigram scores from how often each piece is then used. All
//! ties are broken by name and nothing depends on the order of a hash map, so the same vocabulary comes out on every machine.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use anyhow::Result;
use serde_json::{Map, Value, json};

use crate::{Family, ModelSpec, write_json};

/// Below this the special tokens and ASCII would not fit.
pub const MIN_VOCAB: usize = 128;

/// More pieces than this the corpus does not carry; in a larger vocabulary the ids stop early.
const MAX_VOCAB: usize = 2000;

const CORPUS: &str = include_str!("corpus.txt");

/// Sentences made from each line of the corpus that lists alternatives.
const SENTENCES_PER_TEMPLATE: usize = 40;

/// The sentences of the corpus. A line such as `@The|A;cat|dog;sleeps.` gives a number of its combinations.
fn sentences() -> Vec<String> {
    let mut all = Vec::new();
    for line in CORPUS.lines() {
        let Some(template) = line.strip_prefix('@') else {
            all.push(line.to_owned());
            continue;
        };
        let slots: Vec<Vec<&str>> = template
            .split(';')
            .map(|slot| slot.split('|').collect())
            .collect();
        for i in 0..SENTENCES_PER_TEMPLATE {
            // Each slot turns at a pace of its own.
            let words = slots
                .iter()
                .enumerate()
                .map(|(s, slot)| slot[(i + i / (s + 2)) % slot.len()]);
            all.push(words.collect::<Vec<_>>().join(" "));
        }
    }
    all
}

/// Pieces and how often the corpus, cut into them, uses each.
struct Pieces {
    names: Vec<String>,
    counts: Vec<u64>,
}

const UNKNOWN: u32 = u32::MAX;

/// A word as ids of pieces, and how often it occurs.
struct Word {
    pieces: Vec<u32>,
    count: i64,
}

/// Merges the most frequent pair of neighbouring pieces until there are `target` of them. `words` are cut into the pieces to start
/// with; `alphabet` are those that must be there; `join` names the merger of two.
fn merge_pieces(
    words: BTreeMap<Vec<String>, u64>,
    alphabet: Vec<String>,
    target: usize,
    join: fn(&str, &str) -> String,
) -> Pieces {
    let mut names = alphabet;
    let mut ids: HashMap<String, u32> = names
        .iter()
        .zip(0..)
        .map(|(name, id)| (name.clone(), id))
        .collect();
    let mut words: Vec<Word> = words
        .into_iter()
        .map(|(pieces, count)| Word {
            pieces: pieces
                .iter()
                .map(|piece| ids.get(piece).copied().unwrap_or(UNKNOWN))
                .collect(),
            count: count as i64,
        })
        .collect();

    let mut pairs: HashMap<(u32, u32), i64> = HashMap::new();
    let count_pairs = |pairs: &mut HashMap<(u32, u32), i64>, word: &Word, sign: i64| {
        for pair in word.pieces.windows(2) {
            if pair[0] != UNKNOWN && pair[1] != UNKNOWN {
                let count = pairs.entry((pair[0], pair[1])).or_insert(0);
                *count += sign * word.count;
                if *count == 0 {
                    pairs.remove(&(pair[0], pair[1]));
                }
            }
        }
    };
    for word in &words {
        count_pairs(&mut pairs, word, 1);
    }
    while names.len() < target {
        // The largest count, and among equals the smallest pair of ids: independent of the map's order.
        let best = pairs
            .iter()
            .filter(|&(_, &count)| count > 0)
            .max_by_key(|&(&pair, &count)| (count, std::cmp::Reverse(pair)));
        let Some((&(left, right), _)) = best else {
            break;
        };
        let name = join(&names[left as usize], &names[right as usize]);
        // Two ways of building the same piece share its id.
        let merged = *ids.entry(name.clone()).or_insert_with(|| {
            names.push(name);
            names.len() as u32 - 1
        });
        for word in &mut words {
            if !word.pieces.windows(2).any(|pair| pair == [left, right]) {
                continue;
            }
            count_pairs(&mut pairs, word, -1);
            let old = std::mem::take(&mut word.pieces);
            let mut rest = old.into_iter().peekable();
            while let Some(piece) = rest.next() {
                if piece == left && rest.peek() == Some(&right) {
                    rest.next();
                    word.pieces.push(merged);
                } else {
                    word.pieces.push(piece);
                }
            }
            count_pairs(&mut pairs, word, 1);
        }
        pairs.remove(&(left, right));
    }

    let mut counts = vec![0; names.len()];
    for word in &words {
        for &piece in word.pieces.iter().filter(|&&piece| piece != UNKNOWN) {
            counts[piece as usize] += word.count as u64;
        }
    }
    Pieces { names, counts }
}

/// The characters to start from: `always`, then those of the words by their number, `most` in all.
fn alphabet(always: Vec<String>, words: &BTreeMap<Vec<String>, u64>, most: usize) -> Vec<String> {
    let mut counts: BTreeMap<&str, u64> = BTreeMap::new();
    for (pieces, count) in words {
        for piece in pieces {
            *counts.entry(piece).or_insert(0) += count;
        }
    }
    let mut by_count: Vec<(&str, u64)> = counts.into_iter().collect();
    by_count.sort_by(|a, b| b.1.cmp(&a.1).then(a.0.cmp(b.0)));
    let mut all = always;
    for (piece, _) in by_count {
        if all.len() >= most {
            break;
        }
        if !all.iter().any(|known| known == piece) {
            all.push(piece.to_owned());
        }
    }
    all
}

pub fn write(spec: &ModelSpec, folder: &Path) -> Result<()> {
    let size = spec.vocab.min(MAX_VOCAB);
    let (tokenizer, config, specials) = match spec.family {
        Family::Bert => wordpiece(spec, size),
        Family::Jina | Family::XlmRoberta => unigram(spec, size),
    };
    write_json(&folder.join("tokenizer.json"), &tokenizer)?;
    write_json(&folder.join("tokenizer_config.json"), &config)?;
    write_json(&folder.join("special_tokens_map.json"), &specials)
}

/// An entry of `added_tokens`; the mask token takes the space before it.
fn added(id: usize, content: &str, lstrip: bool) -> Value {
    json!({
        "content": content, "id": id, "lstrip": lstrip, "normalized": false, "rstrip": false, "single_word": false, "special": true,
    })
}

/// A `TemplateProcessing` that puts `first` before a text and `last` after it; `pair` is the template of two texts.
fn template(first: (&str, usize), last: (&str, usize), pair: Value) -> Value {
    let special = |id: &str| json!({ "SpecialToken": { "id": id, "type_id": 0 } });
    let mut specials = Map::new();
    for (token, id) in [first, last] {
        specials.insert(
            token.into(),
            json!({ "id": token, "ids": [id], "tokens": [token] }),
        );
    }
    json!({
        "pair": pair,
        "single": [special(first.0), { "Sequence": { "id": "A", "type_id": 0 } }, special(last.0)],
        "special_tokens": specials,
        "type": "TemplateProcessing",
    })
}

fn template_item(kind: &str, id: &str, type_id: usize) -> Value {
    let mut item = Map::new();
    item.insert(kind.into(), json!({ "id": id, "type_id": type_id }));
    Value::Object(item)
}

/// `<s> <pad> </s> <unk>`, the pieces by falling score, `<mask>`.
fn unigram(spec: &ModelSpec, size: usize) -> (Value, Value, Value) {
    const SPECIALS: [&str; 4] = ["<s>", "<pad>", "</s>", "<unk>"];
    let mut words: BTreeMap<Vec<String>, u64> = BTreeMap::new();
    for sentence in sentences() {
        for word in sentence.split_whitespace() {
            let pieces = std::iter::once('▁')
                .chain(word.chars())
                .map(String::from)
                .collect();
            *words.entry(pieces).or_insert(0) += 1;
        }
    }
    let target = size - SPECIALS.len() - 1;
    let ascii = std::iter::once('▁').chain('!'..='~').map(String::from).collect();
    let alphabet = alphabet(ascii, &words, target * 3 / 5);
    let pieces = merge_pieces(words, alphabet, target, |a, b| format!("{a}{b}"));

    let total: u64 = pieces.counts.iter().sum();
    let mut scored: Vec<(f64, String)> = pieces
        .names
        .into_iter()
        .zip(pieces.counts)
        .map(|(name, count)| {
            let score = ((count as f64).max(0.5) / total as f64).ln();
            // Four decimals: the last bits of a logarithm are the platform's own.
            ((score * 1e4).round() / 1e4, name)
        })
        .collect();
    scored.sort_by(|a, b| b.0.total_cmp(&a.0).then_with(|| a.1.cmp(&b.1)));

    let mut vocab: Vec<Value> = SPECIALS.iter().map(|token| json!([token, 0.0])).collect();
    vocab.extend(scored.into_iter().map(|(score, name)| json!([name, score])));
    let mask = vocab.len();
    vocab.push(json!(["<mask>", 0.0]));

    let mut added_tokens: Vec<Value> = SPECIALS
        .iter()
        .enumerate()
        .map(|(id, token)| added(id, token, false))
        .collect();
    added_tokens.push(added(mask, "<mask>", true));
    let metaspace =
        json!({ "prepend_scheme": "always", "replacement": "▁", "split": true, "type": "Metaspace" });
    let pair = json!([
        template_item("SpecialToken", "<s>", 0),
        template_item("Sequence", "A", 0),
        template_item("SpecialToken", "</s>", 0),
        template_item("SpecialToken", "</s>", 0),
        template_item("Sequence", "B", 0),
        template_item("SpecialToken", "</s>", 0),
    ]);
    let tokenizer = json!({
        "added_tokens": added_tokens,
        "decoder": metaspace,
        "model": { "byte_fallback": false, "type": "Unigram", "unk_id": 3, "vocab": vocab },
        "normalizer": {
            "normalizers": [
                { "type": "NFKC" },
                { "content": " ", "pattern": { "Regex": "\\s+" }, "type": "Replace" },
                { "strip_left": true, "strip_right": true, "type": "Strip" },
            ],
            "type": "Sequence",
        },
        "padding": null,
        "post_processor": template(("<s>", 0), ("</s>", 2), pair),
        "pre_tokenizer": metaspace,
        "truncation": null,
        "version": "1.0",
    });
    let config = json!({
        "bos_token": "<s>",
        "clean_up_tokenization_spaces": true,
        "cls_token": "<s>",
        "eos_token": "</s>",
        "mask_token": "<mask>",
        "model_max_length": spec.max_tokens(),
        "pad_token": "<pad>",
        "sep_token": "</s>",
        // Not the class XLMRobertaTokenizer: transformers 5 would build its own steps for it, from a map that this has not.
        "tokenizer_class": "PreTrainedTokenizerFast",
        "unk_token": "<unk>",
    });
    let specials = json!({
        "bos_token": "<s>",
        "cls_token": "<s>",
        "eos_token": "</s>",
        "mask_token": added_in_map("<mask>", true),
        "pad_token": "<pad>",
        "sep_token": "</s>",
        "unk_token": "<unk>",
    });
    (tokenizer, config, specials)
}

fn added_in_map(content: &str, lstrip: bool) -> Value {
    json!({ "content": content, "lstrip": lstrip, "normalized": false, "rstrip": false, "single_word": false })
}

/// `[PAD] [UNK] [CLS] [SEP] [MASK]`, then the pieces; those inside a word begin with `##`.
fn wordpiece(spec: &ModelSpec, size: usize) -> (Value, Value, Value) {
    const SPECIALS: [&str; 5] = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"];
    let mut words: BTreeMap<Vec<String>, u64> = BTreeMap::new();
    for sentence in sentences() {
        for word in sentence
            .to_lowercase()
            .split(|c: char| !c.is_alphanumeric())
            .filter(|word| plain(word))
        {
            let pieces = word
                .chars()
                .enumerate()
                .map(|(i, c)| if i == 0 { c.into() } else { format!("##{c}") })
                .collect();
            *words.entry(pieces).or_insert(0) += 1;
        }
    }
    let target = size - SPECIALS.len();
    let ascii = ('!'..='~').filter(|c| !c.is_ascii_uppercase());
    let mut always: Vec<String> = ascii.clone().map(String::from).collect();
    always.extend(
        ascii
            .filter(char::is_ascii_alphanumeric)
            .map(|c| format!("##{c}")),
    );
    let alphabet = alphabet(always, &words, target * 3 / 5);
    let join = |a: &str, b: &str| format!("{a}{}", b.strip_prefix("##").unwrap_or(b));
    let pieces = merge_pieces(words, alphabet, target, join);

    let names = SPECIALS.iter().map(|&token| token.to_owned()).chain(pieces.names);
    let vocab: Map<String, Value> = names.enumerate().map(|(id, name)| (name, json!(id))).collect();
    let pair = json!([
        template_item("SpecialToken", "[CLS]", 0),
        template_item("Sequence", "A", 0),
        template_item("SpecialToken", "[SEP]", 0),
        template_item("Sequence", "B", 1),
        template_item("SpecialToken", "[SEP]", 1),
    ]);
    let added_tokens: Vec<Value> = SPECIALS
        .iter()
        .enumerate()
        .map(|(id, token)| added(id, token, false))
        .collect();
    let tokenizer = json!({
        "added_tokens": added_tokens,
        "decoder": { "cleanup": true, "prefix": "##", "type": "WordPiece" },
        "model": {
            "continuing_subword_prefix": "##",
            "max_input_chars_per_word": 100,
            "type": "WordPiece",
            "unk_token": "[UNK]",
            "vocab": vocab,
        },
        "normalizer": {
            "clean_text": true,
            "handle_chinese_chars": true,
            "lowercase": true,
            "strip_accents": null,
            "type": "BertNormalizer",
        },
        "padding": null,
        "post_processor": template(("[CLS]", 2), ("[SEP]", 3), pair),
        "pre_tokenizer": { "type": "BertPreTokenizer" },
        "truncation": null,
        "version": "1.0",
    });
    let tokens = json!({
        "cls_token": "[CLS]",
        "mask_token": "[MASK]",
        "pad_token": "[PAD]",
        "sep_token": "[SEP]",
        "unk_token": "[UNK]",
    });
    let mut config = json!({
        "clean_up_tokenization_spaces": true,
        "do_lower_case": true,
        "model_max_length": spec.max_tokens(),
        "strip_accents": null,
        "tokenize_chinese_chars": true,
        "tokenizer_class": "BertTokenizerFast",
    });
    if let (Some(config), Value::Object(tokens)) = (config.as_object_mut(), tokens.clone()) {
        config.extend(tokens);
    }
    (tokenizer, config, tokens)
}

/// Words that BERT's normalizer leaves as they are: ASCII and Cyrillic letters without accents.
fn plain(word: &str) -> bool {
    !word.is_empty()
        && word
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || (('а'..='я').contains(&c) && c != 'й'))
}
