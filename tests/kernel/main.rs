//! Rows for the XDP program: a frame in; the action, the counters and the event's bytes out. By BPF_PROG_TEST_RUN, so
//! without any interface; each test has the program and its maps to itself.
//! And what the host's sockets say (`sockets`), in a namespace of their own.

mod automatic;
mod bench;
mod capture;
mod disorder;
mod fingerprints;
#[path = "../pipeline/fixture.rs"]
#[expect(dead_code, reason = "the captures are wanted here, and no pipeline")]
mod fixture;
mod framing;
mod keys;
mod reset;
mod sockets;
mod states;
mod steer;
mod verdicts;
