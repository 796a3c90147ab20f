//! Fuzz target: requests and responses of the socket broker. What must hold is written down in `detector::fuzzing`.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| detector::fuzzing::broker(bytes));
