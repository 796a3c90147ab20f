//! The ten signals over a large log, beside what SQL says of the same log.

use std::net::Ipv4Addr;

use detector::clock::Timestamp;
use detector::fingerprint::Ja4;
use detector::signals::{ERROR, Figures, Request, Signals};
use rusqlite::{Connection, params};

const VALUES: u64 = 80;
const ADDRESSES: u64 = 120_000;
/// The log's length in seconds, and of how much of it there is an hour.
const LOG: u64 = 3 * 3600;
/// The daemon writes a snapshot this often.
const SNAPSHOT: u64 = 60;

const REQUESTS: u64 = 1_000_000;

struct Row {
    second: u64,
    ja4: Ja4,
    address: u32,
    agent: String,
    path: String,
    flags: [bool; 4],
}

impl Row {
    /// Line `number` of the log: of few JA4 values much, of many little, over more addresses the more there is.
    fn of(number: u64) -> Self {
        let dice = |salt: u64| {
            let mixed = (number ^ salt << 40).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            (mixed ^ mixed >> 29).wrapping_mul(0xbf58_476d_1ce4_e5b9) >> 20
        };
        let value = (VALUES as f64).powf(dice(1) as f64 / (1_u64 << 44) as f64) as u64 - 1;
        let client = dice(2) % (ADDRESSES >> (value / 8));
        Self {
            second: number * LOG / REQUESTS,
            ja4: ja4(value),
            address: 0x0a00_0000 + (value << 18 | client) as u32,
            agent: format!("agent/{}", dice(3) % (3 + (number % 5) * value * 20)),
            path: format!("/{}", dice(4) % (2 + (VALUES - value) * (VALUES - value))),
            flags: [5, 6, 7, 8].map(|salt| dice(salt) % 100 < value),
        }
    }

    fn request(&self) -> Request<'_> {
        let [h2h3, cacheable, heuristic, browser] = self.flags;
        Request {
            ja4: self.ja4,
            address: Ipv4Addr::from(self.address).into(),
            user_agent: Some(&self.agent),
            path: Some(&self.path),
            h2h3,
            cacheable,
            heuristic,
            browser,
            again: false,
        }
    }
}

fn ja4(number: u64) -> Ja4 {
    format!("t13d1516h2_8daaf6152771_{number:012x}").parse().unwrap()
}

fn at(second: u64) -> Timestamp {
    Timestamp::from_nanos(second * 1_000_000_000)
}

const TABLE: &str = "CREATE TABLE log (second INTEGER, ja4 TEXT, address INTEGER, agent TEXT, path TEXT, \
                     h2h3 INTEGER, cacheable INTEGER, heuristic INTEGER, browser INTEGER)";

/// What `Signals` says of the last hour before second ?1, of the log without the seconds ?2 to ?3.
const TEN: &str = "
    WITH hour AS (SELECT * FROM log WHERE second / 60 > ?1 / 60 - 60 AND second <= ?1 AND NOT second BETWEEN ?2 AND ?3),
    each AS (
        SELECT ja4, count(*) AS reqs, count(DISTINCT address) AS ips, count(DISTINCT agent) AS uas,
               count(DISTINCT path) AS paths, avg(h2h3) AS h2h3, avg(cacheable) AS cacheable,
               avg(heuristic) AS heuristic, avg(browser) AS browser
        FROM hour GROUP BY ja4)
    SELECT ja4, reqs, ips, uas, paths, h2h3, cacheable, heuristic, browser,
           rank() OVER (ORDER BY reqs DESC), cume_dist() OVER (ORDER BY reqs)
    FROM each";

/// A row of it.
#[derive(Debug)]
struct Truth {
    ja4: String,
    /// Requests, and different addresses, User-Agents and paths.
    numbers: [u64; 4],
    ratios: [f64; 4],
    reqs_rank: u32,
    reqs_quantile: f64,
}

fn truths(log: &Connection, now: u64, lost: (u64, u64)) -> Vec<Truth> {
    let mut query = log.prepare(TEN).unwrap();
    let rows = query.query_map(params![now, lost.0, lost.1], |row| {
        Ok(Truth {
            ja4: row.get(0)?,
            numbers: [row.get(1)?, row.get(2)?, row.get(3)?, row.get(4)?],
            ratios: [row.get(5)?, row.get(6)?, row.get(7)?, row.get(8)?],
            reqs_rank: row.get(9)?,
            reqs_quantile: row.get(10)?,
        })
    });
    rows.unwrap().collect::<Result<_, _>>().unwrap()
}

/// Three standard errors; what there are few of, in each hour of the log, is exact.
fn tolerance(number: u64) -> f64 {
    if number <= 1300 { 0.0 } else { 3.0 * ERROR }
}

/// The ranks that a number may have, if it and all others are told within their tolerance.
fn ranks(all: &[u64], number: u64) -> std::ops::RangeInclusive<u32> {
    let low = |number: u64| number as f64 * (1.0 - tolerance(number));
    let high = |number: u64| number as f64 * (1.0 + tolerance(number));
    let surely = all.iter().filter(|other| low(**other) > high(number)).count();
    let maybe = all.iter().filter(|other| high(**other) > low(number)).count();
    let itself = usize::from(high(number) > low(number));
    1 + surely as u32..=1 + (maybe - itself) as u32
}

fn compare(signals: &mut Signals, log: &Connection, now: u64, lost: (u64, u64)) {
    let truths = truths(log, now, lost);
    let ranking = signals.ranking(at(now));
    assert_eq!(ranking.len(), truths.len());
    let column = |which: usize| -> Vec<u64> { truths.iter().map(|truth| truth.numbers[which]).collect() };
    let [ips, uas, paths] = [1, 2, 3].map(column);
    for truth in &truths {
        let Figures { ten, last_hour, .. } = signals.figures(&ranking, truth.ja4.parse().unwrap()).unwrap();
        let ratios = [ten.h2h3_ratio_1h, ten.cache_ratio_1h, ten.heuristic_ratio_1h, ten.browser_ratio_1h];
        let near = |a: f64, b: f64| (a - b).abs() < 1e-9;
        assert!(ratios.iter().zip(truth.ratios).all(|(ours, sql)| near(*ours, sql)), "{ten:?}: {truth:?}");
        assert_eq!((last_hour.requests, ten.reqs_rank_1h), (truth.numbers[0], truth.reqs_rank));
        assert!(near(ten.reqs_quantile_1h, truth.reqs_quantile), "{ten:?}: {truth:?}");
        let sketched = [
            (last_hour.ips, ten.ips_rank_1h, truth.numbers[1], &ips),
            (last_hour.uas, ten.uas_rank_1h, truth.numbers[2], &uas),
            (last_hour.paths, ten.paths_rank_1h, truth.numbers[3], &paths),
        ];
        for (ours, rank, sql, all) in sketched {
            assert!(ours.abs_diff(sql) as f64 <= tolerance(sql) * sql as f64, "{ours} for {sql}: {truth:?}");
            assert!(ranks(all, sql).contains(&rank), "{rank} in {:?}: {truth:?}", ranks(all, sql));
        }
        let quantile = 1.0 - f64::from(ten.ips_rank_1h - 1) / truths.len() as f64;
        assert!(near(ten.ips_quantile_1h, quantile), "{ten:?}");
    }
}

#[test]
fn the_ten_signals_are_what_sql_says_of_the_raw_log_also_after_a_restart() {
    let log = Connection::open_in_memory().unwrap();
    log.execute_batch(TABLE).unwrap();
    let transaction = log.unchecked_transaction().unwrap();
    let mut insert = log.prepare("INSERT INTO log VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)").unwrap();
    let mut signals = Signals::new(2048, (3, 4));
    let mut sizes = Vec::new();
    // It is killed just before a snapshot would have been written, and loses what came after the one before.
    let (snapshot_at, killed_at) = (LOG - 1800, LOG - 1800 + SNAPSHOT);
    let mut snapshot = Vec::new();
    let mut before = 0;
    for number in 0..REQUESTS {
        let row = Row::of(number);
        if before < snapshot_at && row.second >= snapshot_at {
            snapshot = signals.snapshot(at(snapshot_at), 1_000_000 + snapshot_at);
        }
        if before < killed_at && row.second >= killed_at {
            signals = Signals::restore(&snapshot, 2048, at(killed_at), 1_000_000 + killed_at).unwrap();
        }
        before = row.second;
        signals.note(&row.request(), at(row.second));
        let [h2h3, cacheable, heuristic, browser] = row.flags;
        let Row { second, ja4, address, agent, path, .. } = row;
        insert
            .execute(params![second, ja4.as_str(), address, agent, path, h2h3, cacheable, heuristic, browser])
            .unwrap();
        if number % (REQUESTS / 12) == 0 {
            sizes.push(signals.allocated());
        }
    }
    drop(insert);
    transaction.commit().unwrap();
    let addresses: u64 = log.query_row("SELECT count(DISTINCT address) FROM log", [], |row| row.get(0)).unwrap();
    assert!(addresses >= 100_000, "{addresses}");
    // What was forgotten makes room for what comes: the third hour takes no more than the second.
    let (past, last) = sizes.split_at(8);
    assert!(last.iter().max().unwrap() * 100 <= past.last().unwrap() * 101, "{sizes:?}");
    assert!(sizes.iter().all(|size| *size <= VALUES as usize * 47 * 1024), "{sizes:?}");
    compare(&mut signals, &log, LOG - 1, (snapshot_at, killed_at - 1));
}
