//! `cargo xtask guest SUITE [NAME…]`: tests of a suite on Debian's Linux 6.1, in a virtual machine.
//!
//! In: a test program that is built, and which of its tests. Out: what it prints, by the machine's serial line. The
//! machine sees this one's files (9p), read-only below a layer of its own (overlayfs), so that it has every program and
//! fixture that the tests use, and changes none. It has no network but the namespaces that the tests make.
//!
//! It is emulated (TCG): slower than with KVM some ten times, but the same wherever this runs; inside a virtual machine
//! `/dev/kvm` may be there and not work. Bounds: [`MEMORY`], [`LIMIT`].

use std::{
    env, fs,
    io::{BufRead as _, BufReader},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use crate::{
    arguments::Arguments,
    setup::{self, linux},
    shell,
    test::{ALL, FEATURE},
};

/// Of the machine.
const MEMORY: &str = "3G";
/// Seconds after which it is turned off.
const LIMIT: &str = "900";
/// What it needs to see this machine's files; they bring the other modules.
const MODULES: [&str; 4] = ["virtio_pci", "9pnet_virtio", "9p", "overlay"];
/// What it prints before the test program's exit code.
const EXIT: &str = "guest: exit code ";

/// The first program of the machine, run by busybox in the initramfs. `@TESTS` is what it is there for. What the kernel
/// loads later, it looks for in the initramfs.
const INIT: &str = r#"#!/busybox sh
/busybox mkdir -p /proc /sys /dev /bin /host /layer /root
/busybox ln -s /busybox /bin/modprobe
/busybox mount -t proc proc /proc
/busybox mount -t sysfs sys /sys
/busybox mount -t devtmpfs dev /dev
echo /bin/modprobe >/proc/sys/kernel/modprobe
for module in @MODULES; do /bin/modprobe $module; done
/busybox mount -t 9p -o trans=virtio,version=9p2000.L,msize=512000,cache=loose,ro host /host
/busybox mount -t tmpfs layer /layer
/busybox mkdir /layer/upper /layer/work
/busybox mount -t overlay -o lowerdir=/host,upperdir=/layer/upper,workdir=/layer/work root /root
/busybox mount -o bind /host/@DIRECTORY /lib/modules/@RELEASE
for directory in proc sys dev; do /busybox mount --move /$directory /root/$directory; done
/busybox mount -t tmpfs run /root/run
TMPDIR=/run HOME=/root PATH=@PATH /busybox chroot /root /bin/sh -c @TESTS
echo "@EXIT$?"
/busybox poweroff -f
"#;

/// The verb.
pub(crate) fn run(mut arguments: Arguments) -> Result<()> {
    let suite = arguments.word().context("which suite? `kernel` or `system`")?;
    let mut names = Vec::new();
    while let Some(name) = arguments.word() {
        names.push(name);
    }
    arguments.finish()?;
    shell::need_root("guest", "")?;
    setup::install()?;
    shell::run(shell::cargo(&["build"]).args(ALL).args(["--bins", "--tests", "--features", FEATURE]))?;
    test(&suite, &names.iter().map(String::as_str).collect::<Vec<_>>())
}

/// Builds a suite and runs those of its tests whose name holds one of `names`, or all. Fails unless at least one ran and
/// all passed.
pub(crate) fn test(suite: &str, names: &[&str]) -> Result<()> {
    let mut cargo = shell::cargo(&["test", "--no-run", "--message-format", "json"]);
    cargo.args(ALL).args(["--features", FEATURE, "--test", suite]);
    let messages = shell::output(cargo.stderr(Stdio::inherit()))?;
    let program = program(&messages, suite).with_context(|| format!("cargo built no suite `{suite}`"))?;
    let directory = shell::root().join("tests").canonicalize()?;
    let words = [&[program.as_str(), "--test-threads=1", "--color=never"], names].concat();
    let words: Vec<String> = words.iter().map(|word| quoted(word)).collect();
    let output = boot(&format!("cd {} && exec {}", quoted(&text(&directory)?), words.join(" ")))?;
    let code = output.iter().find_map(|line| line.strip_prefix(EXIT)).context("the machine ended before the tests")?;
    if let Some(name) = names.iter().find(|name| !output.iter().any(|line| is_of_test(line, name))) {
        bail!("the suite `{suite}` ran no test whose name holds `{name}` on Debian's Linux 6.1");
    }
    if code != "0" || !output.iter().any(|line| has_passed(line)) {
        bail!("the suite `{suite}` failed on Debian's Linux 6.1 (exit code {code})");
    }
    Ok(())
}

/// Whether a test harness's line is of a test whose name holds this.
fn is_of_test(line: &str, name: &str) -> bool {
    let test = line.strip_prefix("test ").and_then(|rest| rest.split_once(" ..."));
    test.is_some_and(|(test, _)| test.contains(name))
}

/// The test program, in what cargo says of a build: it builds the binaries that tests may want too.
fn program(messages: &str, suite: &str) -> Option<String> {
    let messages = messages.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let mut built =
        messages.filter(|message| message["target"]["kind"][0] == "test" && message["target"]["name"] == suite);
    built.find_map(|message| message["executable"].as_str().map(str::to_owned))
}

/// Whether a test harness's line says that at least one test ran, and all passed.
fn has_passed(line: &str) -> bool {
    let passed = line.strip_prefix("test result: ok. ").and_then(|rest| rest.split_once(" passed"));
    passed.is_some_and(|(count, _)| count.parse::<u32>().is_ok_and(|count| count > 0))
}

/// A shell's word.
fn quoted(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}

fn text(path: &Path) -> Result<String> {
    Ok(path.to_str().with_context(|| format!("`{}` isn't UTF-8", path.display()))?.to_owned())
}

/// Runs a line of shell in the machine, and shows and returns what it prints.
fn boot(tests: &str) -> Result<Vec<String>> {
    let linux = linux::unpacked()?.with_context(|| format!("{}: run the tests there", linux::ABSENT))?;
    let initramfs = pack(&linux, tests)?;
    // The limit is coreutils' to keep: a machine that hangs prints nothing that could be waited for.
    let mut qemu = Command::new("timeout");
    qemu.args(["--kill-after=5", LIMIT, "qemu-system-x86_64", "-accel", "tcg,thread=multi", "-cpu", "max"]);
    qemu.args(["-smp", "2", "-m", MEMORY, "-nic", "none", "-display", "none", "-monitor", "none", "-serial", "stdio"]);
    qemu.args(["-virtfs", "local,path=/,mount_tag=host,security_model=none,readonly=on,multidevs=remap"]);
    qemu.args(["-no-reboot", "-append", "console=ttyS0 quiet panic=-1"]);
    qemu.arg("-kernel").arg(&linux.image).arg("-initrd").arg(&initramfs);
    let mut machine = qemu.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().context("can't run qemu")?;
    let mut output = Vec::new();
    for line in BufReader::new(machine.stdout.take().context("no pipe")?).split(b'\n') {
        let line = String::from_utf8_lossy(&line?).trim_end().to_owned();
        println!("{line}");
        output.push(line);
    }
    let status = machine.wait()?;
    if !status.success() {
        bail!("the machine failed, or ran for {LIMIT} s ({status})");
    }
    Ok(output)
}

/// Makes the initramfs: busybox, the modules to begin with, and the first program.
fn pack(linux: &linux::Linux, tests: &str) -> Result<PathBuf> {
    let root = shell::tools()?.join("guest/initramfs");
    if root.exists() {
        fs::remove_dir_all(&root)?;
    }
    let modules = root.join("lib/modules").join(&linux.release);
    fs::create_dir_all(&modules)?;
    let dependencies = fs::read_to_string(linux.modules.join("modules.dep"))?;
    fs::write(modules.join("modules.dep"), &dependencies)?;
    for file in MODULES.iter().flat_map(|name| files_of(name, &dependencies)) {
        let copy = modules.join(file);
        fs::create_dir_all(copy.parent().context("a module in no directory")?)?;
        fs::copy(linux.modules.join(file), copy)?;
    }
    fs::copy(
        shell::find_program("busybox").context("busybox is missing: run `cargo xtask setup`")?,
        root.join("busybox"),
    )?;
    let path = env::var("PATH").unwrap_or_default() + ":/usr/local/sbin:/usr/sbin:/sbin:/usr/bin:/bin";
    let directory = quoted(text(&linux.modules.canonicalize()?)?.trim_start_matches('/'));
    let init = [
        ("@MODULES", MODULES.join(" ")),
        ("@DIRECTORY", directory),
        ("@RELEASE", linux.release.clone()),
        ("@PATH", quoted(&path)),
        ("@EXIT", EXIT.to_owned()),
        ("@TESTS", quoted(tests)),
    ];
    let init = init.iter().fold(INIT.to_owned(), |text, (name, value)| text.replace(name, value));
    fs::write(root.join("init"), init)?;
    let archive = root.with_extension("cpio");
    let pack = r#"chmod 755 init && find . | busybox cpio -o -H newc >"$1""#;
    shell::run_to_log(
        Command::new("sh").args(["-c", pack, "pack"]).arg(&archive).current_dir(&root),
        &root.with_extension("log"),
    )?;
    Ok(archive)
}

/// A module's file and those it needs, in `modules.dep`.
fn files_of<'a>(name: &str, dependencies: &'a str) -> Vec<&'a str> {
    let file = format!("/{name}.ko:");
    let line = dependencies.lines().find(|line| line.contains(&file)).unwrap_or_default();
    line.split([':', ' ']).filter(|word| !word.is_empty()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_tests_that_ran_and_passed_count() {
        assert!(has_passed("test result: ok. 12 passed; 0 failed; 0 ignored; 0 measured; 53 filtered out"));
        assert!(!has_passed("test result: ok. 0 passed; 0 failed; 0 ignored; 0 measured; 65 filtered out"));
        assert!(
            is_of_test("test verdicts::a_row ... ok", "a_row") && is_of_test("test verdicts::a_row ...", "verdicts::")
        );
        assert!(
            !is_of_test("test verdicts::a_row ... ok", "another") && !is_of_test("test result: ok. 1 passed", "ok")
        );
        assert!(!has_passed("test result: FAILED. 12 passed; 1 failed; 0 ignored; 0 measured; 0 filtered out"));
    }

    #[test]
    fn a_suites_program_is_told_from_other_programs() {
        let message = |kind: &str, name: &str| {
            let target = serde_json::json!({ "kind": [kind], "name": name });
            serde_json::json!({ "target": target, "executable": format!("/t/{kind}-{name}") }).to_string()
        };
        let messages = [message("test", "kernel"), message("bin", "demo"), "warning".into(), message("test", "system")];
        assert_eq!(program(&messages.join("\n"), "kernel").as_deref(), Some("/t/test-kernel"));
        assert_eq!(program(&messages.join("\n"), "demo"), None);
    }

    #[test]
    fn a_module_brings_what_it_needs() {
        let dependencies =
            "kernel/fs/9p/9p.ko: kernel/net/9p/9pnet.ko kernel/fs/netfs/netfs.ko\nkernel/net/9p/9pnet.ko:\n";
        let files = ["kernel/fs/9p/9p.ko", "kernel/net/9p/9pnet.ko", "kernel/fs/netfs/netfs.ko"];
        assert_eq!(files_of("9p", dependencies), files);
        assert_eq!(files_of("9pnet", dependencies), [files[1]]);
    }

    #[test]
    fn a_word_stays_one_to_a_shell() {
        let word = "it's $HOME";
        let said = shell::output(Command::new("sh").args(["-c", &format!("printf %s {}", quoted(word))])).unwrap();
        assert_eq!(said, word);
    }
}
