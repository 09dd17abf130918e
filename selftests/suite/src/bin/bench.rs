// SPDX-License-Identifier: GPL-2.0-only
//! Prints a table of what operations cost on KVM and on Vireo: `vireo-bench [--kvm NODE]
//! [--vireo NODE] [--counted] [FILTER...]`. Status 1 when a row is above KVM's, or above half of KVM's where it
//! has to be within that, or nothing could be compared.
//!
//! In QEMU without acceleration a tick is time and not an instruction, and differs from run to run, unless
//! it runs with -icount, which `--counted` says: without, the table is printed there and not judged.

use std::process::ExitCode;

use vireo_suite::bench::{best, empty_round, Verdict, ROWS};
use vireo_suite::harness::Outcome;
use vireo_suite::host::is_tcg;

const USAGE: &str = "usage: vireo-bench [--kvm NODE] [--vireo NODE] [--counted] [FILTER...]";

/// The number, or that there is none.
fn cell(value: Option<u64>) -> String {
    value.map_or("n/a".into(), |ticks| ticks.to_string())
}

fn run(
    kvm: &'static str,
    vireo: &'static str,
    counted: bool,
    filters: &[String],
) -> Result<bool, Outcome> {
    let empty = [empty_round(kvm)?, empty_round(vireo)?];
    let mut verdict = Verdict::default();
    let mut lines = Vec::new();
    println!("| operation | KVM | Vireo | Vireo/KVM |");
    println!("|---|---:|---:|---:|");
    for row in ROWS {
        if !filters.is_empty() && !filters.iter().any(|f| row.name.contains(f.as_str())) {
            continue;
        }
        let of_kvm = best(kvm, row, empty[0])?;
        let of_vireo = best(vireo, row, empty[1])?;
        let ratio = match (of_kvm, of_vireo) {
            (Some(k), Some(v)) => format!("{:.2}", v as f64 / k.max(1) as f64),
            _ => "".into(),
        };
        verdict.add(row.name, of_kvm, of_vireo);
        println!(
            "| {} | {} | {} | {ratio} |",
            row.title,
            cell(of_kvm),
            cell(of_vireo)
        );
        lines.push(format!(
            "bench {} {} {}",
            row.name,
            cell(of_kvm),
            cell(of_vireo)
        ));
    }
    println!();
    lines.iter().for_each(|line| println!("{line}"));
    println!();
    if is_tcg() && !counted {
        println!("ticks are not instructions here: nothing is judged");
        return Ok(verdict.has_compared());
    }
    verdict.lines().iter().for_each(|line| println!("{line}"));
    Ok(verdict.is_good())
}

fn main() -> ExitCode {
    let (mut kvm, mut vireo, mut filters) = ("/dev/kvm", "/dev/vireo", Vec::new());
    let mut counted = false;
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        let node = match arg.as_str() {
            "--kvm" => &mut kvm,
            "--vireo" => &mut vireo,
            "--counted" => {
                counted = true;
                continue;
            }
            option if option.starts_with('-') => {
                eprintln!("{USAGE}");
                return ExitCode::from(2);
            }
            _ => {
                filters.push(arg);
                continue;
            }
        };
        let Some(value) = args.next() else {
            eprintln!("{USAGE}");
            return ExitCode::from(2);
        };
        *node = value.leak();
    }
    match run(kvm, vireo, counted, &filters) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(Outcome::Fail(reason) | Outcome::Skip(reason)) => {
            eprintln!("vireo-bench: {reason}");
            ExitCode::from(2)
        }
    }
}
