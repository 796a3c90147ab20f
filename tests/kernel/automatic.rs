//! Automatic verdicts against the kernel's own maps: however many there are, what an operator said stays, and what had to
//! go comes back (threats.md T8); nobody alive, they end (T49).

use std::{net::IpAddr, time::Duration};

use detector::{
    clock::monotonic,
    enforce::{
        self, Enforcer,
        automatic::{Automatic, Placed, unit_slot},
    },
    kernel::{Kernel, LoadOptions, Maps, VerdictMaps as _},
    policy::rules::Rules,
};
use detector_common::{
    key::Keys,
    mode::{Mode, WHOLE_SHARE},
    settings::Settings,
    verdict::{Action, REASON_EXTERNAL},
};
use detector_tests::{
    deadline::{PATIENCE, until},
    lab::require_root,
};

use crate::bench::{DROP, PASS, Row, SERVER};

const AUTOMATIC: usize = 10_000;

/// The program, and the books over its maps.
struct Verdicts {
    kernel: Kernel,
    enforcer: Enforcer<Maps>,
}

impl Verdicts {
    fn new() -> Self {
        require_root().expect("root");
        let options = LoadOptions { table: 12_000, ..LoadOptions::default() };
        let (kernel, mut maps, ..) = Kernel::load(&options).expect("the program loads");
        maps.protect_ports(&[443]).expect("ports");
        maps.protect_addresses(vec![SERVER]).expect("addresses");
        maps.set_mode(Mode::lasting(true, WHOLE_SHARE)).expect("a mode");
        maps.beat(monotonic()).expect("a sign of life");
        let limits = enforce::Limits {
            addresses: 1_000,
            prefixes: 100,
            ja4_rules: 10,
            quic_sources: 10,
            automatic: AUTOMATIC,
            automatic_per_second: u32::MAX,
            units: 1,
        };
        let settings = Settings { local_only: 1, ..Settings::default() };
        let enforcer = Enforcer::new(maps, settings, Rules::default(), limits).expect("maps of ours");
        Self { kernel, enforcer }
    }

    fn block(&mut self, client: IpAddr, ttl: Duration) {
        let verdict = Automatic { action: Action::Block, reason: REASON_EXTERNAL, rate: None, ja4: None, ttl };
        let placed = self.enforcer.automatic(unit_slot(client), verdict, monotonic()).expect("room in the table");
        assert_eq!(placed, Placed::InForce);
    }

    /// What the program does with a packet of the client's.
    fn act(&mut self, client: IpAddr) -> u32 {
        let mut row = Row::new(b"x");
        row.source.set_ip(client);
        self.kernel.test_run(&row.frame(), 1).expect("the kernel takes the frame").0
    }
}

fn client(number: u32) -> IpAddr {
    IpAddr::from((u32::from_be_bytes([198, 18, 0, 0]) + number).to_be_bytes())
}

fn operators(number: u8) -> IpAddr {
    IpAddr::from([203, 0, 113, number])
}

#[test]
fn twice_as_many_as_fit_cost_no_operators_entry_and_who_offends_again_is_blocked_again() {
    let mut verdicts = Verdicts::new();
    for number in 0..=255 {
        verdicts.enforcer.block_address(operators(number), None).unwrap();
    }
    let allowed = client(7);
    verdicts.enforcer.allow(allowed.into(), None).unwrap();
    let all = 2 * AUTOMATIC as u32;
    for number in 0..all {
        // Those that come first end first.
        verdicts.block(client(number), Duration::from_secs(3600 + u64::from(number)));
    }
    assert_eq!(verdicts.enforcer.automatic_lost().0, u64::from(all) / 2);
    for number in 0..=255 {
        assert_eq!(verdicts.act(operators(number)), DROP, "{number}");
    }
    let step = 97;
    for number in (0..all).step_by(step) {
        let expected = if number < all / 2 { PASS } else { DROP };
        assert_eq!(verdicts.act(client(number)), expected, "{number}");
    }
    verdicts.block(allowed, Duration::from_secs(1 << 16));
    assert_eq!(verdicts.act(allowed), PASS, "the allow list");

    // The next hello of one that had to go.
    let again = client(100);
    let (source, destination) = ((again, 40_000).into(), (SERVER, 443).into());
    let fingerprint = ("t13d1516h2_8daaf6152771_d8a2da3f94cd".parse().unwrap(), Keys { key: 1, stable: 2 });
    verdicts.enforcer.judge(source, destination, 1, fingerprint, monotonic()).unwrap();
    assert_eq!(verdicts.act(again), DROP);
}

#[test]
fn ten_thousand_verdicts_end_in_time_with_nobody_alive() {
    let mut verdicts = Verdicts::new();
    let before = monotonic();
    for number in 0..AUTOMATIC as u32 {
        verdicts.block(client(number), Duration::from_secs(4));
    }
    // As if its daemon were gone: nobody clears them, and nobody gives a sign of life.
    let Verdicts { mut kernel, enforcer: _idle } = verdicts;
    let mut row = Row::new(b"x");
    let mut act = |number| {
        row.source.set_ip(client(number));
        kernel.test_run(&row.frame(), 1).expect("the kernel takes the frame").0
    };
    for number in (0..AUTOMATIC as u32).step_by(199) {
        assert_eq!(act(number), DROP, "{number}");
    }
    until("the last to end", PATIENCE, || Ok((act(AUTOMATIC as u32 - 1) == PASS).then_some(()))).unwrap();
    let lasted = monotonic().since(before);
    assert!(lasted >= Duration::from_secs(4), "{lasted:?}");
    for number in (0..AUTOMATIC as u32).step_by(199) {
        assert_eq!(act(number), PASS, "{number}");
    }
}
