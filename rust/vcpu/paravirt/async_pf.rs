// SPDX-License-Identifier: GPL-2.0-only

//! Page faults that are put off: a kernel thread fetches the page, and the guest does something else meanwhile.
//!
//! A fetch holds what it needs, the process' memory and the shared part of the vCPU, so it outlives the guest's
//! interest in it, the vCPU and the VM; the module's end waits for all.

use kernel::{
    impl_has_work,
    mm::Mm,
    new_work,
    prelude::*,
    sync::{
        aref::ARef,
        atomic::{
            Acquire,
            Atomic,
            Full,
            Relaxed,
            Release, //
        },
        Arc, //
    },
    workqueue::{
        Work,
        WorkItem, //
    }, //
};

use crate::{
    backend::{
        BackendVcpu,
        Reg, //
    },
    exit::Next,
    host::{
        cpu::IrqOff,
        global::{
            Global,
            GlobalOwner, //
        },
        user,
        work::WorkQueue, //
    },
    memory::Fault,
    model::{
        addr::{
            Gfn,
            Gpa,
            Hva, //
        },
        msi::Trigger,
        pv::{
            async_pf::{
                self,
                Enabled, //
            },
            Area,
            Gp, //
        },
        x86::{
            cr0,
            Exception, //
        }, //
    },
    vcpu::{
        table::{
            news,
            VcpuShared, //
        },
        State, //
    }, //
};

/// The threads that fetch.
static FETCHERS: Global<WorkQueue> = Global::new();

/// Makes them; they stay as long as the result.
pub(crate) fn start_fetchers() -> Result<GlobalOwner<WorkQueue>> {
    FETCHERS.set(WorkQueue::new(c"vireo")?)
}

/// A page that is fetched.
#[pin_data]
struct Fetch {
    #[pin]
    work: Work<Fetch>,
    mm: ARef<Mm>,
    hva: Hva,
    write: bool,
    vcpu: Arc<VcpuShared>,
    done: Atomic<u32>,
}

impl_has_work! {
    impl HasWork<Self> for Fetch { self.work }
}

impl WorkItem for Fetch {
    type Pointer = Arc<Self>;

    fn run(this: Arc<Self>) {
        user::fetch(&this.mm, this.hva, this.write);
        this.done.store(1, Release);
        this.vcpu.fetches.fetch_sub(1, Full);
        this.vcpu.tell(news::PAGE);
    }
}

impl Fetch {
    fn is_done(&self) -> bool {
        self.done.load(Acquire) != 0
    }
}

/// A page that the guest waits for.
struct Waiting {
    gfn: Gfn,
    token: u32,
    /// The guest has been told to wait for it.
    told: bool,
    fetch: Arc<Fetch>,
}

/// The service of a vCPU.
pub(super) struct AsyncPf {
    /// `MSR_KVM_ASYNC_PF_EN` and `_INT`.
    register: u64,
    vector: u8,
    enabled: Enabled,
    waiting: KVVec<Waiting>,
    /// Pages that have been waited for.
    count: u32,
    /// The guest must be told that whatever it waits for may have come.
    wake_all: bool,
}

impl AsyncPf {
    /// Makes it switched off.
    pub(super) fn new() -> Self {
        Self {
            register: 0,
            vector: 0,
            enabled: async_pf::OFF,
            waiting: KVVec::new(),
            count: 0,
            wake_all: false,
        }
    }

    /// Returns `MSR_KVM_ASYNC_PF_EN`.
    pub(super) fn register(&self) -> u64 {
        self.register
    }

    /// Returns `MSR_KVM_ASYNC_PF_INT`.
    pub(super) fn vector(&self) -> u64 {
        self.vector.into()
    }

    /// Whether there is something to tell the guest that does not depend on a fetch.
    #[inline]
    pub(super) fn is_due(&self) -> bool {
        self.wake_all
    }

    /// Returns the position of the page that is waited for at `gfn`.
    fn find(&self, gfn: Gfn) -> Option<usize> {
        self.waiting.iter().position(|page| page.gfn == gfn)
    }
}

impl State {
    /// Writes `MSR_KVM_ASYNC_PF_EN`.
    pub(super) fn set_async_pf(&mut self, value: u64) -> Result<(), Gp> {
        let enabled = async_pf::enabled(value, self.services())?;
        if self.lapic.is_none() && value != 0 {
            return Err(Gp);
        }
        let on = match enabled.area {
            Area::At(area) => {
                let page = self.vm.memory().hva(Gpa::new(area).gfn(), true);
                page.ok_or(Gp)?;
                true
            }
            Area::Off => false,
        };
        let this = &mut self.paravirt.async_pf;
        (this.register, this.enabled) = (value, enabled);
        // A guest that comes from elsewhere waits for pages of which nothing is known here.
        this.wake_all = on;
        if on {
            self.shared.note(news::PAGE);
        } else {
            this.waiting.clear();
        }
        Ok(())
    }

    /// Writes `MSR_KVM_ASYNC_PF_INT`.
    pub(super) fn set_async_pf_vector(&mut self, value: u64) -> Result<(), Gp> {
        let vector = async_pf::vector(value)?;
        if self.lapic.is_none() && value != 0 {
            return Err(Gp);
        }
        self.paravirt.async_pf.vector = vector;
        Ok(())
    }

    /// Whether a fault can be put off now, if it turns out that the page must be fetched.
    pub(crate) fn may_put_off(&mut self) -> bool {
        let enabled = self.paravirt.async_pf.enabled;
        if enabled == async_pf::OFF || self.waiting_interrupt() {
            return false;
        }
        let irq = IrqOff::new();
        let window = self.window(&irq);
        drop(irq);
        async_pf::may_put_off(&enabled, window.interrupts, !self.events.is_idle())
    }

    /// The page at `gpa` must be fetched: has that done, and tells the guest, or waits for what comes first, the
    /// page or something else to do.
    #[cold]
    pub(crate) fn put_off(&mut self, gpa: Gpa, write: bool) -> Result<Next> {
        if self.paravirt.async_pf.find(gpa.gfn()).is_some() {
            // Another of the guest's threads needs it, too.
            self.sleep()?;
            return Ok(Next::Resume);
        }
        match self.start_fetch(gpa, write) {
            Some(true) => {}
            Some(false) => self.sleep()?,
            None => return self.fetch_now(gpa, write),
        }
        Ok(Next::Resume)
    }

    fn fetch_now(&mut self, gpa: Gpa, write: bool) -> Result<Next> {
        let memory = self.vm.memory();
        match memory.fault(&mut self.spare, gpa, write, true) {
            Err(Fault::Host(error)) => Err(error),
            // What else it is the guest's next try tells.
            Ok(()) | Err(Fault::Mmio | Fault::Away) => Ok(Next::Resume),
        }
    }

    /// Has a page fetched. Returns whether the guest knows that it must wait, or `None` when that can't be.
    fn start_fetch(&mut self, gpa: Gpa, write: bool) -> Option<bool> {
        let this = &self.paravirt.async_pf;
        let fetches = self.shared.fetches.load(Relaxed) as usize;
        if this.waiting.len() >= async_pf::MAX_WAITING || fetches >= async_pf::MAX_WAITING {
            return None;
        }
        let token = async_pf::token(this.count, self.shared.id);
        let fetchers = FETCHERS.get()?;
        let hva = self.vm.memory().hva(gpa.gfn(), write)?;
        let (mm, vcpu) = (self.vm.memory().mm().clone(), self.shared.clone());
        let fetch = Arc::pin_init(
            pin_init!(Fetch {
                work <- new_work!("vireo::Fetch"),
                mm,
                hva,
                write,
                vcpu,
                done: Atomic::new(0),
            }),
            GFP_KERNEL_ACCOUNT,
        )
        .ok()?;
        let page = Waiting {
            gfn: gpa.gfn(),
            token,
            told: false,
            fetch: fetch.clone(),
        };
        let this = &mut self.paravirt.async_pf;
        this.waiting.push(page, GFP_KERNEL_ACCOUNT).ok()?;
        this.count = this.count.wrapping_add(1);
        let told = self.tell_not_present(token);
        if let Some(page) = self.paravirt.async_pf.waiting.last_mut() {
            page.told = told;
        }
        self.shared.fetches.fetch_add(1, Full);
        if fetchers.queue().enqueue(fetch).is_err() {
            pr_err!("a new fetch is queued already\n");
        }
        Some(told)
    }

    /// Tells the guest by a #PF that a page is not there, if it wants to know.
    fn tell_not_present(&mut self, token: u32) -> bool {
        let enabled = self.paravirt.async_pf.enabled;
        let paging = self.backend.register(Reg::Cr0) & cr0::PG != 0;
        let cpl = self.cpl();
        let Area::At(area) = enabled.area else {
            return false;
        };
        if !async_pf::may_tell(&enabled, cpl, paging) {
            return false;
        }
        let flags = Gpa::new(area.wrapping_add(async_pf::FLAGS_OFFSET));
        let reason = async_pf::PAGE_NOT_PRESENT.to_le_bytes();
        if self.vm.memory().write(flags, &reason).is_err() {
            return false;
        }
        self.raise(Exception::page_fault(token.into(), 0));
        true
    }

    /// Tells the guest of a page that has come, one at a time: it says when it has taken note.
    pub(super) fn tell_present(&mut self) {
        let this = &mut self.paravirt.async_pf;
        this.waiting
            .retain(|page| page.told || !page.fetch.is_done());
        let Area::At(area) = this.enabled.area else {
            return;
        };
        let come = this.waiting.iter().position(|page| page.fetch.is_done());
        let token = match (this.wake_all, come) {
            (true, _) => async_pf::TOKEN_ALL,
            (false, Some(at)) => this.waiting.get(at).map_or(0, |page| page.token),
            (false, None) => return,
        };
        let takes = self
            .lapic
            .as_ref()
            .is_some_and(|lapic| lapic.software_enabled());
        let slot = Gpa::new(area.wrapping_add(async_pf::TOKEN_OFFSET));
        let memory = self.vm.memory();
        let mut old = [0; 4];
        let free = memory.read(slot, &mut old).is_ok() && old == [0; 4];
        if !takes || !free || memory.write(slot, &token.to_le_bytes()).is_err() {
            return;
        }
        let this = &mut self.paravirt.async_pf;
        if this.wake_all {
            this.wake_all = false;
        } else if let Some(at) = come {
            let _told = this.waiting.remove(at);
        }
        let vector = this.vector;
        self.shared.post(vector, Trigger::Edge);
    }
}
