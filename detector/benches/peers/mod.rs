//! What the daemon's program is measured beside: bare programs, and those of Debian's xdp-tools. Nothing is pinned or
//! mounted where the host sees it.

use std::{fs, path::Path, process::Command};

use aya::{
    Ebpf, EbpfLoader, include_bytes_aligned,
    maps::{Array, MapData},
    programs::{TestRun as _, TestRunOptions, Xdp},
};
use detector_common::{
    settings::Settings,
    verdict::{Action, FOREVER, ORIGIN_OPERATOR, REASON_COMMAND, Verdict},
};
use nix::{
    mount::{MsFlags, mount},
    sched::{CloneFlags, CpuSet, sched_setaffinity, unshare},
    time::{ClockId, clock_gettime},
    unistd::Pid,
};

use crate::figure::Figure;

/// Ours, beside the daemon's.
static OBJECT: &[u8] = include_bytes_aligned!(concat!(env!("OUT_DIR"), "/detector-ebpf-bench"));

/// Where Debian's xdp-tools has its objects, and where they are below `/usr/lib` elsewhere.
const XDP_TOOLS: [&str; 3] = ["x86_64-linux-gnu/bpf", "aarch64-linux-gnu/bpf", "bpf"];

/// A BPF file system of this process's own.
pub(crate) const PINS: &str = "/sys/fs/bpf";

/// Of the XDP actions.
pub(crate) const DROP: u32 = 1;
pub(crate) const PASS: u32 = 2;

/// Gives this thread, and those it starts, a network of their own with its loopback interface up, and an empty BPF file
/// system in the place of the host's.
pub(crate) fn own_host() {
    unshare(CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWNET).expect("run as root");
    let none: Option<&str> = None;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).expect("mounts of this process's own");
    // The host's shows the host's interfaces.
    mount(Some("sysfs"), "/sys", Some("sysfs"), MsFlags::empty(), none).expect("a network of this process's own");
    mount(Some("bpf"), PINS, Some("bpf"), MsFlags::empty(), none).expect("a kernel with a BPF file system");
    command("ip link set lo up");
}

/// Keeps this thread on one processor.
pub(crate) fn pin(cpu: usize) {
    let mut set = CpuSet::new();
    // On a machine with one core the threads share it; the figure then says so by being bad.
    if set.set(cpu).is_ok() {
        let _ = sched_setaffinity(Pid::from_raw(0), &set);
    }
}

/// Nanoseconds of processor time that this thread takes for `work`: what others do meanwhile, and the waiting in each
/// BPF_PROG_TEST_RUN for the kernel's readers, count for nothing.
pub(crate) fn cpu_time(work: impl FnOnce()) -> f64 {
    let now = || clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).expect("a clock that every Linux has");
    let before = now();
    work();
    let spent = now() - before;
    spent.tv_sec() as f64 * 1e9 + spent.tv_nsec() as f64
}

/// A daemon's settings.
pub(crate) fn settings(in_use: u32) -> Settings {
    Settings {
        local_only: 1,
        in_use,
        segments_per_flow: 4096,
        syns: 1,
        answers: 1,
        udp: 1,
        keys: 1,
        resets: 1024,
        follow_ns: 10_000_000_000,
        ..Settings::default()
    }
}

/// An operator's, for good.
pub(crate) fn block() -> Verdict {
    Verdict::new(Action::Block, ORIGIN_OPERATOR, REASON_COMMAND, FOREVER)
}

/// A loaded object of which one program at a time is run.
pub(crate) struct Peer(pub(crate) Ebpf);

impl Peer {
    /// Our own, its maps those of a daemon whose set of pins is `set`.
    pub(crate) fn own(set: Option<&Path>) -> Self {
        let mut loader = EbpfLoader::new();
        for name in set.iter().flat_map(|_| ["SETTINGS", "VERDICTS", "STASH"]) {
            let set = set.expect("names only with a set");
            loader.map_pin_path(name, set.join(name));
        }
        Self(loader.load(OBJECT).expect("run as root"))
    }

    /// xdp-filter's, with room for so many addresses.
    pub(crate) fn xdp_filter(object: &str, addresses: u32) -> Self {
        let mut paths = XDP_TOOLS.iter().map(|directory| Path::new("/usr/lib").join(directory).join(object));
        let path = paths.find(|path| path.exists());
        let path = path.unwrap_or_else(|| panic!("`{object}` of xdp-tools is missing: `cargo xtask setup`"));
        let pins = Path::new(PINS).join(format!("{}-{addresses}", object.trim_end_matches(".o")));
        fs::create_dir(&pins).expect("a BPF file system of our own");
        let mut loader = EbpfLoader::new();
        loader.map_max_entries("filter_ipv4", addresses);
        let loaded = loader.default_map_pin_directory(&pins).load_file(&path);
        Self(loaded.expect("an object that the kernel accepts"))
    }

    /// A program, loaded.
    pub(crate) fn program(&mut self, name: &str) -> &mut Xdp {
        let program = self.0.program_mut(name).unwrap_or_else(|| panic!("no program `{name}`"));
        let program: &mut Xdp = program.try_into().expect("an XDP program");
        if program.fd().is_err() {
            program.load().expect("a program that the kernel accepts");
        }
        program
    }

    /// Runs a program on a frame: the action of the last run.
    pub(crate) fn run(&mut self, name: &str, frame: &[u8], repeat: u32) -> u32 {
        let options = TestRunOptions { data_in: Some(frame), repeat, ..Default::default() };
        self.program(name).test_run(options).expect("a frame of ours").return_value
    }

    /// Of our own: which source addresses are drawn, and where frames go.
    pub(crate) fn plan(&mut self, first: u32, count: u32, interface: u32) {
        let map = self.0.map_mut("PLAN").expect("a map of ours");
        let mut plan: Array<&mut MapData, u32> = map.try_into().expect("a map of ours");
        for (index, value) in (0..).zip([first, count, interface]) {
            plan.set(index, value, 0).expect("an entry of ours");
        }
    }
}

/// A figure that nobody has a target for: a peer's or a floor's.
pub(crate) fn told(id: &'static str, what: &'static str, value: f64, unit: &'static str) -> Figure {
    Figure { id, what, value, unit, against: "", ratio: None, target: String::new(), met: None }
}

/// Runs a command of the system's; a missing one is a failure.
pub(crate) fn command(line: &str) -> String {
    let mut words = line.split_whitespace();
    let output = Command::new(words.next().expect("a command")).args(words).output();
    let output = output.unwrap_or_else(|error| panic!("`{line}`: {error}; `cargo xtask setup` installs it"));
    assert!(output.status.success(), "`{line}`: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}
