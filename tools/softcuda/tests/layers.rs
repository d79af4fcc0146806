//! The layers of softcuda's src/, whose order stands in the docs of lib.rs and lower/mod.rs. `tests/layers.rs` in the
//! repository's root tests the reader.

#[allow(dead_code)] // That test uses more of it.
#[path = "../../../tests/common/layers.rs"]
mod layers;

#[test]
fn no_layer_imports_from_one_above() {
    layers::check(&["", "lower"]);
}
