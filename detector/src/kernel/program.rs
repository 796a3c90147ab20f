//! Loads the object and attaches its program. What is attached goes when this process goes: the links are owned here.

use aya::{
    Ebpf, EbpfLoader, include_bytes_aligned,
    programs::{
        LinkOrder, ProgramError, SchedClassifier, TcAttachType, TestRun as _, TestRunOptions, Xdp, tc::TcAttachOptions,
    },
};
use detector_common::{maps, table::CELL_BITS};
use nix::errno::Errno;
use tracing::warn;

use super::{CounterMap, Error, KernelLog, Maps, Rings, Steering, interface};
use crate::config::XdpMode;

static OBJECT: &[u8] = include_bytes_aligned!(concat!(env!("OUT_DIR"), "/detector-ebpf"));

/// The program's name in the object, and as `bpftool prog` shows it.
const PROGRAM: &str = "detector";
/// The program on what goes out.
const EGRESS: &str = "detector_egress";
/// The program that chooses the sockets of new connections.
const STEER: &str = "detector_steer";

/// Sizes of the maps, in entries (bytes for the ring, a power of two of pages).
#[derive(Clone, Copy, Debug)]
pub struct LoadOptions {
    /// Of the ring buffer of confirmed clients, in bytes.
    pub ring_bytes: u32,
    /// Of the ring buffer of unconfirmed ones, in bytes.
    pub unconfirmed_ring_bytes: u32,
    /// Of the tables of SYNs and of SYN-ACKs, each.
    pub handshakes: u32,
    /// Of the table of followed flows.
    pub follow: u32,
    /// Verdicts in the table: on addresses, on fingerprints, and on both together.
    pub table: u32,
    /// Verdicts that limit a rate.
    pub rates: u32,
    /// Of the prefix verdicts.
    pub prefixes: u32,
    /// Of the allow list.
    pub allow: u32,
    /// Of the connection verdicts.
    pub connections: u32,
    /// Whether the program writes its debug lines.
    pub debug: bool,
}

impl Default for LoadOptions {
    fn default() -> Self {
        Self {
            ring_bytes: maps::RING_BYTES,
            unconfirmed_ring_bytes: maps::UNCONFIRMED_RING_BYTES,
            handshakes: maps::HANDSHAKES_MAX,
            follow: maps::FOLLOW_MAX,
            table: maps::ADDRESSES_MAX + maps::PREFIXES_MAX + maps::AUTOMATIC_MAX + maps::JA4_RULES_MAX,
            rates: maps::RATES_MAX,
            prefixes: maps::PREFIXES_MAX,
            allow: maps::ALLOW_MAX,
            connections: maps::CONNECTIONS_MAX,
            debug: false,
        }
    }
}

/// Buckets for so many verdicts, which take three of five cells at most.
fn buckets(verdicts: u32) -> u32 {
    let cells = u64::from(verdicts) * 5 / 3;
    cells.div_ceil(1 << CELL_BITS).next_power_of_two().clamp(2, 1 << 24) as u32
}

/// Room for verdicts whose bucket is full. Of a table as full as it gets one in fifty is to be expected: this is half as
/// many again.
fn stash(buckets: u32) -> u32 {
    (buckets >> 3).max(1024)
}

/// An interface with our program on it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attached {
    /// The interface's name.
    pub interface: String,
    /// [`XdpMode::Native`] or [`XdpMode::Generic`].
    pub mode: XdpMode,
}

/// The loaded object. Dropping it detaches the program from every interface.
pub struct Kernel {
    ebpf: Ebpf,
}

/// What the verifier and the kernel say of the loaded program.
#[derive(Clone, Copy, Debug)]
pub struct ProgramFacts {
    /// Instructions the verifier walked; at most a million.
    pub verified_instructions: u32,
    /// Whether the licence string let the program call GPL-only helpers.
    pub gpl_compatible: bool,
}

impl Kernel {
    /// Loads the object and takes its maps apart.
    ///
    /// # Errors
    /// If this process may not, the kernel is too old, or the object is broken.
    pub fn load(options: &LoadOptions) -> Result<(Self, Maps, Rings, CounterMap, KernelLog), Error> {
        let level = if options.debug { aya_log::Level::Debug as u8 } else { 0 };
        let buckets = buckets(options.table);
        let mut ebpf = EbpfLoader::new()
            .map_max_entries(maps::EVENTS, options.ring_bytes)
            .map_max_entries(maps::UNCONFIRMED, options.unconfirmed_ring_bytes)
            .map_max_entries(maps::SYNS, options.handshakes)
            .map_max_entries(maps::SYN_ACKS, options.handshakes)
            .map_max_entries(maps::FOLLOW, options.follow)
            .map_max_entries(maps::TABLE, buckets)
            .map_max_entries(maps::HITS, buckets << CELL_BITS)
            .map_max_entries(maps::STASH, stash(buckets))
            .map_max_entries(maps::RATES, options.rates)
            .map_max_entries(maps::PREFIXES, options.prefixes)
            .map_max_entries(maps::ALLOW, options.allow)
            .map_max_entries(maps::CONNECTIONS, options.connections)
            .override_global(aya_log::LEVEL, &level, true)
            .load(OBJECT)
            .map_err(|error| load_error(&error))?;
        let log = KernelLog::new(&mut ebpf)?;
        let (verdicts, ring, counters) = (Maps::new(&mut ebpf)?, Rings::new(&mut ebpf)?, CounterMap::new(&mut ebpf)?);
        let mut kernel = Self { ebpf };
        kernel.program()?.load().map_err(|error| load_error(&error))?;
        kernel.egress_program()?.load().map_err(|error| load_error(&error))?;
        Ok((kernel, verdicts, ring, counters, log))
    }

    fn program(&mut self) -> Result<&mut Xdp, Error> {
        let missing = |what: String| Error::Load(what, kernel_release());
        let program = self.ebpf.program_mut(PROGRAM).ok_or_else(|| missing(format!("no program `{PROGRAM}`")))?;
        program.try_into().map_err(|error: ProgramError| missing(error.to_string()))
    }

    fn egress_program(&mut self) -> Result<&mut SchedClassifier, Error> {
        let missing = |what: String| Error::Load(what, kernel_release());
        let program = self.ebpf.program_mut(EGRESS).ok_or_else(|| missing(format!("no program `{EGRESS}`")))?;
        program.try_into().map_err(|error: ProgramError| missing(error.to_string()))
    }

    /// What sends new connections to challenge listeners. Loaded; attached when the first listener is there.
    ///
    /// # Errors
    /// If the kernel takes no such program.
    pub fn steering(&mut self) -> Result<Steering, Error> {
        Steering::new(&mut self.ebpf, STEER)
    }

    /// Attaches the egress program to a port, beside whatever programs are there.
    ///
    /// # Errors
    /// If the kernel has no tcx (Linux 6.6), or refuses.
    pub fn attach_egress(&mut self, interface: &str) -> Result<(), Error> {
        let options = TcAttachOptions::TcxOrder(LinkOrder::default());
        let attached = self.egress_program()?.attach_with_options(interface, TcAttachType::Egress, options);
        attached.map(drop).map_err(|error| Error::Egress { interface: interface.to_owned(), reason: error.to_string() })
    }

    /// Attaches the XDP program to a port.
    ///
    /// # Errors
    /// If the interface isn't a port, has a program of someone else's, or its driver refuses.
    pub fn attach(&mut self, interface: &str, mode: XdpMode) -> Result<Attached, Error> {
        interface::check(interface)?;
        let attached = |mode| Attached { interface: interface.to_owned(), mode };
        if mode != XdpMode::Generic {
            match self.attach_as(interface, XdpMode::Native) {
                Ok(()) => return Ok(attached(XdpMode::Native)),
                Err(error @ Error::Attach { .. }) if mode == XdpMode::Auto => {
                    warn!(interface, %error, "no native XDP here; attaching in generic mode, which costs more per packet");
                }
                Err(error) => return Err(error),
            }
        }
        self.attach_as(interface, XdpMode::Generic)?;
        Ok(attached(XdpMode::Generic))
    }

    fn attach_as(&mut self, interface: &str, mode: XdpMode) -> Result<(), Error> {
        let flags = if mode == XdpMode::Generic { aya::programs::XdpMode::Skb } else { aya::programs::XdpMode::Driver };
        let Err(error) = self.program()?.attach(interface, flags) else { return Ok(()) };
        let errno = match &error {
            ProgramError::SyscallError(syscall) => syscall.io_error.raw_os_error().map(Errno::from_raw),
            _ => None,
        };
        match errno {
            Some(Errno::EBUSY | Errno::EEXIST) => Err(Error::Foreign { interface: interface.to_owned() }),
            Some(Errno::EPERM | Errno::EACCES) => Err(Error::Permission(error.to_string())),
            _ => Err(Error::Attach {
                interface: interface.to_owned(),
                mode: mode.label(),
                reason: errno.map_or_else(|| error.to_string(), |errno| errno.desc().to_owned()),
                hint: match errno {
                    Some(Errno::ENOSPC) => {
                        "\n  the device has fewer receive queues than XDP needs: `ethtool -L` sets them"
                    }
                    Some(Errno::ERANGE) => "\n  its MTU is too large for the driver's XDP; use --xdp-mode generic",
                    _ if mode == XdpMode::Native => "\n  use --xdp-mode generic, or auto",
                    _ => "",
                },
            }),
        }
    }

    /// What the kernel says of the programs: the XDP one, then the egress one.
    ///
    /// # Errors
    /// If the kernel doesn't say.
    pub fn facts(&mut self) -> Result<[ProgramFacts; 2], Error> {
        let failed = |error: ProgramError| Error::System("asking about the programs", error.to_string());
        let infos = [self.program()?.info().map_err(failed)?, self.egress_program()?.info().map_err(failed)?];
        Ok(infos.map(|info| ProgramFacts {
            verified_instructions: info.verified_instruction_count().unwrap_or(0),
            gpl_compatible: info.gpl_compatible().unwrap_or(false),
        }))
    }

    /// Runs the egress program on a frame (`BPF_PROG_TEST_RUN`): its verdict.
    ///
    /// # Errors
    /// If the kernel refuses the frame.
    pub fn test_run_egress(&mut self, frame: &[u8]) -> Result<u32, Error> {
        let options = TestRunOptions { data_in: Some(frame), repeat: 1, ..Default::default() };
        let run = self
            .egress_program()?
            .test_run(options)
            .map_err(|error| Error::System("running the egress program on a frame", error.to_string()))?;
        Ok(run.return_value)
    }

    /// Runs the program on a frame once: the XDP action, and the frame as the program left it.
    ///
    /// # Errors
    /// If the kernel refuses the frame.
    pub fn test_run_output(&mut self, frame: &[u8]) -> Result<(u32, Vec<u8>), Error> {
        let mut left = vec![0; frame.len()];
        let options = TestRunOptions { data_in: Some(frame), data_out: Some(&mut left), ..Default::default() };
        let run = self
            .program()?
            .test_run(options)
            .map_err(|error| Error::System("running the program on a frame", error.to_string()))?;
        left.truncate(run.data_size_out as usize);
        Ok((run.return_value, left))
    }

    /// Runs the program on a frame, `repeat` times, without any interface (`BPF_PROG_TEST_RUN`): the XDP action of the
    /// last run, and the mean time of one.
    ///
    /// # Errors
    /// If the kernel refuses the frame.
    pub fn test_run(&mut self, frame: &[u8], repeat: u32) -> Result<(u32, std::time::Duration), Error> {
        let options = TestRunOptions { data_in: Some(frame), repeat, ..Default::default() };
        let run = self
            .program()?
            .test_run(options)
            .map_err(|error| Error::System("running the program on a frame", error.to_string()))?;
        Ok((run.return_value, run.duration))
    }
}

fn kernel_release() -> String {
    nix::sys::utsname::uname()
        .map_or_else(|_| "an unknown release".to_owned(), |uname| uname.release().to_string_lossy().into_owned())
}

/// The innermost error says what the kernel said.
fn load_error(error: &(dyn std::error::Error + 'static)) -> Error {
    let mut innermost = error;
    let mut permission = false;
    loop {
        if let Some(io) = innermost.downcast_ref::<std::io::Error>() {
            permission |= io.kind() == std::io::ErrorKind::PermissionDenied;
        }
        match innermost.source() {
            Some(source) => innermost = source,
            None => break,
        }
    }
    if permission { Error::Permission(error.to_string()) } else { Error::Load(error.to_string(), kernel_release()) }
}
