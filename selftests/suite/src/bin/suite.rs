// SPDX-License-Identifier: GPL-2.0-only
//! Runs the tests: `vireo-suite [OPTION...] [FILTER...]`, see [`USAGE`].

use std::process::ExitCode;

use vireo_suite::harness::{run_all, set_env, Env};
use vireo_suite::tests;

const USAGE: &str = "usage: vireo-suite [OPTION...] [FILTER...]
  --device NODE  the device to test (default /dev/vireo; /dev/kvm is real KVM)
  --list         print the names of the tests
  --quick        a tenth of the rounds of the long tests
  --scale X      X times the rounds of the long tests
  --touch        have each guest touch its memory first
  --except NAME  leave this test out
  FILTER         run the tests whose name contains one of the filters";

fn main() -> ExitCode {
    let mut env = Env {
        device: "/dev/vireo".into(),
        scale: 1.0,
        touch: false,
    };
    let (mut list, mut filters, mut left_out) = (false, Vec::new(), Vec::new());
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--list" => list = true,
            "--quick" => env.scale = 0.1,
            "--touch" => env.touch = true,
            "--device" => match args.next() {
                Some(node) => env.device = node,
                None => return usage(),
            },
            "--except" => match args.next() {
                Some(name) => left_out.push(name),
                None => return usage(),
            },
            "--scale" => match args.next().and_then(|value| value.parse().ok()) {
                Some(scale) => env.scale = scale,
                None => return usage(),
            },
            option if option.starts_with('-') => return usage(),
            _ => filters.push(arg),
        }
    }
    let mut chosen = tests::all();
    chosen.retain(|test| filters.is_empty() || filters.iter().any(|f| test.name.contains(f)));
    if let Some(name) = left_out
        .iter()
        .find(|name| !chosen.iter().any(|test| test.name == **name))
    {
        eprintln!("--except: {name} is not among the chosen tests");
        return ExitCode::from(2);
    }
    chosen.retain(|test| !left_out.iter().any(|name| name == test.name));
    if list {
        chosen.iter().for_each(|test| println!("{}", test.name));
        return ExitCode::SUCCESS;
    }
    set_env(env);
    if run_all(&chosen) {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

fn usage() -> ExitCode {
    eprintln!("{USAGE}");
    ExitCode::from(2)
}
