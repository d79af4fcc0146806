//! The committed header is what the sources say. `ROPEWAY_WRITE_HEADER=1` writes it instead.

use std::path::Path;

#[test]
fn the_header_is_what_the_sources_say() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let config = cbindgen::Config::from_file(root.join("cbindgen.toml")).unwrap();
    // It follows the modules.
    let generated = cbindgen::Builder::new()
        .with_config(config)
        .with_src(root.join("src/lib.rs"))
        .generate()
        .unwrap();
    let mut wanted = Vec::new();
    generated.write(&mut wanted);
    let path = root.join("include/ropeway.h");
    if std::env::var_os("ROPEWAY_WRITE_HEADER").is_some() {
        std::fs::write(&path, &wanted).unwrap();
    }
    let found = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        found == String::from_utf8(wanted).unwrap(),
        "tools/capi/include/ropeway.h is stale: run `ROPEWAY_WRITE_HEADER=1 cargo test -p ropeway-capi --test header` \
         and commit what it writes"
    );
}
