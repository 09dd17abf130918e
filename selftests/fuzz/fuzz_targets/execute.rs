// SPDX-License-Identifier: GPL-2.0-only

#![no_main]

#[path = "../src/mod.rs"]
mod targets;

libfuzzer_sys::fuzz_target!(|data: &[u8]| targets::execute::run(data));
