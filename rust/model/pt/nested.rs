// SPDX-License-Identifier: GPL-2.0-only

//! The format of whichever nested page tables the processor has, so that one type of tree serves both.

use super::ept::Ept;
use super::npt::Npt;
use super::{EntryFormat, Leaf, Level, Pte};
use crate::model::addr::Hpa;

/// A format that is chosen when the module loads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Nested {
    /// Intel's.
    Ept(Ept),
    /// AMD's.
    Npt(Npt),
}

impl EntryFormat for Nested {
    #[inline]
    fn decode(&self, raw: u64, level: Level) -> Pte {
        match self {
            Self::Ept(format) => format.decode(raw, level),
            Self::Npt(format) => format.decode(raw, level),
        }
    }

    #[inline]
    fn table(&self, child: Hpa) -> u64 {
        match self {
            Self::Ept(format) => format.table(child),
            Self::Npt(format) => format.table(child),
        }
    }

    #[inline]
    fn leaf(&self, leaf: &Leaf, level: Level) -> u64 {
        match self {
            Self::Ept(format) => format.leaf(leaf, level),
            Self::Npt(format) => format.leaf(leaf, level),
        }
    }

    #[inline]
    fn writable(&self) -> u64 {
        match self {
            Self::Ept(format) => format.writable(),
            Self::Npt(format) => format.writable(),
        }
    }

    #[inline]
    fn accessed(&self) -> Option<u64> {
        match self {
            Self::Ept(format) => format.accessed(),
            Self::Npt(format) => format.accessed(),
        }
    }
}
