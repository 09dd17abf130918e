// SPDX-License-Identifier: GPL-2.0-only

//! A virtual machine and the ioctls of its file descriptor.

use kernel::{
    mm::virt::VmaNew,
    new_mutex,
    prelude::*,
    sync::{
        atomic::{
            Atomic,
            Relaxed, //
        },
        Arc,
        ArcBorrow,
        Mutex, //
    }, //
};

use crate::{
    backend::Hardware,
    caps,
    clock::{
        self,
        VmTime, //
    },
    coalesced::Coalesced,
    eventfd::Doorbells,
    host::{
        cpu,
        file::{
            self,
            FileOperations, //
        },
        notifier::Watched,
        sched::NotifiersOn, //
    },
    irqchip::Interrupts,
    memory::Memory,
    model::{
        halt_poll::Policy,
        ioevent::Bus,
        memslot::Request, //
    },
    uapi,
    vcpu::{
        table::{
            news,
            VcpuTable,
            MAX_VCPUS, //
        },
        Vcpu, //
    }, //
};

/// vCPU numbers, which are APIC IDs, are below this.
pub(crate) const MAX_VCPU_ID: usize = 256;

/// A virtual machine.
#[pin_data]
pub(crate) struct Vm {
    #[pin]
    memory: Watched<Memory>,
    interrupts: Arc<Interrupts>,
    #[pin]
    time: VmTime,
    boot_cpu: Atomic<u32>,
    /// vCPU numbers are below this; 0 until the VMM or the first vCPU has settled it.
    vcpu_id_limit: Atomic<u32>,
    /// The longest that a HLT is polled for, in ns.
    halt_poll_ns: Atomic<u32>,
    /// The VMM wants to see to instructions that the emulator refuses.
    exits_on_emulation_failure: Atomic<bool>,
    #[pin]
    doorbells: Doorbells,
    coalesced: Arc<Coalesced>,
    /// Held while vCPUs or the irqchip are made, which must not overlap.
    #[pin]
    creating: Mutex<()>,
    /// The frequency of the time-stamp counters of vCPUs to be made, in kHz.
    tsc_khz: Atomic<u32>,
    _notifiers: NotifiersOn,
}

impl Vm {
    /// Makes a VM for the current process and opens a file descriptor on it.
    pub(crate) fn create(kind: usize) -> Result<isize> {
        if kind != 0 {
            return Err(EINVAL);
        }
        let (format, largest) = Hardware::get().ok_or(ENODEV)?.tables();
        let vcpus = Arc::new(VcpuTable::new(), GFP_KERNEL_ACCOUNT)?;
        let interrupts = Interrupts::new(vcpus.clone())?;
        let coalesced = Coalesced::new()?;
        let memory = Memory::new(format, largest, vcpus)?;
        let vm = Arc::pin_init(
            try_pin_init!(Self {
                memory <- Watched::new(memory),
                interrupts,
                time <- VmTime::new(),
                boot_cpu: Atomic::new(0),
                vcpu_id_limit: Atomic::new(0),
                halt_poll_ns: Atomic::new(crate::halt_poll_ns()),
                exits_on_emulation_failure: Atomic::new(false),
                doorbells <- Doorbells::new(),
                coalesced,
                creating <- new_mutex!(()),
                tsc_khz: Atomic::new(cpu::tsc_khz()),
                _notifiers: NotifiersOn::new(),
            }),
            GFP_KERNEL_ACCOUNT,
        )?;
        file::install(vm)
    }

    /// Returns the guest's memory.
    #[inline(always)]
    pub(crate) fn memory(&self) -> &Memory {
        &self.memory
    }

    /// Returns the interrupt controllers.
    #[inline(always)]
    pub(crate) fn interrupts(&self) -> &Interrupts {
        &self.interrupts
    }

    /// Returns the clocks.
    pub(crate) fn time(&self) -> &VmTime {
        &self.time
    }

    /// Takes note of it when the host's clocks have left the time-stamp counter or come back to it.
    #[inline]
    pub(crate) fn follow_host_clock(&self) {
        if self.time.host_has_changed() && self.time.follow_host() {
            self.renew_clocks();
        }
    }

    /// Has all vCPUs write their guests' clocks anew.
    pub(crate) fn renew_clocks(&self) {
        self.memory().vcpus.for_each(|vcpu| vcpu.tell(news::CLOCK));
    }

    /// Returns how HLT is polled.
    pub(crate) fn halt_policy(&self) -> Policy {
        Policy {
            max_ns: self.halt_poll_ns.load(Relaxed),
            ..Policy::DEFAULT
        }
    }

    /// Whether the VMM wants to see to instructions that the emulator refuses.
    pub(crate) fn exits_on_emulation_failure(&self) -> bool {
        self.exits_on_emulation_failure.load(Relaxed)
    }

    /// Returns the number of the vCPU that starts by itself.
    pub(crate) fn boot_cpu(&self) -> u32 {
        self.boot_cpu.load(Relaxed)
    }

    /// Returns the writes that are collected for the VMM.
    pub(crate) fn coalesced(&self) -> &Arc<Coalesced> {
        &self.coalesced
    }

    /// Does what the VMM has arranged for a write of the guest's: signals an eventfd, or adds it to those that
    /// are collected. Returns whether the write is complete with that.
    #[inline]
    pub(crate) fn absorb(&self, bus: Bus, address: u64, data: &[u8]) -> bool {
        self.doorbells.ring(bus, address, data) || self.coalesced.write(bus, address, data)
    }

    /// Returns the frequency of a new vCPU's time-stamp counter in kHz.
    pub(crate) fn tsc_khz(&self) -> u32 {
        self.tsc_khz.load(Relaxed)
    }

    /// `KVM_SET_TSC_KHZ`: the frequency of the vCPUs to be made. Unlike KVM, this refuses what no vCPU could
    /// have.
    fn set_tsc_khz(&self, khz: u32) -> Result {
        let tsc = clock::guest_tsc(khz).ok_or(EINVAL)?;
        let _creating = self.creating.lock();
        if self.memory().vcpus.len() != 0 {
            return Err(EINVAL);
        }
        self.tsc_khz.store(tsc.khz(), Relaxed);
        Ok(())
    }

    /// Checks that the caller is the process that made the VM, whose memory the guest uses.
    ///
    /// # Errors
    ///
    /// `EIO` otherwise.
    #[inline]
    pub(crate) fn check_process(&self) -> Result {
        if self.memory.is_current() {
            Ok(())
        } else {
            Err(EIO)
        }
    }

    fn create_vcpu(this: ArcBorrow<'_, Self>, id: usize) -> Result<isize> {
        let _creating = this.creating.lock();
        if this.vcpu_id_limit.load(Relaxed) == 0 {
            this.vcpu_id_limit.store(MAX_VCPU_ID as u32, Relaxed);
        }
        if id >= this.vcpu_id_limit.load(Relaxed) as usize {
            return Err(EINVAL);
        }
        let vcpus = &this.memory().vcpus;
        if vcpus.len() >= MAX_VCPUS {
            return Err(EINVAL);
        }
        if vcpus.find(id as u32).is_some() {
            return Err(EEXIST);
        }
        let vcpu = Vcpu::new(this.into(), id as u32)?;
        vcpus.add(vcpu.shared().clone())?;
        file::install(vcpu)
    }

    fn create_irqchip(&self) -> Result {
        let _creating = self.creating.lock();
        self.interrupts.create_chips(self.memory().vcpus.len())
    }

    fn create_pit(&self, flags: u32) -> Result {
        let _creating = self.creating.lock();
        self.interrupts.create_pit(flags)
    }

    fn set_boot_cpu(&self, id: usize) -> Result {
        let _creating = self.creating.lock();
        if self.memory().vcpus.len() != 0 {
            return Err(EBUSY);
        }
        let limit = match self.vcpu_id_limit.load(Relaxed) {
            0 => MAX_VCPU_ID,
            limit => limit as usize,
        };
        // The limit itself is let through, as by KVM: then no vCPU starts by itself.
        if id > limit {
            return Err(EINVAL);
        }
        self.boot_cpu.store(id as u32, Relaxed);
        Ok(())
    }

    fn enable_cap(&self, arg: usize) -> Result {
        let cap: uapi::kvm_enable_cap = uapi::get(arg)?;
        if cap.flags != 0 {
            return Err(EINVAL);
        }
        let [first, ..] = cap.args;
        match cap.cap {
            uapi::KVM_CAP_SPLIT_IRQCHIP => {
                let _creating = self.creating.lock();
                self.interrupts
                    .create_split(self.memory().vcpus.len(), first)
            }
            uapi::KVM_CAP_HALT_POLL => {
                let ns = u32::try_from(first).map_err(|_| EINVAL)?;
                self.halt_poll_ns.store(ns, Relaxed);
                Ok(())
            }
            uapi::KVM_CAP_EXIT_ON_EMULATION_FAILURE => {
                if first > 1 {
                    return Err(EINVAL);
                }
                self.exits_on_emulation_failure.store(first != 0, Relaxed);
                Ok(())
            }
            uapi::KVM_CAP_MAX_VCPU_ID => self.limit_vcpu_ids(first),
            uapi::KVM_CAP_X2APIC_API => self.interrupts.set_apic_api(first),
            _ => Err(EINVAL),
        }
    }

    /// `KVM_CAP_MAX_VCPU_ID`: vCPU numbers stay below `limit`. It can be set once, before the first vCPU.
    fn limit_vcpu_ids(&self, limit: u64) -> Result {
        let limit = u32::try_from(limit).map_err(|_| EINVAL)?;
        if limit as usize > MAX_VCPU_ID {
            return Err(EINVAL);
        }
        let _creating = self.creating.lock();
        let old = self.vcpu_id_limit.load(Relaxed);
        if self.boot_cpu() > limit || (old != 0 && old != limit) {
            return Err(EINVAL);
        }
        self.vcpu_id_limit.store(limit, Relaxed);
        Ok(())
    }

    fn set_memory_region(&self, request: Request) -> Result {
        self.memory().set_slot(&request)
    }
}

impl FileOperations for Vm {
    const NAME: &'static CStr = c"kvm-vm";

    fn ioctl(this: ArcBorrow<'_, Self>, cmd: u32, arg: usize) -> Result<isize> {
        this.check_process()?;
        match cmd {
            uapi::CREATE_VCPU => return Self::create_vcpu(this, arg),
            uapi::CHECK_EXTENSION if arg == uapi::KVM_CAP_X2APIC_API as usize => {
                return Ok(this.interrupts.apic_api_flags() as isize);
            }
            uapi::CHECK_EXTENSION => return caps::check_extension(arg),
            uapi::GET_TSC_KHZ => return Ok(this.tsc_khz() as isize),
            // Bits 63:32 of the argument are ignored.
            uapi::SET_TSC_KHZ => this.set_tsc_khz(arg as u32)?,
            uapi::SET_USER_MEMORY_REGION => {
                let region: uapi::kvm_userspace_memory_region = uapi::get(arg)?;
                this.set_memory_region(Request {
                    slot: region.slot,
                    flags: region.flags,
                    guest_phys_addr: region.guest_phys_addr,
                    memory_size: region.memory_size,
                    userspace_addr: region.userspace_addr,
                })?;
            }
            uapi::SET_USER_MEMORY_REGION2 => {
                let region: uapi::kvm_userspace_memory_region2 = uapi::get(arg)?;
                this.set_memory_region(Request {
                    slot: region.slot,
                    flags: region.flags,
                    guest_phys_addr: region.guest_phys_addr,
                    memory_size: region.memory_size,
                    userspace_addr: region.userspace_addr,
                })?;
            }
            // With unrestricted guest neither region is used; the calls have an effect on Intel
            // CPUs without it only.
            uapi::SET_TSS_ADDR => {
                if arg > u32::MAX as usize - 3 * crate::host::page::PAGE_SIZE {
                    return Err(EINVAL);
                }
            }
            uapi::SET_IDENTITY_MAP_ADDR => {
                let _address: u64 = uapi::get(arg)?;
                if this.memory().vcpus.len() != 0 {
                    return Err(EINVAL);
                }
            }
            uapi::SET_NR_MMU_PAGES => return Err(EINVAL),
            uapi::IOEVENTFD => this.doorbells.change(&uapi::get(arg)?)?,
            uapi::REGISTER_COALESCED_MMIO => this.coalesced.add(&uapi::get(arg)?)?,
            uapi::UNREGISTER_COALESCED_MMIO => this.coalesced.remove(&uapi::get(arg)?)?,
            uapi::CREATE_IRQCHIP => this.create_irqchip()?,
            uapi::GET_CLOCK => {
                this.follow_host_clock();
                uapi::put(arg, &this.time.get_clock())?;
            }
            uapi::SET_CLOCK => {
                this.follow_host_clock();
                this.time.set_clock(&uapi::get(arg)?)?;
                this.renew_clocks();
            }
            uapi::CREATE_PIT => this.create_pit(uapi::KVM_PIT_SPEAKER_DUMMY)?,
            uapi::CREATE_PIT2 => this.create_pit(uapi::get::<uapi::kvm_pit_config>(arg)?.flags)?,
            uapi::SET_BOOT_CPU_ID => this.set_boot_cpu(arg)?,
            uapi::ENABLE_CAP => this.enable_cap(arg)?,
            _ => return this.interrupts.ioctl(cmd, arg).unwrap_or(Err(ENOTTY)),
        }
        Ok(0)
    }

    fn mmap(_this: ArcBorrow<'_, Self>, _vma: &VmaNew) -> Result {
        Err(ENODEV)
    }
}
