//! Loads the object and attaches its program. Without pins what is attached goes when this process goes: the links are
//! owned here. With them it stays, and the next process gives the links its own program.

use std::path::{Path, PathBuf};

use aya::{
    Ebpf, EbpfLoader, include_bytes_aligned,
    pin::PinError,
    programs::{
        LinkOrder, ProgramError, SchedClassifier, TcAttachType, TestRun as _, TestRunOptions, Xdp,
        links::{FdLink, LinkError, PinnedLink},
        tc::{SchedClassifierLink, TcAttachOptions},
        xdp::XdpLink,
    },
};
use aya_obj::programs::XdpAttachType;
use detector_common::maps;
use nix::errno::Errno;
use sha2::{Digest as _, Sha256};
use tracing::{info, warn};

use super::{
    CounterMap, Error, KernelLog, Maps, Pins, Rings, Steering, interface,
    maps::Source,
    pins::{EGRESS_PROGRAM, LinkKind, STEER_PROGRAM, Set, XDP_PROGRAM},
    presence,
    shape::Shapes,
    steer,
};
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
    /// Of the table of bytes that came too early.
    pub waiting: u32,
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
    /// Of the table of connections that gave a hello.
    pub open: u32,
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
            waiting: maps::WAITING_MAX,
            table: maps::ADDRESSES_MAX
                + maps::PREFIXES_MAX
                + maps::AUTOMATIC_MAX
                + maps::JA4_RULES_MAX
                + maps::QUIC_SOURCES_MAX,
            rates: maps::RATES_MAX,
            prefixes: maps::PREFIXES_MAX,
            allow: maps::ALLOW_MAX,
            connections: maps::CONNECTIONS_MAX,
            open: maps::OPEN_MAX,
            debug: false,
        }
    }
}

/// Buckets for so many verdicts: two for five of them at least, which take five of six cells. Denser is faster, since more of
/// the table is in the processor's caches.
fn buckets(verdicts: u32) -> u32 {
    let buckets = (u64::from(verdicts) * 2).div_ceil(5);
    buckets.next_power_of_two().clamp(2, 1 << 24) as u32
}

/// Room for verdicts whose bucket and neighbour are full. Of a table as full as it gets one in ten is to be expected, a
/// quarter as many as there are buckets: this is a third more.
fn stash(buckets: u32) -> u32 {
    (buckets / 3).max(1024)
}

/// An interface with our program on it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attached {
    /// The interface's name.
    pub interface: String,
    /// [`XdpMode::Native`] or [`XdpMode::Generic`].
    pub mode: XdpMode,
    /// Where its link is pinned; `None`: it goes with this process.
    pub pin: Option<PathBuf>,
}

impl Attached {
    /// Whether it still is, with the program of that id, where the kernel tells: a pin outlives its interface.
    #[must_use]
    pub fn holds(&self, program: u32) -> bool {
        self.pin.as_ref().is_none_or(|pin| pin.exists())
            && presence::has_program(&self.interface, program)
                .unwrap_or_else(|_| interface::check(&self.interface).is_ok())
    }
}

impl LoadOptions {
    fn sizes(&self) -> [(&'static str, u32); 13] {
        let buckets = buckets(self.table);
        [
            (maps::EVENTS, self.ring_bytes),
            (maps::UNCONFIRMED, self.unconfirmed_ring_bytes),
            (maps::SYNS, self.handshakes),
            (maps::SYN_ACKS, self.handshakes),
            (maps::FOLLOW, self.follow),
            (maps::WAITING, self.waiting),
            (maps::VERDICTS, buckets),
            (maps::STASH, stash(buckets)),
            (maps::RATES, self.rates),
            (maps::PREFIXES, self.prefixes),
            (maps::ALLOW, self.allow),
            (maps::CONNECTIONS, self.connections),
            (maps::OPEN, self.open),
        ]
    }

    fn log_level(&self) -> u8 {
        if self.debug { aya_log::Level::Debug as u8 } else { 0 }
    }

    /// A name for the programs that are loaded with these: the same for the same programs only.
    fn build(&self) -> String {
        let digest = Sha256::new().chain_update(OBJECT).chain_update([self.log_level()]).finalize();
        digest.iter().take(8).map(|byte| format!("{byte:02x}")).collect()
    }
}

/// The loaded programs. Dropping it detaches them from every interface, unless their links are pinned.
pub struct Kernel(Programs);

enum Programs {
    /// Of this process alone.
    Own(Box<Ebpf>),
    /// Pinned.
    Pinned(Box<Pinned>),
}

/// The programs as they are pinned: loaded by this process, or by an earlier one of the same build.
struct Pinned {
    pins: Pins,
    set: Set,
    build: String,
    program: Xdp,
    egress: SchedClassifier,
    /// Whether this process sees to the links. If not, another one does.
    attaches: bool,
}

/// The maps, apart.
type AllMaps = (Maps, Rings, CounterMap, KernelLog);

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
        let (sizes, level) = (options.sizes(), options.log_level());
        let mut ebpf = loader(&sizes, &level).load(OBJECT).map_err(|error| load_error(&error))?;
        let log = KernelLog::new(&mut ebpf)?;
        let source = &mut Source::Object(&mut ebpf);
        let (verdicts, ring, counters) = (Maps::new(source)?, Rings::new(source)?, CounterMap::new(source)?);
        let mut kernel = Self(Programs::Own(Box::new(ebpf)));
        kernel.program()?.load().map_err(|error| load_error(&error))?;
        kernel.egress_program()?.load().map_err(|error| load_error(&error))?;
        Ok((kernel, verdicts, ring, counters, log))
    }

    /// The same with maps and programs that are pinned, or will be. Until [`Kernel::replace`] what is attached goes on as
    /// before.
    ///
    /// # Errors
    /// Likewise; and if the pins are of no use.
    pub fn load_pinned(options: &LoadOptions, pins: Pins) -> Result<(Self, Maps, Rings, CounterMap, KernelLog), Error> {
        let wanted = Shapes::wanted(OBJECT, &options.sizes()).map_err(|error| Error::Load(error, kernel_release()))?;
        let set = pins.set(wanted)?;
        let loaded = Self::load_set(options, &set);
        let (verdicts, ring, counters, log) = loaded.inspect_err(|_| set.give_up(&pins))?;
        let kernel = Self::pinned(pins, set, options.build(), true)?;
        Ok((kernel, verdicts, ring, counters, log))
    }

    /// The same with maps and programs that another process has pinned, which also sees to what is attached: takes no
    /// capability. The programs' debug lines aren't to be had so.
    ///
    /// # Errors
    /// If the kernel lends nothing so, or nothing is pinned for this build and these options.
    pub fn borrow(options: &LoadOptions, pins: Pins) -> Result<(Self, Maps, Rings, CounterMap), Error> {
        let (set, build) = Self::in_force(options, &pins)?;
        let source = &mut Source::Pinned(&set.directory);
        let (verdicts, ring, counters) = (Maps::new(source)?, Rings::new(source)?, CounterMap::new(source)?);
        Ok((Self::pinned(pins, set, build, false)?, verdicts, ring, counters))
    }

    /// The programs that are pinned, to see to what is attached while a daemon uses their maps.
    ///
    /// # Errors
    /// If nothing is pinned for this build and these options.
    pub fn beside(options: &LoadOptions, pins: Pins) -> Result<Self, Error> {
        let (set, build) = Self::in_force(options, &pins)?;
        Self::pinned(pins, set, build, true)
    }

    /// The set in force, and the build its programs are of: whether they write debug lines doesn't matter.
    fn in_force(options: &LoadOptions, pins: &Pins) -> Result<(Set, String), Error> {
        let wanted = Shapes::wanted(OBJECT, &options.sizes()).map_err(|error| Error::Load(error, kernel_release()))?;
        let set = pins.set_in_force(wanted)?;
        let builds = [options.debug, !options.debug].map(|debug| LoadOptions { debug, ..*options }.build());
        let build = set.build(builds)?;
        Ok((set, build))
    }

    fn pinned(pins: Pins, set: Set, build: String, attaches: bool) -> Result<Self, Error> {
        let xdp = Xdp::from_pin(set.program(XDP_PROGRAM, &build), XdpAttachType::Interface);
        let program = xdp.map_err(|error| load_error(&error))?;
        let egress =
            SchedClassifier::from_pin(set.program(EGRESS_PROGRAM, &build)).map_err(|error| load_error(&error))?;
        Ok(Self(Programs::Pinned(Box::new(Pinned { pins, set, build, program, egress, attaches }))))
    }

    /// The maps of a set, those that were missing made, and its programs, pinned.
    fn load_set(options: &LoadOptions, set: &Set) -> Result<AllMaps, Error> {
        let (sizes, level) = (options.sizes(), options.log_level());
        let mut loader = loader(&sizes, &level);
        for name in set.names() {
            // aya takes whatever is there; that it has the right shape, `Pins::set` has seen to.
            loader.map_pin_path(name, set.directory.join(name));
        }
        let mut ebpf = loader.load(OBJECT).map_err(|error| load_error(&error))?;
        set.carry_over()?;
        let log = KernelLog::new(&mut ebpf)?;
        let source = &mut Source::Pinned(&set.directory);
        let mut verdicts = Maps::new(source)?;
        set.carry_table(&mut verdicts)?;
        let maps = (verdicts, Rings::new(source)?, CounterMap::new(source)?, log);
        let [xdp, egress, steer] =
            [XDP_PROGRAM, EGRESS_PROGRAM, STEER_PROGRAM].map(|what| set.program(what, &options.build()));
        let pinning = |error: PinError| load_error(&error);
        if !xdp.exists() {
            let program = xdp_of(&mut ebpf)?;
            program.load().map_err(|error| load_error(&error))?;
            program.pin(&xdp).map_err(pinning)?;
        }
        if !egress.exists() {
            let program = egress_of(&mut ebpf)?;
            program.load().map_err(|error| load_error(&error))?;
            program.pin(&egress).map_err(pinning)?;
        }
        // A kernel may take none: `Steering::pinned` says so then.
        if !steer.exists()
            && let Ok(program) = steer::load(&mut ebpf, STEER)
        {
            program.pin(&steer).map_err(pinning)?;
        }
        Ok(maps)
    }

    fn program(&mut self) -> Result<&mut Xdp, Error> {
        match &mut self.0 {
            Programs::Pinned(pinned) => Ok(&mut pinned.program),
            Programs::Own(ebpf) => xdp_of(ebpf),
        }
    }

    fn egress_program(&mut self) -> Result<&mut SchedClassifier, Error> {
        match &mut self.0 {
            Programs::Pinned(pinned) => Ok(&mut pinned.egress),
            Programs::Own(ebpf) => egress_of(ebpf),
        }
    }

    /// What is pinned, if it is.
    fn pins(&self) -> Option<&Pinned> {
        match &self.0 {
            Programs::Pinned(pinned) => Some(pinned),
            Programs::Own(_) => None,
        }
    }

    /// The kernel's number of the XDP program.
    ///
    /// # Errors
    /// If the kernel doesn't say.
    pub fn program_id(&mut self) -> Result<u32, Error> {
        let info = self.program()?.info();
        Ok(info.map_err(|error| Error::System("asking about the program", error.to_string()))?.id())
    }

    /// Gives every pinned link this build's program, each in one step: no packet is without one. From then on the set of
    /// maps is the one in force. Without pins there is nothing to replace.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn replace(&mut self) -> Result<(), Error> {
        let Programs::Pinned(pinned) = &mut self.0 else { return Ok(()) };
        if !pinned.attaches {
            return Ok(());
        }
        let mut links = pinned.pins.links()?;
        // The egress program first, so that no hello is seen whose SYN-ACK wasn't.
        links.sort_by_key(|(kind, _)| *kind != LinkKind::Egress);
        for (kind, interface) in links {
            match pinned.give_program(kind, &interface) {
                Ok(()) => {}
                Err(error) if is_gone(&error) => {
                    info!(interface, "the interface is not the one that the program was attached to");
                    pinned.pins.unlink(kind, &interface)?;
                }
                Err(error) => return Err(load_error(&error)),
            }
        }
        pinned.pins.commit(&pinned.set, &pinned.build)
    }

    /// Takes the programs off the interfaces that aren't among these. Without pins there are none.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn keep_only(&mut self, interfaces: &[String]) -> Result<(), Error> {
        let Some(pinned) = self.pins().filter(|pinned| pinned.attaches) else { return Ok(()) };
        for (kind, interface) in pinned.pins.links()?.into_iter().filter(|(_, name)| !interfaces.contains(name)) {
            info!(interface, "detached, since it isn't among the interfaces that were named");
            pinned.pins.unlink(kind, &interface)?;
        }
        Ok(())
    }

    /// What sends new connections to challenge listeners. Loaded; attached when the first listener is there.
    ///
    /// # Errors
    /// If the kernel takes no such program.
    pub fn steering(&mut self) -> Result<Steering, Error> {
        match &mut self.0 {
            Programs::Own(ebpf) => Steering::new(ebpf, STEER),
            Programs::Pinned(pinned) => Steering::pinned(&pinned.set.program(STEER_PROGRAM, &pinned.build)),
        }
    }

    /// Attaches the egress program to a port, beside whatever programs are there.
    ///
    /// # Errors
    /// If the kernel has no tcx (Linux 6.6), or refuses.
    pub fn attach_egress(&mut self, interface: &str) -> Result<(), Error> {
        let path = self.pins().map(|pinned| pinned.pins.link(LinkKind::Egress, interface));
        if path.as_ref().is_some_and(|path| path.exists()) {
            return Ok(());
        }
        let failed = |reason: String| Error::Egress { interface: interface.to_owned(), reason };
        if self.pins().is_some_and(|pinned| !pinned.attaches) {
            return Err(failed("`detector attach` didn't, and this process may not".to_owned()));
        }
        let options = TcAttachOptions::TcxOrder(LinkOrder::default());
        let program = self.egress_program()?;
        let attached = program.attach_with_options(interface, TcAttachType::Egress, options);
        let link = attached.map_err(|error| failed(error.to_string()))?;
        let Some(path) = path else { return Ok(()) };
        let link = program.take_link(link).map_err(|error| failed(error.to_string()))?;
        pin(link.try_into(), &path).map_err(failed)
    }

    /// Takes the egress program off every port. Without pins it is on none, before [`Kernel::attach_egress`].
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn detach_egress(&mut self) -> Result<(), Error> {
        let Some(pinned) = self.pins().filter(|pinned| pinned.attaches) else { return Ok(()) };
        let mut links = pinned.pins.links()?.into_iter().filter(|(kind, _)| *kind == LinkKind::Egress);
        links.try_for_each(|(kind, interface)| pinned.pins.unlink(kind, &interface))
    }

    /// Attaches the XDP program to a port.
    ///
    /// # Errors
    /// If the interface isn't a port, has a program of someone else's, or its driver refuses.
    pub fn attach(&mut self, interface: &str, mode: XdpMode) -> Result<Attached, Error> {
        interface::check(interface)?;
        if let Some(pinned) = self.pins() {
            let there = pinned.pins.attached()?.into_iter().find(|there| there.interface == interface);
            match there {
                Some(there) if mode == XdpMode::Auto || mode == there.mode || !pinned.attaches => return Ok(there),
                Some(there) => pinned.leave(&there)?,
                None if !pinned.attaches => return Err(Error::Unattached { interface: interface.to_owned() }),
                None => {}
            }
        }
        if mode != XdpMode::Generic {
            match self.attach_as(interface, XdpMode::Native) {
                Ok(attached) => return Ok(attached),
                Err(error @ Error::Attach { .. }) if mode == XdpMode::Auto => {
                    warn!(interface, %error, "no native XDP here; attaching in generic mode, which costs more per packet");
                }
                Err(error) => return Err(error),
            }
        }
        self.attach_as(interface, XdpMode::Generic)
    }

    fn attach_as(&mut self, interface: &str, mode: XdpMode) -> Result<Attached, Error> {
        let flags = if mode == XdpMode::Generic { aya::programs::XdpMode::Skb } else { aya::programs::XdpMode::Driver };
        let path = self.pins().map(|pinned| pinned.pins.link(LinkKind::Xdp(mode), interface));
        let program = self.program()?;
        let error = match program.attach(interface, flags) {
            Ok(link) => {
                let attached = Attached { interface: interface.to_owned(), mode, pin: path };
                let Some(path) = &attached.pin else { return Ok(attached) };
                let failed = |reason| Error::Attach {
                    interface: interface.to_owned(),
                    mode: mode.label(),
                    reason,
                    hint: "\n  its link can't be pinned",
                };
                let link = program.take_link(link).map_err(|error| failed(error.to_string()))?;
                pin(link.try_into(), path).map_err(failed)?;
                return Ok(attached);
            }
            Err(error) => error,
        };
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

impl Pinned {
    /// Takes the program off an interface, for another mode.
    fn leave(&self, there: &Attached) -> Result<(), Error> {
        let interface = &there.interface;
        warn!(interface, "attaching in another mode: for a moment the interface is without the program");
        self.pins.unlink(LinkKind::Xdp(there.mode), interface)
    }

    /// Replaces the program of a pinned link (`BPF_LINK_UPDATE`).
    fn give_program(&mut self, kind: LinkKind, interface: &str) -> Result<(), ProgramError> {
        let link = FdLink::from(PinnedLink::from_pin(self.pins.link(kind, interface)).map_err(not_a_link)?);
        // What is taken out of the programs is dropped at once: the pins alone hold the links, and whoever removes those
        // detaches the programs.
        match kind {
            LinkKind::Xdp(_) => {
                let link = XdpLink::try_from(link).map_err(not_a_link)?;
                let link = self.program.attach_to_link(link)?;
                self.program.take_link(link).map(drop)
            }
            LinkKind::Egress => {
                let link = SchedClassifierLink::try_from(link).map_err(not_a_link)?;
                let link = self.egress.attach_to_link(link)?;
                self.egress.take_link(link).map(drop)
            }
        }
    }
}

fn not_a_link(error: LinkError) -> ProgramError {
    match error {
        LinkError::SyscallError(error) => ProgramError::SyscallError(error),
        error => ProgramError::IOError(std::io::Error::other(error)),
    }
}

/// Pins a link, which then belongs to nobody but its pin.
fn pin(link: Result<FdLink, LinkError>, path: &Path) -> Result<(), String> {
    let link = link.map_err(|error| error.to_string())?;
    link.pin(path).map(drop).map_err(|error| error.to_string())
}

/// Whether the kernel says that the interface of a link is no more.
fn is_gone(error: &ProgramError) -> bool {
    matches!(error, ProgramError::SyscallError(call) if call.io_error.raw_os_error() == Some(Errno::ENOLINK as i32))
}

fn xdp_of(ebpf: &mut Ebpf) -> Result<&mut Xdp, Error> {
    let missing = |what: String| Error::Load(what, kernel_release());
    let program = ebpf.program_mut(PROGRAM).ok_or_else(|| missing(format!("no program `{PROGRAM}`")))?;
    program.try_into().map_err(|error: ProgramError| missing(error.to_string()))
}

fn egress_of(ebpf: &mut Ebpf) -> Result<&mut SchedClassifier, Error> {
    let missing = |what: String| Error::Load(what, kernel_release());
    let program = ebpf.program_mut(EGRESS).ok_or_else(|| missing(format!("no program `{EGRESS}`")))?;
    program.try_into().map_err(|error: ProgramError| missing(error.to_string()))
}

/// A loader of the object with maps of these sizes.
fn loader<'a>(sizes: &[(&'a str, u32)], log_level: &'a u8) -> EbpfLoader<'a> {
    let mut loader = EbpfLoader::new();
    for (name, size) in sizes {
        loader.map_max_entries(name, *size);
    }
    loader.override_global(aya_log::LEVEL, log_level, true);
    loader
}

fn kernel_release() -> String {
    nix::sys::utsname::uname()
        .map_or_else(|_| "an unknown release".to_owned(), |uname| uname.release().to_string_lossy().into_owned())
}

/// The innermost error says what the kernel said: EPERM to who may load nothing, EACCES or EINVAL if the verifier
/// refuses, and then the end of its log says why.
fn load_error(error: &(dyn std::error::Error + 'static)) -> Error {
    let (mut innermost, mut refused) = (error, None);
    loop {
        if let Some(ProgramError::LoadError { io_error, verifier_log }) = innermost.downcast_ref() {
            refused = Some(format!("{io_error}, at `{}`", last_words(&verifier_log.to_string())));
        }
        match innermost.source() {
            Some(source) => innermost = source,
            None => break,
        }
    }
    let errno = innermost.downcast_ref().and_then(std::io::Error::raw_os_error).map(Errno::from_raw);
    if errno == Some(Errno::EPERM) {
        return Error::Permission(innermost.to_string());
    }
    Error::Load(refused.unwrap_or_else(|| error.to_string()), kernel_release())
}

/// The last line of a verifier's log but its statistics: what it refused, and why. The whole is thousands of lines.
fn last_words(log: &str) -> &str {
    let statistics = ["processed ", "verification time ", "stack depth "];
    let mut lines = log.lines().map(str::trim).rev();
    lines.find(|line| !line.is_empty() && !statistics.iter().any(|word| line.starts_with(word))).unwrap_or("no log")
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    #[test]
    fn a_refusal_takes_three_lines_and_says_why() {
        let log = "1433: (85) call bpf_xdp_load_bytes#189\nR3 min value is outside of the allowed memory range\n\
                   verification time 11214 usec\nstack depth 192+0\nprocessed 564 insns (limit 1000000)\n";
        assert_eq!(last_words(log), "R3 min value is outside of the allowed memory range");
        assert_eq!(last_words(""), "no log");
    }

    #[test]
    fn only_a_missing_right_is_called_one() {
        let text = |errno| load_error(&io::Error::from_raw_os_error(errno)).to_string();
        assert!(text(nix::libc::EPERM).contains("needs root"));
        assert!(text(nix::libc::EACCES).contains("refused") && text(nix::libc::EACCES).lines().count() <= 3);
    }
}
