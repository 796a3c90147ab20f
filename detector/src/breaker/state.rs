//! One breaker: the shares of people stopped in, its state out.

use super::Settings;
use crate::clock::Timestamp;

/// Where a breaker stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum State {
    /// Verdicts hold.
    #[default]
    Closed,
    /// They hold for a small share.
    HalfOpen,
    /// They only count.
    Open,
}

impl State {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Closed, Self::HalfOpen, Self::Open];

    /// The word for it in output and in metrics.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::HalfOpen => "half_open",
            Self::Open => "open",
        }
    }
}

#[derive(Debug, Default)]
pub(super) struct Circuit {
    state: State,
    /// When it came to this state: what was before is settled.
    since: Timestamp,
    /// Probe periods without harm.
    clean: u32,
    /// When the one that goes on began.
    period: Timestamp,
}

impl Circuit {
    pub(super) fn new(now: Timestamp) -> Self {
        Self { since: now, period: now, ..Self::default() }
    }

    pub(super) const fn state(&self) -> State {
        self.state
    }

    /// `counts`: people stopped, and people seen, since a moment. The new state, if it changed.
    pub(super) fn tick(
        &mut self,
        counts: impl Fn(Timestamp) -> (f32, f32),
        settings: &Settings,
        now: Timestamp,
    ) -> Option<State> {
        let harms = |since: Timestamp, share: f32| {
            let (stopped, seen) = counts(since.max(self.since));
            stopped >= settings.least as f32 && stopped > share * seen
        };
        let harm = harms(now.before(settings.fast_window), settings.fast_share)
            || harms(now.before(settings.window), settings.share);
        let state = match self.state {
            State::Closed if harm => State::Open,
            State::Open if now.since(self.since) >= settings.open => State::HalfOpen,
            State::HalfOpen if harm => State::Open,
            State::HalfOpen => {
                if now.since(self.period) < settings.probe {
                    return None;
                }
                (self.period, self.clean) = (now, self.clean.saturating_add(1));
                if self.clean < settings.probes {
                    return None;
                }
                State::Closed
            }
            State::Closed | State::Open => return None,
        };
        *self = Self { state, ..Self::new(now) };
        Some(state)
    }
}
