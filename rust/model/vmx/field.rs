// SPDX-License-Identifier: GPL-2.0-only

//! VMCS fields whose width and access are part of their type (SDM vol. 3, section 25.11.2 and app. B).
//!
//! A field's encoding says how wide it is and whether it may be written. [`Field::new`] compares that
//! with the field's type, and because every field is a constant a wrong table entry does not compile:
//!
//! ```compile_fail,E0080
//! use vireo_model::model::vmx::field::Field;
//! const WRONG_WIDTH: Field<u32> = Field::new(0x681e);
//! let _ = WRONG_WIDTH;
//! ```
//!
//! A function that writes takes `Field<T>`, which is `Field<T, ReadWrite>`, so a read-only field
//! cannot be passed to it:
//!
//! ```compile_fail,E0308
//! use vireo_model::model::vmx::field::{self, Field, FieldType};
//! fn vmwrite<T: FieldType>(_field: Field<T>, _value: T::Value) {}
//! vmwrite(field::EXIT_REASON, 0);
//! ```

use core::marker::PhantomData;

mod table;

pub use table::*;

/// What a field's type must say: the width that its encoding names, and the Rust type of its value.
pub trait FieldType {
    /// The value that accessors take and return.
    type Value: Copy;

    /// Bits 14:13 of the encoding.
    const WIDTH: u32;

    /// Takes the value out of the 64-bit operand of VMREAD, which zero-extends narrow fields.
    fn from_operand(operand: u64) -> Self::Value;

    /// Makes the 64-bit operand of VMWRITE.
    fn to_operand(value: Self::Value) -> u64;
}

/// The type of a field of natural width: 64 bits, as this code runs in 64-bit mode only.
#[derive(Clone, Copy, Debug)]
pub enum Natural {}

macro_rules! field_type {
    ($marker:ty, $value:ty, $width:literal) => {
        impl FieldType for $marker {
            type Value = $value;

            const WIDTH: u32 = $width;

            #[inline(always)]
            fn from_operand(operand: u64) -> $value {
                operand as $value
            }

            #[inline(always)]
            fn to_operand(value: $value) -> u64 {
                u64::from(value)
            }
        }
    };
}

field_type!(u16, u16, 0);
field_type!(u64, u64, 1);
field_type!(u32, u32, 2);
field_type!(Natural, u64, 3);

/// Whether VMWRITE may be used on a field.
pub trait Access {
    /// True for a VM-exit information field.
    const READ_ONLY: bool;
}

/// A control, guest-state or host-state field.
#[derive(Clone, Copy, Debug)]
pub enum ReadWrite {}

/// A VM-exit information field.
#[derive(Clone, Copy, Debug)]
pub enum ReadOnly {}

impl Access for ReadWrite {
    const READ_ONLY: bool = false;
}

impl Access for ReadOnly {
    const READ_ONLY: bool = true;
}

/// A VMCS field of type `T`.
///
/// # Invariants
///
/// `encoding` is a full-access encoding whose width is `T::WIDTH` and whose kind agrees with `A`.
#[repr(transparent)]
pub struct Field<T, A = ReadWrite> {
    encoding: u32,
    _type: PhantomData<fn() -> (T, A)>,
}

impl<T, A> Clone for Field<T, A> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T, A> Copy for Field<T, A> {}

/// Bit 0: the access type, 1 for the high half of a 64-bit field.
const ACCESS_HIGH: u32 = 1 << 0;

/// Bits 11:10: the kind of field.
const KIND_SHIFT: u32 = 10;
const KIND_MASK: u32 = 3;
const KIND_EXIT_INFORMATION: u32 = 1;

/// Bits 14:13: the width.
const WIDTH_SHIFT: u32 = 13;
const WIDTH_MASK: u32 = 3;

/// Bit 12 and bits 31:15.
const RESERVED: u32 = 1 << 12 | !0 << 15;

impl<T: FieldType, A: Access> Field<T, A> {
    /// Makes a field of an encoding; to be evaluated at build time.
    ///
    /// # Panics
    ///
    /// When the encoding contradicts the type. In a constant, that is a build error.
    pub const fn new(encoding: u32) -> Self {
        assert!(encoding & RESERVED == 0, "reserved bits are set");
        assert!(encoding & ACCESS_HIGH == 0, "not the full field");
        assert!(
            encoding >> WIDTH_SHIFT & WIDTH_MASK == T::WIDTH,
            "the encoding has another width"
        );
        assert!(
            (encoding >> KIND_SHIFT & KIND_MASK == KIND_EXIT_INFORMATION) == A::READ_ONLY,
            "the encoding has another access"
        );
        // INVARIANT: just checked.
        Self {
            encoding,
            _type: PhantomData,
        }
    }
}

impl<T, A> Field<T, A> {
    /// Returns the encoding, the operand of VMREAD and VMWRITE.
    #[inline(always)]
    pub const fn encoding(self) -> u32 {
        self.encoding
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn encodings_are_unique_and_named_once() {
        let mut encodings: Vec<u32> = ALL.iter().map(|&(_, encoding)| encoding).collect();
        let mut names: Vec<&str> = ALL.iter().map(|&(name, _)| name).collect();
        let count = ALL.len();
        encodings.sort_unstable();
        encodings.dedup();
        names.sort_unstable();
        names.dedup();
        assert_eq!((encodings.len(), names.len()), (count, count));
    }

    #[test]
    fn table_agrees_with_well_known_encodings() {
        assert_eq!(VPID.encoding(), 0x0000);
        assert_eq!(EPT_POINTER.encoding(), 0x201a);
        assert_eq!(EXIT_REASON.encoding(), 0x4402);
        assert_eq!(GUEST_RIP.encoding(), 0x681e);
        assert_eq!(HOST_RIP.encoding(), 0x6c16);
        assert!(ALL.contains(&("GUEST_RIP", 0x681e)));
    }

    #[test]
    fn operands_round_trip() {
        assert_eq!(u16::from_operand(u16::to_operand(0xfffe)), 0xfffe);
        assert_eq!(u32::from_operand(0xffff_ffff_0000_0001), 1);
        assert_eq!(
            Natural::from_operand(Natural::to_operand(u64::MAX)),
            u64::MAX
        );
    }
}
