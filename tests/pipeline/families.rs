//! The catalogue of clients is what `detector families learn` makes of the captures.

use std::process::Command;

use crate::fixture;

#[test]
fn the_shipped_catalogue_is_what_the_captures_teach() {
    let shipped = std::fs::read_to_string(fixture::path("../../detector/data/clients.toml")).expect("the catalogue");
    let as_of = shipped.lines().find_map(|line| line.strip_prefix("as_of = ")).expect("a date").trim_matches('"');
    let (labels, captures) = (fixture::path("captures/labels.json"), fixture::path("captures/pcaps"));
    let mut detector = Command::new(detector_tests::programs::detector().expect("detector is built"));
    detector.args(["families", "learn", "--as-of", as_of]).arg(labels).arg(captures);
    let output = detector.output().expect("detector runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let learned = String::from_utf8(output.stdout).expect("text");
    assert!(
        learned == shipped,
        "it differs: `detector families learn --as-of {as_of} …` into detector/data/clients.toml"
    );
}
