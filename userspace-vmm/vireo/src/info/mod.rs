// SPDX-License-Identifier: Apache-2.0

//! `vireo info`: what this CPU, this kernel and this device support, and what is in the way.

pub mod capabilities;
pub mod cpu;
pub mod kernel;

use std::fs;
use std::io::{self, Write};
use std::path::Path;

use crate::error::Error;
use crate::hypervisor::{Hypervisor, Irqchip};
use capabilities::CAPABILITIES;
use cpu::Cpu;

/// Appends a formatted line to a string, which cannot fail.
macro_rules! line {
    ($out:expr, $($arg:tt)*) => {{
        $out.push_str(&format!($($arg)*));
        $out.push('\n');
    }};
}

/// Prints everything; the exit status is 0 when a guest could run on `device`.
pub fn print(device: &Path) -> u8 {
    let (report, usable) = report(device);
    // A reader that has seen enough is no problem.
    let _ = io::stdout().write_all(report.as_bytes());
    u8::from(!usable)
}

/// The text, and whether a guest could run on `device`.
fn report(device: &Path) -> (String, bool) {
    let mut out = String::new();
    let cpu = Cpu::from_cpuinfo(&fs::read_to_string("/proc/cpuinfo").unwrap_or_default());
    line!(out, "CPU");
    row(&mut out, "model", &cpu.model);
    row(&mut out, "virtualisation", cpu.virtualisation());
    row(&mut out, "features", &or_none(&cpu.features.join(" ")));
    line!(out, "kernel");
    for (name, value) in kernel::facts() {
        row(&mut out, name, &value);
    }
    line!(out, "device {}", device.display());
    let usable = match Hypervisor::open(device) {
        Ok(hypervisor) => describe(&mut out, &hypervisor),
        Err(e) => {
            row(&mut out, "usable", &format!("no: {e}"));
            for hint in hints(&e, &cpu, device) {
                row(&mut out, "why", &hint);
            }
            false
        }
    };
    (out, usable)
}

fn row(out: &mut String, name: &str, value: &str) {
    line!(out, "  {name:<18}{value}");
}

fn or_none(text: &str) -> String {
    if text.is_empty() {
        "none".into()
    } else {
        text.into()
    }
}

/// Adds what the device says about itself; returns whether this VMM can use it.
fn describe(out: &mut String, hypervisor: &Hypervisor) -> bool {
    let kvm = hypervisor.kvm();
    row(out, "API version", &kvm.get_api_version().to_string());
    let (mut present, mut absent) = (Vec::new(), Vec::new());
    for (name, number) in CAPABILITIES {
        match kvm.check_extension_raw(u64::from(*number)) {
            value if value > 0 => present.push((*name, value)),
            _ => absent.push(*name),
        }
    }
    let usable = match hypervisor.check(1, Irqchip::Kernel) {
        Ok(()) => {
            row(out, "usable", "yes");
            true
        }
        Err(e) => {
            row(out, "usable", &format!("no: {e}"));
            false
        }
    };
    line!(
        out,
        "capabilities of the device ({} of {})",
        present.len(),
        CAPABILITIES.len()
    );
    for (name, value) in present {
        line!(out, "  {name:<34}{value}");
    }
    line!(out, "not offered");
    for line in wrap(&absent, 78) {
        line!(out, "  {line}");
    }
    usable
}

/// Words in lines of at most `width` characters where they fit.
fn wrap(words: &[&str], width: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in words {
        match lines.last_mut() {
            Some(line) if line.len() + 1 + word.len() <= width => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push((*word).into()),
        }
    }
    lines
}

/// What may be the reason that the device cannot be opened.
fn hints(error: &Error, cpu: &Cpu, device: &Path) -> Vec<String> {
    let mut hints = Vec::new();
    if matches!(error, Error::NoDevice(_)) {
        if !cpu.has_extensions() {
            hints.push(
                "the CPU shows neither vmx nor svm: not there, off in the firmware, or hidden \
                 by a hypervisor"
                    .into(),
            );
        }
        match kernel::module_of(device) {
            Some(module) if kernel::is_loaded(module) => {
                hints.push(format!(
                    "module {module} is loaded, but the node is missing"
                ));
            }
            Some(module) => hints.push(format!(
                "module {module} is not loaded; after a failed load, the kernel log has the reason"
            )),
            None => {}
        }
    }
    if matches!(error, Error::NoPermission(_)) {
        hints.push(format!(
            "`ls -l {}` shows who may open it",
            device.display()
        ));
    }
    hints
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::PathBuf;

    #[test]
    fn lines_wrap() {
        assert_eq!(wrap(&["aa", "bb", "cc"], 5), ["aa bb", "cc"]);
        assert_eq!(wrap(&["toolong"], 3), ["toolong"]);
        assert!(wrap(&[], 3).is_empty());
    }

    #[test]
    fn reasons_are_given() {
        let node = PathBuf::from("/dev/vireo");
        let bare = Cpu::from_cpuinfo("");
        let found = hints(&Error::NoDevice(node.clone()), &bare, &node);
        assert!(found.iter().any(|h| h.contains("neither vmx nor svm")));
        assert!(found.iter().any(|h| h.contains("module vireo")));
        let vmx = Cpu::from_cpuinfo("flags\t\t: fpu vmx\n");
        let found = hints(&Error::NoDevice(node.clone()), &vmx, &node);
        assert!(!found.iter().any(|h| h.contains("neither")));
        assert_eq!(
            hints(&Error::NoPermission(node.clone()), &vmx, &node).len(),
            1
        );
    }
}
