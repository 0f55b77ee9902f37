use clap::CommandFactory;
use clap_complete::Shell;

/// Arguments of `trawl completions`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example: trawl completions bash > ~/.local/share/bash-completion/completions/trawl"
)]
pub struct CompletionsArgs {
    /// The shell.
    shell: Shell,
}

pub fn run(args: CompletionsArgs) -> anyhow::Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut crate::Cli::command(), "trawl", &mut script);
    crate::output::print(&String::from_utf8(script)?)
}
