//! The README's table of instructions says what the code knows, no more and no less.

use std::fmt::Write;

fn table() -> String {
    let mut rows: Vec<(&str, &str, &str)> = softcuda::lower::isa::FAMILIES
        .iter()
        .flat_map(|(_, _, covered)| covered.iter().map(|c| (c.opcode, c.forms, c.notes)))
        .chain(
            softcuda::lower::COVERED
                .iter()
                .map(|c| (c.opcode, c.forms, c.notes)),
        )
        .collect();
    rows.sort_unstable();
    let mut text = String::from("| instruction | forms | notes |\n|---|---|---|\n");
    for (opcode, forms, notes) in rows {
        let cell = |s: &str| s.replace('|', "\\|");
        writeln!(
            text,
            "| `{}` | {} | {} |",
            opcode.replace(' ', "` `"),
            cell(forms),
            cell(notes)
        )
        .expect("a string");
    }
    text
}

#[test]
fn the_readme_has_the_coverage_table() {
    const BEGIN: &str = "<!-- coverage: written by tests/coverage.rs with SOFTCUDA_WRITE_COVERAGE=1 -->\n";
    const END: &str = "<!-- end of coverage -->";
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/README.md");
    let readme = std::fs::read_to_string(path).expect("the README");
    let (before, rest) = readme.split_once(BEGIN).expect("a place for the table");
    let (have, after) = rest.split_once(END).expect("the table's end");
    let want = table();
    if std::env::var_os("SOFTCUDA_WRITE_COVERAGE").is_some() {
        std::fs::write(path, format!("{before}{BEGIN}{want}{END}{after}"))
            .expect("the README can be written");
    } else {
        assert!(
            have == want,
            "the table in README.md is stale: SOFTCUDA_WRITE_COVERAGE=1 cargo test -p softcuda --test coverage"
        );
    }
}
