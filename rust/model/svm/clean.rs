// SPDX-License-Identifier: GPL-2.0-only

//! VMCB clean bits: which parts of a VMCB the processor need not read again (APM vol. 2, section 15.15).
//!
//! A set bit lets VMRUN use what it has cached of that part from the last #VMEXIT of the same VMCB, by its
//! physical address, on the same CPU; so all are cleared when a VMCB has moved to another CPU, and one is
//! cleared when a field of its group has been written. Fields in no group are read each time: RIP, RSP, RAX,
//! RFLAGS, the interrupt shadow, TLB_CONTROL, EVENTINJ, nRIP, the enable bits at 0B8h. What VMLOAD and VMSAVE
//! switch is not concerned.

/// A set of groups of VMCB fields.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(transparent)]
pub struct Clean(u32);

impl Clean {
    /// Bit 0: the intercept vectors, TSC_OFFSET, PAUSE filter count and threshold.
    pub const INTERCEPTS: Self = Self(1 << 0);
    /// Bit 1: IOPM_BASE_PA and MSRPM_BASE_PA. The maps themselves are read whenever they are needed.
    pub const PERMISSION_MAPS: Self = Self(1 << 1);
    /// Bit 2: the ASID.
    pub const ASID: Self = Self(1 << 2);
    /// Bit 3 (TPR): V_TPR, V_IRQ, V_INTR_PRIO, V_IGN_TPR, V_INTR_MASKING, V_INTR_VECTOR: offsets 060h to 067h.
    pub const INTERRUPT: Self = Self(1 << 3);
    /// Bit 4 (NP): NP_ENABLE, nCR3, G_PAT.
    pub const NESTED_PAGING: Self = Self(1 << 4);
    /// Bit 5 (CRx): CR0, CR3, CR4, EFER.
    pub const CR: Self = Self(1 << 5);
    /// Bit 6 (DRx): DR6, DR7.
    pub const DR: Self = Self(1 << 6);
    /// Bit 7: GDTR and IDTR.
    pub const DT: Self = Self(1 << 7);
    /// Bit 8: CS, DS, SS, ES and CPL.
    pub const SEG: Self = Self(1 << 8);
    /// Bit 9: CR2.
    pub const CR2: Self = Self(1 << 9);
    /// Bit 10: DBGCTL, BR_FROM, BR_TO, LASTEXCPFROM, LASTEXCPTO.
    pub const LBR: Self = Self(1 << 10);
    /// Bit 11: APIC_BAR, the backing page, the logical and the physical table.
    pub const AVIC: Self = Self(1 << 11);
    /// Bit 12: S_CET, SSP, ISST_ADDR.
    pub const CET: Self = Self(1 << 12);

    /// No group.
    pub const NONE: Self = Self(0);
    /// Every group.
    pub const ALL: Self = Self(0x1fff);

    /// Returns the bits.
    #[inline]
    pub const fn raw(self) -> u32 {
        self.0
    }

    /// Returns the groups of both sets.
    #[inline]
    #[must_use]
    pub const fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_are_one_bit_each() {
        let groups = [
            Clean::INTERCEPTS,
            Clean::PERMISSION_MAPS,
            Clean::ASID,
            Clean::INTERRUPT,
            Clean::NESTED_PAGING,
            Clean::CR,
            Clean::DR,
            Clean::DT,
            Clean::SEG,
            Clean::CR2,
            Clean::LBR,
            Clean::AVIC,
            Clean::CET,
        ];
        let mut all = Clean::NONE;
        for (bit, group) in groups.into_iter().enumerate() {
            assert_eq!(group.raw(), 1 << bit);
            all = all.with(group);
        }
        assert_eq!(all, Clean::ALL);
    }
}
