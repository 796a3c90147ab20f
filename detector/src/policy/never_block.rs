//! What no block may reach: the addresses by which the host lives and its operator gets in. A prefix that somebody wants
//! to block in, what of it is spared out. Bound: the caller's.

use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;

/// Why an address is never blocked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Why {
    /// It is this host's.
    Own,
    /// Its packets leave by it.
    Gateway,
    /// It resolves names.
    Resolver,
    /// `enforce.never_block` names it.
    Configured,
    /// `signals.trusted_proxies` names it: its packets are those of all its clients.
    Proxy,
    /// An operator's SSH session comes from it.
    Ssh,
}

impl Why {
    /// All of them.
    pub const ALL: &[Self] = &[Self::Own, Self::Gateway, Self::Resolver, Self::Configured, Self::Proxy, Self::Ssh];

    /// The metric label.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Own => "own",
            Self::Gateway => "gateway",
            Self::Resolver => "resolver",
            Self::Configured => "configured",
            Self::Proxy => "proxy",
            Self::Ssh => "ssh",
        }
    }
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Own => "an address of this host",
            Self::Gateway => "a gateway of this host",
            Self::Resolver => "a resolver of this host",
            Self::Configured => "in `enforce.never_block`",
            Self::Proxy => "in `signals.trusted_proxies`",
            Self::Ssh => "where an operator's SSH session comes from",
        })
    }
}

/// An address or prefix, and why it is never blocked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Spared {
    /// Which.
    pub prefix: IpNet,
    /// Why.
    pub why: Why,
}

impl fmt::Display for Spared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.prefix.prefix_len() == self.prefix.max_prefix_len() {
            true => write!(f, "{} ({})", self.prefix.addr(), self.why),
            false => write!(f, "{} ({})", self.prefix, self.why),
        }
    }
}

/// What a block of a prefix comes to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// All of it is blocked.
    Whole,
    /// These stay reachable, in it.
    Except(Vec<Spared>),
    /// Nothing of it would be blocked, for this.
    Nothing(Spared),
}

/// Everything that is never blocked, each prefix once.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NeverBlock {
    /// Sorted.
    spared: Vec<Spared>,
    /// The same with what adjoins put together.
    joined: Vec<IpNet>,
}

impl NeverBlock {
    /// Of these. One that is named for several reasons keeps the first of [`Why`].
    #[must_use]
    pub fn new(mut spared: Vec<Spared>) -> Self {
        spared.sort_unstable();
        spared.dedup_by_key(|spared| spared.prefix);
        let prefixes: Vec<IpNet> = spared.iter().map(|spared| spared.prefix).collect();
        Self { joined: IpNet::aggregate(&prefixes), spared }
    }

    /// Each of them.
    pub fn iter(&self) -> impl Iterator<Item = &Spared> {
        self.spared.iter()
    }

    /// What a block of `prefix` comes to.
    #[must_use]
    pub fn effect(&self, prefix: IpNet) -> Effect {
        let inside = || self.spared.iter().filter(|spared| prefix.contains(&spared.prefix));
        if self.joined.iter().any(|joined| joined.contains(&prefix)) {
            let around = self.spared.iter().find(|spared| spared.prefix.contains(&prefix));
            if let Some(spared) = around.or_else(|| inside().next()) {
                return Effect::Nothing(*spared);
            }
        }
        let inside: Vec<Spared> = inside().copied().collect();
        if inside.is_empty() { Effect::Whole } else { Effect::Except(inside) }
    }
}

/// Variables of sshd(8) that begin with the client's address.
pub const SSH_VARIABLES: [&str; 2] = ["SSH_CONNECTION", "SSH_CLIENT"];

/// The client that one of [`SSH_VARIABLES`] names.
#[must_use]
pub fn ssh_client(value: &str) -> Option<IpAddr> {
    value.split_whitespace().next().and_then(address)
}

/// An address, without the interface that stands behind a link-local one: `fe80::1%eth0`.
fn address(word: &str) -> Option<IpAddr> {
    word.split('%').next()?.parse().ok()
}

/// The resolvers that the text of a resolv.conf(5) names.
#[must_use]
pub fn resolvers(text: &str) -> Vec<IpAddr> {
    let named = text.lines().filter_map(|line| {
        let mut words = line.split_whitespace();
        words.next().filter(|key| *key == "nameserver").and(words.next()).and_then(address)
    });
    named.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn net(text: &str) -> IpNet {
        text.parse().unwrap()
    }

    fn spared(text: &str, why: Why) -> Spared {
        Spared { prefix: net(text), why }
    }

    #[test]
    fn what_is_left_of_a_block() {
        let gateway = spared("10.0.0.1/32", Why::Gateway);
        let peers = [spared("192.0.2.0/25", Why::Configured), spared("192.0.2.128/25", Why::Configured)];
        let router = spared("fe80::1/128", Why::Gateway);
        let never = NeverBlock::new(vec![gateway, peers[0], peers[1], router]);
        assert_eq!(never.effect(net("10.0.0.1/32")), Effect::Nothing(gateway));
        assert_eq!(never.effect(net("10.0.0.0/8")), Effect::Except(vec![gateway]));
        assert_eq!(never.effect(net("10.0.0.2/32")), Effect::Whole);
        assert_eq!(never.effect(net("192.0.2.7/32")), Effect::Nothing(peers[0]));
        assert_eq!(never.effect(net("192.0.2.0/24")), Effect::Nothing(peers[0]), "the two of them are all of it");
        assert_eq!(never.effect(net("0.0.0.0/0")), Effect::Except(vec![gateway, peers[0], peers[1]]));
        assert_eq!(never.effect(net("fe80::/10")), Effect::Except(vec![router]));
        assert_eq!(NeverBlock::default().effect(net("0.0.0.0/0")), Effect::Whole);
    }

    #[test]
    fn resolvers_are_read_as_the_resolver_does() {
        let text = "# nameserver 192.0.2.1\nnameserver 192.0.2.2 # ours\nsearch example.net\n\tnameserver\tfe80::1%eth0\n\
                    nameservers 192.0.2.3\nnameserver example.net\nnameserver";
        let expected: Vec<IpAddr> = vec!["192.0.2.2".parse().unwrap(), "fe80::1".parse().unwrap()];
        assert_eq!(resolvers(text), expected);
    }

    #[test]
    fn one_address_has_one_reason() {
        let never = NeverBlock::new(vec![spared("10.0.0.1/32", Why::Ssh), spared("10.0.0.1/32", Why::Own)]);
        assert_eq!(never.iter().copied().collect::<Vec<_>>(), [spared("10.0.0.1/32", Why::Own)]);
        assert_eq!(never.iter().next().unwrap().to_string(), "10.0.0.1 (an address of this host)");
    }
}
