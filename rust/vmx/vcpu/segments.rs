// SPDX-License-Identifier: GPL-2.0-only

//! Which fields of the VMCS hold a segment register.

use crate::{
    backend::Hidden,
    model::{
        vmx::field::{
            self,
            Field,
            Natural, //
        },
        x86::SegReg, //
    }, //
};

/// What holds a segment register.
pub(super) enum Fields {
    /// A segment: selector, base, limit and access rights.
    Segment(Field<u16>, Field<Natural>, Field<u32>, Field<u32>),
    /// A descriptor table: base and limit.
    Table(Field<Natural>, Field<u32>),
}

/// Returns the fields of a segment register.
#[inline(always)]
pub(super) fn fields(reg: Hidden) -> Fields {
    macro_rules! fields {
        ($selector:ident, $base:ident, $limit:ident, $rights:ident) => {
            Fields::Segment(
                field::$selector,
                field::$base,
                field::$limit,
                field::$rights,
            )
        };
    }
    match reg {
        Hidden::Seg(SegReg::Es) => {
            fields!(
                GUEST_ES_SELECTOR,
                GUEST_ES_BASE,
                GUEST_ES_LIMIT,
                GUEST_ES_ACCESS_RIGHTS
            )
        }
        Hidden::Seg(SegReg::Cs) => {
            fields!(
                GUEST_CS_SELECTOR,
                GUEST_CS_BASE,
                GUEST_CS_LIMIT,
                GUEST_CS_ACCESS_RIGHTS
            )
        }
        Hidden::Seg(SegReg::Ss) => {
            fields!(
                GUEST_SS_SELECTOR,
                GUEST_SS_BASE,
                GUEST_SS_LIMIT,
                GUEST_SS_ACCESS_RIGHTS
            )
        }
        Hidden::Seg(SegReg::Ds) => {
            fields!(
                GUEST_DS_SELECTOR,
                GUEST_DS_BASE,
                GUEST_DS_LIMIT,
                GUEST_DS_ACCESS_RIGHTS
            )
        }
        Hidden::Seg(SegReg::Fs) => {
            fields!(
                GUEST_FS_SELECTOR,
                GUEST_FS_BASE,
                GUEST_FS_LIMIT,
                GUEST_FS_ACCESS_RIGHTS
            )
        }
        Hidden::Seg(SegReg::Gs) => {
            fields!(
                GUEST_GS_SELECTOR,
                GUEST_GS_BASE,
                GUEST_GS_LIMIT,
                GUEST_GS_ACCESS_RIGHTS
            )
        }
        Hidden::Ldtr => {
            fields!(
                GUEST_LDTR_SELECTOR,
                GUEST_LDTR_BASE,
                GUEST_LDTR_LIMIT,
                GUEST_LDTR_ACCESS_RIGHTS
            )
        }
        Hidden::Tr => {
            fields!(
                GUEST_TR_SELECTOR,
                GUEST_TR_BASE,
                GUEST_TR_LIMIT,
                GUEST_TR_ACCESS_RIGHTS
            )
        }
        Hidden::Gdtr => Fields::Table(field::GUEST_GDTR_BASE, field::GUEST_GDTR_LIMIT),
        Hidden::Idtr => Fields::Table(field::GUEST_IDTR_BASE, field::GUEST_IDTR_LIMIT),
    }
}
