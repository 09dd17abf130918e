// SPDX-License-Identifier: Apache-2.0

//! The CPU's virtualisation features, as Linux lists them in /proc/cpuinfo.

/// Intel's and AMD's features in the `flags` line that matter to a hypervisor.
const GENERAL: [&str; 22] = [
    "ept",
    "vpid",
    "ept_ad",
    "tpr_shadow",
    "flexpriority",
    "vnmi",
    "npt",
    "nrip_save",
    "decodeassists",
    "flushbyasid",
    "pausefilter",
    "pfthreshold",
    "avic",
    "vgif",
    "v_vmsave_vmload",
    "tsc_scale",
    "vmcb_clean",
    "constant_tsc",
    "nonstop_tsc",
    "tsc_deadline_timer",
    "x2apic",
    "hypervisor",
];

/// What the first CPU says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cpu {
    /// Its name.
    pub model: String,
    /// VT-x.
    pub vmx: bool,
    /// AMD-V.
    pub svm: bool,
    /// Features that matter here, as Linux names them.
    pub features: Vec<String>,
}

impl Cpu {
    /// Parses the first processor in the text of /proc/cpuinfo.
    pub fn from_cpuinfo(text: &str) -> Self {
        let mut cpu = Cpu {
            model: "unknown".into(),
            ..Default::default()
        };
        for line in text.lines().take_while(|l| !l.trim().is_empty()) {
            let Some((key, value)) = line.split_once(':') else {
                continue;
            };
            match key.trim() {
                "model name" => cpu.model = value.trim().into(),
                "flags" => {
                    for flag in value.split_ascii_whitespace() {
                        match flag {
                            "vmx" => cpu.vmx = true,
                            "svm" => cpu.svm = true,
                            flag if GENERAL.contains(&flag) => cpu.features.push(flag.into()),
                            _ => {}
                        }
                    }
                }
                // Everything in this line is about VT-x; some of it is in `flags` as well.
                "vmx flags" => {
                    for flag in value.split_ascii_whitespace() {
                        if !cpu.features.iter().any(|f| f == flag) {
                            cpu.features.push(flag.into());
                        }
                    }
                }
                _ => {}
            }
        }
        cpu
    }

    /// Whether there are virtualisation extensions at all.
    pub fn has_extensions(&self) -> bool {
        self.vmx || self.svm
    }

    /// The extensions, in words.
    pub fn virtualisation(&self) -> &'static str {
        match (self.vmx, self.svm) {
            (true, _) => "VT-x (vmx)",
            (false, true) => "AMD-V (svm)",
            (false, false) => "none that the kernel shows",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn intel() {
        let text = "processor\t: 0\nmodel name\t: A CPU @ 1 GHz\nflags\t\t: fpu vmx ept x2apic\n\
                    vmx flags\t: vnmi ept unrestricted_guest\n\nprocessor\t: 1\nmodel name\t: B\n";
        let cpu = Cpu::from_cpuinfo(text);
        assert_eq!(cpu.model, "A CPU @ 1 GHz");
        assert_eq!(
            cpu.features,
            ["ept", "x2apic", "vnmi", "unrestricted_guest"]
        );
        assert_eq!(cpu.virtualisation(), "VT-x (vmx)");
    }

    #[test]
    fn amd_and_none() {
        let cpu = Cpu::from_cpuinfo("flags\t: svm npt\n");
        assert!(cpu.svm && cpu.has_extensions());
        assert_eq!(cpu.features, ["npt"]);
        let cpu = Cpu::from_cpuinfo("");
        assert!(!cpu.has_extensions());
        assert_eq!(cpu.model, "unknown");
    }
}
