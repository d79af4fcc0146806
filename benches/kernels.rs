//! Every kernel alone: `cargo bench --bench kernels -- --model DIR --device cuda`, the same as `ropeway bench kernels`.

#[path = "command/mod.rs"]
mod command;

fn main() -> std::process::ExitCode {
    command::bench("kernels")
}
