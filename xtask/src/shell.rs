//! Running other programs. In: a command. Out: its success, or its output; a failure names the command in full.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};

/// The workspace's root.
pub(crate) fn root() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
}

/// What setup makes for this checkout alone: `tools` in the target directory.
pub(crate) fn tools() -> Result<PathBuf> {
    Ok(built()?.parent().context("this program isn't in a target directory")?.join("tools"))
}

/// Where cargo leaves what it builds: found from where this program lies, so that another target directory is honoured.
pub(crate) fn built() -> Result<PathBuf> {
    let this = env::current_exe().context("can't tell this program's own path")?;
    Ok(this.parent().context("this program isn't in a directory")?.to_owned())
}

/// The cargo that runs this program, in the workspace's root.
pub(crate) fn cargo(arguments: &[&str]) -> Command {
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.args(arguments).current_dir(root());
    command
}

/// Runs it with this terminal; fails unless it succeeds.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| format!("can't run {}", line(command)))?;
    if !status.success() {
        bail!("{} failed ({status})", line(command));
    }
    Ok(())
}

/// Runs it with its output to `log`; on failure the end of that is in the error.
pub(crate) fn run_to_log(command: &mut Command, log: &Path) -> Result<()> {
    fs::create_dir_all(log.parent().context("the log has no directory")?)?;
    let file = fs::File::create(log).with_context(|| format!("can't write `{}`", log.display()))?;
    let errors = file.try_clone()?;
    let status =
        command.stdout(file).stderr(errors).status().with_context(|| format!("can't run {}", line(command)))?;
    if !status.success() {
        let text = fs::read_to_string(log).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        let end = lines[lines.len().saturating_sub(15)..].join("\n  | ");
        bail!("{} failed ({status}); the end of `{}`:\n  | {end}", line(command), log.display());
    }
    Ok(())
}

/// What it writes to its standard output.
pub(crate) fn output(command: &mut Command) -> Result<String> {
    let output = command.output().with_context(|| format!("can't run {}", line(command)))?;
    if !output.status.success() {
        bail!("{} failed ({}): {}", line(command), output.status, String::from_utf8_lossy(&output.stderr).trim());
    }
    String::from_utf8(output.stdout).with_context(|| format!("{} wrote no UTF-8", line(command)))
}

/// The command as a person would type it.
fn line(command: &Command) -> String {
    let words = [command.get_program()].into_iter().chain(command.get_args());
    format!("`{}`", words.map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" "))
}

/// The first file called `name` on PATH or where system programs live, which a user's PATH may leave out.
pub(crate) fn find_program(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let system = ["/usr/sbin", "/sbin", "/usr/bin", "/bin"].map(PathBuf::from);
    env::split_paths(&path).chain(system).map(|dir| dir.join(name)).find(|file| file.is_file())
}

/// Whether this process is root's.
pub(crate) fn is_root() -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let uid = status.lines().find_map(|line| line.strip_prefix("Uid:"));
    // real, effective, saved, file system: the second decides
    uid.and_then(|uid| uid.split_whitespace().nth(1)) == Some("0")
}

/// Fails unless this is root, and says how to be; `hint` adds what goes without.
pub(crate) fn need_root(verb: &str, hint: &str) -> Result<()> {
    if is_root() {
        return Ok(());
    }
    bail!(
        "`cargo xtask {verb}` makes network namespaces and loads programs into the kernel, which needs root.\n  \
         run it as:  sudo -E env PATH=\"$PATH\" cargo xtask {verb}{hint}"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_names_the_command_and_the_end_of_its_log() {
        let log = tempfile::tempdir().unwrap();
        let log = log.path().join("deeper/log");
        let failure = run_to_log(Command::new("sh").args(["-c", "seq 40; exit 3"]), &log).unwrap_err().to_string();
        assert!(failure.contains("`sh -c seq 40; exit 3` failed (exit status: 3)"), "{failure}");
        assert!(failure.ends_with("| 39\n  | 40") && !failure.contains("| 25\n"), "{failure}");
        assert!(output(&mut Command::new("false")).is_err() && run(&mut Command::new("true")).is_ok());
        assert!(run(&mut Command::new("no-such-program")).unwrap_err().to_string().contains("`no-such-program`"));
    }
}
