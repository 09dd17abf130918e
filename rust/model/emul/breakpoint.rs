// SPDX-License-Identifier: GPL-2.0-only

//! Breakpoints on data and ports (SDM vol. 3, 18.2.4 and 18.2.5).

use crate::model::sregs::DebugRegs;
use crate::model::x86::dr7;

/// Bits of DR7 for each breakpoint: two to enable it, four for its condition.
const ENABLE_BITS: u32 = 2;
const CONDITION_BITS: u32 = 4;

/// The kinds of access in a condition's low two bits.
const WRITES: u64 = 1;
const PORTS: u64 = 2;
const READS_AND_WRITES: u64 = 3;

/// An access that may meet a breakpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Watched {
    /// Memory is read.
    Read,
    /// Memory is written, or read for that.
    Write,
    /// A port is accessed; counts only with CR4.DE.
    Port,
}

/// Bytes of a breakpoint, from its length field.
const fn length(field: u64) -> u64 {
    match field & 3 {
        0 => 1,
        1 => 2,
        2 => 8,
        _ => 4,
    }
}

/// The breakpoints, as bits of DR6, that an access of `len` bytes at `address` meets. They trap when the
/// instruction, or the iteration of a string instruction, is complete.
pub fn hits(debug: &DebugRegs, address: u64, len: u64, access: Watched) -> u64 {
    let mut met = 0;
    for (n, breakpoint) in (0u32..).zip(debug.address) {
        let enabled = debug.dr7 >> n.wrapping_mul(ENABLE_BITS) & 3 != 0;
        let shift = dr7::CONDITIONS_SHIFT.wrapping_add(n.wrapping_mul(CONDITION_BITS));
        let condition = debug.dr7 >> (shift & 63);
        let watches = match condition & 3 {
            WRITES => access == Watched::Write,
            PORTS => access == Watched::Port,
            READS_AND_WRITES => access != Watched::Port,
            _ => false,
        };
        let size = length(condition >> 2);
        let start = breakpoint & !(size.wrapping_sub(1));
        // Either begins within the other.
        let overlaps = address.wrapping_sub(start) < size || start.wrapping_sub(address) < len;
        if enabled && watches && overlaps {
            met |= 1 << n;
        }
    }
    met
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Breakpoint 1 with this condition and length field.
    fn debug(address: u64, condition: u64, len: u64) -> DebugRegs {
        DebugRegs {
            address: [0, address, 0, 0],
            dr7: 1 << 3 | (len << 2 | condition) << 20,
            ..DebugRegs::RESET
        }
    }

    #[test]
    fn conditions() {
        let cases = [
            (WRITES, [false, true, false]),
            (PORTS, [false, false, true]),
            (READS_AND_WRITES, [true, true, false]),
            (0, [false; 3]),
        ];
        for (condition, expected) in cases {
            let debug = debug(0x1000, condition, 0);
            let found = [Watched::Read, Watched::Write, Watched::Port]
                .map(|access| hits(&debug, 0x1000, 1, access) == 2);
            assert_eq!(found, expected, "{condition}");
        }
        let off = DebugRegs {
            dr7: 0xf << 20,
            ..debug(0x1000, 0, 0)
        };
        assert_eq!(hits(&off, 0x1000, 1, Watched::Write), 0);
    }

    #[test]
    fn lengths() {
        // Length field, address, first and last byte watched.
        let cases = [
            (0, 0x1003, 0x1003, 0x1003),
            (1, 0x1003, 0x1002, 0x1003),
            (3, 0x1003, 0x1000, 0x1003),
            (2, 0x100b, 0x1008, 0x100f),
        ];
        for (field, address, first, last) in cases {
            let debug = debug(address, READS_AND_WRITES, field);
            for at in 0xff0..0x1020 {
                for len in [1, 2, 4, 8, 16] {
                    let expected = at <= last && at + len > first;
                    let found = hits(&debug, at, len, Watched::Read) != 0;
                    assert_eq!(found, expected, "{len} bytes at {at:#x}, field {field}");
                }
            }
        }
    }
}
