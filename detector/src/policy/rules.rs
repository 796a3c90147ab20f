//! Which fingerprints are to be blocked: a hello's JA4 in, a [`Decision`] out. Pure; the bound is the caller's.

use std::collections::HashMap;

use crate::{clock::Timestamp, fingerprint::Ja4};

/// Who wanted it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// `detector block`: holds in every mode.
    Operator,
    /// `deny.ja4` of the configuration: holds only while enforcing.
    Rule,
    /// What watches clients, or a program on the operator's behalf: holds only while enforcing, and while the daemon lives.
    Automatic,
}

impl Origin {
    /// The word for it in output.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Operator => "operator",
            Self::Rule => "config",
            Self::Automatic => "automatic",
        }
    }
}

/// What is to be done with the connection of a hello.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Nothing is against it.
    Pass,
    /// Block it.
    Block {
        /// Who wants it.
        origin: Origin,
        /// Until when; `None` is forever.
        until: Option<Timestamp>,
    },
}

#[derive(Clone, Copy, Debug)]
struct Rule {
    until: Option<Timestamp>,
    hits: u64,
}

impl Rule {
    fn live(&self, now: Timestamp) -> bool {
        self.until.is_none_or(|until| now < until)
    }
}

/// A rule as `detector list` shows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ListedRule {
    /// The JA4 value it blocks.
    pub ja4: Ja4,
    /// Who wants it.
    pub origin: Origin,
    /// Until when; `None` is forever.
    pub until: Option<Timestamp>,
    /// Hellos it decided.
    pub hits: u64,
}

/// The fingerprints to block.
#[derive(Debug, Default)]
pub struct Rules {
    operator: HashMap<Ja4, Rule>,
    config: HashMap<Ja4, Rule>,
}

impl Rules {
    /// Replaces the configuration's rules. One that stays goes on counting.
    pub fn configure(&mut self, ja4: impl IntoIterator<Item = Ja4>) {
        let new = Rule { until: None, hits: 0 };
        self.config = ja4.into_iter().map(|ja4| (ja4, self.config.get(&ja4).copied().unwrap_or(new))).collect();
    }

    /// Adds or replaces an operator's rule.
    pub fn block(&mut self, ja4: Ja4, until: Option<Timestamp>) {
        self.operator.insert(ja4, Rule { until, hits: 0 });
    }

    /// Takes an operator's rule back; whether there was one.
    pub fn unblock(&mut self, ja4: Ja4) -> bool {
        self.operator.remove(&ja4).is_some()
    }

    /// How many operator's rules there are.
    #[must_use]
    pub fn operator_rules(&self) -> usize {
        self.operator.len()
    }

    /// How many rules there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.operator.len() + self.config.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The decision on a hello with this fingerprint. An operator's rule goes before the configuration's.
    pub fn decide(&mut self, ja4: Ja4, now: Timestamp) -> Decision {
        for (rules, origin) in [(&mut self.operator, Origin::Operator), (&mut self.config, Origin::Rule)] {
            if let Some(rule) = rules.get_mut(&ja4)
                && rule.live(now)
            {
                rule.hits += 1;
                return Decision::Block { origin, until: rule.until };
            }
        }
        Decision::Pass
    }

    /// Who wants clients with this fingerprint blocked, if anybody does; asking is no hit.
    #[must_use]
    pub fn find(&self, ja4: Ja4, now: Timestamp) -> Option<Origin> {
        let live = |rules: &HashMap<Ja4, Rule>| rules.get(&ja4).is_some_and(|rule| rule.live(now));
        let rules = [(&self.operator, Origin::Operator), (&self.config, Origin::Rule)];
        rules.into_iter().find_map(|(rules, origin)| live(rules).then_some(origin))
    }

    /// Forgets rules that have expired.
    pub fn expire(&mut self, now: Timestamp) {
        self.operator.retain(|_, rule| rule.live(now));
    }

    /// The rules in force.
    pub fn iter(&self) -> impl Iterator<Item = ListedRule> + '_ {
        let list = |origin| {
            move |(ja4, rule): (&Ja4, &Rule)| ListedRule { ja4: *ja4, origin, until: rule.until, hits: rule.hits }
        };
        self.operator.iter().map(list(Origin::Operator)).chain(self.config.iter().map(list(Origin::Rule)))
    }
}
