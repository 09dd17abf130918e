// SPDX-License-Identifier: GPL-2.0-only

//! What other threads and interrupts may ask of a vCPU, and the table by which they find it.

use kernel::{
    new_spinlock_irq,
    prelude::*,
    sync::{
        atomic::{
            Atomic,
            Full,
            Relaxed, //
        },
        Arc,
        SetOnce,
        SpinLockIrq, //
    }, //
};

use super::{
    posted::Posted,
    presence::Presence, //
};
use crate::{
    host::{
        atomic,
        sched::Yielded,
        timer::WakeTimer, //
    },
    model::{
        apic::{
            posted::may_carry,
            Identity,
            Lint0, //
        },
        msi::Trigger,
        pv::spin, //
    }, //
};

/// vCPUs in a VM, at most.
pub(crate) const MAX_VCPUS: usize = 64;

/// Words of the interrupt-request set.
const WORDS: usize = 4;

/// Bits of [`Inbox::news`].
pub(crate) mod news {
    /// There are interrupts in the inbox.
    pub(crate) const INTERRUPT: u32 = 1 << 0;
    /// A non-maskable interrupt.
    pub(crate) const NMI: u32 = 1 << 1;
    /// An INIT.
    pub(crate) const INIT: u32 = 1 << 2;
    /// A start-up IPI; its vector is beside it.
    pub(crate) const STARTUP: u32 = 1 << 3;
    /// The PICs ask for an interrupt.
    pub(crate) const EXTINT: u32 = 1 << 4;
    /// The VM's clock has been changed.
    pub(crate) const CLOCK: u32 = 1 << 5;
    /// Another vCPU ends this one's HLT.
    pub(crate) const KICK: u32 = 1 << 6;
    /// The vCPU's thread has been off the CPU.
    pub(crate) const STEAL: u32 = 1 << 7;
    /// Other vectors than before are watched for their completion.
    pub(crate) const WATCHED: u32 = 1 << 8;
    /// A page has come that the guest waits for.
    pub(crate) const PAGE: u32 = 1 << 9;
    /// The host's clocks have gone over to another counter.
    pub(crate) const HOST_CLOCK: u32 = 1 << 10;
}

/// What has been sent to a vCPU and not been taken by it.
pub(crate) struct Inbox {
    news: Atomic<u32>,
    requests: [Atomic<u64>; WORDS],
    level: [Atomic<u64>; WORDS],
    start_vector: Atomic<u32>,
}

pub(super) fn set_bits(word: &Atomic<u64>, bits: u64) {
    let mut old = word.load(Relaxed);
    while let Err(now) = word.cmpxchg(old, old | bits, Full) {
        old = now;
    }
}

fn clear_bits(word: &Atomic<u64>, bits: u64) {
    let mut old = word.load(Relaxed);
    if old & bits == 0 {
        return;
    }
    while let Err(now) = word.cmpxchg(old, old & !bits, Full) {
        old = now;
    }
}

impl Inbox {
    const fn new() -> Self {
        Self {
            news: Atomic::new(0),
            requests: [const { Atomic::new(0) }; WORDS],
            level: [const { Atomic::new(0) }; WORDS],
            start_vector: Atomic::new(0),
        }
    }

    /// Whether there is something to take. A hint: the full answer is [`Inbox::take`].
    #[inline(always)]
    pub(crate) fn is_empty(&self) -> bool {
        atomic::read(&self.news) == 0
    }

    fn announce(&self, bits: u32) {
        let mut old = self.news.load(Relaxed);
        while let Err(now) = self.news.cmpxchg(old, old | bits, Full) {
            old = now;
        }
    }

    /// Takes the news: bits of [`news`].
    pub(crate) fn take(&self) -> u32 {
        self.news.xchg(0, Full)
    }

    /// Takes word `index` of the requested vectors, with those of them that are level triggered.
    pub(crate) fn take_word(&self, index: usize) -> (u64, u64) {
        let (Some(requests), Some(level)) = (self.requests.get(index), self.level.get(index))
        else {
            return (0, 0);
        };
        if requests.load(Relaxed) == 0 {
            return (0, 0);
        }
        (requests.xchg(0, Full), level.load(Relaxed))
    }

    /// Returns the vector of the last start-up IPI.
    pub(crate) fn start_vector(&self) -> u8 {
        self.start_vector.load(Relaxed) as u8
    }

    /// Words of the set.
    pub(crate) const WORDS: usize = WORDS;
}

/// The part of a vCPU that others may touch at any time.
#[pin_data]
pub(crate) struct VcpuShared {
    /// The number that the VMM gave it, which is its APIC ID.
    pub(crate) id: u32,
    inbox: Inbox,
    /// The APIC timer, and where the vCPU's thread sleeps.
    #[pin]
    pub(crate) timer: WakeTimer,
    /// How messages find this vCPU's local APIC.
    #[pin]
    identity: SpinLockIrq<Identity>,
    /// What this vCPU takes from LINT0: a [`Lint0`].
    lint0: Atomic<u32>,
    /// Where the vCPU's thread is.
    #[pin]
    pub(super) presence: Presence,
    /// Interrupts that the processor takes from others while the guest runs.
    pub(crate) posted: Posted,
    /// Pages that kernel threads fetch for the vCPU.
    pub(super) fetches: Atomic<u32>,
}

impl VcpuShared {
    /// Makes the shared part of vCPU `id`.
    pub(crate) fn new(id: u32, identity: Identity) -> Result<Arc<Self>> {
        Arc::pin_init(
            pin_init!(Self {
                id,
                inbox: Inbox::new(),
                timer <- WakeTimer::new(),
                identity <- new_spinlock_irq!(identity),
                lint0: Atomic::new(Lint0::Nothing as u32),
                presence <- Presence::new(),
                posted: Posted::new(),
                fetches: Atomic::new(0),
            }),
            GFP_KERNEL_ACCOUNT,
        )
    }

    /// Returns what has been sent to the vCPU.
    #[inline(always)]
    pub(crate) fn inbox(&self) -> &Inbox {
        &self.inbox
    }

    /// Returns how messages find the local APIC. Any context.
    pub(crate) fn identity(&self) -> Identity {
        *self.identity.lock()
    }

    /// Publishes a new identity.
    pub(crate) fn set_identity(&self, identity: Identity) {
        *self.identity.lock() = identity;
    }

    /// Whether the PICs' interrupts reach this vCPU. Any context.
    pub(crate) fn takes_extint(&self) -> bool {
        atomic::read(&self.lint0) == Lint0::ExtInt as u32
    }

    /// Whether the ticks of the PIT are NMIs for this vCPU. Any context.
    pub(crate) fn takes_ticks(&self) -> bool {
        self.lint0.load(Relaxed) == Lint0::Nmi as u32
    }

    /// Says what it takes from LINT0. Returns whether that has changed; who is told `true` must look at the
    /// PICs.
    #[inline]
    pub(crate) fn set_lint0(&self, lint0: Lint0) -> bool {
        let new = lint0 as u32;
        self.lint0.load(Relaxed) != new && self.lint0.xchg(new, Full) != new
    }

    /// Sends an interrupt vector to the local APIC. Any context.
    pub(crate) fn post(&self, vector: u8, trigger: Trigger) {
        let (word, bit) = (usize::from(vector >> 6), 1u64 << (vector & 63));
        if let (Some(requests), Some(level)) =
            (self.inbox.requests.get(word), self.inbox.level.get(word))
        {
            if self.posted.is_active() && self.timer.waiter.is_in_guest() {
                let was_level = level.load(Relaxed) & bit != 0;
                if may_carry(vector, trigger, was_level) && self.post_to_guest(vector) {
                    return;
                }
            }
            if trigger.is_level() {
                set_bits(level, bit);
            } else {
                clear_bits(level, bit);
            }
            set_bits(requests, bit);
        }
        self.tell(news::INTERRUPT);
    }

    /// Posts a vector to the processor that runs the guest, or is about to. `false` when there is no descriptor.
    ///
    /// Whether the guest is still there is asked once the request is in the descriptor. If it is, it is
    /// notified; and should it have left by the time the notification arrives, which the host takes then, it
    /// finds the request before it enters again, or when its APIC is looked at. If it is not there, or its
    /// processor does not take posted interrupts any more, it is told as of any other interrupt. See
    /// [`Posted`] for the receiver's side.
    fn post_to_guest(&self, vector: u8) -> bool {
        let Some(first) = self.posted.request(vector) else {
            return false;
        };
        if first && !(self.posted.is_active() && self.timer.waiter.notify()) {
            self.tell(news::INTERRUPT);
        }
        true
    }

    /// Sends a start-up IPI. Any context.
    pub(crate) fn start_up(&self, vector: u8) {
        self.inbox.start_vector.store(vector.into(), Relaxed);
        self.tell(news::STARTUP);
    }

    /// Sends news that carry no vector. Any context.
    pub(crate) fn tell(&self, bits: u32) {
        self.note(bits);
        self.timer.waiter.wake();
    }

    /// Leaves news for the vCPU from its own thread. Any context.
    pub(super) fn note(&self, bits: u32) {
        self.inbox.announce(bits);
    }
}

/// The vCPUs of a VM, in the order of their making. A vCPU stays in the table as long as the VM lives, so
/// the table can be read at any time without a lock.
pub(crate) struct VcpuTable {
    slots: [SetOnce<Arc<VcpuShared>>; MAX_VCPUS],
    count: Atomic<u32>,
    /// The index of the vCPU to which one that spun gave its turn last.
    favoured: Atomic<u32>,
}

impl VcpuTable {
    /// Makes an empty table.
    pub(crate) const fn new() -> Self {
        Self {
            slots: [const { SetOnce::new() }; MAX_VCPUS],
            count: Atomic::new(0),
            favoured: Atomic::new(0),
        }
    }

    /// Returns how many vCPUs there are.
    pub(crate) fn len(&self) -> usize {
        self.count.load(Relaxed) as usize
    }

    /// Adds a vCPU and returns its index. Calls must not overlap (the VM's lock).
    ///
    /// # Errors
    ///
    /// `EEXIST` for a number that is taken, `EINVAL` when the table is full.
    pub(crate) fn add(&self, vcpu: Arc<VcpuShared>) -> Result<usize> {
        if self.find(vcpu.id).is_some() {
            return Err(EEXIST);
        }
        let index = self.len();
        let slot = self.slots.get(index).ok_or(EINVAL)?;
        slot.populate(vcpu);
        self.count.store(index as u32 + 1, Relaxed);
        Ok(index)
    }

    /// Returns the vCPU with number `id`.
    pub(crate) fn find(&self, id: u32) -> Option<&Arc<VcpuShared>> {
        self.iter().find(|vcpu| vcpu.id == id)
    }

    /// Gives the turn of `me`, which spins, to a sibling that is ready to run and may be what it waits for.
    /// `in_kernel`: the guest is in kernel mode. Returns whether there was one.
    pub(crate) fn favour_sibling(&self, me: &VcpuShared, in_kernel: bool) -> bool {
        let is_me = |vcpu: &Arc<VcpuShared>| core::ptr::eq(&**vcpu, me);
        let index = self.iter().position(is_me).unwrap_or(MAX_VCPUS);
        let last = self.favoured.load(Relaxed);
        let mut failures = 0;
        me.set_spinning(true);
        let mut found = false;
        for index in spin::order(self.len() as u32, index as u32, last) {
            let Some(vcpu) = self.slots.get(index as usize).and_then(SetOnce::as_ref) else {
                break;
            };
            if !vcpu.as_sibling().helps(in_kernel) || !vcpu.may_be_chosen() {
                continue;
            }
            match vcpu.yield_to() {
                Yielded::Done => {
                    self.favoured.store(index, Relaxed);
                    found = true;
                }
                Yielded::Refused => {}
                Yielded::Pointless => failures += 1,
            }
            if found || failures == spin::MAX_FAILURES {
                break;
            }
        }
        me.set_spinning(false);
        found
    }

    /// Returns the vCPUs.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Arc<VcpuShared>> + Clone {
        self.slots.iter().map_while(SetOnce::as_ref)
    }

    /// Calls `f` with each vCPU.
    pub(crate) fn for_each(&self, f: impl Fn(&VcpuShared)) {
        for vcpu in self.iter() {
            f(vcpu);
        }
    }
}
