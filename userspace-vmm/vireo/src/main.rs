// SPDX-License-Identifier: Apache-2.0

//! The `vireo` command.

use std::fmt::Display;
use std::process::ExitCode;

use clap::Parser;
use tracing::Level;
use vireo_vmm::cli::{Cli, Command};
use vireo_vmm::{exec, info, machine};

/// Exit status for whatever is wrong before a guest runs.
const STATUS_ERROR: u8 = 1;

fn main() -> ExitCode {
    let cli = Cli::parse();
    let level = match cli.verbose {
        0 => Level::WARN,
        1 => Level::INFO,
        _ => Level::DEBUG,
    };
    tracing_subscriber::fmt()
        .with_max_level(level)
        .with_writer(std::io::stderr)
        .with_target(false)
        .without_time()
        .init();
    let status = match cli.command {
        Command::Run(args) => match machine::run(&args.into()) {
            Ok(outcome) => {
                if outcome.is_worth_a_message() {
                    say(&outcome);
                }
                outcome.status()
            }
            Err(e) => {
                say(&e);
                STATUS_ERROR
            }
        },
        Command::Info(args) => info::print(&args.device),
        Command::Exec(args) => {
            let e = exec::exec(&args.device, &args.command);
            say(&e);
            e.status()
        }
    };
    ExitCode::from(status)
}

/// One line for the user.
fn say(message: &dyn Display) {
    eprintln!("vireo: {message}");
}
