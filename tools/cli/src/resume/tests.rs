use std::fs;
use std::path::Path;

use proptest::prelude::*;
use proptest::test_runner::TestRunner;
use ropeway::{Output, Vector};

use super::*;
use crate::npy::NpySink;
use crate::sink::{JsonlSink, Out, Sink};
use crate::target::{Existing, Target};

/// The rows of a run: some fail, values are not round.
fn results(count: usize, width: usize, encoding: Encoding) -> Vec<(Id, Result<Embedding, String>)> {
    let failures = encoding == Encoding::F32 || encoding == Encoding::F16;
    (0..count)
        .map(|row| {
            let values: Vec<f32> = (0..width)
                .map(|i| ((row * 31 + i * 7) as f32 * 0.37).sin())
                .collect();
            let output = Output::Vector(Vector::encode(&values, encoding));
            let result = match row % 5 {
                0 | 3 if failures => Err("bad\ninput".into()),
                _ => {
                    let mut embedding = Embedding::new(output);
                    embedding.tokens = row;
                    Ok(embedding)
                }
            };
            (
                if row % 2 == 0 {
                    Id::number(row as u64)
                } else {
                    Id::string(&format!("r{row}é"))
                },
                result,
            )
        })
        .collect()
}

fn write(sink: &mut dyn Sink, results: &[(Id, Result<Embedding, String>)]) {
    for (id, result) in results {
        sink.row(id, result.as_ref().map_err(String::as_str)).unwrap();
    }
    sink.flush().unwrap();
}

/// Opens the output as a run does, goes on behind the whole rows there, and finishes.
fn resumed(path: &Path, results: &[(Id, Result<Embedding, String>)], array: Option<(Dtype, usize)>) -> u64 {
    let mut target = Target::open(path, &[], Existing::Continue).unwrap();
    let file = target.reader().unwrap();
    let mut existing = match array {
        None => Some(ExistingRows::jsonl(file)),
        Some((dtype, width)) => ExistingRows::npy(file, dtype, width).unwrap(),
    };
    let mut rows = 0;
    if let Some(existing) = &mut existing {
        while let Some(row) = existing.next().unwrap() {
            let (id, result) = &results[rows as usize];
            assert!(row.id.as_ref().is_none_or(|row_id| row_id == id));
            assert_eq!(row.failed, result.is_err());
            rows += 1;
        }
        assert_eq!(existing.rows(), rows);
    }
    target
        .begin(existing.as_ref().map_or(0, ExistingRows::keep))
        .unwrap();
    let mut sink: Box<dyn Sink> = match (array, existing) {
        (None, _) => Box::new(JsonlSink::new(Out::File(target))),
        (Some((dtype, width)), Some(existing)) => {
            Box::new(NpySink::resume(target, dtype, width, existing.rows()))
        }
        (Some((dtype, width)), None) => Box::new(NpySink::new(target, dtype, width)),
    };
    write(&mut *sink, &results[rows as usize..]);
    sink.finish(true).unwrap();
    rows
}

/// A run that is stopped at any byte of its output and resumed gives the same file as one that
/// went through; whole rows are not made again.
#[test]
fn resume_after_a_stop_at_every_byte() {
    let folder = tempfile::tempdir().unwrap();
    for (name, array) in [
        ("a.jsonl", None),
        ("b.npy", Some(Encoding::F32)),
        ("c.npy", Some(Encoding::F16)),
        ("d.npy", Some(Encoding::Binary)),
    ] {
        let encoding = array.unwrap_or_default();
        let results = results(9, 16, encoding);
        let width = if encoding == Encoding::Binary { 2 } else { 16 };
        let array = array.map(|encoding| (Dtype::new(encoding).unwrap(), width));
        let path = folder.path().join(name);
        assert_eq!(resumed(&path, &results, array), 0);
        let whole = fs::read(&path).unwrap();
        let mut kept = Vec::new();
        for cut in 0..=whole.len() {
            // What a kill leaves is the partial file; a copy of an unfinished output counts as well.
            let partial = folder.path().join(format!("{name}.partial"));
            let left = if cut % 2 == 0 { &partial } else { &path };
            fs::remove_file(&path).unwrap();
            fs::write(left, &whole[..cut]).unwrap();
            kept.push(resumed(&path, &results, array));
            assert_eq!(fs::read(&path).unwrap(), whole, "{name} cut at {cut}");
            assert!(!partial.exists());
        }
        assert!(
            kept.is_sorted() && kept.first() == Some(&0) && kept.last() == Some(&9),
            "{kept:?}"
        );
    }
}

#[test]
fn rows_of_another_model_or_other_options_are_noticed() {
    let folder = tempfile::tempdir().unwrap();
    let embedding = |factor: f32, width: usize, encoding| {
        let values: Vec<f32> = (0..width).map(|i| (i as f32 * factor).sin()).collect();
        let mut embedding = Embedding::new(Output::Vector(Vector::encode(&values, encoding)));
        embedding.tokens = 3;
        embedding
    };
    for encoding in [
        Encoding::F32,
        Encoding::F16,
        Encoding::Int8,
        Encoding::Binary,
        Encoding::Base64,
    ] {
        let mut line = Vec::new();
        jsonl::write_row(&mut line, &Id::number(0), &embedding(1.0, 256, encoding)).unwrap();
        let path = folder.path().join("rows");
        fs::write(&path, line).unwrap();
        let mut existing = ExistingRows::jsonl(File::open(&path).unwrap());
        let row = existing.next().unwrap().unwrap();
        assert!(existing.agrees(&row, &embedding(1.0, 256, encoding), encoding));
        assert!(
            existing.agrees(&row, &embedding(1.000001, 256, encoding), encoding),
            "{encoding:?}"
        );
        assert!(!existing.agrees(&row, &embedding(1.3, 256, encoding), encoding));
        assert!(!existing.agrees(&row, &embedding(1.0, 128, encoding), encoding));
    }
}

#[test]
fn files_that_ropeway_did_not_write_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("notes");
    let dtype = Dtype::new(Encoding::F32).unwrap();
    let open = |content: &[u8]| {
        fs::write(&path, content).unwrap();
        File::open(&path).unwrap()
    };
    assert!(ExistingRows::jsonl(open(b"a plain line\n")).next().is_err());
    assert!(
        ExistingRows::jsonl(open(b"a line without an end"))
            .next()
            .is_err()
    );
    for torn in [
        &b""[..],
        b"{\"i",
        b"{\"id\":",
        b"{\"id\":0,\"embed",
        b"{\"id\":0,\"emb\0\0",
    ] {
        assert!(ExistingRows::jsonl(open(torn)).next().unwrap().is_none());
    }
    assert!(ExistingRows::jsonl(open(b"\0\0\0")).next().is_err());
    let whole_row = b"{\"id\":0,\"embedding\":[0.5],\"tokens\":1,\"truncated\":false}\n";
    for notes in [
        &b"{\"id\":0,\"my\":\"notes\""[..],
        b"{\"id\":0,\"text\":\"a",
        b"{ ",
        b"{\"id\":0,\"embedding\":[0.5],\"note",
        b"{\"id\":0}",
        b"{\"id\":0,\"em\0b",
    ] {
        assert!(ExistingRows::jsonl(open(notes)).next().is_err(), "{notes:?}");
        let mut behind = ExistingRows::jsonl(open(&[&whole_row[..], notes].concat()));
        assert!(behind.next().unwrap().is_some());
        let problem = behind.next().unwrap_err();
        assert!(problem.contains("line 2"), "{problem}");
    }
    assert!(ExistingRows::npy(open(b"a plain line\n"), dtype, 4).is_err());
    for foreign in [
        &b"\x93NUMPY\x02"[..],
        b"\x93NUMPY\x01\0v\0my notes",
        b"\x93NUMPY\x01\0v\0{'descr': '<f8'",
    ] {
        assert!(ExistingRows::npy(open(foreign), dtype, 4).is_err());
    }
    assert!(ExistingRows::npy(open(&[b'x'; 200]), dtype, 4).is_err());
    let other = crate::npy::header(Dtype::new(Encoding::F16).unwrap(), 0, 4);
    assert!(ExistingRows::npy(open(&other), dtype, 4).is_err());
    let narrow = crate::npy::header(dtype, 0, 3);
    assert_eq!(
        ExistingRows::npy(open(&narrow), dtype, 4).err().as_deref(),
        Some("has 3 columns, the rows of this run 4")
    );
    assert!(ExistingRows::npy(open(b"\x93NUM"), dtype, 4).unwrap().is_none());
}

/// Stopped twice, at any places, whatever the sizes. The number of cases is this one and never `PROPTEST_CASES`: each waits
/// for the disk some times, and twenty thousand of them for many minutes.
#[test]
fn resume_after_two_stops() {
    let all = std::env::var_os("ROPEWAY_TEST_ALL").is_some();
    let mut runner = TestRunner::new(ProptestConfig::with_cases(if all { 1024 } else { 64 }));
    let stops = (
        0..12_usize,
        1..20_usize,
        any::<bool>(),
        0.0..1.0_f64,
        0.0..1.0_f64,
    );
    let tested = runner.run(&stops, |(rows, width, array, first, second)| {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("out");
        let results = results(rows, width, Encoding::F32);
        let array = array.then(|| (Dtype::new(Encoding::F32).unwrap(), width));
        resumed(&path, &results, array);
        let whole = fs::read(&path).unwrap();
        for place in [first, second] {
            let cut = (place * whole.len() as f64) as usize;
            fs::write(&path, &whole[..cut]).unwrap();
            resumed(&path, &results, array);
            prop_assert_eq!(fs::read(&path).unwrap(), &whole[..]);
        }
        Ok(())
    });
    tested.unwrap();
}

#[test]
fn a_row_of_other_options_is_noticed_though_its_numbers_are_alike() {
    let folder = tempfile::tempdir().unwrap();
    let values: Vec<f32> = (0..64).map(|i| (i as f32).sin()).collect();
    let embedding = |output: Output, tokens: usize| {
        let mut embedding = Embedding::new(output);
        embedding.tokens = tokens;
        embedding
    };
    let vector = |encoding| embedding(Output::Vector(Vector::encode(&values, encoding)), 3);
    let rows = Output::Tokens(vec![Vector::F32(values.clone())]);
    let all = [
        (vector(Encoding::F32), Encoding::F32),
        (vector(Encoding::F16), Encoding::F16),
        (vector(Encoding::Base64), Encoding::Base64),
        (embedding(rows, 3), Encoding::F32),
        (
            embedding(Output::Vector(Vector::F32(values.clone())), 4),
            Encoding::F32,
        ),
    ];
    for (first, (written, _)) in all.iter().enumerate() {
        let mut line = Vec::new();
        jsonl::write_row(&mut line, &Id::number(0), written).unwrap();
        let path = folder.path().join("rows");
        fs::write(&path, line).unwrap();
        let mut existing = ExistingRows::jsonl(File::open(&path).unwrap());
        let row = existing.next().unwrap().unwrap();
        for (second, (now, encoding)) in all.iter().enumerate() {
            assert_eq!(
                existing.agrees(&row, now, *encoding),
                first == second,
                "{first} {second}"
            );
        }
    }
}

#[test]
fn a_row_too_long_to_be_compared_is_kept() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("rows");
    let values: Vec<f32> = (0..64).map(|i| (i as f32).sin()).collect();
    let mut lines = Vec::new();
    let ids = [Id::string("a,\"é"), Id::number(1)];
    for id in &ids {
        let embedding = Embedding::new(Output::Vector(Vector::F32(values.clone())));
        jsonl::write_row(&mut lines, id, &embedding).unwrap();
    }
    let rows = |content: &[u8]| {
        fs::write(&path, content).unwrap();
        let mut existing = ExistingRows::jsonl(File::open(&path).unwrap());
        existing.longest = 100;
        existing
    };
    let mut existing = rows(&lines);
    for id in &ids {
        let row = existing.next().unwrap().unwrap();
        assert!(row.id.as_ref() == Some(id) && !row.failed && !row.is_comparable());
    }
    assert!(existing.next().unwrap().is_none());
    assert_eq!(existing.keep(), lines.len() as u64);
    // Torn, and of somebody else.
    assert!(rows(&lines[..200]).next().unwrap().is_none());
    let notes = [
        b"{\"id\":1,\"embedding\":[1],\"notes\":\"".as_slice(),
        &[b'x'; 200],
    ]
    .concat();
    assert!(rows(&notes).next().is_err());
    let other = [b"{\"id\":1,\"text\":\"".as_slice(), &[b'x'; 200], b"\"}\n"].concat();
    assert!(rows(&other).next().is_err());
}
