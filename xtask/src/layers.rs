//! `cargo xtask layers`: the rules of the house that a compiler can't know.
//!
//! In: the workspace's sources, read as text without comments and literals (`layers/source.rs`). Out: every breach with
//! file, line, the rule, and what would be allowed. The rules themselves are the tables in `layers/rules.rs`.

mod rules;
mod source;
#[cfg(test)]
mod tests;

use std::{fs, path::Path};

use anyhow::{Context as _, Result, bail};

use crate::{arguments::Arguments, shell};

/// The verb.
pub(crate) fn run(arguments: Arguments) -> Result<()> {
    arguments.finish()?;
    check()
}

/// Checks this workspace.
pub(crate) fn check() -> Result<()> {
    let (files, breaches) = breaches(shell::root())?;
    if !breaches.is_empty() {
        bail!("{} breaches of the house rules:\n  {}", breaches.len(), breaches.join("\n  "));
    }
    println!("{files} files keep the house rules");
    Ok(())
}

/// How many files there are below `root`, and every breach in them.
fn breaches(root: &Path) -> Result<(usize, Vec<String>)> {
    let mut files = Vec::new();
    walk(root, Path::new(""), &mut files)?;
    files.sort();
    let mut found = rules::unlisted_rooms(&files);
    for file in &files {
        let Ok(text) = fs::read_to_string(root.join(file)) else { continue };
        found.extend(rules::excluded_methods(file, &text));
        if file.ends_with(".rs") {
            found.extend(rules::breaches(file, &source::Code::new(&text)));
        }
    }
    Ok((files.len(), found))
}

/// The text files below `root`, with `/` between folders, without what git doesn't keep.
fn walk(root: &Path, below: &Path, files: &mut Vec<String>) -> Result<()> {
    const KINDS: [&str; 12] = ["rs", "toml", "md", "py", "sh", "json", "yml", "yaml", "conf", "service", "txt", "html"];
    const NOT_OURS: [&str; 5] = ["target", "artifacts", "corpus", "Cargo.lock", ".git"];
    let folder = root.join(below);
    for entry in fs::read_dir(&folder).with_context(|| format!("can't list `{}`", folder.display()))? {
        let entry = entry?;
        let name = entry.file_name();
        let path = below.join(&name);
        let name = name.to_string_lossy();
        if NOT_OURS.contains(&&*name) {
            continue;
        }
        if entry.file_type()?.is_dir() {
            walk(root, &path, files)?;
        } else if !name.contains('.') || KINDS.iter().any(|kind| name.ends_with(&format!(".{kind}"))) {
            files.push(path.to_string_lossy().into_owned());
        }
    }
    Ok(())
}
