// SPDX-License-Identifier: GPL-2.0-only
//! What the figures have to show: no operation costs more than on KVM, and an access to device memory that has to be
//! emulated at most half.

/// Rows of which Vireo may cost at most half of KVM.
const HALF: [&str; 3] = ["mmio-write-kernel", "mmio-write-user", "mmio-read-user"];

/// What was found of the rows so far.
#[derive(Default)]
pub struct Verdict {
    compared: usize,
    within_half: Vec<String>,
    failures: Vec<String>,
}

impl Verdict {
    /// Takes a row's figures: ticks on KVM and on Vireo. What one of them does not have is not compared.
    pub fn add(&mut self, name: &str, kvm: Option<u64>, vireo: Option<u64>) {
        let half = HALF.contains(&name);
        let (Some(kvm), Some(vireo)) = (kvm, vireo) else {
            if half {
                // The figure is promised, so it must be there.
                self.failures.push(format!("{name}: no figure"));
            }
            return;
        };
        self.compared += 1;
        let figures = format!("{name} {vireo} : {kvm}");
        if half && vireo.saturating_mul(2) <= kvm {
            self.within_half.push(figures);
        } else if half {
            self.failures.push(format!("above half of KVM: {figures}"));
        } else if vireo > kvm {
            self.failures.push(format!("above KVM: {figures}"));
        }
    }

    /// Whether anything was compared.
    pub fn has_compared(&self) -> bool {
        self.compared > 0
    }

    /// Whether something was compared, and nothing was wrong.
    pub fn is_good(&self) -> bool {
        self.has_compared() && self.failures.is_empty()
    }

    /// What to print: what holds of the rows with a limit of their own, and what does not hold.
    pub fn lines(&self) -> Vec<String> {
        let mut lines = Vec::new();
        if !self.within_half.is_empty() {
            lines.push(format!(
                "at most half of KVM, as it has to be: {}",
                self.within_half.join(", ")
            ));
        }
        lines.extend(self.failures.iter().cloned());
        lines
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdict(rows: &[(&str, Option<u64>, Option<u64>)]) -> Verdict {
        let mut verdict = Verdict::default();
        for (name, kvm, vireo) in rows {
            verdict.add(name, *kvm, *vireo);
        }
        verdict
    }

    #[test]
    fn nothing_may_be_above_kvm() {
        assert!(verdict(&[("cpuid", Some(1000), Some(1000))]).is_good());
        let bad = verdict(&[("cpuid", Some(1000), Some(1001))]);
        assert!(!bad.is_good());
        assert_eq!(bad.lines(), ["above KVM: cpuid 1001 : 1000"]);
        // What KVM does not have is no comparison.
        assert!(!verdict(&[("cpuid", None, Some(10))]).is_good());
    }

    #[test]
    fn device_memory_costs_half_at_most() {
        let good = verdict(&[("mmio-read-user", Some(1001), Some(500))]);
        assert!(good.is_good());
        assert!(good.lines()[0].ends_with("mmio-read-user 500 : 1001"));
        let bad = verdict(&[("mmio-read-user", Some(1001), Some(501))]);
        assert!(!bad.is_good());
        assert_eq!(
            bad.lines(),
            ["above half of KVM: mmio-read-user 501 : 1001"]
        );
        assert!(!verdict(&[
            ("cpuid", Some(2), Some(1)),
            ("mmio-read-user", None, Some(1))
        ])
        .is_good());
    }

    #[test]
    fn the_rows_are_there() {
        for name in HALF {
            assert!(super::super::ROWS.iter().any(|row| row.name == name));
        }
    }
}
