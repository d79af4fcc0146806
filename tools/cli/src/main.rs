//! The command `ropeway`.

use std::process::ExitCode;

fn main() -> ExitCode {
    ropeway_cli::main()
}
