//! `detector signals`: how one JA4 value stands among all that the site's web servers told of in the last hour.

use std::io::Write;

use comfy_table::CellAlignment;

use super::client::{Client, ControlArgs};
use super::list::bare_table;
use super::{Exit, Failure, Format, figures, print, printable};
use crate::admin::protocol::{Request, Response};
use crate::policy::subject::Subject;
use crate::signals::{Baseline, Figures};

const EXAMPLES: &str = "\
Ranks: 1 has most of it. Quantile: the share of JA4 values that have at most as much.
Different addresses, User-Agents and paths are estimates; up to some 1,500 they are exact.

Examples:
  detector signals t13d1516h2_8daaf6152771_e5627efa2ab1
  detector signals t13d1516h2_8daaf6152771_e5627efa2ab1 --format csv >> hourly.csv
  detector signals t13d1516h2_8daaf6152771_e5627efa2ab1 --format json | jq .ips_rank_1h";

/// `detector signals`.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct SignalsArgs {
    /// JA4 value; `detector status` lists those seen most
    ja4: String,
    /// How to print
    #[arg(long, value_enum, value_name = print::CHOICE, hide_possible_values = true, default_value_t)]
    format: Format,
    #[command(flatten)]
    control: ControlArgs,
}

/// Prints them. Negative if there was no request.
///
/// # Errors
/// When it is no JA4 value, or the daemon can't be asked.
pub fn run(args: &SignalsArgs, out: &mut impl Write) -> Result<Exit, Failure> {
    let subject = Subject::ja4(&args.ja4).map_err(|error| Failure::new(Exit::Usage, error.to_string()))?;
    let Some(ja4) = subject.as_ja4() else {
        return Err(Failure::new(Exit::Usage, format!("`{subject}` is not a JA4 value")));
    };
    match Client::reader(&args.control)?.ask(&Request::Signals { ja4 })? {
        Response::Signals(figures) => {
            match args.format {
                Format::Table => writeln!(out, "{}", screen(&figures))?,
                format => print::row(&figures, format, out)?,
            }
            Ok(Exit::Done)
        }
        Response::NotFound => Err(Failure::new(
            Exit::Negative,
            format!(
                "no web server told of a request with `{ja4}` in the last hour\nJA4 values seen most: detector status"
            ),
        )),
        _ => Err(Failure::new(Exit::Failed, "the daemon answers something else; is it of another version?")),
    }
}

fn screen(known: &Figures) -> String {
    let Figures { ja4, ten, last_hour, ranked, baseline_24h, baseline_7d } = known;
    let rank = |rank: u32| format!("{rank} of {ranked}");
    let mean = |of: fn(&Baseline) -> f64| {
        [baseline_24h, baseline_7d].map(|baseline| baseline.as_ref().map_or("-".to_owned(), |known| decimal(of(known))))
    };
    let mut volumes = bare_table(["IN AN HOUR", "LAST", "RANK", "QUANTILE", "MEAN OF 24H", "MEAN OF 7D"]);
    let quantile = |quantile: f64| format!("{quantile:.3}");
    for (name, last, place, share, [day, week]) in [
        (
            "requests",
            last_hour.requests,
            ten.reqs_rank_1h,
            quantile(ten.reqs_quantile_1h),
            mean(|known| known.requests),
        ),
        ("addresses", last_hour.ips, ten.ips_rank_1h, quantile(ten.ips_quantile_1h), mean(|known| known.ips)),
        ("User-Agents", last_hour.uas, ten.uas_rank_1h, String::new(), mean(|known| known.uas)),
        ("paths", last_hour.paths, ten.paths_rank_1h, String::new(), mean(|known| known.paths)),
    ] {
        volumes.add_row([name.to_owned(), figures::count(last), rank(place), share, day, week]);
    }
    let mut shares = bare_table(["SHARE OF REQUESTS", "LAST", "OF 24H", "OF 7D"]);
    let share = |of: fn(&Baseline) -> f64| {
        [baseline_24h, baseline_7d].map(|baseline| baseline.as_ref().map_or("-".to_owned(), |known| percent(of(known))))
    };
    for (name, last, [day, week]) in [
        ("HTTP/2 and HTTP/3", ten.h2h3_ratio_1h, share(|known| known.h2h3_ratio)),
        ("caught by a heuristic", ten.heuristic_ratio_1h, share(|known| known.heuristic_ratio)),
        ("look like a browser", ten.browser_ratio_1h, share(|known| known.browser_ratio)),
        ("cacheable", ten.cache_ratio_1h, share(|known| known.cache_ratio)),
    ] {
        shares.add_row([name.to_owned(), percent(last), day, week]);
    }
    for table in [&mut volumes, &mut shares] {
        for column in table.column_iter_mut().skip(1) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    format!("{}\n\n{}\n\n{}", printable::line(ja4), volumes.trim_fmt(), shares.trim_fmt())
}

fn percent(share: f64) -> String {
    format!("{:.1} %", share * 100.0)
}

/// Whole from 10 on.
fn decimal(number: f64) -> String {
    if number < 10.0 { format!("{number:.1}") } else { figures::count(number.round() as u64) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::signals::{Ten, Volume};

    #[test]
    fn the_screen_has_all_ten() {
        let known = Figures {
            ja4: "t13d1516h2_8daaf6152771_e5627efa2ab1".to_owned(),
            ten: Ten {
                h2h3_ratio_1h: 0.5,
                heuristic_ratio_1h: 0.011,
                browser_ratio_1h: 1.0,
                cache_ratio_1h: 0.0,
                uas_rank_1h: 4,
                paths_rank_1h: 3,
                reqs_rank_1h: 1,
                ips_rank_1h: 2,
                reqs_quantile_1h: 1.0,
                ips_quantile_1h: 0.75,
            },
            last_hour: Volume { requests: 12_345, ips: 230, uas: 1, paths: 17 },
            ranked: 4,
            baseline_24h: Some(Baseline { hours: 3, requests: 10_000.4, ips: 99.6, uas: 1.25, ..Baseline::default() }),
            baseline_7d: None,
        };
        let expected = "\
t13d1516h2_8daaf6152771_e5627efa2ab1

IN AN HOUR     LAST    RANK  QUANTILE  MEAN OF 24H  MEAN OF 7D
requests     12,345  1 of 4     1.000       10,000           -
addresses       230  2 of 4     0.750          100           -
User-Agents       1  4 of 4                    1.2           -
paths            17  3 of 4                    0.0           -

SHARE OF REQUESTS         LAST  OF 24H  OF 7D
HTTP/2 and HTTP/3       50.0 %   0.0 %      -
caught by a heuristic    1.1 %   0.0 %      -
look like a browser    100.0 %   0.0 %      -
cacheable                0.0 %   0.0 %      -";
        assert_eq!(screen(&known), expected);
        let names: Vec<String> = serde_json::to_value(&known)
            .unwrap()
            .as_object()
            .unwrap()
            .keys()
            .filter(|key| key.ends_with("_1h"))
            .cloned()
            .collect();
        let ten = "browser_ratio_1h cache_ratio_1h h2h3_ratio_1h heuristic_ratio_1h ips_quantile_1h ips_rank_1h \
                   paths_rank_1h reqs_quantile_1h reqs_rank_1h uas_rank_1h";
        assert_eq!(names.join(" "), ten);
    }
}
