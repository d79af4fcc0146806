//! Files that are no regular files, and files that change while a model is open.
#![cfg(unix)]

use std::fs::{self, File};
use std::io::{Seek, SeekFrom, Write};
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::Command;
use std::sync::mpsc;
use std::time::Duration;

use model_maker::{Family, ModelSpec};
use ropeway::{Embed, Request};

use crate::common::{Scratch, Table, model, tiny};
use crate::{engine, open};

type Special = (&'static str, fn(&Path), &'static str);

/// What can have a file's name, and what is said of it.
const SPECIAL: [Special; 4] = [
    (
        "FIFO",
        |path| assert!(Command::new("mkfifo").arg(path).status().unwrap().success()),
        "a device, a pipe or a socket",
    ),
    (
        "device",
        |path| symlink("/dev/zero", path).unwrap(),
        "a device, a pipe or a socket",
    ),
    (
        "socket",
        |path| drop(UnixListener::bind(path).unwrap()),
        "a device, a pipe or a socket",
    ),
    ("folder", |path| fs::create_dir(path).unwrap(), "a folder"),
];

/// Runs something that would wait for ever if it opened a FIFO.
fn within_a_minute<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    let (send, receive) = mpsc::channel();
    std::thread::spawn(move || send.send(work()));
    receive
        .recv_timeout(Duration::from_secs(60))
        .expect("it waits for a FIFO")
}

#[test]
fn only_regular_files_are_opened() {
    let spec = tiny(Family::Bert);
    let shards = ModelSpec {
        shards: 2,
        ..tiny(Family::Bert)
    };
    let files = [
        (&spec, "config.json"),
        (&spec, "modules.json"),
        (&spec, "1_Pooling/config.json"),
        (&spec, "sentence_bert_config.json"),
        (&spec, "config_sentence_transformers.json"),
        (&spec, "tokenizer_config.json"),
        (&spec, "tokenizer.json"),
        (&spec, "model.safetensors"),
        (&shards, "model.safetensors.index.json"),
        (&shards, "model-00002-of-00002.safetensors"),
    ];
    let mut table = Table::new("special files");
    for (spec, file) in files {
        for (kind, make, said) in SPECIAL {
            let scratch = Scratch::model(spec);
            let path = scratch.path().join(file);
            let _ = fs::remove_file(&path);
            make(&path);
            let folder = scratch.path().to_owned();
            table.refused(
                &format!("{file}: {kind}"),
                &[file, said, "not a regular file"],
                || within_a_minute(move || open(&folder)),
            );
        }
    }
    let base = model(&spec);
    for file in ["adapter_config.json", "adapter_model.safetensors"] {
        for (kind, make, said) in SPECIAL {
            let adapter = Scratch::adapter(&base, &["query"]);
            let path = adapter.path().join(file);
            fs::remove_file(&path).unwrap();
            make(&path);
            let (engine, folder) = (engine(&base), adapter.path().to_owned());
            table.refused(&format!("{file}: {kind}"), &[file, said], || {
                within_a_minute(move || engine.add_adapter("x", &folder))
            });
        }
    }
    // An optional file that leads nowhere is not an absent one: its prompts would be missing without a word.
    let scratch = Scratch::model(&spec);
    symlink(
        "nowhere",
        scratch.path().join("config_sentence_transformers.json"),
    )
    .unwrap();
    table.refused(
        "a link to nothing",
        &["config_sentence_transformers.json", "No such file"],
        || open(scratch.path()),
    );
    table.finish();
}

#[test]
fn a_file_past_its_limit_is_not_read() {
    let spec = tiny(Family::Bert);
    let mut table = Table::new("sizes");
    for (file, limit) in [
        ("config.json", "16777216"),
        ("modules.json", "16777216"),
        ("tokenizer.json", "268435456"),
    ] {
        let scratch = Scratch::model(&spec);
        File::create(scratch.path().join(file))
            .unwrap()
            .set_len(1 << 40)
            .unwrap();
        table.refused(file, &[file, "1099511627776 bytes", limit], || {
            open(scratch.path())
        });
    }
    table.finish();
}

type Change = (&'static str, fn(&Path));

/// Ways in which a file is changed under the map.
const CHANGES: [Change; 3] = [
    ("shortened", |path| {
        File::options()
            .write(true)
            .open(path)
            .unwrap()
            .set_len(4096)
            .unwrap()
    }),
    ("overwritten", |path| {
        // Of the same length, so that only the time tells.
        let mut file = File::options().write(true).open(path).unwrap();
        let end = file.metadata().unwrap().len();
        file.seek(SeekFrom::Start(end - 64)).unwrap();
        file.write_all(&[0x3c; 64]).unwrap();
        file.set_modified(std::time::SystemTime::now() + Duration::from_secs(1))
            .unwrap();
    }),
    ("replaced", |path| {
        let beside = path.with_extension("new");
        fs::copy(path, &beside).unwrap();
        fs::rename(&beside, path).unwrap();
    }),
];

#[test]
fn a_model_file_that_changed_is_an_error_and_no_fault_of_the_process() {
    let mut table = Table::new("changed files");
    for (case, change) in CHANGES {
        let scratch = Scratch::model(&tiny(Family::Bert));
        let engine = engine(scratch.path());
        engine.embed(&["before"], &Embed::default()).unwrap();
        change(&scratch.path().join("model.safetensors"));
        let words = ["model.safetensors", "was changed since", "open the model again"];
        table.refused(case, &words, || engine.embed(&["after"], &Embed::default()));
        let adapter = Scratch::adapter(&model(&tiny(Family::Bert)), &["query"]);
        table.refused(&format!("{case}, an adapter"), &words, || {
            engine.add_adapter("x", adapter.path())
        });
    }
    table.finish();
    // What was removed is still there for those who have it.
    let scratch = Scratch::model(&tiny(Family::Bert));
    let engine = engine(scratch.path());
    let before = engine.embed(&["the same"], &Embed::default()).unwrap();
    fs::remove_file(scratch.path().join("model.safetensors")).unwrap();
    assert_eq!(engine.embed(&["the same"], &Embed::default()).unwrap(), before);
}

#[test]
fn an_adapter_file_that_changed_fails_those_alone_who_use_it() {
    let base = model(&tiny(Family::Bert));
    for (case, change) in CHANGES {
        let engine = engine(&base);
        let tables = Scratch::adapter(&base, &["query", "word_embeddings"]);
        let linear = Scratch::adapter(&base, &["query"]);
        engine.add_adapter("tables", tables.path()).unwrap();
        engine.add_adapter("linear", linear.path()).unwrap();
        let options = [Embed::task("tables"), Embed::task("linear"), Embed::base()];
        let requests: Vec<Request<'_>> = options
            .iter()
            .map(|options| Request::text("text", options))
            .collect();
        let before = engine.embed_batch(&requests);
        // Of linear layers all numbers were copied.
        for folder in [&tables, &linear] {
            change(&folder.path().join("adapter_model.safetensors"));
        }
        let after = engine.embed_batch(&requests);
        let error = after[0].as_ref().unwrap_err().to_string();
        assert!(
            error.contains("adapter_model.safetensors") && error.contains("was changed"),
            "{case}: {error}"
        );
        for i in [1, 2] {
            assert_eq!(
                after[i].as_ref().unwrap(),
                before[i].as_ref().unwrap(),
                "{case}: {i}"
            );
        }
    }
}
