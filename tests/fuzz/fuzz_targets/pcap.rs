//! Fuzz target: a capture file, or an event of the ring. What must hold is written down in `detector::fuzzing`.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| detector::fuzzing::capture(bytes));
