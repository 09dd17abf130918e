// SPDX-License-Identifier: GPL-2.0-only

//! Posted interrupts: vectors that go to a vCPU while its guest runs, without an exit.

use kernel::{
    prelude::*,
    sync::{
        atomic::{
            Atomic,
            Full,
            Relaxed, //
        },
        barrier::smp_mb,
        SetOnce, //
    }, //
};

use super::table::set_bits;
use crate::{
    host::{
        atomic,
        page::HostPage, //
    },
    model::{
        addr::Hpa,
        apic::posted::{
            word_and_bit,
            Control,
            Urgency,
            CONTROL_WORD,
            DESCRIPTOR_BYTES, //
        }, //
    }, //
};

/// Bytes of a word of the descriptor.
const WORD_BYTES: usize = 8;
/// Words of the descriptor.
const WORDS: usize = DESCRIPTOR_BYTES / WORD_BYTES;

/// The descriptor: the first bytes of a page, which is aligned more strictly than need be.
///
/// # Invariants
///
/// The page is reached by atomic operations only, those of the processor included.
struct Descriptor(HostPage);

impl Descriptor {
    /// Returns word `index`, of which there are [`WORDS`].
    fn word(&self, index: usize) -> Option<&Atomic<u64>> {
        if index >= WORDS {
            return None;
        }
        // SAFETY: The word is within the page, hence aligned and valid as long as `self`; by the invariant
        // every other access is atomic.
        Some(unsafe { Atomic::from_ptr(self.0.as_ptr().cast::<u64>().add(index)) })
    }

    /// Requests a vector. Returns whether the vCPU must be told. A full barrier.
    fn request(&self, vector: u8) -> bool {
        let (index, bit) = word_and_bit(vector);
        let (Some(requests), Some(control)) = (self.word(index), self.word(CONTROL_WORD)) else {
            return false;
        };
        set_bits(requests, bit);
        let mut old = control.load(Relaxed);
        loop {
            let (new, first) = Control::from_bits(old).post(Urgency::Urgent);
            if !first {
                return false;
            }
            match control.cmpxchg(old, new.bits(), Full) {
                Ok(_) => return true,
                Err(now) => old = now,
            }
        }
    }

    #[inline]
    fn is_outstanding(&self) -> bool {
        self.word(CONTROL_WORD)
            .is_some_and(|control| Control::from_bits(atomic::read(control)).is_outstanding())
    }

    /// Takes all requests.
    fn take(&self) -> Option<[u64; CONTROL_WORD]> {
        let control = self.word(CONTROL_WORD)?;
        let mut old = control.load(Relaxed);
        if !Control::from_bits(old).is_outstanding() {
            return None;
        }
        // The notification goes first: what is requested later notifies again.
        while let Err(now) =
            control.cmpxchg(old, Control::from_bits(old).acknowledge().bits(), Full)
        {
            old = now;
        }
        Some(core::array::from_fn(|index| {
            self.word(index).map_or(0, |word| word.xchg(0, Full))
        }))
    }
}

/// Interrupts that the processor takes from others while the guest runs.
///
/// A sender posts only to a vCPU that it sees in the guest, or about to enter: interrupts are off then, so that
/// the notification stays pending until the processor is in the guest, where it takes it for what it is. All
/// others go to the inbox. What keeps a request from being lost: the sender sets the request and its
/// notification, and then, behind a full barrier, looks for the second time whether the vCPU is in the guest and
/// its processor takes requests. If not, it leaves news. The vCPU looks for a notification, behind a full
/// barrier, each time when
///
/// - it has said that it is about to enter the guest: a sender that it does not see yet sends an interrupt;
/// - it takes its APIC back, having left the guest: a sender that it does not see yet leaves news;
/// - it has said that its processor takes no more requests: likewise;
/// - there is news.
///
/// So nothing that needs the APIC, such as a halted vCPU's decision to sleep or `KVM_GET_LAPIC`, misses what was
/// sent before. The host's vector does nothing but count, should it arrive when the vCPU has left the guest.
///
/// The descriptor's destination and vector stay 0, as only an interrupt-remapping unit would read them.
pub(crate) struct Posted {
    /// The processor takes requests when it runs the guest; there is a descriptor.
    active: Atomic<u32>,
    descriptor: SetOnce<Descriptor>,
}

impl Posted {
    /// Makes that of a vCPU whose processor takes no requests.
    pub(super) const fn new() -> Self {
        Self {
            active: Atomic::new(0),
            descriptor: SetOnce::new(),
        }
    }

    /// Makes the descriptor and returns its address. May sleep.
    ///
    /// # Errors
    ///
    /// `ENOMEM`; `EEXIST` for the second call.
    pub(crate) fn create(&self) -> Result<Hpa> {
        let page = HostPage::new()?;
        let hpa = page.hpa();
        // INVARIANT: The page is fresh.
        if self.descriptor.populate(Descriptor(page)) {
            Ok(hpa)
        } else {
            Err(EEXIST)
        }
    }

    /// Whether the processor takes requests when it runs the guest.
    #[inline(always)]
    pub(super) fn is_active(&self) -> bool {
        atomic::read(&self.active) != 0
    }

    /// Says whether the processor will take requests when it runs the guest, if there is a descriptor. The vCPU's
    /// thread only, out of the guest. A full barrier.
    pub(super) fn set_active(&self, active: bool) {
        let active = active && self.descriptor.as_ref().is_some();
        self.active.store(active.into(), Relaxed);
        smp_mb(Full);
    }

    /// Requests a vector: whether the vCPU must be told, or `None` without a descriptor. A full barrier. Any
    /// context.
    pub(super) fn request(&self, vector: u8) -> Option<bool> {
        Some(self.descriptor.as_ref()?.request(vector))
    }

    /// Whether there are requests that nobody has taken.
    #[inline(always)]
    pub(super) fn is_outstanding(&self) -> bool {
        self.is_active() && (self.descriptor.as_ref()).is_some_and(Descriptor::is_outstanding)
    }

    /// Stands between the guest's having left and [`Posted::take`]: a full barrier.
    pub(super) fn before_taking(&self) {
        smp_mb(Full);
    }

    /// Takes all requests, if there are any.
    pub(super) fn take(&self) -> Option<[u64; CONTROL_WORD]> {
        self.descriptor.as_ref()?.take()
    }
}
