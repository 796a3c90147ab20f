//! Debian's Linux 6.1, for tests in a virtual machine: unpacked into the target directory, never installed.
//!
//! In: the distribution's archive. Out: the kernel, and the modules that a network needs. Debian 12 has it; what another
//! archive has is told, since only `cargo xtask test` needs it.

use std::{path::PathBuf, process::Command};

use anyhow::{Context as _, Result};

use super::{State, announce};
use crate::shell;

/// The beginning of the names of the packages that will do.
const SERIES: &str = "linux-image-6.1.";

/// Why there may be none.
pub(crate) const ABSENT: &str = "this machine's archive has no Linux 6.1, as Debian 12's has";

/// Run by `sh` in an empty directory; the package is its argument. Of 400 MB of modules it keeps 90.
const UNPACK: &str = r#"
set -eu
rm -rf new
mkdir new
cd new
apt-get download -q "$1"
dpkg-deb --fsys-tarfile ./*.deb | tar -x --wildcards './boot/vmlinuz-*' './lib/modules/*/modules.*' \
    './lib/modules/*/kernel/arch' './lib/modules/*/kernel/crypto' './lib/modules/*/kernel/drivers/net/*.ko' \
    './lib/modules/*/kernel/drivers/virtio' './lib/modules/*/kernel/fs' './lib/modules/*/kernel/lib' \
    './lib/modules/*/kernel/net'
rm ./*.deb
busybox depmod -b . "$(ls lib/modules)"
cd ..
rm -rf linux
mv new linux
"#;

/// A kernel and its modules.
pub(crate) struct Linux {
    /// As `uname -r` tells it.
    pub(crate) release: String,
    /// The image.
    pub(crate) image: PathBuf,
    /// The directory with `modules.dep`.
    pub(crate) modules: PathBuf,
}

/// What is unpacked, if something is.
pub(crate) fn unpacked() -> Result<Option<Linux>> {
    let root = directory()?.join("linux");
    let Ok(mut releases) = root.join("lib/modules").read_dir() else { return Ok(None) };
    let release = releases.next().context("a kernel without modules")??.file_name().to_string_lossy().into_owned();
    let (image, modules) =
        (root.join("boot").join(format!("vmlinuz-{release}")), root.join("lib/modules").join(&release));
    Ok(Some(Linux { release, image, modules }))
}

fn directory() -> Result<PathBuf> {
    Ok(shell::tools()?.join("guest"))
}

/// The step.
pub(super) fn install() -> Result<State> {
    if let Some(linux) = unpacked()? {
        return Ok(State::Present(linux.release));
    }
    let directory = directory()?;
    std::fs::create_dir_all(&directory)?;
    let log = directory.join("unpack.log");
    if shell::is_root() && shell::find_program("apt-get").is_some() {
        // An old list names packages that the archive has replaced since.
        shell::run_to_log(Command::new("apt-get").args(["update", "-q"]), &log)?;
    }
    let listed = shell::output(Command::new("apt-cache").args(["depends", "linux-image-amd64"])).unwrap_or_default();
    let Some(package) = image(&listed) else {
        return Ok(State::Present(format!("none: only `cargo xtask test` wants it, and {ABSENT}")));
    };
    announce(package);
    let mut command = Command::new("sh");
    command.args(["-c", UNPACK, "unpack", package]).current_dir(&directory);
    shell::run_to_log(&mut command, &log)?;
    Ok(State::Done(unpacked()?.context("unpacked, but not there")?.release))
}

/// The package with the image, in what `apt-cache depends` says of the one that always depends on the newest.
fn image(listed: &str) -> Option<&str> {
    listed.lines().find_map(|line| line.trim().strip_prefix("Depends: ").filter(|name| name.starts_with(SERIES)))
}

#[cfg(test)]
mod tests {
    use super::image;

    #[test]
    fn only_the_wanted_series_will_do() {
        let listed = |name: &str| format!("linux-image-amd64\n  Depends: {name}\n");
        assert_eq!(image(&listed("linux-image-6.1.0-56-amd64")), Some("linux-image-6.1.0-56-amd64"));
        assert_eq!(image(&listed("linux-image-6.12.48+deb13-amd64")), None);
        assert_eq!(image(""), None);
    }
}
