// SPDX-License-Identifier: GPL-2.0-only

//! The ioctls of a VM that concern its interrupt controllers.

use kernel::{
    prelude::*,
    sync::Arc, //
};

use super::{
    lines::{
        APIC_API_FLAGS,
        SUPPRESS_EOI,
        SUPPRESS_EOI_CHOICE, //
    },
    source,
    Interrupts,
    Kind,
    PitDevice, //
};
use crate::{
    model::{
        ioapic::{
            self,
            IoapicState, //
        },
        msi,
        pic::{
            Chip,
            PicState, //
        },
        pit::{
            PitChannelState,
            PitState2,
            CHANNELS, //
        },
        route::{
            self,
            RawRoute,
            Route,
            MAX_ROUTES, //
        }, //
    },
    uapi, //
};

/// The flag of `KVM_SIGNAL_MSI` that there is; the device's number itself has no use here.
const MSI_FLAGS: u32 = uapi::KVM_MSI_VALID_DEVID;

impl Interrupts {
    /// Carries out an ioctl of a VM, if it is one of these.
    pub(crate) fn ioctl(&self, cmd: u32, arg: usize) -> Option<Result<isize>> {
        let result = match cmd {
            uapi::IRQ_LINE => self.irq_line(arg, false),
            uapi::IRQ_LINE_STATUS => self.irq_line(arg, true),
            uapi::SIGNAL_MSI => return Some(self.signal_msi(arg)),
            uapi::SET_GSI_ROUTING => self.set_gsi_routing(arg),
            uapi::IRQFD => uapi::get(arg).and_then(|request| self.irqfd(&request)),
            uapi::GET_IRQCHIP => self.get_irqchip(arg),
            uapi::SET_IRQCHIP => self.set_irqchip(arg),
            uapi::GET_PIT => self.get_pit(arg),
            uapi::SET_PIT => self.set_pit(arg),
            uapi::GET_PIT2 => self.get_pit2(arg),
            uapi::SET_PIT2 => self.set_pit2(arg),
            uapi::REINJECT_CONTROL => self.reinject_control(arg),
            _ => return None,
        };
        Some(result.map(|()| 0))
    }

    /// `KVM_CREATE_IRQCHIP`. Calls of this and the next two must not overlap, nor with the making of vCPUs.
    pub(crate) fn create_chips(&self, vcpus: usize) -> Result {
        if self.has_apics() {
            return Err(EEXIST);
        }
        if vcpus != 0 {
            return Err(EINVAL);
        }
        self.lines.add_chips()?;
        self.kind.populate(Kind::Full);
        Ok(())
    }

    /// `KVM_CAP_SPLIT_IRQCHIP` with the number of the VMM's I/O APIC pins.
    pub(crate) fn create_split(&self, vcpus: usize, pins: u64) -> Result {
        let pins = u32::try_from(pins).map_err(|_| EINVAL)?;
        if pins > MAX_ROUTES {
            return Err(EINVAL);
        }
        if self.has_apics() || vcpus != 0 {
            return Err(EEXIST);
        }
        self.kind.populate(Kind::Split(pins));
        Ok(())
    }

    /// `KVM_CREATE_PIT2`.
    pub(crate) fn create_pit(&self, flags: u32) -> Result {
        if self.pit.as_ref().is_some() {
            return Err(EEXIST);
        }
        if !self.has_chips() {
            return Err(ENOENT);
        }
        let speaker = flags & uapi::KVM_PIT_SPEAKER_DUMMY != 0;
        let pit = PitDevice::new(self.lines.clone(), speaker)?;
        self.pit.populate(pit);
        self.update_watched();
        Ok(())
    }

    /// Returns the flags of `KVM_CAP_X2APIC_API` that this VM may set: its I/O APIC must have an EOI register
    /// for EOI broadcasts to be suppressed, and that of the kernel has none.
    pub(crate) fn apic_api_flags(&self) -> u32 {
        if self.has_apics() && !self.has_chips() {
            APIC_API_FLAGS
        } else {
            APIC_API_FLAGS & !SUPPRESS_EOI
        }
    }

    /// `KVM_CAP_X2APIC_API`.
    pub(crate) fn set_apic_api(&self, flags: u64) -> Result {
        let flags = u32::try_from(flags).map_err(|_| EINVAL)?;
        let both = flags & SUPPRESS_EOI_CHOICE == SUPPRESS_EOI_CHOICE;
        if flags & !self.apic_api_flags() != 0 || both {
            return Err(EINVAL);
        }
        self.lines.set_apic_api(flags);
        Ok(())
    }

    fn irq_line(&self, arg: usize, report: bool) -> Result {
        let mut line: uapi::kvm_irq_level = uapi::get(arg)?;
        if !self.has_apics() {
            return Err(ENXIO);
        }
        // SAFETY: Both members of the union are integers of one size.
        let gsi = unsafe { line.__bindgen_anon_1.irq };
        let status = self.lines.set_gsi(gsi, source::USER, line.level != 0);
        if report {
            line.__bindgen_anon_1.status = status;
            uapi::put(arg, &line)?;
        }
        Ok(())
    }

    fn signal_msi(&self, arg: usize) -> Result<isize> {
        let msi: uapi::kvm_msi = uapi::get(arg)?;
        if !self.has_apics() || msi.flags & !MSI_FLAGS != 0 {
            return Err(EINVAL);
        }
        let wide = self.lines.wide_ids();
        let message = msi::decode(msi.address_lo, msi.address_hi, msi.data, wide)?;
        // As with KVM: a message to nobody is -1, which the caller sees as EPERM.
        let count = self.lines.send(&message).ok_or(EPERM)?;
        Ok(count as isize)
    }

    fn set_gsi_routing(&self, arg: usize) -> Result {
        let header: uapi::kvm_irq_routing = uapi::get(arg)?;
        if !self.has_apics() || header.nr > MAX_ROUTES || header.flags != 0 {
            return Err(EINVAL);
        }
        let count = header.nr as usize;
        let raw: KVVec<RawRoute> =
            uapi::get_entries(arg, size_of::<uapi::kvm_irq_routing>(), count)?;
        let platform = self.lines.platform();
        let mut routes = KVVec::with_capacity(count, GFP_KERNEL_ACCOUNT)?;
        for raw in raw.iter() {
            routes
                .push_within_capacity(Route::decode(raw, platform)?)
                .map_err(|_| ENOMEM)?;
        }
        route::sort(&mut routes)?;
        self.lines.replace_routes(routes);
        self.update_watched();
        Ok(())
    }

    fn get_irqchip(&self, arg: usize) -> Result {
        let mut chip = KBox::new(uapi::get::<uapi::kvm_irqchip>(arg)?, GFP_KERNEL)?;
        if !self.has_chips() {
            return Err(ENXIO);
        }
        chip.chip = Default::default();
        match which(chip.chip_id)? {
            Which::Pic(pic) => {
                let state = self.lines.pic_state(pic).ok_or(ENXIO)?;
                chip.chip.pic = pic_out(&state);
            }
            Which::Ioapic => {
                let state = self.lines.ioapic_state().ok_or(ENXIO)?;
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
            }
        }
        uapi::put(arg, &*chip)
    }

    fn set_irqchip(&self, arg: usize) -> Result {
        let chip = KBox::new(uapi::get::<uapi::kvm_irqchip>(arg)?, GFP_KERNEL)?;
        if !self.has_chips() {
            return Err(ENXIO);
        }
        match which(chip.chip_id)? {
            Which::Pic(pic) => {
                // SAFETY: Every member of the union is made of integers, and the whole union was read.
                let given = unsafe { &chip.chip.pic };
                self.lines.set_pic_state(pic, &pic_in(given));
            }
            Which::Ioapic => {
                // SAFETY: As above.
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
                self.lines.set_ioapic_state(&state);
                self.update_watched();
            }
        }
        Ok(())
    }

    fn pit(&self) -> Result<&PitDevice> {
        self.pit
            .as_ref()
            .map(|pit: &Arc<PitDevice>| &**pit)
            .ok_or(ENXIO)
    }

    fn get_pit(&self, arg: usize) -> Result {
        uapi::put(arg, &self.pit()?.state().channels)
    }

    fn set_pit(&self, arg: usize) -> Result {
        let channels: [PitChannelState; CHANNELS] = uapi::get(arg)?;
        self.pit()?.set_channels(&channels);
        Ok(())
    }

    fn get_pit2(&self, arg: usize) -> Result {
        uapi::put(arg, &self.pit()?.state())
    }

    fn set_pit2(&self, arg: usize) -> Result {
        let state: PitState2 = uapi::get(arg)?;
        self.pit()?.set_state(&state);
        Ok(())
    }

    fn reinject_control(&self, arg: usize) -> Result {
        let control: uapi::kvm_reinject_control = uapi::get(arg)?;
        self.pit()?.set_reinject(control.pit_reinject != 0);
        self.update_watched();
        Ok(())
    }
}

/// A controller, as `kvm_irqchip` names it.
enum Which {
    Pic(Chip),
    Ioapic,
}

fn which(id: u32) -> Result<Which> {
    match id {
        uapi::KVM_IRQCHIP_PIC_MASTER => Ok(Which::Pic(Chip::Master)),
        uapi::KVM_IRQCHIP_PIC_SLAVE => Ok(Which::Pic(Chip::Slave)),
        uapi::KVM_IRQCHIP_IOAPIC => Ok(Which::Ioapic),
        _ => Err(EINVAL),
    }
}

fn pic_out(state: &PicState) -> uapi::kvm_pic_state {
    uapi::kvm_pic_state {
        last_irr: state.last_irr,
        irr: state.irr,
        imr: state.imr,
        isr: state.isr,
        priority_add: state.priority_add,
        irq_base: state.irq_base,
        read_reg_select: state.read_reg_select,
        poll: state.poll,
        special_mask: state.special_mask,
        init_state: state.init_state,
        auto_eoi: state.auto_eoi,
        rotate_on_auto_eoi: state.rotate_on_auto_eoi,
        special_fully_nested_mode: state.special_fully_nested_mode,
        init4: state.init4,
        elcr: state.elcr,
        elcr_mask: state.elcr_mask,
    }
}

fn pic_in(state: &uapi::kvm_pic_state) -> PicState {
    PicState {
        last_irr: state.last_irr,
        irr: state.irr,
        imr: state.imr,
        isr: state.isr,
        priority_add: state.priority_add,
        irq_base: state.irq_base,
        read_reg_select: state.read_reg_select,
        poll: state.poll,
        special_mask: state.special_mask,
        init_state: state.init_state,
        auto_eoi: state.auto_eoi,
        rotate_on_auto_eoi: state.rotate_on_auto_eoi,
        special_fully_nested_mode: state.special_fully_nested_mode,
        init4: state.init4,
        elcr: state.elcr,
        elcr_mask: state.elcr_mask,
    }
}
