// SPDX-License-Identifier: GPL-2.0-only

//! The walk of the guest's own page tables: from a guest-virtual to a guest-physical address.
//!
//! 2-level paging with 4-MiB pages, PAE, 4-level and 5-level paging (SDM vol. 3, ch. 4), with NX, WP,
//! SMEP, SMAP and protection keys for user pages. Accessed and dirty bits are set by compare-and-exchange
//! after the access was found to be allowed, so other CPUs may walk and change the same tables.

mod format;
mod quick;
mod rights;
#[cfg(test)]
mod tests;

pub use format::Paging;
pub use rights::Rights;

use crate::model::addr::{Gpa, PAGE_SIZE};
use crate::model::x86::{cr0, cr4, efer, pf};
use format::{entry, MAX_LEVELS};

/// How often a walk starts again because an entry changed under it.
const MAX_ATTEMPTS: u32 = 8;

/// Guest-physical memory that holds page tables. Every method returns `None` if the address is not RAM
/// that may be accessed so. Addresses are aligned to the size of the access.
pub trait GuestMemory {
    /// Reads a 32-bit entry in one access.
    fn read_u32(&mut self, gpa: Gpa) -> Option<u32>;

    /// Reads a 64-bit entry in one access.
    fn read_u64(&mut self, gpa: Gpa) -> Option<u64>;

    /// Replaces `old` by `new` atomically; `Some(false)` if the entry no longer held `old`.
    fn cmpxchg_u32(&mut self, gpa: Gpa, old: u32, new: u32) -> Option<bool>;

    /// Replaces `old` by `new` atomically; `Some(false)` if the entry no longer held `old`.
    fn cmpxchg_u64(&mut self, gpa: Gpa, old: u64, new: u64) -> Option<bool>;
}

/// The registers and CPU properties that a walk depends on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Config {
    /// The format of the tables.
    pub paging: Paging,
    /// CR3.
    pub cr3: u64,
    /// CR0.WP: supervisor writes obey read-only pages.
    pub wp: bool,
    /// EFER.NXE: bit 63 means no-execute and is not reserved. Without effect in 2-level paging.
    pub nxe: bool,
    /// CR4.PSE: 4-MiB pages in 2-level paging.
    pub pse: bool,
    /// CR4.SMEP.
    pub smep: bool,
    /// CR4.SMAP.
    pub smap: bool,
    /// PKRU, if protection keys for user pages are in use.
    pub pkru: Option<u32>,
    /// Physical-address width of the guest's CPUID, 32 to 52 bits.
    pub maxphyaddr: u8,
    /// Whether the guest's CPUID has 1-GiB pages.
    pub pages_1g: bool,
}

impl Config {
    /// Derives the configuration from registers. `pkru` counts only where CR4.PKE enables it.
    pub const fn new(
        cr0: u64,
        cr3: u64,
        cr4: u64,
        efer: u64,
        pkru: u32,
        maxphyaddr: u8,
        pages_1g: bool,
    ) -> Self {
        let long = efer & efer::LMA != 0;
        let paging = if cr0 & cr0::PG == 0 {
            Paging::Off
        } else if long && cr4 & cr4::LA57 != 0 {
            Paging::FiveLevel
        } else if long {
            Paging::FourLevel
        } else if cr4 & cr4::PAE != 0 {
            Paging::Pae
        } else {
            Paging::TwoLevel
        };
        let keys = long && cr4 & cr4::PKE != 0;
        Self {
            paging,
            cr3,
            wp: cr0 & cr0::WP != 0,
            nxe: efer & efer::NXE != 0,
            pse: cr4 & cr4::PSE != 0,
            smep: cr4 & cr4::SMEP != 0,
            smap: cr4 & cr4::SMAP != 0,
            pkru: if keys { Some(pkru) } else { None },
            maxphyaddr,
            pages_1g,
        }
    }
}

/// The kind of an access.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AccessKind {
    /// A data read.
    Read,
    /// A data write.
    Write,
    /// An instruction fetch.
    Fetch,
}

/// An access to be translated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request {
    /// What it does.
    pub kind: AccessKind,
    /// Whether it is a user-mode access: made at CPL 3 and not implicit.
    pub user: bool,
    /// Whether SMAP is lifted: RFLAGS.AC is set and the access is an explicit one.
    pub smap_lifted: bool,
    /// Whether to set accessed and dirty bits.
    pub update: bool,
}

impl Request {
    /// An explicit access at privilege level `cpl` with the given RFLAGS, which sets A and D bits.
    pub const fn explicit(kind: AccessKind, cpl: u8, rflags: u64) -> Self {
        Self {
            kind,
            user: cpl == 3,
            smap_lifted: rflags & crate::model::x86::rflags::AC != 0,
            update: true,
        }
    }

    /// An access of the processor's own, to a descriptor table for example (SDM vol. 3, 4.6.1).
    pub const fn implicit(kind: AccessKind) -> Self {
        Self {
            kind,
            user: false,
            smap_lifted: false,
            update: true,
        }
    }
}

/// Where an address leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Translation {
    /// The guest-physical address.
    pub gpa: Gpa,
    /// The size of the page in bytes: 4 KiB, 2 MiB, 4 MiB or 1 GiB.
    pub page_size: u64,
    /// What the tables allow, all levels together.
    pub rights: Rights,
}

/// A page fault: the error code is made of the bits in [`pf`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PageFault {
    /// The error code.
    pub error_code: u32,
    /// The address, for CR2.
    pub gva: u64,
}

/// Why an address was not translated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WalkError {
    /// The guest gets a page fault.
    Fault(PageFault),
    /// The entry at this address is outside the guest's RAM.
    Unreadable(Gpa),
    /// Other CPUs kept changing the tables; trying again later is right.
    Contended,
}

/// The entries on the way to a page, from the root on, and what they held when the walk was done: as long
/// as they hold it, the same walk ends the same way.
#[derive(Clone, Copy, Debug)]
pub struct Path {
    steps: [(Gpa, u64); MAX_LEVELS],
    len: usize,
}

impl Path {
    /// How many entries a path has at most.
    pub const MAX: usize = MAX_LEVELS;

    const EMPTY: Self = Self {
        steps: [(Gpa::new(0), 0); MAX_LEVELS],
        len: 0,
    };

    /// The address and the value of each entry.
    pub fn entries(&self) -> &[(Gpa, u64)] {
        self.steps.get(..self.len).unwrap_or(&[])
    }

    fn push(&mut self, gpa: Gpa, entry: u64) {
        if let Some(step) = self.steps.get_mut(self.len) {
            *step = (gpa, entry);
            self.len = self.len.wrapping_add(1);
        }
    }
}

/// Translates the linear address `gva`, which the caller has found canonical; outside the 64-bit
/// formats only its low 32 bits count.
///
/// ```
/// use vireo_model::model::addr::Gpa;
/// use vireo_model::model::walk::{walk, AccessKind, Config, GuestMemory, Request};
///
/// /// One page of RAM, of which the first entry matters.
/// struct Table(u64);
///
/// impl GuestMemory for Table {
///     fn read_u32(&mut self, _: Gpa) -> Option<u32> {
///         None
///     }
///     fn read_u64(&mut self, gpa: Gpa) -> Option<u64> {
///         (gpa == Gpa::new(0x1000)).then_some(self.0)
///     }
///     fn cmpxchg_u32(&mut self, _: Gpa, _: u32, _: u32) -> Option<bool> {
///         None
///     }
///     fn cmpxchg_u64(&mut self, _: Gpa, old: u64, new: u64) -> Option<bool> {
///         let same = self.0 == old;
///         self.0 = if same { new } else { self.0 };
///         Some(same)
///     }
/// }
///
/// // CR0.PG, CR3, CR4.PAE, EFER.LMA: 4-level paging; the entry points at its own page.
/// let config = Config::new(1 << 31, 0x1000, 1 << 5, 1 << 10, 0, 40, true);
/// let mut table = Table(0x1003);
/// let found = walk(&config, &mut table, 0x234, Request::implicit(AccessKind::Write)).unwrap();
/// assert_eq!(found.gpa, Gpa::new(0x1234));
/// // Accessed and dirty.
/// assert_eq!(table.0, 0x1063);
/// ```
pub fn walk<G: GuestMemory>(
    config: &Config,
    memory: &mut G,
    gva: u64,
    request: Request,
) -> Result<Translation, WalkError> {
    if config.paging == Paging::FourLevel {
        if let Some(found) = quick::four_levels(config, memory, gva, request) {
            return Ok(found);
        }
    }
    walk_path(config, memory, gva, request).map(|(found, _)| found)
}

/// As [`walk`], and returns the entries too.
#[inline]
pub fn walk_path<G: GuestMemory>(
    config: &Config,
    memory: &mut G,
    gva: u64,
    request: Request,
) -> Result<(Translation, Path), WalkError> {
    let gva = match config.paging {
        Paging::FourLevel | Paging::FiveLevel => gva,
        _ => gva & 0xffff_ffff,
    };
    if config.paging == Paging::Off {
        let found = Translation {
            gpa: Gpa::new(gva),
            page_size: PAGE_SIZE,
            rights: Rights::ALL,
        };
        return Ok((found, Path::EMPTY));
    }
    for _ in 0..MAX_ATTEMPTS {
        let mut path = Path::EMPTY;
        let found = descend(config, memory, gva, request, &mut path)?;
        if let Some(code) = rights::violation(config, &found.rights, request) {
            return Err(fault(config, gva, request, code));
        }
        if !request.update || set_accessed(config, memory, request, &mut path)? {
            return Ok((found, path));
        }
    }
    Err(WalkError::Contended)
}

/// The page fault with the bits in `cause` and those that describe the access (SDM vol. 3, 4.7).
fn fault(config: &Config, gva: u64, request: Request, cause: u32) -> WalkError {
    let mut error_code = cause;
    if request.user {
        error_code |= pf::U;
    }
    match request.kind {
        AccessKind::Read => {}
        AccessKind::Write => error_code |= pf::W,
        AccessKind::Fetch => {
            let nx = config.nxe && config.paging != Paging::TwoLevel;
            if nx || config.smep {
                error_code |= pf::I;
            }
        }
    }
    WalkError::Fault(PageFault { error_code, gva })
}

/// Follows the tables to the page and notes the way in `path`.
fn descend<G: GuestMemory>(
    config: &Config,
    memory: &mut G,
    gva: u64,
    request: Request,
    path: &mut Path,
) -> Result<Translation, WalkError> {
    let mut rights = Rights::ALL;
    let mut table = format::root(config);
    // At most MAX_LEVELS rounds.
    for level in (1..=config.paging.levels()).rev() {
        let gpa = Gpa::new(table.wrapping_add(format::entry_offset(config.paging, level, gva)));
        let value = match config.paging {
            Paging::TwoLevel => memory.read_u32(gpa).map(u64::from),
            _ => memory.read_u64(gpa),
        }
        .ok_or(WalkError::Unreadable(gpa))?;
        if value & entry::P == 0 {
            return Err(fault(config, gva, request, 0));
        }
        let leaf = format::is_leaf(config, level, value);
        if value & format::reserved(config, level, leaf) != 0 {
            return Err(fault(config, gva, request, pf::P | pf::RSVD));
        }
        path.push(gpa, value);
        if format::has_rights(config.paging, level) {
            rights = rights.and(config, value);
        }
        if leaf {
            rights.key = format::key(config, value);
            let page_size = format::span(config.paging, level);
            let base = format::leaf_address(config.paging, level, value);
            return Ok(Translation {
                gpa: Gpa::new(base | gva & page_size.wrapping_sub(1)),
                page_size,
                rights,
            });
        }
        table = format::table_address(value);
    }
    // Level 1 is always a leaf.
    Err(WalkError::Contended)
}

/// Sets the accessed bit in each entry of `path`, and the dirty bit in the last one for a write.
/// Returns `false` if an entry changed meanwhile.
fn set_accessed<G: GuestMemory>(
    config: &Config,
    memory: &mut G,
    request: Request,
    path: &mut Path,
) -> Result<bool, WalkError> {
    let len = path.len;
    for (n, (gpa, value)) in path.steps.iter_mut().take(len).enumerate() {
        let (gpa, old) = (*gpa, *value);
        if config.paging == Paging::Pae && n == 0 {
            // The four top entries of PAE have no accessed bit.
            continue;
        }
        let mut new = old | entry::A;
        if n.wrapping_add(1) == len && request.kind == AccessKind::Write {
            new |= entry::D;
        }
        if new == old {
            continue;
        }
        let swapped = match config.paging {
            Paging::TwoLevel => memory.cmpxchg_u32(gpa, old as u32, new as u32),
            _ => memory.cmpxchg_u64(gpa, old, new),
        };
        if !swapped.ok_or(WalkError::Unreadable(gpa))? {
            return Ok(false);
        }
        *value = new;
    }
    Ok(true)
}
