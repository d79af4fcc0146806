//! Reads a package's sources for imports upward: no layer imports from a layer above it. The order is the table headed
//! `layer` in the docs of lib.rs, and in those of any other mod.rs for its children. Test modules may import anything, and
//! programs (`src/bin`) stand above every layer.

use std::path::{Path, PathBuf};

/// The sources of the package that is tested.
const SRC: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/src");

/// The path of a module from the crate's root: `gpu::driver` is two names.
pub type Module = Vec<String>;

/// The rows of the table headed `layer` in a module's docs, bottom to top, below `parent`; empty without one.
fn layers(parent: &[String], source: &str) -> Vec<Module> {
    let rows = source
        .lines()
        .skip_while(|line| !line.starts_with("//! | layer |"));
    let rows = rows.skip(2).map_while(|line| line.strip_prefix("//! | "));
    rows.map(|row| {
        let name = row.split('`').nth(1).expect("a layer's name in backquotes");
        let names = name.split("::").map(str::to_owned);
        parent.iter().cloned().chain(names).collect()
    })
    .collect()
}

/// Appends the paths in `text`, which follows `crate::` or `super::`: one for a plain path, several for a group.
/// Returns the rest of the text.
fn expand<'t>(text: &'t str, prefix: &[String], paths: &mut Vec<Module>) -> &'t str {
    let text = text.trim_start();
    if let Some(mut rest) = text.strip_prefix('{') {
        loop {
            rest = rest.trim_start();
            if let Some(after) = rest.strip_prefix('}') {
                return after;
            }
            // An item is followed by a comma, the end of the group, or ` as name`.
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

/// The paths from the crate's root that the source of `module` names, without comments and inline tests.
pub fn paths(module: &[String], source: &str) -> Vec<Module> {
    let source = source
        .split("#[cfg(test)]\nmod tests {")
        .next()
        .unwrap_or_default();
    let source = source
        .split("#[cfg(test)]\npub mod tests {")
        .next()
        .unwrap_or_default();
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

/// What the source of `module` names below `parent` that is not at or below its own layer.
pub fn upward(parent: &[String], layers: &[Module], module: &[String], source: &str) -> Vec<String> {
    if !module.starts_with(parent) || module.len() == parent.len() {
        return Vec::new();
    }
    // The layer with the longest name that `path` begins with.
    let height = |path: &[String]| {
        let rows = layers
            .iter()
            .enumerate()
            .filter(|(_, layer)| path.starts_with(layer));
        rows.max_by_key(|(_, layer)| layer.len())
            .map(|(height, _)| height)
    };
    let own = height(module).unwrap_or_else(|| panic!("{} is in no row of the table", module.join("::")));
    let found = paths(module, source).into_iter().filter(|path| {
        path.starts_with(parent)
            && path.len() > parent.len()
            && height(path).is_none_or(|height| height > own)
    });
    found
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
fn module_of(file: &Path) -> Module {
    let inside = file.strip_prefix(SRC).expect("a source").with_extension("");
    let mut module: Module = inside.iter().map(|s| s.to_str().unwrap().to_owned()).collect();
    module.pop_if(|last| last == "mod" || last == "lib");
    module
}

/// Every module of the crate with its source, but those of tests and programs.
pub fn sources() -> Vec<(Module, String)> {
    let mut list = Vec::new();
    files(Path::new(SRC), &mut list);
    list.iter()
        .filter(|file| !file.starts_with(Path::new(SRC).join("bin")))
        .map(|file| (module_of(file), std::fs::read_to_string(file).expect("a source")))
        .filter(|(module, _)| !module.iter().any(|name| name == "tests" || name == "testing"))
        .collect()
}

/// Fails for every import upward, and unless these are the modules whose docs have a table of layers (`""` is the crate).
pub fn check(modules_with_tables: &[&str]) {
    let sources = sources();
    let mut found = Vec::new();
    let mut tables = Vec::new();
    for (parent, source) in &sources {
        let layers = layers(parent, source);
        if layers.is_empty() {
            continue;
        }
        tables.push(parent.join("::"));
        for layer in &layers {
            // A module, or a type in the file of the table.
            let name = layer.last().expect("a layer has a name");
            let exists = sources.iter().any(|(module, _)| module == layer)
                || source.contains(&format!("\npub struct {name} {{"));
            assert!(exists, "the table has {}, src/ has not", layer.join("::"));
        }
        for (module, source) in &sources {
            found.extend(upward(parent, &layers, module, source));
        }
    }
    tables.sort();
    assert_eq!(tables, modules_with_tables, "modules with a table of layers");
    assert!(found.is_empty(), "imports upward:\n{}", found.join("\n"));
}
