//! Each rule with a planted breach, and with what looks like one and isn't.

use super::{
    breaches as breaches_below,
    rules::{breaches, excluded_methods, unlisted_rooms},
    source::{Code, Found},
};

fn of(file: &str, text: &str) -> Vec<String> {
    breaches(file, &Code::new(text))
}

fn only(file: &str, text: &str) -> String {
    let found = of(file, text);
    assert_eq!(found.len(), 1, "{found:?}");
    found[0].clone()
}

#[test]
fn an_upward_use_is_told_with_line_rule_and_choice() {
    let told = only("detector/src/flow/assembler.rs", "//! x\nuse crate::clock::Timestamp;\nuse crate::tls::Hello;\n");
    assert_eq!(told, "detector/src/flow/assembler.rs:3: `flow` must not use `tls`; it may use: clock kernel capture");
}

#[test]
fn an_upward_use_is_found_in_every_spelling() {
    let spellings = [
        "use crate::{capture::Segment,\n  tls::{Hello, record::*}};",
        "fn f() { crate :: tls::parse() }",
        "pub(crate) use crate::tls as t;",
        "use super::super::tls::Hello;",
        "use crate::{\n    capture as c,\n    tls,\n};",
    ];
    for text in spellings {
        assert!(only("detector/src/flow/assembler.rs", text).contains("`flow` must not use `tls`"), "{text}");
    }
    assert!(only("detector/src/flow.rs", "use super::tls;").contains("must not use `tls`"));
}

#[test]
fn downward_uses_and_look_alikes_pass() {
    let fine = [
        "use crate::{capture::{Flow, Segment}, clock::Timestamp, kernel};",
        "// use crate::tls;\n/* crate::tls /* crate::cli */ */ const A: &str = \"crate::tls\";",
        "const A: &str = r#\"\"crate::tls\"#; const B: char = '\"'; const C: &'static str = \"'crate::cli\";",
        "use super::tls; // flow's own submodule",
        "use crate::flow::tls::record;",
        "macro_rules! m { () => { $crate::flow::x() } }",
    ];
    for text in fine {
        assert_eq!(of("detector/src/flow/assembler.rs", text), [""; 0], "{text}");
    }
}

#[test]
fn the_daemon_is_used_by_the_command_line_only_and_fuzzing_by_none() {
    assert_eq!(of("detector/src/cli/run.rs", "use crate::daemon;"), [""; 0]);
    assert!(only("detector/src/admin/mod.rs", "use crate::daemon;").contains("`admin` must not use `daemon`"));
    assert!(only("detector/src/daemon.rs", "use crate::cli;").contains("`daemon` must not use `cli`"));
    assert_eq!(of("detector/src/fuzzing.rs", "use crate::{tls, cli};"), [""; 0]);
    assert!(only("detector/src/cli/mod.rs", "use crate::fuzzing;").contains("`cli` must not use `fuzzing`"));
    assert_eq!(of("detector/src/config/mod.rs", "use crate::{fingerprint::Ja4, policy::Ttl, clock};"), [""; 0]);
    assert!(
        only("detector/src/config/mod.rs", "use crate::enforce;")
            .ends_with("may use: clock fingerprint breaker network reputation session score policy")
    );
    assert!(only("detector/src/policy/mod.rs", "use crate::config::Mode;").contains("`policy` must not use `config`"));
    assert!(only("detector/src/clock.rs", "use crate::config;").ends_with("it may use: none"));
}

#[test]
fn a_room_without_a_floor_is_a_breach() {
    let files = ["detector/src/lib.rs", "detector/src/flow/mod.rs", "detector/src/attic/mod.rs", "xtask/src/main.rs"];
    let found = unlisted_rooms(&files.map(str::to_owned));
    assert_eq!(found.len(), 1);
    assert!(found[0].starts_with("detector/src/attic/mod.rs:1: its room isn't in the table"));
}

#[test]
fn unsafe_stands_only_where_the_kernel_is() {
    let text = "fn f() {\n    unsafe { g() }\n}\n";
    assert!(only("tests/support/lab.rs", text).starts_with("tests/support/lab.rs:2: `unsafe` stands only in"));
    assert!(only("detector/src/capture/mod.rs", text).contains("`unsafe`"));
    assert_eq!(of("detector/src/kernel/ring.rs", text), [""; 0]);
    assert_eq!(of("detector-ebpf/src/main.rs", text), [""; 0]);
    assert_eq!(of("detector/src/lib.rs", "#![deny(unsafe_code)] // no unsafe"), [""; 0]);
}

#[test]
fn only_the_clock_reads_the_time() {
    let text = "fn f() { let a = std::time::Instant::now(); let b = SystemTime :: now(); }";
    assert_eq!(of("detector/src/admin/mod.rs", text).len(), 2);
    assert_eq!(of("detector/src/clock.rs", text), [""; 0]);
    assert_eq!(of("detector/src/admin/control/tests.rs", text), [""; 0]);
    assert_eq!(of("detector/src/admin/mod.rs", "use std::time::Instant; fn f(now: Instant) {}"), [""; 0]);
}

#[test]
fn pure_rooms_know_no_runtime_kernel_file_or_socket() {
    for text in [
        "use tokio::sync::mpsc;",
        "use aya::maps::Map;",
        "use std::fs;",
        "use std::{fmt, fs::File};",
        "use std::net::{IpAddr, TcpStream};",
    ] {
        assert!(only("detector/src/policy/mod.rs", text).contains("in `policy`, which is pure"), "{text}");
        assert_eq!(of("detector/src/admin/mod.rs", text), [""; 0], "{text}");
    }
    assert_eq!(
        of("detector/src/policy/mod.rs", "use std::net::IpAddr; use std::{fmt, collections::HashMap};"),
        [""; 0]
    );
}

#[test]
fn methods_that_are_not_ours_are_found_even_in_comments() {
    let name = |suffix: &str| format!("// like {}{suffix} does\n", "JA4");
    for suffix in ["s", "H", "L", "ls", "X", "T", "TS", "tscan", "SSH", "d", "D6"] {
        assert_eq!(excluded_methods("detector/src/tls/mod.rs", &name(suffix)).len(), 1, "{suffix}");
        assert_eq!(excluded_methods("NOTICE", &name(suffix)), [""; 0]);
    }
    for suffix in ["", "_r", "_ro", " s", "_stable", "_s", "string", "+", "h2", "-s"] {
        assert_eq!(excluded_methods("README.txt", &name(suffix)), [""; 0], "{suffix}");
    }
}

#[test]
fn use_trees_are_taken_apart() {
    let code = Code::new("use crate::{a::{b, c as d, self}, e::*, f};\nlet x = crate::g::<u8>::h();");
    let paths: Vec<String> = code.paths("crate").iter().map(|path| path.segments.join("::")).collect();
    assert_eq!(paths, ["a::b", "a::c", "a::self", "e::*", "f", "g"]);
    assert_eq!(code.paths("crate").last(), Some(&Found { line: 2, segments: vec!["g".into()] }));
}

#[test]
fn a_whole_tree_is_read_without_what_git_leaves_out() {
    let root = tempfile::tempdir().unwrap();
    let write = |file: &str, text: &str| {
        let path = root.path().join(file);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    };
    write("detector/src/flow/mod.rs", "use crate::cli;\n");
    write("detector/src/attic.rs", "");
    write("target/x.rs", "unsafe {}");
    write("tests/a.rs", "unsafe {}");
    write("docs/a.md", &format!("see {}{}\n", "ja4", "h"));
    let (files, found) = breaches_below(root.path()).unwrap();
    assert_eq!((files, found.len()), (4, 4), "{found:#?}");
}
