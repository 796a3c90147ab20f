//! What is installed where: one list for both kinds of package. In: the checkout and a built program. Out: a tree.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};

use super::{sbom, tool};
use crate::shell;

/// Where the program goes.
pub(super) const PROGRAM: &str = "usr/bin/detector";

/// The configuration, which an upgrade leaves as the operator has it.
pub(super) const CONFIGURATION: &str = "etc/detector/detector.toml";

/// A file of the checkout, or all of a directory; where it goes.
const FILES: [(&str, &str); 20] = [
    ("dist/detector.toml", CONFIGURATION),
    ("dist/systemd", "usr/lib/systemd/system"),
    ("dist/sysusers.d", "usr/lib/sysusers.d"),
    ("dist/drop-ins", "usr/share/detector/systemd"),
    ("dist/sysctl.d", "usr/lib/sysctl.d"),
    ("dist/nginx", "usr/share/detector/nginx"),
    ("dist/haproxy", "usr/share/detector/haproxy"),
    ("dist/caddy", "usr/share/detector/caddy"),
    ("dist/apache", "usr/share/detector/apache"),
    ("dist/envoy", "usr/share/detector/envoy"),
    ("dist/traefik", "usr/share/detector/traefik"),
    ("dist/grafana", "usr/share/detector/grafana"),
    ("dist/prometheus", "usr/share/detector/prometheus"),
    ("docs", "usr/share/doc/detector"),
    ("README.md", "usr/share/doc/detector/README.md"),
    ("dist/package/copyright", "usr/share/doc/detector/copyright"),
    ("NOTICE", "usr/share/doc/detector/NOTICE"),
    ("LICENSE-MIT", "usr/share/doc/detector/LICENSE-MIT"),
    ("LICENSE-APACHE", "usr/share/doc/detector/LICENSE-APACHE"),
    ("LICENSE-GPL2", "usr/share/doc/detector/LICENSE-GPL2"),
];

/// What `detector pages` makes; where it goes. Debian's zsh looks in other directories than everybody else's.
const PAGES: [(&str, &str); 5] = [
    ("man", "usr/share/man/man1"),
    ("detector.bash", "usr/share/bash-completion/completions/detector"),
    ("_detector", "usr/share/zsh/vendor-completions/_detector"),
    ("_detector", "usr/share/zsh/site-functions/_detector"),
    ("detector.fish", "usr/share/fish/vendor_completions.d/detector.fish"),
];

/// What it is made of.
const SBOM: &str = "usr/share/doc/detector/sbom.cdx.json";

/// Lays the tree out at `root`: files 0644, the program and directories 0755.
pub(super) fn stage(root: &Path, built: &Path) -> Result<()> {
    let program = root.join(PROGRAM);
    copy(built, &program)?;
    // What a backtrace would need stays in the program that was built.
    shell::run(tool("strip")?.args(["--strip-all", "--remove-section=.comment"]).arg(&program))?;
    let pages = root.with_file_name("pages");
    if pages.exists() {
        fs::remove_dir_all(&pages)?;
    }
    shell::output(std::process::Command::new(built).arg("pages").arg(&pages))?;
    for (from, to) in FILES {
        copy(&shell::root().join(from), &root.join(to))?;
    }
    for (from, to) in PAGES {
        copy(&pages.join(from), &root.join(to))?;
    }
    fs::write(root.join(SBOM), sbom::text()?)?;
    for path in super::installed(root)? {
        let path = root.join(path);
        set_mode(&path, if path == program { 0o755 } else { 0o644 })?;
        if path.extension().is_some_and(|extension| extension == "1") {
            // -n: without time and name, so that the same pages give the same file.
            shell::run(tool("gzip")?.arg("-9n").arg(&path))?;
        }
    }
    Ok(())
}

/// A file to a file, or all of a directory's files into a directory.
fn copy(from: &Path, to: &Path) -> Result<()> {
    if !from.is_dir() {
        directories(to.parent().context("a file without a directory")?)?;
        fs::copy(from, to).with_context(|| format!("can't copy `{}`", from.display()))?;
        return Ok(());
    }
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        copy(&entry.path(), &to.join(entry.file_name()))?;
    }
    Ok(())
}

/// Makes them with a mode of their own, whatever umask there is.
fn directories(path: &Path) -> Result<()> {
    let missing: Vec<PathBuf> =
        path.ancestors().take_while(|directory| !directory.exists()).map(Path::to_owned).collect();
    for directory in missing.iter().rev() {
        fs::create_dir(directory)?;
        set_mode(directory, 0o755)?;
    }
    Ok(())
}

fn set_mode(path: &Path, mode: u32) -> Result<()> {
    Ok(fs::set_permissions(path, fs::Permissions::from_mode(mode))?)
}
