// SPDX-License-Identifier: GPL-2.0-only

//! The way of nearly every walk in 64-bit mode: each entry is present and as it should be, has been used
//! before, and allows the access. Whatever is unusual is left to the general walk, which starts from the top.

use super::format::{bits, entry, key, ADDRESS};
use super::{rights, AccessKind, Config, GuestMemory, Request, Rights, Translation};
use crate::model::addr::Gpa;

/// The lowest address bits that the levels translate.
const TOP_SHIFT: u32 = 39;
const G1_SHIFT: u32 = 30;
const K4_SHIFT: u32 = 12;
/// Address bits that a level translates.
const INDEX_BITS: u32 = 9;

/// Translates `gva` through tables of four levels, or returns `None` if the general walk has to.
#[inline]
pub(super) fn four_levels<G: GuestMemory>(
    config: &Config,
    memory: &mut G,
    gva: u64,
    request: Request,
) -> Option<Translation> {
    let nx = if config.nxe { 0 } else { entry::NX };
    let reserved = bits(51, u32::from(config.maxphyaddr)) | nx;
    let write = request.kind == AccessKind::Write;
    let (mut every, mut any) = (u64::MAX, 0);
    let mut table = config.cr3;
    let mut shift = TOP_SHIFT;
    loop {
        let index = gva >> shift & 0x1ff;
        let value = memory.read_u64(Gpa::new(table & ADDRESS | index << 3))?;
        every &= value;
        any |= value;
        if shift == K4_SHIFT || value & entry::PS != 0 {
            let size = 1u64 << shift;
            // Address bits within a large page are reserved, but bit 12, which belongs to the memory type.
            let inside = size.wrapping_sub(1) & bits(51, K4_SHIFT + 1);
            let dirty = if write { entry::D } else { 0 };
            let unusual = shift == TOP_SHIFT
                || shift == G1_SHIFT && !config.pages_1g
                || shift != K4_SHIFT && value & inside != 0
                || any & reserved != 0
                || every & (entry::P | entry::A) != entry::P | entry::A
                || value & dirty != dirty;
            if unusual {
                return None;
            }
            let rights = Rights {
                write: every & entry::W != 0,
                user: every & entry::U != 0,
                execute: any & entry::NX == 0,
                key: key(config, value),
            };
            if rights::violation(config, &rights, request).is_some() {
                return None;
            }
            let page = value & ADDRESS & !size.wrapping_sub(1);
            return Some(Translation {
                gpa: Gpa::new(page | gva & size.wrapping_sub(1)),
                page_size: size,
                rights,
            });
        }
        if value & entry::P == 0 {
            return None;
        }
        table = value;
        // At most three times: the loop ends at 4 KiB.
        shift = shift.wrapping_sub(INDEX_BITS);
    }
}
