// SPDX-License-Identifier: GPL-2.0-only

//! Where the thread of a vCPU is: what its siblings want to know, and what the guest is told when it has lost
//! its CPU.

use kernel::{
    new_spinlock,
    prelude::*,
    sync::{
        aref::ARef,
        atomic::{
            Atomic,
            Full,
            Relaxed, //
        },
        SpinLock, //
    },
    task::Task, //
};

use super::table::{
    news,
    VcpuShared, //
};
use crate::{
    host::{
        atomic,
        clock,
        cpu::IrqOff,
        sched::{
            self,
            Watch,
            Yielded, //
        },
        user, //
    },
    model::{
        addr::Hva,
        pv::{
            spin::{
                Place,
                Sibling,
                Spinning, //
            },
            steal, //
        }, //
    }, //
};

/// Values of [`Presence::place`].
const ELSEWHERE: u32 = 0;
const PREEMPTED: u32 = 1;
const ASLEEP: u32 = 2;

/// Where the thread of a vCPU is.
#[pin_data]
pub(crate) struct Presence {
    /// The thread that runs the vCPU, or ran it last.
    #[pin]
    thread: SpinLock<Option<ARef<Task>>>,
    /// Its address, to compare with.
    thread_address: Atomic<usize>,
    place: Atomic<u32>,
    /// The guest was in user mode when the thread was last asked to make way.
    user_mode: Atomic<u32>,
    /// [`Spinning`].
    spinning: Atomic<u32>,
    /// The vCPU is between two instructions, and nothing is known of translations that the guest may change.
    at_rest: Atomic<u32>,
    /// Where the VMM keeps the byte by which the guest learns that the vCPU does not run; 0 for nowhere.
    flag: Atomic<u64>,
    /// The byte says so. The guest may have added a wish since, so it is not written again.
    told: Atomic<u32>,
    /// The [changes](clock::changes) of the host's clocks that the vCPU has been told of.
    clock_changes: Atomic<u32>,
}

impl Presence {
    /// Makes that of a vCPU that no thread has run.
    pub(super) fn new() -> impl PinInit<Self> {
        pin_init!(Self {
            thread <- new_spinlock!(None),
            thread_address: Atomic::new(0),
            place: Atomic::new(ELSEWHERE),
            user_mode: Atomic::new(0),
            spinning: Atomic::new(0),
            at_rest: Atomic::new(0),
            flag: Atomic::new(0),
            told: Atomic::new(0),
            clock_changes: Atomic::new(clock::changes()),
        })
    }

    /// The current thread runs the vCPU.
    #[inline]
    pub(super) fn runs_here(&self) {
        let address = Task::current_raw() as usize;
        if atomic::read(&self.thread_address) != address {
            self.thread_address.store(address, Relaxed);
            let task = ARef::from(&**kernel::current!());
            // The old thread may go with the reference, so that is dropped without the lock.
            let _old = self.thread.lock().replace(task);
        }
    }

    /// Says in which mode the guest is whose thread is asked to make way.
    pub(super) fn set_user_mode(&self, user_mode: bool) {
        self.user_mode.store(user_mode.into(), Relaxed);
    }

    /// Carries `f` out, at whose beginning and end the vCPU is between two instructions and which uses no
    /// translation of the guest's: if the thread loses its CPU meanwhile, the guest may be told.
    pub(super) fn rest<R>(&self, f: impl FnOnce() -> R) -> R {
        atomic::write(&self.at_rest, 1);
        let result = f();
        atomic::write(&self.at_rest, 0);
        result
    }

    /// Has the byte at `flag` of the VMM's memory, which has been read and is 0 now, tell the guest that the vCPU
    /// does not run.
    pub(super) fn tell_by(&self, flag: Option<Hva>, _irq: &IrqOff) {
        self.told.store(0, Relaxed);
        self.flag.store(flag.map_or(0, |hva| hva.raw()), Relaxed);
    }

    fn sibling(&self, has_news: bool) -> Sibling {
        Sibling {
            place: match self.place.load(Relaxed) {
                PREEMPTED => Place::Preempted,
                ASLEEP => Place::Asleep,
                _ => Place::Elsewhere,
            },
            has_news,
            user_mode: self.user_mode.load(Relaxed) != 0,
        }
    }
}

impl VcpuShared {
    /// Returns what a sibling that spins sees of the vCPU.
    pub(super) fn as_sibling(&self) -> Sibling {
        self.presence.sibling(!self.inbox().is_empty())
    }

    /// Says that the vCPU spins, or has ended that.
    pub(super) fn set_spinning(&self, spinning: bool) {
        let state = if spinning {
            Spinning::from_bits(self.presence.spinning.load(Relaxed)).begin()
        } else {
            Spinning::end()
        };
        self.presence.spinning.store(state.bits(), Relaxed);
    }

    /// Whether a sibling that spins may choose this vCPU now; it is asked once for each choice.
    pub(super) fn may_be_chosen(&self) -> bool {
        let state = &self.presence.spinning;
        let (may, next) = Spinning::from_bits(state.load(Relaxed)).ask();
        if next.bits() != state.load(Relaxed) {
            state.store(next.bits(), Relaxed);
        }
        may
    }

    /// Gives the current thread's turn to the vCPU's.
    pub(super) fn yield_to(&self) -> Yielded {
        let thread = self.presence.thread.lock().clone();
        thread.map_or(Yielded::Refused, |thread| sched::yield_to(&thread))
    }

    /// The VMM's memory is about to be another's: the guest is not told any more by a byte there. Returns whether
    /// it was. Who has begun to write the byte is in an RCU read-side critical section.
    pub(crate) fn forget_flag(&self) -> bool {
        let told = self.presence.flag.xchg(0, Full) != 0;
        if told {
            self.tell(news::STEAL);
        }
        told
    }
}

impl Watch for VcpuShared {
    fn switched_out(&self, wants_cpu: bool) {
        let presence = &self.presence;
        let place = if wants_cpu { PREEMPTED } else { ASLEEP };
        presence.place.store(place, Relaxed);
        let flag = presence.flag.load(Relaxed);
        let silent = flag == 0 || presence.at_rest.load(Relaxed) == 0;
        if silent || presence.told.load(Relaxed) != 0 {
            return;
        }
        if user::store_byte_now(Hva::new(flag), steal::PREEMPTED) {
            presence.told.store(1, Relaxed);
        }
    }

    fn switched_in(&self) {
        let presence = &self.presence;
        presence.place.store(ELSEWHERE, Relaxed);
        presence.user_mode.store(0, Relaxed);
        if presence.flag.load(Relaxed) != 0 {
            self.note(news::STEAL);
        }
        let changes = clock::changes();
        if presence.clock_changes.load(Relaxed) != changes {
            presence.clock_changes.store(changes, Relaxed);
            self.note(news::HOST_CLOCK);
        }
    }
}
