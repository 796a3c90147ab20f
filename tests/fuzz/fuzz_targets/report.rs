//! Fuzz target: one frame of the signal socket. What must hold is written down in `detector::fuzzing`.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| detector::fuzzing::report(bytes));
