//! The .rpm, by rpmbuild. In: the tree. Out: the package. rpmbuild reads from the program itself what that needs.

use std::{fmt::Write as _, fs, os::unix::fs::PermissionsExt as _, path::PathBuf};

use anyhow::{Result, bail};

use super::{DESCRIPTION, Package, SUMMARY, architecture, files::CONFIGURATION, installed, script, tool};
use crate::shell;

/// rpm's scriptlets: `$1` is how many versions there are afterwards.
const SCRIPTS: [(&str, &str); 3] = [
    ("post", "if [ \"$1\" = 1 ]; then installed; else upgraded; fi"),
    ("preun", "if [ \"$1\" = 0 ]; then removing; fi"),
    ("postun", "if [ \"$1\" = 0 ]; then removed; fi"),
];

/// Directories that are the package's own; the others are the system's.
const OWN: [&str; 3] = ["etc/detector", "usr/share/detector", "usr/share/doc/detector"];

pub(super) fn make(package: &Package) -> Result<PathBuf> {
    let Package { version, root, directory, quick, .. } = package;
    let (_, architecture) = architecture()?;
    let top = directory.join("rpm");
    if top.exists() {
        fs::remove_dir_all(&top)?;
    }
    fs::create_dir_all(&top)?;
    let mut listed = String::new();
    for own in OWN {
        writeln!(listed, "%dir %attr(0755, root, root) /{own}")?;
    }
    for path in installed(root)? {
        let mode = fs::metadata(root.join(&path))?.permissions().mode() & 0o7777;
        let path = path.display().to_string();
        for directory in root.join(&path).ancestors().skip(1).filter_map(|path| path.strip_prefix(root).ok()) {
            let line = format!("%dir %attr(0755, root, root) /{}\n", directory.display());
            if directory.starts_with("usr/share/detector") && !listed.contains(&line) {
                listed += &line;
            }
        }
        let kind = if path == CONFIGURATION { "%config(noreplace) " } else { "" };
        writeln!(listed, "{kind}%attr({mode:04o}, root, root) /{path}")?;
    }
    let payload = if *quick { "w1.gzdio" } else { "w7.xzdio" };
    let mut spec = format!(
        "%global debug_package %{{nil}}\n%global __os_install_post %{{nil}}\n%global _build_id_links none\n\
         %global _binary_payload {payload}\n\
         Name: detector\nVersion: {version}\nRelease: 1\nSummary: {SUMMARY}\nLicense: MIT OR Apache-2.0\n\
         %description\n{DESCRIPTION}\n\n%install\ncp -a {}/. %{{buildroot}}\n\n",
        root.display()
    );
    for (name, calls) in SCRIPTS {
        let text = script(calls)?;
        if text.contains('%') {
            bail!("a script with a percent sign, which a spec file gives a meaning of its own");
        }
        write!(spec, "%{name} -p /bin/sh\n{text}\n")?;
    }
    write!(spec, "%files\n{listed}")?;
    let path = top.join("detector.spec");
    fs::write(&path, spec)?;
    let mut command = tool("rpmbuild")?;
    command.args(["-bb", "--quiet", "--target", architecture]);
    command.arg("--define").arg(format!("_topdir {}", top.display()));
    shell::run_to_log(command.arg(&path), &top.join("rpmbuild.log"))?;
    let name = format!("detector-{version}-1.{architecture}.rpm");
    let made = directory.join(&name);
    fs::rename(top.join("RPMS").join(architecture).join(&name), &made)?;
    Ok(made)
}
