// SPDX-License-Identifier: Apache-2.0

//! The host's kernel: version, relevant configuration, relevant modules.

use std::fs;
use std::io::Read;
use std::path::Path;
use std::process::{Command, Stdio};

/// Configuration options that decide whether a hypervisor module can be built and loaded.
const OPTIONS: [&str; 6] = [
    "CONFIG_RUST",
    "CONFIG_KVM",
    "CONFIG_KVM_INTEL",
    "CONFIG_KVM_AMD",
    "CONFIG_MODULE_ALLOW_MISSING_NAMESPACE_IMPORTS",
    "CONFIG_MMU_NOTIFIER",
];

/// Modules that matter here.
const MODULES: [&str; 4] = ["vireo", "kvm", "kvm_intel", "kvm_amd"];

/// Names and values to show.
pub fn facts() -> Vec<(&'static str, String)> {
    let release = read("/proc/sys/kernel/osrelease");
    let mut facts = vec![("release", release.clone())];
    match configuration(&release) {
        Some((source, text)) => {
            facts.push(("configuration", source));
            facts.extend(options(&text).into_iter().map(|o| ("", o)));
        }
        None => facts.push(("configuration", "neither in /proc nor in /boot".into())),
    }
    let loaded: Vec<_> = MODULES.into_iter().filter(|m| is_loaded(m)).collect();
    let loaded = if loaded.is_empty() {
        "none of them".into()
    } else {
        loaded.join(" ")
    };
    facts.push(("modules", format!("{loaded} (of {})", MODULES.join(" "))));
    facts
}

fn read(path: &str) -> String {
    fs::read_to_string(path).map_or_else(|_| "unknown".into(), |s| s.trim().into())
}

/// Whether a module is loaded or built in.
pub fn is_loaded(module: &str) -> bool {
    Path::new("/sys/module").join(module).exists()
}

/// The module that makes the node, where the node's name tells.
pub fn module_of(node: &Path) -> Option<&'static str> {
    match node.file_name()?.to_str()? {
        "vireo" => Some("vireo"),
        "kvm" => Some("kvm"),
        _ => None,
    }
}

/// Where the kernel's configuration was found, and its text.
fn configuration(release: &str) -> Option<(String, String)> {
    let compressed = "/proc/config.gz";
    if let Some(text) = Path::new(compressed)
        .exists()
        .then(|| gunzip(compressed))
        .flatten()
    {
        return Some((compressed.into(), text));
    }
    let plain = format!("/boot/config-{release}");
    fs::read_to_string(&plain).ok().map(|text| (plain, text))
}

/// The text of a compressed file, by the host's `gzip` (or busybox's).
fn gunzip(path: &str) -> Option<String> {
    let mut child = Command::new("gzip")
        .args(["-dc", path])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .ok()?;
    let mut text = String::new();
    let read = child.stdout.take()?.read_to_string(&mut text);
    let status = child.wait().ok()?;
    (read.is_ok() && status.success()).then_some(text)
}

/// The relevant options as `NAME=value`, or as not set.
fn options(text: &str) -> Vec<String> {
    OPTIONS
        .into_iter()
        .map(|name| {
            text.lines()
                .find(|l| {
                    l.strip_prefix(name)
                        .is_some_and(|rest| rest.starts_with('='))
                })
                .map_or_else(|| format!("{name} is not set"), str::to_string)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_found() {
        let found = options("CONFIG_KVM_INTEL=m\nCONFIG_KVM=m\n# CONFIG_RUST is not set\n");
        assert_eq!(found[0], "CONFIG_RUST is not set");
        assert_eq!(found[1], "CONFIG_KVM=m");
        assert_eq!(found[2], "CONFIG_KVM_INTEL=m");
    }

    #[test]
    fn nodes_name_their_modules() {
        assert_eq!(module_of(Path::new("/dev/vireo")), Some("vireo"));
        assert_eq!(module_of(Path::new("/dev/null")), None);
        assert_eq!(module_of(Path::new("/")), None);
    }

    #[test]
    fn facts_are_complete() {
        let facts = facts();
        for name in ["release", "configuration", "modules"] {
            assert!(
                facts.iter().any(|(n, v)| *n == name && !v.is_empty()),
                "{name}"
            );
        }
    }
}
