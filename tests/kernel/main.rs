//! Rows for the XDP program: a frame in; the action, the counters and the event's bytes out. By BPF_PROG_TEST_RUN, so
//! without any interface; each test has the program and its maps to itself.

mod bench;
mod capture;
mod framing;
mod keys;
mod states;
mod verdicts;
