//! Notes what the build is for, which `ropeway devices` prints.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!(
        "cargo::rustc-env=ROPEWAY_TARGET={}",
        std::env::var("TARGET").unwrap_or_default()
    );
}
