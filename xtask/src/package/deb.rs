//! The .deb, by dpkg-deb. In: the tree. Out: the package. What the program needs of the C library is read from it.

use std::{fs, os::unix::fs::PermissionsExt as _, path::PathBuf};

use anyhow::{Context as _, Result, bail};

use super::{DESCRIPTION, Package, SUMMARY, architecture, files::CONFIGURATION, installed, script, tool};
use crate::shell;

/// Debian's maintainer scripts, by what dpkg calls them with (deb-postinst(5) and so on).
const SCRIPTS: [(&str, &str); 3] = [
    ("postinst", "case \"$1\" in configure) if [ -z \"${2:-}\" ]; then installed; else upgraded; fi ;; esac"),
    ("prerm", "case \"$1\" in remove) removing ;; esac"),
    ("postrm", "case \"$1\" in remove) removed ;; purge) removed; purged ;; esac"),
];

/// The packages of the libraries that it is linked with.
const LIBRARIES: [(&str, &str); 4] =
    [("libc.so.6", "libc6"), ("libm.so.6", "libc6"), ("ld-linux-x86-64.so.2", "libc6"), ("libgcc_s.so.1", "libgcc-s1")];

pub(super) fn make(package: &Package) -> Result<PathBuf> {
    let Package { version, root, directory, quick, .. } = package;
    let (architecture, _) = architecture()?;
    // Of a tree of its own, since the other kind mustn't have what is added here.
    let tree = directory.join("deb");
    if tree.exists() {
        fs::remove_dir_all(&tree)?;
    }
    shell::run(tool("cp")?.arg("-a").arg(root).arg(&tree))?;
    let control = tree.join("DEBIAN");
    fs::create_dir(&control)?;
    let files = installed(root)?;
    let sums = shell::output(tool("md5sum")?.args(&files).current_dir(root))?;
    let bytes: u64 = files.iter().map(|path| Ok(fs::metadata(root.join(path))?.len())).sum::<Result<u64>>()?;
    let fields = format!(
        "Package: detector\nVersion: {version}\nArchitecture: {architecture}\nMaintainer: The detector maintainers \
         <maintainers@detector.invalid>\nInstalled-Size: {}\nDepends: {}\nSection: net\nPriority: optional\n\
         Description: {SUMMARY}\n {}\n",
        bytes.div_ceil(1024),
        depends(package)?,
        wrapped(DESCRIPTION).join("\n "),
    );
    fs::write(control.join("control"), fields)?;
    fs::write(control.join("conffiles"), format!("/{CONFIGURATION}\n"))?;
    fs::write(control.join("md5sums"), sums)?;
    for (name, calls) in SCRIPTS {
        let path = control.join(name);
        fs::write(&path, format!("#!/bin/sh\n{}", script(calls)?))?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
    }
    fs::set_permissions(&control, fs::Permissions::from_mode(0o755))?;
    let path = directory.join(format!("detector_{version}_{architecture}.deb"));
    let compressed = if *quick { "-Znone" } else { "-Zxz" };
    shell::output(tool("dpkg-deb")?.args(["--root-owner-group", compressed, "--build"]).args([&tree, &path]))?;
    Ok(path)
}

/// `libc6 (>= 2.34), libgcc-s1`.
fn depends(package: &Package) -> Result<String> {
    let headers = shell::output(tool("objdump")?.arg("-p").arg(&package.program))?;
    let mut needed = Vec::new();
    for library in headers.lines().filter_map(|line| line.trim().strip_prefix("NEEDED")).map(str::trim) {
        match LIBRARIES.iter().find(|(name, _)| *name == library) {
            Some((_, package)) => needed.push(*package),
            None => bail!("the program needs `{library}`, and it isn't said which package that is in"),
        }
    }
    needed.sort_unstable();
    needed.dedup();
    let version = newest_libc(&headers).context("the program names no version of the C library")?;
    let with_version = |package: &&str| match *package {
        "libc6" => format!("libc6 (>= {version})"),
        other => other.to_owned(),
    };
    Ok(needed.iter().map(with_version).collect::<Vec<_>>().join(", "))
}

/// The newest version of the C library that `objdump -p` tells of.
fn newest_libc(headers: &str) -> Option<String> {
    let versions = headers.split_whitespace().filter_map(|word| word.strip_prefix("GLIBC_"));
    let numbers = |version: &&str| version.split('.').map(|part| part.parse::<u32>().unwrap_or(0)).collect::<Vec<_>>();
    versions.max_by_key(numbers).map(str::to_owned)
}

/// Lines of at most 78 columns.
fn wrapped(text: &str) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split(' ') {
        match lines.last_mut() {
            Some(line) if line.is_empty() => line.push_str(word),
            Some(line) if line.len() + 1 + word.len() <= 78 => *line += &format!(" {word}"),
            _ => lines.push(word.to_owned()),
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_numbers_not_text() {
        let headers =
            "  NEEDED libc.so.6\n  0x0d696919 0x00 04 GLIBC_2.9\n  0x069691b4 0x00 06 GLIBC_2.34\n GLIBC_2.3.4";
        assert_eq!(newest_libc(headers).as_deref(), Some("2.34"));
        assert_eq!(newest_libc("NEEDED libc.so.6"), None);
    }

    #[test]
    fn the_description_has_no_long_line() {
        let lines = wrapped(DESCRIPTION);
        assert!(lines.iter().all(|line| (1..=78).contains(&line.len())));
        assert_eq!(lines.join(" "), DESCRIPTION);
    }
}
