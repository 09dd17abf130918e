// SPDX-License-Identifier: GPL-2.0-only

//! What the tables allow, and whether it covers an access (SDM vol. 3, 4.6).

use super::format::entry;
use super::{AccessKind, Config, Paging, Request};
use crate::model::x86::pf;

/// What all levels together allow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rights {
    /// Every level is writable.
    pub write: bool,
    /// Every level is a user one: a user-mode address.
    pub user: bool,
    /// No level forbids execution.
    pub execute: bool,
    /// The protection key, 0 to 15; 0 where keys are not in use.
    pub key: u8,
}

impl Rights {
    /// Everything allowed.
    pub const ALL: Self = Self {
        write: true,
        user: true,
        execute: true,
        key: 0,
    };

    /// These rights, cut to those of one more entry.
    pub(super) const fn and(self, config: &Config, value: u64) -> Self {
        let nx = !matches!(config.paging, Paging::TwoLevel) && value & entry::NX != 0;
        Self {
            write: self.write && value & entry::W != 0,
            user: self.user && value & entry::U != 0,
            execute: self.execute && !nx,
            key: self.key,
        }
    }
}

/// Whether PKRU denies the access: two bits for each key, access-disable and write-disable.
const fn denied_by_key(config: &Config, rights: &Rights, request: Request) -> bool {
    let Some(pkru) = config.pkru else {
        return false;
    };
    if !rights.user || matches!(request.kind, AccessKind::Fetch) {
        return false;
    }
    let bits = pkru >> ((rights.key & 15) as u32 * 2);
    let write = matches!(request.kind, AccessKind::Write);
    bits & 1 != 0 || bits & 2 != 0 && write && (request.user || config.wp)
}

/// The cause bits of the page fault that the access raises, or `None` if it is allowed.
pub(super) fn violation(config: &Config, rights: &Rights, request: Request) -> Option<u32> {
    let allowed = match request.kind {
        _ if request.user && !rights.user => false,
        AccessKind::Fetch => rights.execute && (request.user || !rights.user || !config.smep),
        _ if !request.user && rights.user && config.smap && !request.smap_lifted => false,
        AccessKind::Read => true,
        AccessKind::Write => rights.write || !request.user && !config.wp,
    };
    let key = denied_by_key(config, rights, request);
    match (allowed, key) {
        (true, false) => None,
        (_, true) => Some(pf::P | pf::PK),
        (false, false) => Some(pf::P),
    }
}
