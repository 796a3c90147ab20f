//! What a reload takes over: two configurations in, the one that is in force afterwards out. What isn't here is made at the
//! start, and no swap of values changes it: sockets, tables of a size, programs in the kernel.

use super::Config;

/// Sections of which every key is live, but for [`FIXED`].
const SECTIONS: [&str; 7] = ["deny", "feeds", "score", "behaviour", "network", "policy", "breaker"];
/// Live keys of other sections.
const KEYS: [&str; 9] = [
    "enforce.mode",
    "enforce.never_block",
    "enforce.max_browser_percent",
    "signals.trusted_proxies",
    "reputation.asn_database",
    "reputation.country_database",
    "reputation.hosting_asns",
    "log.filter",
    "limits.assessed_per_second",
];
/// Sizes of tables.
const FIXED: [&str; 1] = ["breaker.sites"];

/// Whether a reload makes a change of a key (`policy.block_ttl`) take effect; else the daemon needs a restart.
#[must_use]
pub fn is_live(key: &str) -> bool {
    let section = key.split('.').next().unwrap_or_default();
    KEYS.contains(&key) || SECTIONS.contains(&section) && !FIXED.contains(&key)
}

impl Config {
    /// This, with what is live of `new`.
    #[must_use]
    pub fn reloaded(&self, new: Self) -> Self {
        let mut now = self.clone();
        now.mode = new.mode;
        now.deny_ja4 = new.deny_ja4;
        now.orders.never_block = new.orders.never_block;
        now.orders.max_browser_percent = new.orders.max_browser_percent;
        now.signals.trusted_proxies = new.signals.trusted_proxies;
        now.feeds = new.feeds;
        now.reputation.asn_database = new.reputation.asn_database;
        now.reputation.country_database = new.reputation.country_database;
        now.reputation.hosting_asns = new.reputation.hosting_asns;
        now.engine = new.engine;
        now.engine.breaker.sites = self.engine.breaker.sites;
        now.log.filter = new.log.filter;
        now.limits.assessed_per_second = new.limits.assessed_per_second;
        now
    }
}

#[cfg(test)]
mod tests {
    use super::super::layers::keys;
    use super::*;

    /// Values of which each key takes one that isn't its default.
    const VALUES: [&str; 29] = [
        "false",
        "true",
        "5",
        "7",
        "300",
        "3000",
        "70000",
        "0.5",
        "0.01",
        "0.99",
        "\"1m30s\"",
        "\"1MiB\"",
        "\"8KiB\"",
        "\"generic\"",
        "\"enforce\"",
        "\"rate-limit\"",
        "\"10/m\"",
        "\"127.0.0.1:9\"",
        "\"debug\"",
        "\"text\"",
        "\"/tmp/x\"",
        "[444]",
        "[\"10.0.0.1\"]",
        "[\"t13d1516h2_8daaf6152771_e5627efa2ab1\"]",
        "[\"/x\"]",
        "{ network = \"off\" }",
        "{ network = 1 }",
        "{ trap-path = 1 }",
        "{ a.challenge_status = 401 }",
    ];

    #[test]
    fn a_reload_takes_over_the_live_keys_and_no_other() {
        let base = Config::default();
        for (section, key) in keys() {
            let text = |value: &&&str| format!("[{section}]\n{key} = {value}\n");
            // Says something only beside another key.
            if (section, key) == ("inline", "beyond_loopback") {
                continue;
            }
            let list = "{ a = { class = \"tor\", file = \"/x\" } }";
            let mut other = VALUES.iter().chain([&list]).filter_map(|value| Config::parse("f", &text(&value)).ok());
            let other = other.rfind(|config| *config != base);
            let other = other.unwrap_or_else(|| panic!("no other value of {section}.{key}"));
            let (live, took) = (is_live(&format!("{section}.{key}")), base.reloaded(other.clone()) == other);
            assert_eq!(took, live, "{section}.{key}");
        }
    }
}
