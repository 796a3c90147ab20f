//! A block that would hit many of the browsers seen lately is refused, with the figure; `--force` does it all the same.

use anyhow::{Result, ensure};
use detector_tests::clients::{Kind, Target, batch};
use detector_tests::daemon::{control, control_ok};
use detector_tests::lab::{CLIENT_V4, OTHER_CLIENT_V4};

use crate::scene::{LONG, from, ja4_of, start};

#[test]
fn a_block_that_hits_browsers_is_refused() -> Result<()> {
    const VISITS: u32 = 30;
    let (lab, _nginx, daemon) = start()?;
    let (browser, other) = (CLIENT_V4.to_string(), OTHER_CLIENT_V4.to_string());
    let target = Target { timeout: LONG, parallel: 4, ..from(CLIENT_V4) };
    let visits = batch(&lab, &target, &[Kind::Chrome], VISITS)?;
    let ja4 = ja4_of(&daemon, &visits[0])?;
    let bots = batch(&lab, &Target { timeout: LONG, ..from(OTHER_CLIENT_V4) }, &[Kind::Python], 3)?;
    let bot_ja4 = ja4_of(&daemon, &bots[0])?;
    for visit in &visits {
        ja4_of(&daemon, visit)?;
    }
    for command in [&["block", "--ja4", &ja4][..], &["block", &browser], &["block", "10.77.0.0/24"]] {
        let done = control(&lab, command)?;
        let said = String::from_utf8_lossy(&done.stderr).into_owned();
        assert_eq!(done.status.code(), Some(1), "{command:?}: {said}");
        ensure!(said.contains("100.0 % of the 30 ClientHellos of browsers") && said.contains("--force"), "{said}");
    }
    control_ok(&lab, &["block", &other])?;
    control_ok(&lab, &["block", "--ja4", &bot_ja4])?;
    let said = control_ok(&lab, &["block", "--ja4", &ja4, "--force"])?;
    ensure!(said.contains("100.0 % of the 30"), "{said}");
    let refused = daemon.metrics(&lab)?.sum("detector_enforce_orders_total", &[("outcome", "browsers")]);
    assert_eq!(refused, 3.0);
    Ok(())
}
