use super::table::{LEGEND, lines};
use super::*;
use ropeway::{Precision, Vector};

/// Three minutes with room for what is not timed, where 16384 tokens take 15 ms: a pass of few tokens is taken to need
/// one more, and every way twice as long as merged weights.
#[test]
fn the_whole_grid_takes_less_than_three_minutes() {
    let grid = Grid::of(Effort::Full);
    let mut seconds = 0.0;
    for &tokens in grid.tokens {
        let (warm, samples) = repetitions(Effort::Full, tokens);
        assert!(samples >= 10);
        let pass = 0.015 * tokens as f64 / 16384.0 + 0.001;
        let passes = WAYS.len() * (warm + samples + 1) + 1;
        seconds += 2.0 * pass * (passes * grid.ranks.len() * grid.adapters.len()) as f64;
    }
    assert!(seconds < 120.0, "{seconds} s");
    assert!(grid.adapters.is_sorted() && grid.adapters.iter().all(|&count| count <= SEQUENCES));
}

#[test]
fn sequences_suffice_for_all_adapters_and_hold_all_tokens() {
    assert_eq!(lengths(64, 8194), [4; 16]);
    assert_eq!(lengths(512, 8194), [32; 16]);
    assert_eq!(lengths(4096, 8194), [256; 16]);
    assert_eq!(lengths(16384, 8194), [512; 32]);
    // A model that takes 100 tokens at most.
    let short = lengths(4096, 100);
    assert_eq!((short.len(), short[0], short[40]), (41, 100, 96));
}

fn vectors(rows: &[&[f32]]) -> Vec<Option<Vector>> {
    rows.iter().map(|row| Some(Vector::F32(row.to_vec()))).collect()
}

#[test]
fn the_furthest_vector_counts() {
    let want = vectors(&[&[3.0, 4.0], &[1.0, 0.0], &[0.0, 2.0]]);
    let got = vectors(&[&[3.0, 4.5], &[1.0, 0.25], &[0.0, 2.0]]);
    assert_eq!(relative_deviation(&got, &want, 1), 0.25);
    assert_eq!(relative_deviation(&got, &want, 2), 0.1);
    assert_eq!(relative_deviation(&got, &want, 3), 0.1);
    assert_eq!(relative_deviation(&want, &want, 1), 0.0);
    assert_eq!(relative_deviation(&[None, None, None], &want, 2), f64::INFINITY);
}

#[test]
fn vectors_that_roundings_do_not_explain_fail() {
    let check = |extended, separate, precision| {
        let base = 0.3;
        let deviation = Deviation {
            extended,
            separate,
            base,
        };
        deviation.check(precision, 2)
    };
    // 2⁻⁸ · √16, and 2⁻¹¹ · √16.
    check(0.015, 0.015, Precision::Bf16).unwrap();
    check(0.0019, 0.0019, Precision::F16).unwrap();
    for (extended, separate, precision, named) in [
        (0.016, 0.0, Precision::Bf16, "with extended adapters"),
        (0.0, 0.016, Precision::Bf16, "with separate adapters"),
        (0.002, 0.0, Precision::F16, "with extended adapters"),
        (f64::INFINITY, 0.0, Precision::Bf16, "with extended adapters"),
    ] {
        let error = check(extended, separate, precision).unwrap_err().to_string();
        assert!(error.contains(named), "{error}");
    }
}

fn row(way: &str, (tokens, rank, adapters): (u64, u64, u64), micros: f64, ratio: Option<f64>) -> Row {
    let Value::Object(parameters) = json!({"tokens": tokens, "rank": rank, "adapters": adapters}) else {
        unreachable!()
    };
    Row {
        group: "adapters",
        case: way.into(),
        micros: Micros::of(vec![micros]),
        ratio,
        parameters,
        fraction_of_bound: Some(0.5),
        ..Row::default()
    }
}

fn rows() -> Vec<Row> {
    let mut skipped = row("skipped", (64, 16, 4), 0.0, None);
    (skipped.note, skipped.fraction_of_bound) = (Some("no room".into()), None);
    vec![
        row("merged", (512, 4, 1), 200.0, Some(1.0)),
        row("extended", (512, 4, 1), 210.0, Some(1.05)),
        row("separate", (512, 4, 1), 250.0, Some(1.25)),
        row("merged", (64, 8, 4), 100.0, Some(1.0)),
        row("extended", (64, 8, 4), 101.0, Some(1.01)),
        row("separate", (64, 8, 4), 110.0, Some(1.1)),
        skipped,
    ]
}

#[test]
fn a_table_has_a_line_for_each_combination() {
    let want = "\
| tokens | rank | adapters | merged, µs | of bound | extended | separate | note    |
|--------|------|----------|------------|----------|----------|----------|---------|
| 64     | 8    | 4        | 100.0      | 50 %     | 1.010 ×  | 1.100 ×  |         |
| 64     | 16   | 4        | –          | –        | –        | –        | no room |
| 512    | 4    | 1        | 200.0      | 50 %     | 1.050 ×  | 1.250 ×  |         |
";
    assert_eq!(lines(&rows()), format!("{want}\n{LEGEND}"));
}
