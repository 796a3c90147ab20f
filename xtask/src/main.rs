//! `cargo xtask VERB`: the project's own chores, each a file of its own.
//!
//! In: a verb and its flags. Out: what the verb prints, and 0 done, 1 failed, 64 a wrong command line. Only `setup`
//! changes anything outside the target directory. Dependencies are few, because a fresh machine compiles this first.

mod arguments;
mod bench;
mod dependencies;
mod fuzz;
mod guest;
mod layers;
#[cfg(all(test, feature = "linked-toolchain"))]
mod linked;
mod lint;
mod package;
mod setup;
mod shell;
mod test;
#[path = "../../detector/build/toolchain.rs"]
mod toolchain;

use std::process::ExitCode;

use anyhow::Result;
use arguments::{Arguments, Usage};

/// A chore: its name, how it is called, what it does in a sentence or two, and its code.
struct Verb {
    name: &'static str,
    usage: &'static str,
    about: &'static str,
    run: fn(Arguments) -> Result<()>,
}

/// Columns of the help.
const WIDTH: usize = 100;

const VERBS: [Verb; 10] = [
    Verb {
        name: "setup",
        usage: "",
        about: "Installs what building, testing and the demo need and is missing: system packages, a Rust toolchain for \
                eBPF, bpf-linker, a Python with curl_cffi and aioquic, an older kernel. Takes seconds when all is there.",
        run: setup::run,
    },
    Verb {
        name: "demo",
        usage: "",
        about: "Sets up, then shows the daemon tell a browser from a bot and block the bot by its JA4, in network \
                namespaces of its own. Needs root; touches no real interface.",
        run: demo,
    },
    Verb {
        name: "lab",
        usage: "[--visits N] [--browsers N] [--parallel N] [--kinds A,B] [--tuning] [--all] [--json FILE]",
        about: "Sets up, then has clients of 87 kinds, Chromium and Firefox among them, visit a site behind nginx, and \
                tells what detector makes of each kind, and whether that is right (docs/lab.md). 4 visits of each \
                kind, 2 of each with a real browser, unless told otherwise; --tuning leaves out kinds that are held \
                out, and --all tells of even rounds too. Needs root; touches no real interface.",
        run: lab,
    },
    Verb {
        name: "test",
        usage: "[--full] [--no-root]",
        about: "Sets up, then runs all tests: those without privileges, then those that need root. --full makes 1,000 \
                connections a cell instead of 100; --no-root leaves the second half out, and says so.",
        run: test::run,
    },
    Verb {
        name: "guest",
        usage: "SUITE [NAME...]",
        about: "Runs the tests of a suite that needs root, or those of it whose names hold one of the words, on Debian's \
                Linux 6.1, in a virtual machine. Needs root.",
        run: guest::run,
    },
    Verb {
        name: "package",
        usage: "[--version V] [--debug]",
        about: "Makes a .deb and a .rpm in target/package, of a release build and from one list of files. --debug takes \
                the debug build and packs it fast, for tests.",
        run: package::run,
    },
    Verb {
        name: "lint",
        usage: "",
        about: "Checks formatting, clippy, the layers, and the dependencies' licences and sources (deny.toml).",
        run: lint::run,
    },
    Verb {
        name: "layers",
        usage: "",
        about: "Checks that each room of detector uses only rooms upstream of it, and the other rules of the house that \
                a compiler can't know.",
        run: layers::run,
    },
    Verb {
        name: "bench",
        usage: "[NAME]",
        about: "Runs the benchmarks, or the one named, and prints each figure beside its target. A missed target is no \
                failure; a benchmark that can't run is.",
        run: bench::run,
    },
    Verb {
        name: "fuzz",
        usage: "[--seconds N] [TARGET]",
        about: "Runs each fuzz target of tests/fuzz, or the one named, for N seconds (60), with rustup's nightly.",
        run: fuzz::run,
    },
];

fn main() -> ExitCode {
    let mut words = std::env::args().skip(1);
    let name = words.next().unwrap_or_else(|| "--help".into());
    if matches!(name.as_str(), "help" | "-h" | "--help") {
        print!("{}", help());
        return ExitCode::SUCCESS;
    }
    let Some(verb) = VERBS.iter().find(|verb| verb.name == name) else {
        eprint!("error: there is no `cargo xtask {name}`\n\n{}", help());
        return ExitCode::from(64);
    };
    let arguments = Arguments::new(words);
    if arguments.asks_for_help() {
        println!("{}", help_of(verb));
        return ExitCode::SUCCESS;
    }
    match (verb.run)(arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if error.is::<Usage>() => {
            eprintln!("error: {error}\n\n{}", help_of(verb));
            ExitCode::from(64)
        }
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// The demo is a program of the tests, beside the lab it uses.
fn demo(arguments: Arguments) -> Result<()> {
    arguments.finish()?;
    shell::need_root("demo", "")?;
    setup::install()?;
    shell::run(&mut shell::cargo(&["build", "--package", "detector"]))?;
    let demo = ["run", "--quiet", "--package", "detector-tests", "--features", "root", "--bin", "demo"];
    shell::run(&mut shell::cargo(&demo))
}

/// Likewise.
fn lab(mut arguments: Arguments) -> Result<()> {
    let words = arguments.rest();
    shell::need_root("lab", "")?;
    setup::install()?;
    setup::install_for_lab()?;
    shell::run(&mut shell::cargo(&["build", "--package", "detector"]))?;
    let lab = ["run", "--quiet", "--package", "detector-tests", "--features", "root", "--bin", "lab", "--"];
    shell::run(shell::cargo(&lab).args(words))
}

fn help() -> String {
    let verbs: String = VERBS.iter().map(|verb| format!("{}\n", help_of(verb))).collect();
    format!("usage: cargo xtask VERB\n\n{verbs}")
}

fn help_of(verb: &Verb) -> String {
    let options = verb.usage.split_inclusive(']').map(str::trim).filter(|option| !option.is_empty());
    let line = format!("cargo xtask {}", verb.name);
    wrapped(wrapped(line, options) + "\n   ", verb.about.split(' '))
}

/// Goes on with these, on lines of at most [`WIDTH`] of which all but the first are indented.
fn wrapped<'a>(mut lines: String, words: impl Iterator<Item = &'a str>) -> String {
    for word in words {
        let width = lines.len() - lines.rfind('\n').map_or(0, |end| end + 1);
        if width + 1 + word.len() > WIDTH {
            lines += "\n   ";
        }
        lines += " ";
        lines += word;
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_verb_is_in_the_help_with_its_sentence() {
        let help = help();
        for verb in &VERBS {
            assert!(help.contains(&format!("cargo xtask {}", verb.name)));
            assert!(verb.about.ends_with('.'));
        }
        assert!(help.lines().all(|line| line.len() <= WIDTH), "{help}");
    }
}
