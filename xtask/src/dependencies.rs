//! The dependency policy of `deny.toml`: licences, banned crates, sources, wildcard versions.
//!
//! In: `deny.toml` (its lists of strings) and `cargo metadata`. Out: every crate that breaks the policy, and why. The
//! same file serves cargo-deny, which isn't used itself: it would have to be compiled before each cold CI run, and
//! these checks are this one file. Licence expressions are SPDX's, with the old `/` for `OR`.

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use crate::shell;

/// The lists of `deny.toml`.
#[derive(Debug)]
struct Policy {
    allow: Vec<String>,
    deny: Vec<String>,
    registries: Vec<String>,
}

/// Checks the whole dependency tree, all platforms' and all features'.
pub(crate) fn check() -> Result<()> {
    let text = std::fs::read_to_string(shell::root().join("deny.toml")).context("can't read `deny.toml`")?;
    let policy = Policy::read(&text)?;
    let metadata = shell::output(&mut shell::cargo(&["metadata", "--format-version", "1", "--locked"]))?;
    let metadata: Value = serde_json::from_str(&metadata).context("cargo metadata printed no JSON")?;
    let packages = metadata["packages"].as_array().context("cargo metadata lists no packages")?;
    let breaches: Vec<String> = packages.iter().flat_map(|package| policy.breaches(package)).collect();
    if !breaches.is_empty() {
        bail!("{} dependencies break the policy of `deny.toml`:\n  {}", breaches.len(), breaches.join("\n  "));
    }
    println!("{} packages keep the policy of deny.toml", packages.len());
    Ok(())
}

impl Policy {
    fn read(text: &str) -> Result<Self> {
        let list = |section, key| {
            list(text, section, key).with_context(|| format!("`deny.toml` has no list `{key}` in `[{section}]`"))
        };
        Ok(Self {
            allow: list("licenses", "allow")?,
            deny: list("bans", "deny")?,
            registries: list("sources", "allow-registry")?,
        })
    }

    fn breaches(&self, package: &Value) -> Vec<String> {
        let name = package["name"].as_str().unwrap_or("?");
        let label = format!("{name} {}", package["version"].as_str().unwrap_or("?"));
        let mut found = Vec::new();
        match package["license"].as_str() {
            Some(expression) if self.holds(expression) => {}
            Some(expression) => {
                found.push(format!("{label}: its licence `{expression}` isn't covered by the allow list"))
            }
            None => found.push(format!("{label}: it declares no licence expression")),
        }
        if self.deny.iter().any(|banned| banned == name) {
            found.push(format!("{label}: it is banned"));
        }
        match package["source"].as_str() {
            Some(source) if self.registries.iter().any(|registry| source == format!("registry+{registry}")) => {}
            Some(source) => found.push(format!("{label}: it comes from `{source}`, which isn't an allowed registry")),
            // our own: their manifests are ours to keep
            None => found.extend(wildcards(package).map(|dependency| format!("{label}: any version of {dependency}"))),
        }
        found
    }

    /// Whether an expression holds with the allowed licences alone.
    fn holds(&self, expression: &str) -> bool {
        let spaced = expression.replace('(', " ( ").replace(')', " ) ").replace('/', " OR ");
        let words: Vec<&str> = spaced.split_whitespace().collect();
        let mut rest = words.as_slice();
        self.any(&mut rest) == Some(true) && rest.is_empty()
    }

    /// `all OR all …`. `None`: not an expression.
    fn any(&self, words: &mut &[&str]) -> Option<bool> {
        let mut holds = self.all(words)?;
        while let ["OR", after @ ..] = *words {
            *words = after;
            holds |= self.all(words)?;
        }
        Some(holds)
    }

    /// `one AND one …`, which binds more tightly.
    fn all(&self, words: &mut &[&str]) -> Option<bool> {
        let mut holds = self.one(words)?;
        while let ["AND", after @ ..] = *words {
            *words = after;
            holds &= self.one(words)?;
        }
        Some(holds)
    }

    fn one(&self, words: &mut &[&str]) -> Option<bool> {
        match *words {
            ["(", after @ ..] => {
                *words = after;
                let holds = self.any(words)?;
                *words = words.strip_prefix(&[")"])?;
                Some(holds)
            }
            [licence, "WITH", exception, after @ ..] => {
                *words = after;
                Some(self.allow.contains(&format!("{licence} WITH {exception}")))
            }
            [licence, after @ ..] if !matches!(*licence, ")" | "AND" | "OR" | "WITH") => {
                *words = after;
                Some(self.allow.iter().any(|allowed| allowed == licence))
            }
            _ => None,
        }
    }
}

/// Dependencies on any version, other than the workspace's own packages.
fn wildcards(package: &Value) -> impl Iterator<Item = &str> {
    let dependencies = package["dependencies"].as_array().into_iter().flatten();
    let wild = dependencies.filter(|dependency| dependency["req"] == "*" && dependency["path"].is_null());
    wild.filter_map(|dependency| dependency["name"].as_str())
}

/// The strings of `key = ["…", …]` in a section; no string may hold a bracket.
fn list(text: &str, section: &str, key: &str) -> Option<Vec<String>> {
    let lines = text.lines().map(str::trim).filter(|line| !line.starts_with('#'));
    let mut lines =
        lines.skip_while(|line| *line != format!("[{section}]")).skip(1).take_while(|line| !line.starts_with('['));
    let start = lines
        .find_map(|line| line.strip_prefix(key)?.trim_start().strip_prefix('=')?.trim_start().strip_prefix('['))?;
    let rest: String = lines.collect();
    let items = format!("{start}{rest}");
    let (items, _) = items.split_once(']')?;
    Some(items.split('"').skip(1).step_by(2).map(str::to_owned).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy() -> Policy {
        Policy::read(
            "[licenses]\n# allow = [\"no\"]\nallow = [\n  \"MIT\",\n  \"Apache-2.0 WITH LLVM-exception\",\n  \"ISC\"\n]\n\
             [bans]\ndeny = [\"rsa\"]\nwildcards = \"deny\"\n[sources]\nallow-registry = [\"https://index\"]\n",
        )
        .unwrap()
    }

    fn told(package: &Value) -> String {
        policy().breaches(package).join("; ")
    }

    #[test]
    fn this_repository_s_policy_can_be_read() {
        let policy = Policy::read(include_str!("../../deny.toml")).unwrap();
        assert!(policy.allow.len() > 10 && policy.deny.contains(&"openssl-sys".into()) && policy.registries.len() == 1);
    }

    #[test]
    fn licence_expressions_are_weighed() {
        let policy = policy();
        let good = [
            "MIT",
            "MIT OR GPL-3.0",
            "GPL-3.0/MIT",
            "(GPL-3.0 OR ISC) AND MIT",
            "Apache-2.0 WITH LLVM-exception",
            "X AND Y OR MIT",
        ];
        let bad = [
            "GPL-3.0",
            "MIT AND GPL-3.0",
            "Apache-2.0",
            "MIT WITH LLVM-exception",
            "(MIT",
            "MIT)",
            "",
            "MIT OR",
            "OR MIT",
            "MIT ISC",
        ];
        for expression in good {
            assert!(policy.holds(expression), "{expression}");
        }
        for expression in bad {
            assert!(!policy.holds(expression), "{expression}");
        }
    }

    #[test]
    fn each_breach_is_told() {
        let package = |license: Value, name: &str, source: Value| {
            serde_json::json!({ "name": name, "version": "1.0.0", "license": license, "source": source, "dependencies": [
                { "name": "wild", "req": "*", "path": null }, { "name": "ours", "req": "*", "path": "/x" }, { "name": "a", "req": "^1" },
            ]})
        };
        let index = || Value::from("registry+https://index");
        assert_eq!(told(&package("MIT".into(), "a", index())), "");
        assert_eq!(
            told(&package("AGPL-3.0".into(), "a", index())),
            "a 1.0.0: its licence `AGPL-3.0` isn't covered by the allow list"
        );
        assert_eq!(told(&package(Value::Null, "a", index())), "a 1.0.0: it declares no licence expression");
        assert_eq!(told(&package("MIT".into(), "rsa", index())), "rsa 1.0.0: it is banned");
        assert!(told(&package("MIT".into(), "a", "git+https://x".into())).contains("isn't an allowed registry"));
        assert_eq!(told(&package("MIT".into(), "a", Value::Null)), "a 1.0.0: any version of wild");
    }
}
