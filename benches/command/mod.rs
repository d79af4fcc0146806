//! What the benches have in common: each is a command of `ropeway bench`.

use std::process::{Command, ExitCode};

/// Runs it with this process's arguments.
pub fn bench(name: &str) -> ExitCode {
    // What `cargo bench` itself passes is not for it.
    let arguments = std::env::args_os()
        .skip(1)
        .filter(|argument| argument != "--bench");
    let status = Command::new(env!("CARGO_BIN_EXE_ropeway"))
        .args(["bench", name])
        .args(arguments)
        .status();
    match status {
        Ok(status) => ExitCode::from(status.code().and_then(|code| code.try_into().ok()).unwrap_or(1)),
        Err(error) => {
            eprintln!("{}: {error}", env!("CARGO_BIN_EXE_ropeway"));
            ExitCode::FAILURE
        }
    }
}
