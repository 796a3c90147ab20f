//! tmp
use crate::bench::{Bench, Row};

#[test]
fn speed() {
    let mut bench = Bench::new();
    let hello = std::fs::read("/tmp/chrome.bin").unwrap();
    println!("{} bytes", hello.len());
    let frame = Row::new(&hello).frame();
    let part = Row::new(&hello[..1448]).frame();
    let other = Row::new(&[23; 1400]).frame();
    for _ in 0..3 {
        for keys in [0, 1] {
            bench.set(|settings| settings.keys = keys);
            let mut best = [u128::MAX; 3];
            for (frame, best) in [&frame, &part, &other].into_iter().zip(&mut best) {
                for _ in 0..21 {
                    let (_, each) = bench.kernel.test_run(frame, 20_000).unwrap();
                    *best = (*best).min(each.as_nanos());
                }
            }
            println!("keys {keys}: whole, first part, other: {best:?}");
        }
    }
    bench.events();
    bench.set(|settings| settings.keys = 1);
    bench.row(&Row::new(&hello).client_port(7));
    let events = bench.events();
    println!("{:x?} {:x} {:x}", events[0].0.key, events[0].0.key_stable, events[0].0.hello_seq);
    println!("{:?}", bench.counters());
}
