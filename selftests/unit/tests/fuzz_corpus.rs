// SPDX-License-Identifier: GPL-2.0-only

//! The corpus of the fuzz targets, replayed; and short random inputs for them.

#[path = "common/rng.rs"]
mod rng;
#[path = "../../fuzz/src/mod.rs"]
mod targets;

use rng::Rng;
use std::path::PathBuf;

/// Random inputs for each target.
const CASES: u32 = 20_000;

/// Bytes of the longest random input.
const LONGEST: u64 = 96;

/// The bytes that a line of hexadecimal digits spells.
fn bytes(line: &str) -> Vec<u8> {
    let digit = |n: usize| u8::from_str_radix(&line[n..n + 2], 16).expect("hexadecimal");
    (0..line.len()).step_by(2).map(digit).collect()
}

/// Replays the corpus, and tries random inputs.
fn replay(name: &str, run: fn(&[u8])) {
    let file = PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("../fuzz/corpus")
        .join(name);
    let corpus = std::fs::read_to_string(file).expect("there is a corpus");
    let mut inputs = 0;
    for line in corpus.lines() {
        // What a failure's output ends with.
        println!("{line}");
        run(&bytes(line));
        inputs += 1;
    }
    assert!(inputs > 100, "only {inputs} inputs");
    let mut rng = Rng::new(0x5eed_0004);
    let mut data = [0; LONGEST as usize];
    for _ in 0..CASES {
        rng.fill(&mut data);
        let len = rng.below(LONGEST + 1) as usize;
        run(&data[..len]);
    }
}

#[test]
fn decode() {
    replay("decode", targets::decode::run);
}

#[test]
fn execute() {
    replay("execute", targets::execute::run);
}

#[test]
fn walk() {
    replay("walk", targets::walk::run);
}
