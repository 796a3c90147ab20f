//! What is loaded, pinned and attached, as the configuration wants it: for `detector run`, which may have to do with what
//! another process has pinned, and for `detector attach`, which pins.

use detector_common::{
    key::Seeds,
    settings::{RESET_TICK_BITS, Settings},
};
use nix::unistd::Gid;
use tracing::{info, warn};

use super::Error;
use crate::{
    clock::monotonic,
    config::{Addresses, Config, Limits, Mode, XdpMode},
    enforce::{self, Enforcer},
    fingerprint::key::random_seeds,
    kernel::{
        self, AddressWatch, Attached, CounterMap, Kernel, KernelLog, LoadOptions, Maps, Pins, Rings, VerdictMaps as _,
        interface, may_load, own_addresses,
    },
    policy::rules::Rules,
};

/// What there is to begin with.
pub(super) enum Start {
    /// Nothing is pinned: this process loads, and what it loads goes with it.
    Alone,
    /// This process loads in the place of what is pinned.
    Pins(Pins),
    /// What is pinned is used as it is: this process may not load.
    Borrowed(Pins),
}

impl Start {
    /// Looks at the directory of pins.
    ///
    /// # Errors
    /// If this process may not, or another one has it.
    pub(super) fn of(config: &Config) -> Result<Self, kernel::Error> {
        let directory = &config.admin.pins;
        match (Pins::are_in(directory), may_load()) {
            // Without the right to load either: the kernel's refusal has the words for that.
            (false, _) => Ok(Self::Alone),
            (true, true) => Ok(Self::Pins(Pins::open(directory, None)?)),
            (true, false) => Ok(Self::Borrowed(Pins::borrow(directory)?)),
        }
    }

    /// What is pinned, if anything is.
    pub(super) const fn pins(&self) -> Option<&Pins> {
        match self {
            Self::Alone => None,
            Self::Pins(pins) | Self::Borrowed(pins) => Some(pins),
        }
    }
}

/// The names of the interfaces: those of the configuration, or those that have a pinned link, or that of the default
/// route.
///
/// # Errors
/// If one can't be attached to.
pub(super) fn interfaces(config: &Config, pins: Option<&Pins>) -> Result<Vec<String>, kernel::Error> {
    let mut names = config.capture.interfaces.clone();
    if let Some(pins) = pins
        && names.is_empty()
    {
        names.extend(pins.attached()?.into_iter().map(|attached| attached.interface));
    }
    if names.is_empty() {
        names.push(interface::default_route()?);
    }
    for name in &names {
        interface::check(name)?;
    }
    Ok(names)
}

/// The program with its maps as the configuration wants them, attached nowhere yet; links that are pinned still have
/// their old program.
pub(super) struct Loaded {
    pub(super) kernel: Kernel,
    pub(super) enforcer: Enforcer<Maps>,
    pub(super) rings: Rings,
    pub(super) counters: CounterMap,
    /// Absent where the programs are borrowed.
    pub(super) log: Option<KernelLog>,
    pub(super) watch: Option<AddressWatch>,
    pub(super) seeds: Seeds,
}

/// Loads, or takes what is pinned.
///
/// # Errors
/// The kernel's.
pub(super) fn load(config: &Config, start: Start) -> Result<Loaded, kernel::Error> {
    let limits = &config.limits;
    let options = load_options(limits, tracing::enabled!(tracing::Level::DEBUG));
    let (kernel, mut maps, rings, counters, log) = match start {
        Start::Alone => own(Kernel::load(&options)?),
        Start::Pins(pins) => own(Kernel::load_pinned(&options, pins)?),
        Start::Borrowed(pins) => {
            let (kernel, maps, rings, counters) = Kernel::borrow(&options, pins)?;
            info!("without capabilities: uses what is pinned; `detector attach` sees to the interfaces");
            if options.debug {
                warn!(
                    "without capabilities the programs' own debug lines can't be had; `detector run` as root has them"
                );
            }
            (kernel, maps, rings, counters, None)
        }
    };
    maps.protect_ports(&config.capture.ports)?;
    let mode = maps.mode()?.configured(config.mode == Mode::Enforce, monotonic().as_nanos());
    maps.set_mode(mode)?;
    maps.beat(monotonic())?;
    let (local_only, watch) = protect(&mut maps, &config.capture.addresses)?;
    let known = maps.settings();
    // Verdicts that are in force go by these.
    let seeds = if known.seeds == Seeds::default() { random_seeds() } else { known.seeds };
    let settings = Settings {
        local_only: u32::from(local_only),
        segments_per_flow: limits.segments_per_flow,
        syns: u32::from(config.capture.syns),
        answers: u32::from(config.capture.answers),
        udp: u32::from(config.capture.udp),
        keys: 1,
        resets: if config.reset { resets(limits.resets_per_second) } else { 0 },
        seeds,
        follow_ns: u64::try_from(limits.partial_age.as_nanos()).unwrap_or(u64::MAX),
        ..known
    };
    let mut rules = Rules::default();
    rules.configure(config.deny_ja4.iter().copied());
    let found = maps.entries();
    let mut enforcer = Enforcer::new(maps, settings, rules, enforce_limits(limits))?;
    enforcer.adopt(found, monotonic())?;
    Ok(Loaded { kernel, enforcer, rings, counters, log, watch, seeds })
}

/// Pins the programs and attaches them, or gives what is pinned this build's programs and this configuration. They stay
/// when this returns. They are lent to `group`; without one, to whom they were before. Beside a daemon that has borrowed
/// them, what is off its interface is attached again, and nothing else is changed. Says what is attached where.
///
/// # Errors
/// If that can't be done. Then nothing is left attached that wasn't before.
pub fn attach(config: &Config, group: Option<Gid>) -> Result<Vec<Attached>, Error> {
    let directory = &config.admin.pins;
    let before = Pins::are_in(directory);
    let (pins, beside) = match Pins::open(directory, group) {
        Err(kernel::Error::InUse { .. }) => (Pins::beside(directory)?, true),
        opened => (opened?, false),
    };
    let attached = interfaces(config, Some(&pins)).and_then(|interfaces| {
        let mut kernel = if beside {
            let options = load_options(&config.limits, tracing::enabled!(tracing::Level::DEBUG));
            // Other programs, or other sizes, would be for another daemon than the one that runs.
            let in_use = |_| kernel::Error::InUse { directory: directory.clone() };
            Kernel::beside(&options, pins).map_err(in_use)?
        } else {
            load(config, Start::Pins(pins))?.kernel
        };
        kernel.replace()?;
        attach_egress(&mut kernel, config.capture.egress, &interfaces)?;
        attach_all(&mut kernel, config.capture.xdp_mode, &interfaces)
    });
    if attached.is_err() && !before {
        kernel::detach(directory)?;
    }
    Ok(attached?)
}

/// Attaches the egress program everywhere, if it is `wanted`. `false`, and a line in the log, if that fails anywhere:
/// hellos are then captured all the same.
///
/// # Errors
/// The kernel's, where it is not wanted.
pub(super) fn attach_egress(kernel: &mut Kernel, wanted: bool, interfaces: &[String]) -> Result<bool, kernel::Error> {
    if !wanted {
        kernel.detach_egress()?;
        return Ok(false);
    }
    for name in interfaces {
        if let Err(error) = kernel.attach_egress(name) {
            warn!(
                %error,
                "no proof of address by SYN-ACKs and no JA3S; the host's own sockets prove addresses; \
                 `egress = false` in [capture] ends this warning"
            );
            return Ok(false);
        }
    }
    Ok(true)
}

/// Attaches the XDP program to these interfaces, and to no others.
///
/// # Errors
/// The kernel's.
pub(super) fn attach_all(
    kernel: &mut Kernel,
    mode: XdpMode,
    interfaces: &[String],
) -> Result<Vec<Attached>, kernel::Error> {
    let attached = interfaces.iter().map(|name| kernel.attach(name, mode)).collect::<Result<_, _>>()?;
    kernel.keep_only(interfaces)?;
    Ok(attached)
}

type Parts = (Kernel, Maps, Rings, CounterMap, Option<KernelLog>);

fn own((kernel, maps, rings, counters, log): (Kernel, Maps, Rings, CounterMap, KernelLog)) -> Parts {
    (kernel, maps, rings, counters, Some(log))
}

fn load_options(limits: &Limits, debug: bool) -> LoadOptions {
    LoadOptions {
        ring_bytes: limits.ring_bytes,
        unconfirmed_ring_bytes: limits.unconfirmed_ring_bytes,
        handshakes: limits.handshakes,
        follow: limits.partial_hellos,
        waiting: limits.disordered_hellos,
        table: limits
            .addresses
            .saturating_add(limits.prefixes)
            .saturating_add(limits.automatic)
            .saturating_add(limits.ja4_rules)
            .saturating_add(limits.quic_sources),
        rates: limits.rates,
        prefixes: limits.prefixes,
        allow: limits.allow,
        connections: limits.connections,
        open: limits.known_connections,
        debug,
    }
}

fn enforce_limits(limits: &Limits) -> enforce::Limits {
    enforce::Limits {
        addresses: limits.addresses as usize,
        prefixes: limits.prefixes as usize,
        ja4_rules: limits.ja4_rules as usize,
        quic_sources: limits.quic_sources as usize,
        automatic: limits.automatic as usize,
        automatic_per_second: limits.automatic_per_second,
        units: limits.units as usize,
    }
}

/// How many resets a CPU may make in a tick; never 0, which would turn them off.
fn resets(per_second: u32) -> u32 {
    const TICKS_PER_SECOND: u32 = 1_000_000_000_u32.div_ceil(1 << RESET_TICK_BITS);
    per_second.div_ceil(TICKS_PER_SECOND)
}

/// Makes the configured addresses, or this host's own, the protected ones.
fn protect(maps: &mut Maps, addresses: &Addresses) -> Result<(bool, Option<AddressWatch>), kernel::Error> {
    match addresses {
        Addresses::Any => Ok((false, None)),
        Addresses::Listed(listed) => {
            maps.protect_addresses(listed.clone())?;
            Ok((true, None))
        }
        Addresses::Own => {
            // Watching starts before reading, so that no change falls between the two.
            let watch = AddressWatch::new()?;
            maps.protect_addresses(own_addresses()?)?;
            Ok((true, Some(watch)))
        }
    }
}
