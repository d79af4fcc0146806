//! Whole calls: `cargo bench --bench encoder -- --model DIR`, the same as `ropeway bench encoder`.

#[path = "command/mod.rs"]
mod command;

fn main() -> std::process::ExitCode {
    command::bench("encoder")
}
