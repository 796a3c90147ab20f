//! What the program is made of: each crate that is compiled into it or into the kernel's half, with version, licence and
//! checksum, as CycloneDX 1.5 (<https://cyclonedx.org/docs/1.5/json/>). Tools that look for advisories read that.
//!
//! In: `cargo metadata` and `Cargo.lock`. Out: the text; the same for the same sources, so without a date. Written here, since
//! cargo-cyclonedx and cargo-auditable would have to be compiled first, with some 200 crates of their own.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

use crate::shell;

/// Ours: what is installed, and what is inside it.
const ROOTS: [&str; 2] = ["detector", "detector-ebpf"];

/// That of this checkout.
pub(super) fn text() -> Result<String> {
    let metadata = ["metadata", "--format-version", "1", "--locked", "--filter-platform"];
    let platform = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    let metadata = shell::output(shell::cargo(&metadata).arg(platform))?;
    let lock = std::fs::read_to_string(shell::root().join("Cargo.lock")).context("can't read `Cargo.lock`")?;
    let all = of(&serde_json::from_str(&metadata).context("cargo metadata printed no JSON")?, &lock)?;
    Ok(serde_json::to_string_pretty(&all)? + "\n")
}

fn of(metadata: &Value, lock: &str) -> Result<Value> {
    let list = |value: &'_ Value| value.as_array().cloned().unwrap_or_default();
    let (packages, nodes) = (list(&metadata["packages"]), list(&metadata["resolve"]["nodes"]));
    let by_id = |all: &[Value]| -> BTreeMap<String, Value> {
        all.iter().filter_map(|one| Some((one["id"].as_str()?.to_owned(), one.clone()))).collect()
    };
    let (packages, nodes) = (by_id(&packages), by_id(&nodes));
    let roots = packages.iter().filter(|(_, package)| ROOTS.iter().any(|root| package["name"] == *root));
    let mut waiting: Vec<&str> = roots.map(|(id, _)| id.as_str()).collect();
    let mut found = BTreeSet::new();
    while let Some(id) = waiting.pop() {
        if found.insert(id) {
            waiting.extend(nodes.get(id).into_iter().flat_map(compiled_in));
        }
    }
    let checksums = checksums(lock);
    let mut components = Vec::new();
    let mut program = None;
    for id in found {
        let package = packages.get(id).with_context(|| format!("cargo metadata doesn't describe `{id}`"))?;
        let component = component(package, &checksums)?;
        if package["name"] == ROOTS[0] { program = Some(component) } else { components.push(component) }
    }
    components.sort_by_key(|component| component["purl"].to_string());
    let mut program = program.context("cargo metadata has no package `detector`")?;
    program["type"] = "application".into();
    Ok(json!({
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "version": 1,
        "metadata": { "component": program },
        "components": components,
    }))
}

/// What a crate uses when it runs: not what only builds or tests it.
fn compiled_in(node: &Value) -> impl Iterator<Item = &str> {
    let dependencies = node["deps"].as_array().into_iter().flatten();
    let runs = |dependency: &&Value| {
        dependency["dep_kinds"].as_array().is_some_and(|kinds| kinds.iter().any(|kind| kind["kind"].is_null()))
    };
    dependencies.filter(runs).filter_map(|dependency| dependency["pkg"].as_str())
}

fn component(package: &Value, checksums: &BTreeMap<(String, String), String>) -> Result<Value> {
    let [name, version] = ["name", "version"].map(|key| package[key].as_str());
    let (name, version) = name.zip(version).context("a package without a name and a version")?;
    let purl = format!("pkg:cargo/{name}@{version}");
    let mut component = json!({ "type": "library", "bom-ref": &purl, "name": name, "version": version, "purl": &purl });
    if let Some(licence) = package["license"].as_str() {
        // The old way to write it, which isn't SPDX's.
        component["licenses"] = json!([{ "expression": licence.replace('/', " OR ") }]);
    }
    if let Some(checksum) = checksums.get(&(name.to_owned(), version.to_owned())) {
        component["hashes"] = json!([{ "alg": "SHA-256", "content": checksum }]);
    }
    Ok(component)
}

/// Of each package that comes from a registry, by name and version.
fn checksums(lock: &str) -> BTreeMap<(String, String), String> {
    let packages = lock.split("[[package]]").skip(1);
    let of = |package: &str| {
        let value = |key: &str| {
            let line = package.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(" = "))?;
            Some(line.trim_matches('"').to_owned())
        };
        Some(((value("name")?, value("version")?), value("checksum")?))
    };
    packages.filter_map(of).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_has_what_runs_and_nothing_that_only_builds_or_tests() {
        let package = |name: &str| json!({ "id": name, "name": name, "version": "1.0.0", "license": "MIT/Apache-2.0" });
        let uses = |name: &str, kinds: &[&str]| {
            let kind = |kind: &&str| json!({ "kind": (*kind != "normal").then_some(kind) });
            json!({ "pkg": name, "dep_kinds": kinds.iter().map(kind).collect::<Vec<_>>() })
        };
        let names = ["detector", "detector-ebpf", "runs", "below", "builds", "tests", "both", "xtask"];
        let metadata = json!({
            "packages": names.map(package),
            "resolve": { "nodes": [
                { "id": "detector", "deps": [
                    uses("runs", &["normal"]), uses("builds", &["build"]), uses("tests", &["dev"]),
                    uses("both", &["build", "normal"]),
                ]},
                { "id": "detector-ebpf", "deps": [] },
                { "id": "runs", "deps": [uses("below", &["normal"])] },
            ]},
        });
        let lock =
            "version = 4\n\n[[package]]\nname = \"runs\"\nversion = \"1.0.0\"\nsource = \"s\"\nchecksum = \"ab\"\n";
        let made = of(&metadata, lock).unwrap();
        let purls: Vec<_> = made["components"].as_array().unwrap().iter().map(|one| one["purl"].as_str()).collect();
        let wanted = ["below", "both", "detector-ebpf", "runs"].map(|name| format!("pkg:cargo/{name}@1.0.0"));
        assert_eq!(purls, wanted.iter().map(|purl| Some(purl.as_str())).collect::<Vec<_>>());
        let runs = &made["components"][3];
        assert_eq!(runs["hashes"], json!([{ "alg": "SHA-256", "content": "ab" }]));
        assert_eq!(runs["licenses"], json!([{ "expression": "MIT OR Apache-2.0" }]));
        assert_eq!(made["metadata"]["component"]["type"], "application");
        assert!(of(&json!({}), "").is_err());
    }
}
