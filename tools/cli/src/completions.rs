//! `ropeway completions`: completion scripts.

use clap::CommandFactory;
use clap_complete::Shell;

use super::exit::Exit;
use super::terminal;

const EXAMPLES: &str = "\
Examples:
  ropeway completions bash > ~/.local/share/bash-completion/completions/ropeway
  ropeway completions zsh > ~/.zfunc/_ropeway
  ropeway completions fish > ~/.config/fish/completions/ropeway.fish";

#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// The shell
    shell: Shell,
}

pub fn run(args: Args) -> Result<(), Exit> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut super::Cli::command(), "ropeway", &mut script);
    terminal::print(&script)
}
