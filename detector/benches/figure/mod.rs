//! What the benchmarks share: a figure and its line, the hello they measure with.

use std::path::PathBuf;

use detector::{
    capture::Packet,
    capture::{frame, pcap},
    tls::{Parsed, record::Deframer},
};
use serde::Serialize;

const CAPTURE: &str = "../tests/fixtures/captures/pcaps/curl_cffi-chrome136.pcap";

/// One line of the result.
#[derive(Serialize)]
pub(crate) struct Figure {
    /// The target's name, as in the table of performance targets.
    pub(crate) id: &'static str,
    /// What was measured.
    pub(crate) what: &'static str,
    /// How much it was.
    pub(crate) value: f64,
    /// Of what.
    pub(crate) unit: &'static str,
    /// The peer or floor of the same run.
    pub(crate) against: &'static str,
    /// `value` over the peer's or floor's.
    pub(crate) ratio: Option<f64>,
    /// What was wanted.
    pub(crate) target: String,
    /// Whether it was reached; nothing for a peer or a floor.
    pub(crate) met: Option<bool>,
}

/// Prints figures, and writes them as JSON where `--json PATH` says.
pub(crate) fn print(figures: &[Figure]) {
    for Figure { id, what, value, unit, against, ratio, target, met } in figures {
        let met = met.map_or("", |met| if met { "met" } else { "NOT MET" });
        let ratio = ratio.map_or_else(String::new, |ratio| format!("{ratio:.2}x {against}"));
        println!("{id:14} {what:48} {value:9.3} {unit:6} {target:>10}  {ratio:26} {met}");
    }
    let mut arguments = std::env::args_os().skip_while(|argument| argument != "--json");
    if let Some(path) = arguments.nth(1).map(PathBuf::from) {
        let directory = path.parent().expect("a file is in a directory");
        std::fs::create_dir_all(directory).expect("a directory to write to");
        let text = serde_json::to_vec_pretty(figures).expect("a figure is plain data");
        std::fs::write(&path, text).expect("a file to write to");
    }
}

/// The middle one.
pub(crate) fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// The first hello of a Chrome 136 capture, 1.8 KB in two segments, put together, with its record header.
pub(crate) fn chrome_hello() -> Vec<u8> {
    let path: PathBuf = [env!("CARGO_MANIFEST_DIR"), CAPTURE].iter().collect();
    let file = std::fs::File::open(&path).expect("the capture among the fixtures");
    let mut stream: Vec<u8> = Vec::new();
    let mut flow = None;
    let mut base = 0_u32;
    pcap::read(file, |frame| {
        let Ok(Packet::Segment(segment)) = frame::packet(frame) else { return };
        if flow.is_none() && segment.payload.starts_with(&[22, 3]) {
            flow = Some(segment.flow);
            base = segment.seq;
        }
        if flow == Some(segment.flow) && segment.seq == base.wrapping_add(stream.len() as u32) {
            stream.extend_from_slice(segment.payload);
        }
    })
    .expect("a readable capture");
    let Parsed::Complete(extent) = Deframer::new().advance(&stream) else { panic!("no hello in the capture") };
    stream.truncate(extent.end);
    stream
}
