//! No layer imports from a layer above it. The order is the table headed `layer` in the docs of a module: that of
//! lib.rs for the crate, and that of any other mod.rs for its children.

use std::path::{Path, PathBuf};

const SRC: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/src");

/// The rows of the table headed `layer` in a module's docs, bottom to top; empty without one.
fn layers(source: &str) -> Vec<&str> {
    source
        .lines()
        .skip_while(|line| !line.starts_with("//! | layer |"))
        .skip(2)
        .map_while(|line| line.strip_prefix("//! | "))
        .map(|row| row.split('`').nth(1).expect("a layer's name in backquotes"))
        .collect()
}

/// Every path in `text`, which stands behind `crate::` or `super::`: one for a plain path, several for a group.
/// Returns the rest of the text.
fn expand<'t>(text: &'t str, prefix: &[String], paths: &mut Vec<Vec<String>>) -> &'t str {
    let text = text.trim_start();
    if let Some(mut rest) = text.strip_prefix('{') {
        loop {
            rest = rest.trim_start();
            if let Some(after) = rest.strip_prefix('}') {
                return after;
            }
            // Behind an item stand a comma, the end of the group, or ` as name`.
            rest = expand(rest, prefix, paths).trim_start_matches(|c| c != ',' && c != '}');
            rest = rest.strip_prefix(',').unwrap_or(rest);
        }
    }
    let end = text
        .find(|c: char| !c.is_alphanumeric() && c != '_')
        .unwrap_or(text.len());
    let mut path = prefix.to_vec();
    path.push(text[..end].to_owned());
    match text[end..].strip_prefix("::") {
        Some(rest) => expand(rest, &path, paths),
        None => {
            paths.push(path);
            &text[end..]
        }
    }
}

/// The paths from the crate's root that the source of `module` names.
fn paths(module: &[String], source: &str) -> Vec<Vec<String>> {
    let code: Vec<&str> = source
        .lines()
        .filter(|line| !line.trim_start().starts_with("//"))
        .collect();
    let code = code.join("\n");
    let mut paths = Vec::new();
    for (at, _) in code.match_indices("crate::") {
        expand(&code[at + "crate::".len()..], &[], &mut paths);
    }
    for (at, _) in code.match_indices("super::") {
        if code[..at].ends_with("::") {
            continue;
        }
        let mut rest = &code[at..];
        let mut base = module;
        while let Some(further) = rest.strip_prefix("super::") {
            base = &base[..base.len().saturating_sub(1)];
            rest = further;
        }
        expand(rest, base, &mut paths);
    }
    paths
}

/// What the source of `module` names of `parent`'s children that is not at or below its own layer.
fn upward(parent: &[String], layers: &[&str], module: &[String], source: &str) -> Vec<String> {
    let Some(own) = module.strip_prefix(parent).and_then(|rest| rest.first()) else {
        return Vec::new();
    };
    let height = |layer: &String| layers.iter().position(|l| l == layer);
    let own_height = height(own).unwrap_or_else(|| panic!("{} is in no row of the table", module.join("::")));
    paths(module, source)
        .into_iter()
        .filter(|path| {
            let target = path.strip_prefix(parent).and_then(|rest| rest.first());
            // `super::*` in a module of tests names the file itself.
            target.is_some_and(|target| {
                !target.is_empty() && height(target).is_none_or(|height| height > own_height)
            })
        })
        .map(|path| format!("{} names {}", module.join("::"), path.join("::")))
        .collect()
}

fn files(folder: &Path, list: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).expect("a folder of sources") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            files(&path, list);
        } else if path.extension().is_some_and(|e| e == "rs") {
            list.push(path);
        }
    }
}

/// The path of the module that a file holds: empty for lib.rs.
fn module_of(file: &Path) -> Vec<String> {
    let inside = file.strip_prefix(SRC).expect("a source").with_extension("");
    let mut module: Vec<String> = inside.iter().map(|s| s.to_str().unwrap().to_owned()).collect();
    module.pop_if(|last| last == "mod" || last == "lib");
    module
}

#[test]
fn no_layer_imports_from_one_above() {
    let mut list = Vec::new();
    files(Path::new(SRC), &mut list);
    let sources: Vec<(Vec<String>, String)> = list
        .iter()
        // Programs stand above every layer.
        .filter(|file| !file.starts_with(Path::new(SRC).join("bin")))
        .map(|file| (module_of(file), std::fs::read_to_string(file).expect("a source")))
        .collect();
    let mut found = Vec::new();
    let mut tables = Vec::new();
    for (parent, source) in &sources {
        let layers = layers(source);
        if layers.is_empty() {
            continue;
        }
        tables.push(parent.join("::"));
        for layer in &layers {
            let module = [&parent[..], &[(*layer).to_owned()]].concat();
            assert!(
                sources.iter().any(|(m, _)| *m == module),
                "the table has {layer}, the sources have not"
            );
        }
        for (module, source) in &sources {
            found.extend(upward(parent, &layers, module, source));
        }
    }
    tables.sort();
    assert_eq!(tables, ["", "lower"], "modules with a table of layers");
    assert!(found.is_empty(), "imports upward:\n{}", found.join("\n"));
}

#[test]
fn an_import_upward_is_found() {
    let strings = |path: &str| -> Vec<String> { path.split("::").map(str::to_owned).collect() };
    let layers = ["low", "middle", "high"];
    let found = |module: &str, source: &str| upward(&[], &layers, &strings(module), source).len();
    assert_eq!(found("middle", "use crate::low::Thing;\nuse super::low;"), 0);
    assert_eq!(
        found("middle::part", "use super::other;\nuse crate::middle::{a, b};"),
        0
    );
    assert_eq!(found("middle", "// crate::high is above\n/// [`crate::high`]"), 0);
    assert_eq!(found("middle", "use crate::high::Thing;"), 1);
    assert_eq!(found("middle::part", "fn f() -> super::super::high::Thing {}"), 1);
    assert_eq!(
        found("low", "use crate::{low, middle::{A as B, C},\n    high};"),
        3
    );
    assert_eq!(found("low", "macro_rules! m { () => { $crate::high::f() } }"), 1);
    // A name that the parent passes on hides the layer that it comes from.
    let lower = |source: &str| {
        upward(
            &strings("lower"),
            &["builder", "isa"],
            &strings("lower::isa::x"),
            source,
        )
    };
    assert_eq!(
        lower("use crate::lower::{Builder, builder::Refused};"),
        ["lower::isa::x names lower::Builder"]
    );
}
