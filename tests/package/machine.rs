//! A fresh Debian 12, with systemd as its first process, in the lab's server namespace: what packages are installed
//! into. In: the tree that `cargo xtask setup` made, which stays as it is. Memory: what is written there, in a tmpfs.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

use anyhow::{Context as _, Result, ensure};
use detector_tests::{
    deadline::{PATIENCE, until},
    lab::{Lab, Namespace},
    process::{Process, output},
    programs,
};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

/// What runs in it.
const SYSTEMD: [&str; 1] = ["/lib/systemd/systemd"];
const NOTHING: [&str; 2] = ["/usr/bin/sleep", "infinity"];

/// A running Debian. Dropping it ends all that runs there, and nothing is left of it.
#[derive(Debug)]
pub(crate) struct Machine {
    /// Of unshare(1), which takes the first process with it.
    process: Process,
    /// The first process, as this namespace sees it.
    init: u32,
    cgroup: String,
}

impl Machine {
    /// Boots one, and waits until its services run.
    pub(crate) fn boot(lab: &Lab) -> Result<Self> {
        let machine = Self::start(lab, "machine", &SYSTEMD)?;
        until("the machine to be up", PATIENCE, || {
            let said = machine.try_run("systemctl is-active multi-user.target")?;
            Ok((said.stdout == b"active\n").then_some(()))
        })
        .with_context(|| machine.look("systemctl list-jobs; journalctl --no-pager --lines 40"))?;
        Ok(machine)
    }

    /// One in which nothing runs.
    pub(crate) fn idle(lab: &Lab, name: &str) -> Result<Self> {
        Self::start(lab, name, &NOTHING)
    }

    fn start(lab: &Lab, name: &str, first: &[&str]) -> Result<Self> {
        let directory = lab.file(name);
        fs::create_dir(&directory)?;
        let cgroup = format!("{}-{name}", lab.server().name());
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("package/boot.sh");
        let mut command = lab.server().command("unshare");
        command.args(["--mount", "--pid", "--ipc", "--uts", "--fork", "--kill-child", "sh"]).arg(script);
        command.arg(programs::debian()?).arg(&directory).arg(&cgroup).args(first);
        let said = lab.file(&format!("{name}.log"));
        let log = fs::File::create(&said)?;
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let process = Process::start("a Debian", &mut command)?;
        let mut machine = Self { process, init: u32::MAX, cgroup };
        let name = Path::new(first[0]).file_name().unwrap_or_default().to_string_lossy().into_owned();
        until("the machine's first process", PATIENCE, || {
            let status = machine.process.ended()?;
            ensure!(status.is_none(), "it ended at once: {}", fs::read_to_string(&said)?);
            machine.init = machine.first_process().unwrap_or(u32::MAX);
            let found = fs::read_to_string(format!("/proc/{}/comm", machine.init)).unwrap_or_default();
            Ok((found.trim_end() == name).then_some(()))
        })
        .with_context(|| fs::read_to_string(&said).unwrap_or_default())?;
        Ok(machine)
    }

    fn first_process(&self) -> Option<u32> {
        let outer = self.process.id();
        fs::read_to_string(format!("/proc/{outer}/task/{outer}/children")).ok()?.split_whitespace().next()?.parse().ok()
    }

    /// A file of its, as seen from here.
    pub(crate) fn file(&self, path: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/root", self.init)).join(path.trim_start_matches('/'))
    }

    /// Runs a line of shell there, whatever it exits with.
    pub(crate) fn try_run(&self, line: &str) -> Result<Output> {
        let mut command = Command::new("nsenter");
        command.args(["--target", &self.init.to_string(), "--all", "--wd=/", "env", "-i"]);
        command.args(["PATH=/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root", "LC_ALL=C", "sh", "-c", line]);
        Ok(command.stdin(Stdio::null()).output()?)
    }

    /// Likewise, where it must succeed: returns what it printed.
    pub(crate) fn run(&self, line: &str) -> Result<String> {
        let done = self.try_run(line)?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        ensure!(
            done.status.success(),
            "`{line}`: {}\n{}{}{}",
            done.status,
            text(&done.stdout),
            text(&done.stderr),
            self.look("journalctl --no-pager --unit detector --lines 40")
        );
        Ok(text(&done.stdout))
    }

    /// Types a line on a terminal of 100 columns, in /root: what it prints there is in `stdout`. With a namespace, on
    /// another machine that has the same files, and that network.
    pub(crate) fn typed(&self, line: &str, network: Option<&Namespace>) -> Result<Output> {
        let mut command = Command::new("nsenter");
        command.args(["--target", &self.init.to_string(), "--mount", "--pid", "--ipc", "--uts", "--cgroup", "--wd=/"]);
        command.arg(network.map_or("--net".into(), |network| format!("--net=/run/netns/{}", network.name())));
        command.args(["env", "-i", "PATH=/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root", "LC_ALL=C.UTF-8", "TERM=dumb"]);
        command.args(["DEBIAN_FRONTEND=noninteractive", "SYSTEMD_PAGER=cat", "sh", "-c"]);
        command
            .arg("cd /root && exec script --quiet --return --command \"stty cols 100; $1\" /dev/null")
            .args(["sh", line]);
        Ok(command.stdin(Stdio::null()).output()?)
    }

    /// What a line prints, for a failure's message.
    pub(crate) fn look(&self, line: &str) -> String {
        let said = self.try_run(line).map(|said| String::from_utf8_lossy(&said.stdout).into_owned());
        said.unwrap_or_else(|error| error.to_string())
    }

    /// Puts a file there.
    pub(crate) fn bring(&self, from: &Path, to: &str) -> Result<()> {
        fs::copy(from, self.file(to)).with_context(|| format!("can't bring `{}`", from.display()))?;
        Ok(())
    }

    /// Everything in its file system, a line each: mode, owner, size of what isn't a directory, name. Not what a package
    /// manager writes down about itself, nor logs.
    pub(crate) fn tree(&self) -> Result<Vec<String>> {
        let left_out = "-path /var/lib/dpkg -o -path /var/log -o -path /root -o -path /etc/.pwd.lock \
                        -o -name '*-' -path '/etc/*'";
        let line = format!(
            "find / -xdev \\( {left_out} \\) -prune -o \\( -type d -printf '%m %u:%g - %p\\n' \\) -o -printf '%m %u:%g %s %p\\n'"
        );
        let mut lines: Vec<String> = self.run(&line)?.lines().map(str::to_owned).collect();
        lines.sort();
        Ok(lines)
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        // All of them die with the first, and unshare(1) ends after the last.
        if let Ok(init) = i32::try_from(self.init) {
            let _ = kill(Pid::from_raw(init), Signal::SIGKILL);
        }
        let _ = self.process.wait(PATIENCE);
        // No process holds the cgroup any more; the mount is the shell's own.
        let line = "mount -t cgroup2 none /mnt && find \"/mnt/$1\" -depth -type d -exec rmdir {} +";
        let _ = output(Command::new("unshare").args(["--mount", "sh", "-c", line, "sh", &self.cgroup]));
    }
}
