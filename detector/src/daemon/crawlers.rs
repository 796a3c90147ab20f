//! Who claims to be a crawler, looked up in DNS by this host's resolvers: the names of its address, and whether one below
//! the crawler's domain leads back to it. One query at a time, so many a second; nobody waits for it.

use std::fs;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use hickory_resolver::Resolver;
use hickory_resolver::config::{NameServerConfig, ResolverConfig};
use hickory_resolver::net::NetError;
use hickory_resolver::proto::rr::{RData, RecordType};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tracing::debug;

use super::reputation::Reputation;
use crate::broker::{Opener, names::Names};
use crate::clock::monotonic;
use crate::policy::never_block::resolvers;
use crate::reputation::{Answer, Check};

/// Names of one address that are led back: who makes its own reverse zone could name thousands (threats.md T6).
const NAMES_MAX: usize = 4;
/// For one query.
const PATIENCE: Duration = Duration::from_secs(2);
/// How often it is looked whether anybody claims anything.
const IDLE: Duration = Duration::from_millis(100);

/// Looks up claims, one after the other.
pub(super) struct Detective {
    reputation: Reputation,
    resolv_conf: Vec<PathBuf>,
    opener: Opener,
    /// Between two queries.
    pause: Duration,
}

impl Detective {
    /// `None` if DNS is not to be asked. What it is asked by is `opener`'s.
    pub(super) fn new(
        reputation: Reputation,
        resolv_conf: Vec<PathBuf>,
        opener: Opener,
        per_second: u32,
    ) -> Option<Self> {
        let pause = Duration::from_secs(1).checked_div(per_second)?;
        Some(Self { reputation, resolv_conf, opener, pause })
    }

    /// Until `stop`.
    pub(super) async fn run(self, stop: CancellationToken) {
        stop.run_until_cancelled(async {
            loop {
                let Some(check) = self.reputation.next_check() else {
                    sleep(IDLE).await;
                    continue;
                };
                let answer = self.look_up(check).await;
                debug!(target: "detector::crawlers", address = %check.address, crawler = check.crawler.name(), answer = answer.label(), "looked up");
                self.reputation.answered(check, answer, monotonic());
            }
        })
        .await;
    }

    async fn look_up(&self, check: Check) -> Answer {
        // Read each time: the resolvers may have changed, and it is seldom.
        let Some(resolver) = self.resolver() else { return Answer::Failed };
        let names = match self.query(resolver.reverse_lookup(check.address)).await {
            Ok(found) => found,
            Err(answer) => return answer,
        };
        let mut names: Vec<String> = names
            .answers()
            .iter()
            .filter_map(|record| if let RData::PTR(name) = &record.data { Some(name.0.to_utf8()) } else { None })
            .filter(|name| check.crawler.is_host(name))
            .collect();
        names.truncate(NAMES_MAX);
        let kind = if check.address.is_ipv4() { RecordType::A } else { RecordType::AAAA };
        let mut answer = Answer::Denied;
        for name in names {
            match self.query(resolver.lookup(name, kind)).await {
                Ok(found) => {
                    let leads_back = found.answers().iter().any(|record| match &record.data {
                        RData::A(address) => IpAddr::V4(address.0) == check.address,
                        RData::AAAA(address) => IpAddr::V6(address.0) == check.address,
                        _ => false,
                    });
                    if leads_back {
                        return Answer::Confirmed;
                    }
                }
                Err(Answer::Failed) => answer = Answer::Failed,
                Err(_) => {}
            }
        }
        answer
    }

    /// One query, and the pause after it. The error: what it means if that is all.
    async fn query<T>(&self, query: impl Future<Output = Result<T, NetError>>) -> Result<T, Answer> {
        let found = query.await;
        sleep(self.pause).await;
        found.map_err(
            |error| if error.is_no_records_found() || error.is_nx_domain() { Answer::Denied } else { Answer::Failed },
        )
    }

    fn resolver(&self) -> Option<Resolver<Names>> {
        let texts = self.resolv_conf.iter().filter_map(|path| fs::read_to_string(path).ok());
        let servers: Vec<NameServerConfig> =
            texts.flat_map(|text| resolvers(&text)).take(3).map(NameServerConfig::udp_and_tcp).collect();
        let config = ResolverConfig::from_parts(None, Vec::new(), servers);
        let mut builder = Resolver::builder_with_config(config, Names::new(self.opener.clone()));
        let options = builder.options_mut();
        options.timeout = PATIENCE;
        options.attempts = 1;
        // Answers are remembered elsewhere.
        options.cache_size = 0;
        options.num_concurrent_reqs = 1;
        builder.build().ok()
    }
}
