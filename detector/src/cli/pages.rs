//! `detector pages`: man pages and completions from the definitions of the commands, for packages. In: a directory. Out:
//! `man/detector*.1`, `detector.bash`, `_detector` (zsh) and `detector.fish` in it.

use std::{fs, io, io::Write, path::PathBuf};

use clap::CommandFactory as _;
use clap_complete::Shell;

use super::{Cli, Exit, Failure, printable};

const EXAMPLES: &str = "\
Examples:
  detector pages pages
  detector pages pages && man pages/man/detector-block.1
  detector pages pages && . pages/detector.bash";

/// Write man pages and completions, for packages
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct PagesArgs {
    /// Where to; made if it is missing
    directory: PathBuf,
}

/// Writes them.
///
/// # Errors
/// When the directory can't be written.
pub fn run(args: &PagesArgs, out: &mut impl Write) -> Result<Exit, Failure> {
    let shown = args.directory.display().to_string();
    write(args).map_err(|error| Failure::new(Exit::Failed, format!("can't write to `{shown}`: {error}")))?;
    writeln!(out, "wrote man pages and completions to {}", printable::line(&shown))?;
    Ok(Exit::Done)
}

fn write(PagesArgs { directory }: &PagesArgs) -> io::Result<()> {
    let man = directory.join("man");
    fs::create_dir_all(&man)?;
    clap_mangen::generate_to(Cli::command(), &man)?;
    for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
        clap_complete::generate_to(shell, &mut Cli::command(), "detector", directory)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_command_has_a_page_with_its_examples_and_is_completed() {
        let directory = tempfile::tempdir().unwrap();
        let args = PagesArgs { directory: directory.path().join("new") };
        run(&args, &mut Vec::new()).unwrap();
        let text = |name: &str| fs::read_to_string(args.directory.join(name)).unwrap();
        let completions = ["detector.bash", "_detector", "detector.fish"].map(text);
        for command in Cli::command().get_subcommands().filter(|command| !command.is_hide_set()) {
            let name = command.get_name();
            assert!(text(&format!("man/detector-{name}.1")).contains("Examples:"), "{name}");
            assert!(completions.iter().all(|text| text.contains(name)), "{name}");
        }
        assert!(text("man/detector.1").contains("detector\\-block(1)"));
    }
}
