//! Prints what softcuda counted: `softcuda-report --help`.

use std::io::Write;
use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match softcuda::counters::report(&arguments) {
        Ok(text) => {
            // A reader that has seen enough (`head`) is no error.
            let _ = std::io::stdout().write_all(text.as_bytes());
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("softcuda-report: {error}");
            ExitCode::from(2)
        }
    }
}
