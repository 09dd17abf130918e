// SPDX-License-Identifier: GPL-2.0-only

//! Addresses and frame numbers, one type for each space.
//!
//! The spaces never mix: a guest-physical address becomes a host-virtual one through a memory slot and
//! a host-physical one through the host's page tables, never by arithmetic.

/// Bits of an address below a 4-KiB page.
pub const PAGE_SHIFT: u32 = 12;

/// Bytes of a 4-KiB page.
pub const PAGE_SIZE: u64 = 1 << PAGE_SHIFT;

macro_rules! address {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(transparent)]
        pub struct $name(u64);

        impl $name {
            /// Wraps a raw value.
            pub const fn new(raw: u64) -> Self {
                Self(raw)
            }

            /// Returns the raw value.
            pub const fn raw(self) -> u64 {
                self.0
            }

            /// Adds `n`, or `None` on overflow.
            pub const fn checked_add(self, n: u64) -> Option<Self> {
                match self.0.checked_add(n) {
                    Some(sum) => Some(Self(sum)),
                    None => None,
                }
            }
        }
    };
}

macro_rules! paged {
    ($addr:ident, $frame:ident, $to_frame:ident, $to_addr:ident) => {
        impl $addr {
            /// Returns the number of the 4-KiB frame that holds this address.
            pub const fn $to_frame(self) -> $frame {
                $frame(self.0 >> PAGE_SHIFT)
            }

            /// Returns the offset within the 4-KiB frame, 0 to 4095 bytes.
            pub const fn page_offset(self) -> u64 {
                self.0 & (PAGE_SIZE - 1)
            }
        }

        impl $frame {
            /// Returns the address of the frame's first byte.
            pub const fn $to_addr(self) -> $addr {
                $addr(self.0 << PAGE_SHIFT)
            }

            /// Rounds down to a multiple of `frames`, which must be a power of two.
            pub const fn align_down(self, frames: u64) -> Self {
                Self(self.0 & !(frames.wrapping_sub(1)))
            }
        }
    };
}

address! {
    /// A guest-physical address.
    Gpa
}
address! {
    /// A guest-virtual (linear) address.
    Gva
}
address! {
    /// A host-physical address.
    Hpa
}
address! {
    /// A host-virtual address of the VMM's process.
    Hva
}
address! {
    /// The number of a guest-physical 4-KiB frame.
    Gfn
}
address! {
    /// The number of a host-physical 4-KiB frame.
    Pfn
}

paged!(Gpa, Gfn, gfn, gpa);
paged!(Hpa, Pfn, pfn, hpa);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_and_offsets() {
        let gpa = Gpa::new(0x1234_5678);
        assert_eq!(gpa.gfn(), Gfn::new(0x12345));
        assert_eq!(gpa.page_offset(), 0x678);
        assert_eq!(gpa.gfn().gpa(), Gpa::new(0x1234_5000));
        assert_eq!(Gfn::new(0x3ff).align_down(512), Gfn::new(0x200));
        assert_eq!(Gpa::new(u64::MAX).checked_add(1), None);
    }
}
