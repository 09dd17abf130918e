// SPDX-License-Identifier: GPL-2.0-only
//! Work for a Linux guest with several CPUs: `vireo-load [CYCLES]`. The status says whether it came out right.
//!
//! Processes that send each other messages, a token that goes round the CPUs, mappings that change under
//! threads on every CPU, and then CPUs that go offline and come back, CYCLES times each (1 when not given),
//! while the messages flow.

use std::process::ExitCode;

use vireo_suite::load;

fn main() -> ExitCode {
    let cycles = std::env::args().nth(1).map_or(Ok(1), |arg| arg.parse());
    let Ok(cycles) = cycles else {
        eprintln!("usage: vireo-load [CYCLES]");
        return ExitCode::from(2);
    };
    match load::run(cycles) {
        Ok(()) => ExitCode::SUCCESS,
        Err(reason) => {
            println!("load: {reason}");
            ExitCode::FAILURE
        }
    }
}
