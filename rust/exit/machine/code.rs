// SPDX-License-Identifier: GPL-2.0-only

//! Instructions that were decoded before. A driver's loop comes to the same ones again and again.
//!
//! What is kept is exact, not a guess: it counts only while the registers that decide the translation, the
//! entries of the guest's page tables on the way to the code, and the code itself are what they were.

use kernel::prelude::*;

use super::{
    Tables,
    VcpuMachine, //
};
use crate::{
    backend::EmulationContext,
    host::user::{
        self,
        Expected, //
    },
    memory::Memory,
    model::{
        addr::{
            Gpa,
            PAGE_SIZE, //
        },
        emul::{
            self,
            plain::Plain,
            Insn,
            Mode,
            Stop, //
        },
        walk::Path, //
    }, //
};

/// Instructions that are kept, chosen by their address.
const ENTRIES: usize = 32;

/// Eight-byte words that hold the longest instruction, wherever it starts.
const WORDS: usize = 2;

/// Bytes of one of them.
const WORD: usize = 8;

/// The registers that decide how 64-bit code is translated, and the slots' version.
#[derive(Clone, Copy)]
pub(in crate::exit) struct Key([u64; 6]);

impl Key {
    /// The key for the registers in `context`.
    #[inline(always)]
    pub(in crate::exit) fn new(context: &EmulationContext, memory: &Memory) -> Self {
        Self([
            memory.slots_version(),
            context.cpl.into(),
            context.cr0,
            context.cr3,
            context.cr4,
            context.efer,
        ])
    }

    /// Whether two are equal; a comparison of arrays would be a call.
    #[inline(always)]
    fn is(&self, other: &Self) -> bool {
        let ([a, b, c, d, e, f], [u, v, w, x, y, z]) = (&self.0, &other.0);
        (a ^ u) | (b ^ v) | (c ^ w) | (d ^ x) | (e ^ y) | (f ^ z) == 0
    }
}

/// An instruction and what it depends on.
struct Code {
    rip: u64,
    key: Key,
    /// Paging entries, then the code.
    expected: [Expected; Path::MAX + WORDS],
    count: usize,
    insn: Insn,
    /// It is a plain move.
    plain: bool,
}

/// The instructions that are kept. There is no memory for them before the first one.
#[derive(Default)]
pub(crate) struct CodeCache(KVVec<Option<Code>>);

impl CodeCache {
    /// Returns the instruction at `rip`, if it is kept and all that it depends on is as it was.
    #[inline(always)]
    fn find(&self, rip: u64, key: &Key) -> Option<&Code> {
        let code = self.0.get(index(rip))?.as_ref()?;
        if code.rip != rip || !code.key.is(key) {
            return None;
        }
        user::holds(code.expected.get(..code.count)?).then_some(code)
    }

    /// As [`CodeCache::find`], for a plain move.
    #[inline(always)]
    pub(in crate::exit) fn find_plain(&self, rip: u64, key: &Key) -> Option<Plain<'_>> {
        let code = self.find(rip, key)?;
        code.plain.then_some(Plain::new(&code.insn))
    }

    /// Keeps an instruction, in place of another one with the same index. It does not matter if there is no
    /// memory for that.
    #[cold]
    fn keep(&mut self, rip: u64, code: Code) {
        while self.0.len() < ENTRIES {
            if self.0.push(None, GFP_KERNEL_ACCOUNT).is_err() {
                return;
            }
        }
        if let Some(kept) = self.0.get_mut(index(rip)) {
            *kept = Some(code);
        }
    }
}

/// The place of the instruction at `rip`.
const fn index(rip: u64) -> usize {
    (rip ^ rip >> 5) as usize % ENTRIES
}

/// The way to an instruction's first byte.
#[derive(Clone, Copy)]
pub(super) struct Way {
    path: Path,
    code: Gpa,
}

impl Way {
    /// The walk that found the code at `code`.
    pub(super) const fn new(path: Path, code: Gpa) -> Self {
        Self { path, code }
    }
}

impl VcpuMachine<'_> {
    /// Fetches and decodes the instruction at RIP; `bytes` gets what was fetched, if anything was.
    #[inline]
    pub(in crate::exit) fn instruction(
        &mut self,
        bytes: &mut [u8; emul::MAX_LEN],
    ) -> Result<Insn, Stop> {
        if self.mode != Mode::Long {
            return emul::fetch(self, bytes);
        }
        let key = self.key;
        if let Some(code) = self.state.emulation.code.find(self.rip, &key) {
            return Ok(code.insn);
        }
        let insn = emul::fetch(self, bytes)?;
        self.remember(&key, &insn, bytes);
        Ok(insn)
    }

    #[cold]
    fn remember(&mut self, key: &Key, insn: &Insn, bytes: &[u8; emul::MAX_LEN]) {
        if let Some(code) = self.to_keep(key, insn, bytes) {
            self.state.emulation.code.keep(self.rip, code);
        }
    }

    fn to_keep(&mut self, key: &Key, insn: &Insn, bytes: &[u8; emul::MAX_LEN]) -> Option<Code> {
        let way = self.way.take()?;
        // Another page has another translation.
        if way.code.page_offset() > PAGE_SIZE.checked_sub((WORDS * WORD) as u64)? {
            return None;
        }
        let mut expected = [Expected::default(); Path::MAX + WORDS];
        let mut list = expected.iter_mut();
        let mut count = 0;
        let mut add = |tables: &mut Tables<'_>, gpa: Gpa, mask: u64, value: u64| {
            let hva = tables.hva(gpa, false)?.raw();
            *list.next()? = Expected { hva, mask, value };
            count += 1;
            Some(())
        };
        let mut tables = Tables::new(self.state.vm.memory());
        for &(gpa, value) in way.path.entries() {
            add(&mut tables, gpa, u64::MAX, value)?;
        }
        let code = bytes.get(..usize::from(insn.len))?;
        for (n, part) in (0u64..).zip(code.chunks(WORD)) {
            let mut word = [0; WORD];
            word.get_mut(..part.len())?.copy_from_slice(part);
            let unused = (WORD.checked_sub(part.len())? * 8) as u32;
            let gpa = way.code.checked_add(n.checked_mul(WORD as u64)?)?;
            add(
                &mut tables,
                gpa,
                u64::MAX >> unused,
                u64::from_le_bytes(word),
            )?;
        }
        Some(Code {
            rip: self.rip,
            key: *key,
            expected,
            count,
            insn: *insn,
            plain: insn.is_plain_move(),
        })
    }
}
