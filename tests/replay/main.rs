//! The engine through `detector replay`: connections made of recorded hellos and an access log in, what it says of each
//! request out. Each signal has a pair of scenes: one where it speaks, and one where a benign look-alike doesn't make it.

mod behaviour;
mod clients;
mod coherence;
mod network;
mod people;
mod policies;
mod reputation;

use std::collections::BTreeSet;

use anyhow::Result;
use detector::score::{Layer, Signal};
use detector_tests::replay::Scene;

/// A signal's two scenes.
struct Pair {
    signal: Signal,
    /// The configuration of both.
    policy: &'static str,
    /// It speaks of a request at least.
    fires: fn(&mut Scene) -> Result<()>,
    /// It speaks of none.
    silent: fn(&mut Scene) -> Result<()>,
}

/// The pairs of each layer.
const LAYERS: [(Layer, &[Pair]); 4] = [
    (Layer::Reputation, reputation::PAIRS),
    (Layer::Coherence, coherence::PAIRS),
    (Layer::Behaviour, behaviour::PAIRS),
    (Layer::Network, network::PAIRS),
];

#[test]
fn every_signal_of_these_layers_has_a_pair() {
    for (layer, pairs) in LAYERS {
        // That one needs a database of addresses: tests/pipeline/coherence.rs.
        let named = Signal::ALL.into_iter().filter(|signal| *signal != Signal::LanguageMismatch);
        let named: BTreeSet<Signal> = named.filter(|signal| signal.layer() == layer).collect();
        let paired: BTreeSet<Signal> = pairs.iter().map(|pair| pair.signal).collect();
        assert_eq!(paired, named, "{}", layer.label());
        assert_eq!(paired.len(), pairs.len(), "one pair each");
    }
}

#[test]
fn signals_speak_and_look_alikes_stay_silent() -> Result<()> {
    let mut wrong = Vec::new();
    for pair in LAYERS.iter().flat_map(|(_, pairs)| *pairs) {
        let spoke = |build: fn(&mut Scene) -> Result<()>| -> Result<usize> {
            let mut scene = Scene::default();
            build(&mut scene)?;
            let lines = scene.replay("", pair.policy)?;
            let named = |line: &&_| clients::has(line, pair.signal.name());
            Ok(lines.iter().filter(named).count())
        };
        if spoke(pair.fires)? == 0 {
            wrong.push(format!("`{}` doesn't speak", pair.signal.name()));
        }
        match spoke(pair.silent)? {
            0 => {}
            times => wrong.push(format!("`{}` speaks {times} times of its look-alike", pair.signal.name())),
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    Ok(())
}
