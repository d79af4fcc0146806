//! What adapters cost: `cargo bench --bench adapters -- --model DIR --device cuda`, the same as `ropeway bench adapters`.

#[path = "command/mod.rs"]
mod command;

fn main() -> std::process::ExitCode {
    command::bench("adapters")
}
