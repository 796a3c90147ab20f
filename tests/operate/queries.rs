//! The metrics and labels that a PromQL query names, compared with docs/metrics.md, which a test of the program compares
//! with what it serves. Whether a query is one at all is promtool's to say.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context as _, Result, ensure};

/// What Prometheus itself adds to what it scrapes.
const TARGET: [&str; 2] = ["instance", "job"];
/// Words before a list of labels.
const BEFORE_LABELS: [&str; 6] = ["by", "without", "on", "ignoring", "group_left", "group_right"];
/// Words that are no metrics, with a parenthesis after them or without.
const WORDS: [&str; 9] = ["and", "or", "unless", "bool", "offset", "sum", "min", "max", "count"];

/// The documented metrics.
pub(crate) struct Documented(BTreeMap<String, Family>);

struct Family {
    histogram: bool,
    labels: BTreeSet<String>,
    /// All that stands in backticks in its row: the values of its labels are among it.
    values: BTreeSet<String>,
}

/// What a label of a chosen series is to be, or not to be.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Matcher {
    label: String,
    values: Vec<String>,
    negated: bool,
}

/// A metric, and what its series are chosen by.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Selector {
    pub(crate) metric: String,
    matchers: Vec<Matcher>,
}

impl Selector {
    /// Whether a series is chosen, which is written as what chooses it alone.
    pub(crate) fn chooses(&self, series: &Self) -> bool {
        let value = |label: &str| series.matchers.iter().find(|pair| pair.label == label)?.values.first();
        let fits = |matcher: &Matcher| {
            value(&matcher.label).is_some_and(|value| matcher.values.contains(value)) != matcher.negated
        };
        self.metric == series.metric && self.matchers.iter().all(fits)
    }
}

/// What a query names.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Query {
    pub(crate) selectors: Vec<Selector>,
    /// Labels that it groups or matches by.
    pub(crate) labels: BTreeSet<String>,
}

impl Documented {
    /// The table.
    pub(crate) fn load() -> Result<Self> {
        let docs = crate::read("docs/metrics.md")?;
        let rows = docs.lines().filter(|line| line.starts_with("| `"));
        let families = rows.map(|row| {
            let cells: Vec<&str> = row.splitn(5, '|').map(str::trim).collect();
            let name = backticked(cells[1]).pop_first().with_context(|| format!("no name in `{row}`"))?;
            let (labels, values) = (backticked(cells[3]), backticked(cells[4]));
            Ok((name, Family { histogram: cells[2] == "histogram", labels, values }))
        });
        Ok(Self(families.collect::<Result<_>>()?))
    }

    /// Whether all that a query names is there.
    pub(crate) fn check(&self, expression: &str) -> Result<Query> {
        let query = Query::read(expression).with_context(|| format!("in `{expression}`"))?;
        let mut grouped: BTreeSet<&str> = TARGET.into();
        ensure!(!query.selectors.is_empty(), "`{expression}` names no metric");
        for Selector { metric: name, matchers } in query.selectors.iter().filter(|chosen| chosen.metric != "up") {
            let (family, bucket) = self.family(name).with_context(|| format!("`{name}` is not in docs/metrics.md"))?;
            grouped.extend(family.labels.iter().map(String::as_str));
            grouped.extend(bucket.then_some("le"));
            for Matcher { label, values, .. } in matchers.iter().filter(|matcher| !TARGET.contains(&&*matcher.label)) {
                ensure!(family.labels.contains(label), "`{name}` has no label `{label}`");
                for value in values {
                    ensure!(family.values.contains(value), "`{name}`: `{label}` is never `{value}`");
                }
            }
        }
        for label in &query.labels {
            ensure!(grouped.contains(label.as_str()), "no metric of `{expression}` has a label `{label}`");
        }
        Ok(query)
    }

    /// A metric by the name of its series, and whether that is a histogram's bucket.
    fn family(&self, series: &str) -> Option<(&Family, bool)> {
        let part = |suffix| self.0.get(series.strip_suffix(suffix)?).filter(|family| family.histogram);
        let whole = self.0.get(series).filter(|family| !family.histogram).map(|family| (family, false));
        let sums = || part("_sum").or_else(|| part("_count")).map(|family| (family, false));
        whole.or_else(|| part("_bucket").map(|family| (family, true))).or_else(sums)
    }
}

fn backticked(text: &str) -> BTreeSet<String> {
    text.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

impl Query {
    /// What it names, if it is one.
    pub(crate) fn read(expression: &str) -> Result<Self> {
        let mut query = Self::default();
        let mut rest = expression;
        while let Some(first) = rest.chars().next() {
            rest = match first {
                '"' => until(&rest[1..], '"')?.1,
                '[' => until(&rest[1..], ']')?.1,
                '{' => {
                    let (inside, after) = until(&rest[1..], '}')?;
                    let chosen = query.selectors.last_mut().context("labels of no metric")?;
                    chosen.matchers.extend(matchers(inside)?);
                    after
                }
                // A number may have a unit: `offset 5m`.
                '0'..='9' => word(rest).1,
                'a'..='z' | 'A'..='Z' | '_' => query.word(rest)?,
                other => &rest[other.len_utf8()..],
            };
        }
        Ok(query)
    }

    /// What begins with a letter; the rest after it.
    fn word<'a>(&mut self, text: &'a str) -> Result<&'a str> {
        let (name, rest) = word(text);
        let list = rest.trim_start().strip_prefix('(');
        match (list, BEFORE_LABELS.contains(&name)) {
            (Some(list), true) => {
                let (inside, after) = until(list, ')')?;
                self.labels
                    .extend(inside.split(',').map(str::trim).filter(|label| !label.is_empty()).map(str::to_owned));
                return Ok(after);
            }
            (None, false) if !WORDS.contains(&name) => {
                self.selectors.push(Selector { metric: name.to_owned(), matchers: Vec::new() });
            }
            _ => {}
        }
        Ok(rest)
    }
}

fn word(text: &str) -> (&str, &str) {
    let end = text.find(|letter: char| !letter.is_ascii_alphanumeric() && !"_:.".contains(letter));
    text.split_at(end.unwrap_or(text.len()))
}

fn until(text: &str, end: char) -> Result<(&str, &str)> {
    text.split_once(end).with_context(|| format!("no `{end}`"))
}

/// `a="b", c=~"d|e"`. No value here has a comma or a quote.
fn matchers(text: &str) -> Result<Vec<Matcher>> {
    let pairs = text.split(',').map(str::trim).filter(|pair| !pair.is_empty());
    let pair = |pair: &str| {
        let at = pair.find(['=', '!']).with_context(|| format!("`{pair}`"))?;
        let (label, value) = pair.split_at(at);
        let values = value.trim_start_matches(['=', '!', '~', ' ']).trim_matches('"').split('|').map(str::to_owned);
        Ok(Matcher { label: label.trim().to_owned(), values: values.collect(), negated: value.starts_with('!') })
    };
    pairs.map(pair).collect()
}

#[test]
fn what_is_not_documented_is_found() -> Result<()> {
    let documented = Documented::load()?;
    let well = [
        "up{job=\"detector\"} == 0",
        "sum by (reason) (rate(detector_kernel_packets_total{verdict=\"drop\", reason=~\"address|prefix\"}[5m])) > 1e3",
        "histogram_quantile(0.5, sum without (instance) (rate(detector_enforce_latency_seconds_bucket[5m])))",
        "detector_breakers offset 5m unless on (instance) detector_enforce_verdicts",
    ];
    let ill = [
        ("1", "names no metric"),
        ("detector_nothing_total", "`detector_nothing_total` is not in"),
        ("detector_enforce_latency_seconds", "is not in"),
        ("detector_breakers_bucket", "is not in"),
        ("detector_breakers{reason=\"x\"}", "has no label `reason`"),
        ("detector_hello_standings_total{reason!~\"desync|nothing\"}", "`reason` is never `nothing`"),
        ("sum by (le) (detector_breakers)", "has a label `le`"),
    ];
    for expression in well {
        documented.check(expression)?;
    }
    for (expression, why) in ill {
        let found =
            documented.check(expression).map(|_| "nothing".to_owned()).unwrap_or_else(|error| format!("{error:#}"));
        ensure!(found.contains(why), "`{expression}`: {found}");
    }
    Ok(())
}
