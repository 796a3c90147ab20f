//! What README, SECURITY.md and docs/*.md tell an operator to type.
//!
//! In: Markdown. Out: its lines of code: those of blocks fenced as `sh`, and indented ones, but for data (a section, a
//! `key = value`, an object, a syslog line); and what stands in backticks. Blocks fenced as `console` are a session with its output:
//! docs/tutorial.md's has a test of its own.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};

/// A page, by its path from the repository's root.
#[derive(Clone, Debug)]
pub struct Page {
    /// `docs/install.md`.
    pub name: String,
    /// All of it.
    pub text: String,
}

/// A block of code.
struct Block<'a> {
    /// What stands after the fence; nothing if the block is indented.
    kind: &'a str,
    lines: Vec<&'a str>,
}

/// The pages for operators, README first.
///
/// # Errors
/// When one can't be read.
pub fn all() -> Result<Vec<Page>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut docs: Vec<PathBuf> =
        fs::read_dir(root.join("docs"))?.map(|entry| Ok(entry?.path())).collect::<Result<_>>()?;
    docs.retain(|path| path.extension().is_some_and(|kind| kind == "md"));
    docs.sort();
    ensure!(docs.len() > 10, "only {} pages in docs", docs.len());
    let pages = [root.join("README.md"), root.join("SECURITY.md")].into_iter().chain(docs);
    let read = |path: PathBuf| {
        let text = fs::read_to_string(&path).with_context(|| format!("can't read `{}`", path.display()))?;
        let name = path.strip_prefix(&root)?.display().to_string();
        Ok(Page { name, text })
    };
    pages.map(read).collect()
}

impl Page {
    /// The lines to be typed, without their comments.
    #[must_use]
    pub fn lines(&self) -> Vec<String> {
        let typed = self.blocks().into_iter().filter(|block| matches!(block.kind, "" | "sh"));
        let lines = typed.flat_map(|block| block.lines);
        let lines = lines.map(|line| line.split(" # ").next().unwrap_or_default().trim());
        lines.filter(|line| !line.is_empty() && !is_data(line)).map(str::to_owned).collect()
    }

    /// The blocks that are TOML: fenced as such, or indented with a section in the first line.
    #[must_use]
    pub fn toml(&self) -> Vec<String> {
        let is_toml = |block: &Block<'_>| {
            block.kind == "toml"
                || block.kind.is_empty() && block.lines.first().is_some_and(|line| line.starts_with('['))
        };
        self.blocks().into_iter().filter(is_toml).map(|block| block.lines.join("\n") + "\n").collect()
    }

    /// What stands in backticks within the text.
    #[must_use]
    pub fn inline(&self) -> Vec<String> {
        let (mut fenced, mut found) = (false, Vec::new());
        for line in self.text.lines() {
            if line.starts_with("```") {
                fenced = !fenced;
            } else if !fenced && !line.starts_with("    ") {
                found.extend(line.split('`').skip(1).step_by(2).map(str::to_owned));
            }
        }
        found
    }

    fn blocks(&self) -> Vec<Block<'_>> {
        let mut blocks: Vec<Block<'_>> = Vec::new();
        let (mut fenced, mut goes_on) = (false, false);
        for line in self.text.lines() {
            if let Some(kind) = line.strip_prefix("```") {
                fenced = !fenced;
                if fenced {
                    // A fence without a word is a drawing.
                    blocks.push(Block { kind: if kind.is_empty() { "text" } else { kind }, lines: Vec::new() });
                }
                goes_on = fenced;
                continue;
            }
            let code = if fenced { Some(line) } else { line.strip_prefix("    ") };
            let Some(code) = code else {
                goes_on = false;
                continue;
            };
            if !goes_on {
                blocks.push(Block { kind: "", lines: Vec::new() });
            }
            goes_on = true;
            if let Some(block) = blocks.last_mut() {
                block.lines.push(code);
            }
        }
        blocks
    }
}

fn is_data(line: &str) -> bool {
    line.starts_with(['[', '{', '<']) || line.split_whitespace().nth(1) == Some("=")
}

/// The commands of a line: what a shell makes one process of each.
#[must_use]
pub fn commands(line: &str) -> Vec<&str> {
    let simple = line.split(['|', ';', '>']).flat_map(|part| part.split("&&"));
    simple.map(str::trim).filter(|command| !command.is_empty()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_typed_is_told_from_what_is_shown() {
        let text = "# a\nsee `detector list`, or\n\n    detector status  # how it is\n    detector mode; detector list | wc -l\n\n\
                    ```sh\ntrue && false\n```\n```toml\n[log]\nfilter = \"info\"\n```\n    [deny]\n    ja4 = []\n\n    {\"v\":1}\n\
                    ```console\n$ no\n```\n```\ndrawing\n```\n";
        let page = Page { name: "a.md".to_owned(), text: text.to_owned() };
        assert_eq!(page.lines(), ["detector status", "detector mode; detector list | wc -l", "true && false"]);
        assert_eq!(page.toml(), ["[log]\nfilter = \"info\"\n", "[deny]\nja4 = []\n"]);
        assert_eq!(page.inline(), ["detector list"]);
        assert_eq!(commands("a | b c; d >e && f"), ["a", "b c", "d", "e", "f"]);
    }
}
