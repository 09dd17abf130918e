// SPDX-License-Identifier: GPL-2.0-only

//! A virtual machine and the ioctls of its file descriptor.

use kernel::{
    mm::virt::VmaNew,
    new_mutex,
    prelude::*,
    sync::{
        Arc,
        ArcBorrow,
        Mutex,
        SetOnce, //
    }, //
};

use crate::{
    backend::Hardware,
    caps,
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
    irqchip::{
        self,
        Irqchip, //
    },
    memory::Memory,
    model::{
        ioapic::{
            self,
            IoapicState, //
        },
        memslot::Request,
        msi, //
    },
    uapi,
    vcpu::{
        table::MAX_VCPUS,
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
    irqchip: SetOnce<Pin<KBox<Irqchip>>>,
    #[pin]
    doorbells: Doorbells,
    /// Held while vCPUs or the irqchip are made, which must not overlap.
    #[pin]
    creating: Mutex<()>,
    tsc_khz: u32,
    _notifiers: NotifiersOn,
}

impl Vm {
    /// Makes a VM for the current process and opens a file descriptor on it.
    pub(crate) fn create(kind: usize) -> Result<isize> {
        if kind != 0 {
            return Err(EINVAL);
        }
        let (format, largest) = Hardware::get().ok_or(ENODEV)?.tables();
        let memory = Memory::new(format, largest)?;
        let vm = Arc::pin_init(
            try_pin_init!(Self {
                memory <- Watched::new(memory),
                irqchip: SetOnce::new(),
                doorbells <- Doorbells::new(),
                creating <- new_mutex!(()),
                tsc_khz: cpu::tsc_khz(),
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

    /// Returns the interrupt controllers, if they are in the kernel.
    #[inline(always)]
    pub(crate) fn irqchip(&self) -> Option<&Irqchip> {
        self.irqchip.as_ref().map(|chip| &**chip)
    }

    /// Returns the writes that signal an eventfd.
    #[inline(always)]
    pub(crate) fn doorbells(&self) -> &Doorbells {
        &self.doorbells
    }

    /// Returns the frequency of the guests' TSC in kHz.
    pub(crate) fn tsc_khz(&self) -> u32 {
        self.tsc_khz
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
        if id >= MAX_VCPU_ID {
            return Err(EINVAL);
        }
        let _creating = this.creating.lock();
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
        if self.irqchip().is_some() {
            return Err(EEXIST);
        }
        if self.memory().vcpus.len() != 0 {
            return Err(EINVAL);
        }
        let chip = KBox::pin_init(Irqchip::new(), GFP_KERNEL_ACCOUNT)?;
        self.irqchip.populate(chip);
        Ok(())
    }

    fn set_memory_region(&self, request: Request) -> Result {
        self.memory().set_slot(&request)
    }

    fn irq_line(&self, arg: usize, report: bool) -> Result {
        let mut line: uapi::kvm_irq_level = uapi::get(arg)?;
        let chip = self.irqchip().ok_or(ENXIO)?;
        // SAFETY: Both members of the union are 32-bit integers.
        let number = unsafe { line.__bindgen_anon_1.irq };
        let status = match u8::try_from(number) {
            Ok(pin) if usize::from(pin) < ioapic::PINS => {
                chip.set_line(&self.memory().vcpus, pin, line.level != 0)
            }
            _ => return Err(EINVAL),
        };
        if report {
            line.__bindgen_anon_1.status = status;
            uapi::put(arg, &line)?;
        }
        Ok(())
    }

    fn signal_msi(&self, arg: usize) -> Result<isize> {
        let msi: uapi::kvm_msi = uapi::get(arg)?;
        if self.irqchip().is_none() || msi.flags != 0 {
            return Err(EINVAL);
        }
        let message = msi::decode(msi.address_lo, msi.address_hi, msi.data, false)?;
        // As with KVM: a message to nobody is -1, which the caller sees as EPERM.
        let count = irqchip::deliver(&self.memory().vcpus, &message).ok_or(EPERM)?;
        Ok(count as isize)
    }

    fn get_irqchip(&self, arg: usize) -> Result {
        let mut chip = KBox::new(uapi::get::<uapi::kvm_irqchip>(arg)?, GFP_KERNEL)?;
        let irqchip = self.irqchip().ok_or(ENXIO)?;
        if chip.chip_id != uapi::KVM_IRQCHIP_IOAPIC {
            return Err(EINVAL);
        }
        let state = irqchip.ioapic_state();
        let mut out = uapi::kvm_ioapic_state {
            base_address: state.base_address,
            ioregsel: state.ioregsel,
            id: state.id,
            irr: state.irr,
            pad: 0,
            ..Default::default()
        };
        for (to, from) in out.redirtbl.iter_mut().zip(state.redirtbl) {
            to.bits = from;
        }
        chip.chip.ioapic = out;
        uapi::put(arg, &*chip)
    }

    fn set_irqchip(&self, arg: usize) -> Result {
        let chip = KBox::new(uapi::get::<uapi::kvm_irqchip>(arg)?, GFP_KERNEL)?;
        let irqchip = self.irqchip().ok_or(ENXIO)?;
        if chip.chip_id != uapi::KVM_IRQCHIP_IOAPIC {
            return Err(EINVAL);
        }
        // SAFETY: Every member of the union is made of integers, and the whole union was read.
        let given = unsafe { &chip.chip.ioapic };
        let mut state = IoapicState {
            base_address: given.base_address,
            ioregsel: given.ioregsel,
            id: given.id,
            irr: given.irr,
            pad: 0,
            redirtbl: [0; ioapic::PINS],
        };
        for (to, from) in state.redirtbl.iter_mut().zip(&given.redirtbl) {
            // SAFETY: As above.
            *to = unsafe { from.bits };
        }
        irqchip.set_ioapic_state(&self.memory().vcpus, &state);
        Ok(())
    }
}

impl FileOperations for Vm {
    const NAME: &'static CStr = c"kvm-vm";

    fn ioctl(this: ArcBorrow<'_, Self>, cmd: u32, arg: usize) -> Result<isize> {
        this.check_process()?;
        match cmd {
            uapi::CREATE_VCPU => return Self::create_vcpu(this, arg),
            uapi::CHECK_EXTENSION => return caps::check_extension(arg),
            uapi::SIGNAL_MSI => return this.signal_msi(arg),
            uapi::GET_TSC_KHZ => return Ok(this.tsc_khz as isize),
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
            uapi::CREATE_IRQCHIP => this.create_irqchip()?,
            uapi::IRQ_LINE => this.irq_line(arg, false)?,
            uapi::IRQ_LINE_STATUS => this.irq_line(arg, true)?,
            uapi::GET_IRQCHIP => this.get_irqchip(arg)?,
            uapi::SET_IRQCHIP => this.set_irqchip(arg)?,
            _ => return Err(ENOTTY),
        }
        Ok(0)
    }

    fn mmap(_this: ArcBorrow<'_, Self>, _vma: &VmaNew) -> Result {
        Err(ENODEV)
    }
}
