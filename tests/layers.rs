//! The layers of src/, whose order stands in the docs of lib.rs and gpu/mod.rs.

#[path = "common/layers.rs"]
mod layers;

use layers::{Module, check, paths, sources, upward};

#[test]
fn no_layer_imports_from_one_above() {
    check(&["", "gpu"]);
}

#[test]
fn the_driver_imports_nothing_of_the_crate() {
    let driver: Module = vec!["gpu".into(), "driver".into()];
    let mut found = Vec::new();
    for (module, source) in sources().iter().filter(|(module, _)| module.starts_with(&driver)) {
        let outside = paths(module, source)
            .into_iter()
            .filter(|path| !path.starts_with(&driver));
        found.extend(outside.map(|path| format!("{} names {}", module.join("::"), path.join("::"))));
    }
    assert!(found.is_empty(), "{}", found.join("\n"));
}

#[test]
fn an_import_upward_is_found() {
    let path = |path: &str| -> Module { path.split("::").map(str::to_owned).collect() };
    let layers = ["high::leaf", "low", "middle", "high"].map(path);
    let found = |module: &str, source: &str| upward(&[], &layers, &path(module), source).len();
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
    assert_eq!(
        found("low", "#[cfg(test)]\nmod tests {\n    use crate::high::Thing;\n}"),
        0
    );
    // A part of a layer may stand below the layer.
    assert_eq!(found("low", "use crate::high::leaf::Thing;"), 0);
    assert_eq!(found("high::leaf::part", "use crate::low::Thing;"), 1);
    assert_eq!(found("high", "use crate::low::Thing;"), 0);
    // A name that the crate's root passes on hides the layer that it comes from.
    assert_eq!(found("middle", "use crate::Thing;"), 1);
}
