//! Which Rust toolchain builds the eBPF object. Included by `detector/build.rs` (which builds with it) and by `xtask`
//! (whose `setup` installs it, and whose tests are the tests of this file), so there is one answer.
//!
//! In: two environment variables and a probe that looks at one candidate. Out: a [`Compiler`], or one error that names
//! everything that was looked at and the command that helps. Memory: a handful of paths.
//!
//! Why it is needed at all: `bpfel-unknown-none` is a tier 3 target, so there is no ready-made `core` for it. Cargo's
//! `-Zbuild-std` compiles one, and that takes a compiler which accepts `-Z` flags and the library sources of *exactly*
//! that compiler (another version's fail on unknown lang items). `RUSTC_BOOTSTRAP=1` makes any compiler accept them.

use std::{
    env, fmt,
    path::{Path, PathBuf},
    process::Command,
};

/// Names the toolchain by hand: one of rustup's, or a directory that holds `rustc` and `cargo`.
pub(crate) const OVERRIDE: &str = "DETECTOR_EBPF_TOOLCHAIN";

/// Where Debian's `rustc-web`, `cargo-web` and `rust-web-src` put a compiler that belongs to no rustup.
pub(crate) const SYSTEM: &str = "/usr/bin";

/// The workspace's `rust-version`: what the eBPF crate declares, so cargo would refuse an older compiler anyway.
const OLDEST: &str = env!("CARGO_PKG_RUST_VERSION");

/// A place where a toolchain may be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Candidate {
    /// `rustup run NAME …`.
    Rustup(String),
    /// `rustc` and `cargo` in this directory, with rustup kept out of the way.
    Directory(PathBuf),
}

/// A toolchain that can build the eBPF object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Compiler {
    /// How to call it.
    pub(crate) candidate: Candidate,
    /// The directory above its `bin` and `lib`.
    pub(crate) sysroot: PathBuf,
    /// The release, as in `1.96.0` or `1.97.0-nightly`.
    pub(crate) release: String,
    /// LLVM's major version, which bpf-linker must share to read the bitcode.
    pub(crate) llvm: String,
}

/// What a look at one candidate found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Probed {
    /// No `rustc` and `cargo` to run.
    Absent,
    /// Its release is older than the workspace's `rust-version`.
    TooOld(String),
    /// A compiler without the sources of its standard library.
    NoSources,
    /// All there.
    Usable(Compiler),
}

impl fmt::Display for Candidate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Rustup(name) => write!(f, "rustup's `{name}`"),
            Self::Directory(dir) => write!(f, "`{}`", dir.display()),
        }
    }
}

impl Candidate {
    /// A toolchain as a person names it: with a slash it is a directory, else one of rustup's.
    fn named(name: &str) -> Self {
        if name.contains('/') { Self::Directory(name.into()) } else { Self::Rustup(name.into()) }
    }

    /// `rustc` or `cargo` of this toolchain, without what an outer cargo or rustup left in the environment for theirs.
    pub(crate) fn command(&self, tool: &str) -> Command {
        let mut command = match self {
            Self::Rustup(name) => {
                let mut command = Command::new("rustup");
                command.args(["run", name, tool]);
                command
            }
            Self::Directory(dir) => Command::new(dir.join(tool)),
        };
        for key in ["RUSTC", "RUSTC_WRAPPER", "RUSTC_WORKSPACE_WRAPPER", "RUSTUP_TOOLCHAIN", "LD_LIBRARY_PATH"] {
            command.env_remove(key);
        }
        command
    }

    /// Looks at it: runs its compiler and checks for the library sources.
    pub(crate) fn probe(&self) -> Probed {
        if let Self::Directory(dir) = self
            && !dir.join("cargo").is_file()
        {
            return Probed::Absent;
        }
        let ask = |question: &[&str]| {
            let output = self.command("rustc").args(question).output().ok().filter(|output| output.status.success())?;
            String::from_utf8(output.stdout).ok()
        };
        let (Some(version), Some(sysroot)) = (ask(&["-vV"]), ask(&["--print", "sysroot"])) else {
            return Probed::Absent;
        };
        let field = |key: &str| version.lines().find_map(|line| line.strip_prefix(key)).unwrap_or_default().trim();
        let release = field("release:").to_owned();
        if numbers(&release) < numbers(OLDEST) {
            return Probed::TooOld(release);
        }
        let sysroot = PathBuf::from(sysroot.trim());
        if !sysroot.join("lib/rustlib/src/rust/library/core/Cargo.toml").is_file() {
            return Probed::NoSources;
        }
        let llvm = field("LLVM version:").split('.').next().unwrap_or_default().to_owned();
        Probed::Usable(Compiler { candidate: self.clone(), sysroot, release, llvm })
    }
}

/// `1.96.0-nightly` as `[1, 96]`: enough to compare two releases.
fn numbers(release: &str) -> Vec<u32> {
    release.split(['.', '-']).take(2).map_while(|part| part.parse().ok()).collect()
}

/// The toolchain that is building this code: rustup's, or the directory that cargo was run from.
pub(crate) fn building() -> Option<Candidate> {
    let rustup = env::var("RUSTUP_TOOLCHAIN").ok().filter(|name| !name.is_empty()).map(Candidate::Rustup);
    let directory = || Some(Candidate::Directory(Path::new(&env::var_os("CARGO")?).parent()?.into()));
    rustup.or_else(directory)
}

/// The first usable of: what `wanted` (the value of [`OVERRIDE`]) names, rustup's nightly, the toolchain that is
/// `building`, and the system's own. A toolchain named by hand is taken or refused, never replaced by another.
pub(crate) fn choose(
    wanted: Option<&str>,
    building: Option<Candidate>,
    probe: impl Fn(&Candidate) -> Probed,
) -> Result<Compiler, String> {
    if let Some(name) = wanted.filter(|name| !name.is_empty()) {
        let candidate = Candidate::named(name);
        return match probe(&candidate) {
            Probed::Usable(compiler) => Ok(compiler),
            other => Err(format!("`{OVERRIDE}={name}` can't be used: {}", why_not(&candidate, &other))),
        };
    }
    let mut candidates = vec![Candidate::Rustup("nightly".into())];
    candidates.extend(building);
    candidates.push(Candidate::Directory(SYSTEM.into()));
    candidates.dedup();
    let mut looked_at = String::new();
    for candidate in &candidates {
        match probe(candidate) {
            Probed::Usable(compiler) => return Ok(compiler),
            other => looked_at += &format!("\n    {candidate}: {}", why_not(candidate, &other)),
        }
    }
    Err(format!(
        "no Rust toolchain was found that can build for bpfel-unknown-none. Looked at:{looked_at}\n  \
         to install what is missing:  cargo xtask setup\n  \
         or by hand, with rustup:     rustup toolchain install nightly --component rust-src\n  \
         or by hand, on Debian 12:    apt-get install --no-install-recommends rustc-web cargo-web rust-web-src\n  \
         or name one that you have:   {OVERRIDE}=<rustup's name for it, or a directory with rustc and cargo>"
    ))
}

/// Why a candidate won't do, and what would change that.
fn why_not(candidate: &Candidate, probed: &Probed) -> String {
    match (probed, candidate) {
        (Probed::Usable(_), _) => "it can".into(),
        (Probed::Absent, Candidate::Rustup(name)) => {
            format!("not installed (`rustup toolchain install {name} --component rust-src`)")
        }
        (Probed::Absent, Candidate::Directory(_)) => "no working rustc and cargo there".into(),
        (Probed::TooOld(release), _) => format!("its rustc is {release}, and {OLDEST} is the oldest that will do"),
        (Probed::NoSources, Candidate::Rustup(name)) => {
            format!("has no library sources (`rustup component add rust-src --toolchain {name}`)")
        }
        (Probed::NoSources, Candidate::Directory(_)) => "has no library sources below its sysroot".into(),
    }
}

/// bpf-linker: the file `wanted` (`$BPF_LINKER`) names, else the first in `directories`.
pub(crate) fn linker(wanted: Option<PathBuf>, directories: impl Iterator<Item = PathBuf>) -> Result<PathBuf, String> {
    if let Some(path) = wanted.filter(|path| !path.as_os_str().is_empty()) {
        let found = path.is_file();
        return found.then(|| path.clone()).ok_or_else(|| format!("`BPF_LINKER={}`: no such file", path.display()));
    }
    directories.map(|dir| dir.join("bpf-linker")).find(|path| path.is_file()).ok_or_else(|| {
        "bpf-linker was not found on PATH or where cargo installs.\n  \
         to install it:         cargo xtask setup\n  \
         or, with cargo-binstall:  cargo binstall bpf-linker   (its LLVM must not be older than `rustc -vV` says)"
            .into()
    })
}

/// The directories where bpf-linker may be: PATH, then cargo's own, which `sudo` tends to drop from PATH.
pub(crate) fn linker_directories() -> impl Iterator<Item = PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let cargo_home = env::var_os("CARGO_HOME").map(PathBuf::from);
    let cargo_home = cargo_home.or_else(|| Some(PathBuf::from(env::var_os("HOME")?).join(".cargo")));
    env::split_paths(&path).collect::<Vec<_>>().into_iter().chain(cargo_home.map(|home| home.join("bin")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn compiler(candidate: &Candidate) -> Compiler {
        let sysroot = PathBuf::from("/sysroot");
        Compiler { candidate: candidate.clone(), sysroot, release: "1.97.0-nightly".into(), llvm: "22".into() }
    }

    /// A machine on which only the candidates that `usable` names are complete; all others are `otherwise`.
    fn machine(usable: &[&str], otherwise: Probed) -> impl Fn(&Candidate) -> Probed {
        move |candidate| {
            let found = usable.iter().any(|name| Candidate::named(name) == *candidate);
            if found { Probed::Usable(compiler(candidate)) } else { otherwise.clone() }
        }
    }

    fn chosen(wanted: Option<&str>, building: Option<&str>, usable: &[&str]) -> Result<Candidate, String> {
        let building = building.map(Candidate::named);
        choose(wanted, building, machine(usable, Probed::Absent)).map(|compiler| compiler.candidate)
    }

    #[test]
    fn each_place_is_taken_in_its_turn() {
        let stable = Some("stable");
        let everything = ["nightly", "stable", "/usr/bin", "mine", "/opt/rust/bin"];
        assert_eq!(chosen(Some("mine"), stable, &everything), Ok(Candidate::Rustup("mine".into())));
        assert_eq!(
            chosen(Some("/opt/rust/bin"), stable, &everything),
            Ok(Candidate::Directory("/opt/rust/bin".into()))
        );
        assert_eq!(chosen(None, stable, &everything), Ok(Candidate::Rustup("nightly".into())));
        assert_eq!(chosen(Some(""), stable, &everything), Ok(Candidate::Rustup("nightly".into())));
        assert_eq!(chosen(None, stable, &["stable", "/usr/bin"]), Ok(Candidate::Rustup("stable".into())));
        assert_eq!(
            chosen(None, Some("/opt/rust/bin"), &everything[1..]),
            Ok(Candidate::Directory("/opt/rust/bin".into()))
        );
        assert_eq!(chosen(None, stable, &["/usr/bin"]), Ok(Candidate::Directory("/usr/bin".into())));
    }

    #[test]
    fn a_choice_by_hand_is_never_replaced_by_another() {
        let refused = |name, probed| choose(Some(name), None, machine(&["nightly", "/usr/bin"], probed)).unwrap_err();
        assert_eq!(
            refused("mine", Probed::Absent),
            "`DETECTOR_EBPF_TOOLCHAIN=mine` can't be used: not installed (`rustup toolchain install mine --component \
             rust-src`)"
        );
        assert_eq!(
            refused("mine", Probed::NoSources),
            "`DETECTOR_EBPF_TOOLCHAIN=mine` can't be used: has no library sources (`rustup component add rust-src \
             --toolchain mine`)"
        );
        assert!(refused("/opt/bin", Probed::Absent).ends_with("can't be used: no working rustc and cargo there"));
        assert!(refused("/opt/bin", Probed::NoSources).ends_with("has no library sources below its sysroot"));
        let told = format!("its rustc is 1.63.0, and {OLDEST} is the oldest that will do");
        assert!(refused("/opt/bin", Probed::TooOld("1.63.0".into())).ends_with(&told));
    }

    #[test]
    fn with_nothing_there_the_error_names_all_that_was_looked_at_and_what_helps() {
        let building = Some(Candidate::Rustup("stable-x86_64".into()));
        let probe = |candidate: &Candidate| match candidate {
            Candidate::Rustup(name) if name == "nightly" => Probed::Absent,
            Candidate::Rustup(_) => Probed::NoSources,
            Candidate::Directory(_) => Probed::TooOld("1.63.0".into()),
        };
        let told = choose(None, building, probe).unwrap_err();
        for line in [
            "rustup's `nightly`: not installed (`rustup toolchain install nightly --component rust-src`)\n",
            "rustup's `stable-x86_64`: has no library sources (`rustup component add rust-src --toolchain stable-x86_64`)\n",
            "`/usr/bin`: its rustc is 1.63.0, and ",
            "cargo xtask setup",
            "apt-get install --no-install-recommends rustc-web cargo-web rust-web-src",
        ] {
            assert!(told.contains(line), "{line:?} isn't in:\n{told}");
        }
        assert!(told.find("cargo xtask setup") < told.find("by hand"), "setup stands first");
    }

    #[test]
    fn releases_compare_by_number() {
        assert!(numbers("1.100.0-nightly") > numbers("1.95") && numbers("1.95.0") >= numbers("1.95"));
        assert!(numbers("1.63.0") < numbers("1.95") && numbers("") < numbers("1.95"));
    }

    #[test]
    fn a_directory_without_cargo_is_no_toolchain() {
        let empty = tempfile::tempdir().unwrap();
        assert_eq!(Candidate::Directory(empty.path().into()).probe(), Probed::Absent);
        assert_eq!(Candidate::Rustup("no-such-toolchain".into()).probe(), Probed::Absent);
    }

    #[test]
    fn the_linker_is_the_one_named_or_the_first_on_the_way() {
        let (first, second) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let directories = || [first.path().to_owned(), second.path().to_owned()].into_iter();
        assert!(linker(None, directories()).unwrap_err().contains("cargo xtask setup"));
        let path = second.path().join("bpf-linker");
        std::fs::write(&path, "").unwrap();
        assert_eq!(linker(None, directories()), Ok(path.clone()));
        assert_eq!(linker(Some(PathBuf::new()), directories()), Ok(path.clone()));
        assert_eq!(linker(Some(path.clone()), [].into_iter()), Ok(path));
        assert_eq!(linker(Some("/no/such".into()), directories()), Err("`BPF_LINKER=/no/such`: no such file".into()));
    }
}
