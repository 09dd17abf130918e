// SPDX-License-Identifier: GPL-2.0-only

//! Classes of exceptions: what becomes of two at once, and which are faults (SDM vol. 3 sections 6.5 and
//! 6.15).

use crate::model::x86::vector;

/// What a second exception during the delivery of a first makes of the two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Combined {
    /// They are handled one after the other.
    Serial,
    /// #DF.
    DoubleFault,
    /// The processor shuts down.
    TripleFault,
}

enum Class {
    Benign,
    Contributory,
    PageFault,
}

const fn class(vector: u8) -> Class {
    match vector {
        vector::DE | vector::TS | vector::NP | vector::SS | vector::GP | vector::CP => {
            Class::Contributory
        }
        vector::PF | vector::VE => Class::PageFault,
        _ => Class::Benign,
    }
}

/// Combines the exception `second` with `first`, whose delivery raised it.
///
/// ```
/// use vireo_model::model::event::{combine, Combined};
/// use vireo_model::model::x86::vector;
///
/// assert_eq!(combine(vector::PF, vector::PF), Combined::DoubleFault);
/// assert_eq!(combine(vector::DF, vector::PF), Combined::TripleFault);
/// assert_eq!(combine(vector::DB, vector::PF), Combined::Serial);
/// ```
pub const fn combine(first: u8, second: u8) -> Combined {
    if first == vector::DF {
        return match class(second) {
            Class::Benign => Combined::Serial,
            _ => Combined::TripleFault,
        };
    }
    match (class(first), class(second)) {
        (Class::Contributory, Class::Contributory)
        | (Class::PageFault, Class::Contributory | Class::PageFault) => Combined::DoubleFault,
        _ => Combined::Serial,
    }
}

/// Returns true for exceptions that set RFLAGS.RF in the image they push, so that an instruction
/// breakpoint does not hit again on return: faults, except #DB (SDM vol. 3 section 18.3.1.1).
pub const fn is_fault(vector: u8) -> bool {
    !matches!(
        vector,
        vector::DB
            | vector::NMI
            | vector::BP
            | vector::OF
            | vector::DF
            | vector::MC
            | vector::FIRST_INTERRUPT..
    )
}
