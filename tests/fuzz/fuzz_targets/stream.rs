//! Fuzz target: a stream of reports, in pieces. What must hold is written down in `detector::fuzzing`.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| detector::fuzzing::stream(bytes));
