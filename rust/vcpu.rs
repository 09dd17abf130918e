// SPDX-License-Identifier: GPL-2.0-only

//! A virtual CPU and the ioctls of its file descriptor.

use kernel::{
    mm::virt::VmaNew,
    new_mutex,
    prelude::*,
    sync::{
        Arc,
        ArcBorrow,
        Mutex, //
    }, //
};

use crate::{
    backend::{
        AnyVcpu,
        ApicHelp,
        Hardware, //
    },
    bindings as b,
    caps,
    guest_cpu::GuestCpu,
    host::{
        file::FileOperations,
        fpu::GuestFpu, //
    },
    memory::Spare,
    model::{
        apic::{
            self,
            Lapic, //
        },
        clock::guest::GuestTsc,
        cpuid::{
            self,
            CpuidEntry, //
        },
        emul::plain::Load,
        event::{
            Events,
            MpState, //
        },
        halt_poll,
        msr::MsrFile,
        sregs::DebugRegs,
        x86::xcr0, //
    },
    uapi,
    vm::Vm, //
};

mod apic_glue;
mod cpuid_glue;
mod inject;
mod msr_glue;
pub(crate) mod paravirt;
pub(crate) mod posted;
mod presence;
mod regs;
mod reset;
mod run;
pub(crate) mod run_page;
mod state;
pub(crate) mod table;
mod tsc;

use run_page::RunPages;
pub(crate) use run_page::MMAP_SIZE;
use table::VcpuShared;

/// A virtual CPU.
#[pin_data]
pub(crate) struct Vcpu {
    shared: Arc<VcpuShared>,
    run: Arc<RunPages>,
    /// Everything else. Held for the length of each ioctl, `KVM_RUN` included.
    #[pin]
    state: Mutex<KBox<State>>,
}

/// What a vCPU does when its interrupted exit to the VMM goes on.
pub(crate) enum Pending {
    /// Nothing.
    None,
    /// IN: put the VMM's answer of this many bytes into RAX and go on behind the instruction.
    In(u8),
    /// OUT: go on behind the instruction.
    Out,
    /// A plain move from device memory: put the VMM's answer into its register and go on behind it.
    Load(Load),
    /// Instruction emulation: it goes on by itself ([`crate::exit::emulate`]).
    Emulation,
}

/// The part of a vCPU that only the thread which holds its mutex touches.
pub(crate) struct State {
    pub(crate) vm: Arc<Vm>,
    pub(crate) shared: Arc<VcpuShared>,
    pub(crate) run: Arc<RunPages>,
    pub(crate) cpu: &'static GuestCpu,
    pub(crate) hardware: Hardware,
    pub(crate) backend: AnyVcpu,
    /// The guest's own address translations must be forgotten at the next entry.
    pub(crate) flush_guest: bool,
    pub(crate) regs: b::vireo_regs,
    pub(crate) fpu: GuestFpu,
    pub(crate) xcr0: u64,
    pub(crate) debug: DebugRegs,
    pub(crate) lapic: Option<KBox<Lapic>>,
    /// What the processor does of the local APIC's work,
    apic_help: ApicHelp,
    /// in this mode, and whether software has the APIC turned on.
    apic_mode: (apic::Mode, bool),
    /// The processor has the local APIC's IRR and ISR: [`State::lapic_mut`] takes them back.
    apic_away: bool,
    /// The processor must be told anew which completions exit.
    exits_stale: bool,
    /// IA32_APIC_BASE where the local APIC is the VMM's.
    pub(crate) apic_base: u64,
    /// The PICs may have an interrupt for this vCPU.
    pub(crate) extint: bool,
    /// The PICs are the VMM's.
    pub(crate) user_pic: bool,
    /// The vector of an interrupt of the VMM's PICs, where the local APIC is the kernel's.
    pub(crate) external: Option<u8>,
    /// The vector of an interrupt that the VMM's I/O APIC must know is complete.
    pub(crate) completed: Option<u8>,
    /// CR8 where the local APIC is the VMM's.
    pub(crate) cr8: u64,
    pub(crate) events: Events,
    pub(crate) mp_state: MpState,
    pub(crate) cpuid: KVVec<CpuidEntry>,
    pub(crate) cpuid_index: KBox<cpuid::Index>,
    pub(crate) guest: cpuid::Guest,
    pub(crate) msrs: KBox<MsrFile>,
    pub(crate) tsc: GuestTsc,
    /// What the guest and the host share.
    pub(crate) paravirt: paravirt::Paravirt,
    /// How long a HLT is polled for before the thread sleeps.
    pub(crate) halt_window: halt_poll::Window,
    /// What the APIC timer waits for.
    pub(crate) timer: apic::Timer,
    /// The host's TSC at which the guest's run must end for it, where the processor can see to that.
    pub(crate) deadline: Option<u64>,
    /// The host's TSC before which the guest must not be entered; it is never far away.
    not_before: u64,
    pub(crate) signal_mask: Option<kernel::bindings::sigset_t>,
    pub(crate) spare: Spare,
    pub(crate) pending: Pending,
    pub(crate) emulation: KBox<crate::exit::emulate::Emulation>,
    pub(crate) has_run: bool,
}

impl Vcpu {
    /// Makes vCPU `id` of `vm` in its state after reset.
    pub(crate) fn new(vm: Arc<Vm>, id: u32) -> Result<Arc<Self>> {
        let hardware = Hardware::get().ok_or(ENODEV)?;
        let cpu = GuestCpu::get().ok_or(ENODEV)?;
        let in_kernel = vm.interrupts().has_apics();
        let boots = id == vm.boot_cpu();
        let config = apic::Config::new(id, boots);
        let lapic = KBox::new(Lapic::new(config), GFP_KERNEL_ACCOUNT)?;
        let shared = VcpuShared::new(id, lapic.identity())?;
        let run = Arc::new(RunPages::new(vm.coalesced().clone())?, GFP_KERNEL_ACCOUNT)?;
        let (tsc, paravirt) = paravirt::Paravirt::new(&vm);
        let memory = vm.memory();
        let apic_page = in_kernel.then(|| memory.apic_page());
        let backend =
            hardware.vcpu(memory.root(), memory.vcpus.len(), apic_page, shared.clone())?;
        let mut state = KBox::new(
            State {
                hardware,
                backend,
                flush_guest: false,
                regs: b::vireo_regs::default(),
                fpu: GuestFpu::new()?,
                xcr0: xcr0::X87,
                debug: DebugRegs::RESET,
                apic_help: ApicHelp::None,
                apic_mode: (apic::Mode::Disabled, false),
                apic_away: false,
                exits_stale: true,
                apic_base: lapic.base(),
                lapic: in_kernel.then_some(lapic),
                extint: false,
                user_pic: !vm.interrupts().has_chips(),
                external: None,
                completed: None,
                cr8: 0,
                events: Events::default(),
                mp_state: MpState::Runnable,
                cpuid: KVVec::new(),
                cpuid_index: KBox::new(cpuid::Index::default(), GFP_KERNEL_ACCOUNT)?,
                guest: cpuid::Guest::default(),
                msrs: KBox::new(
                    MsrFile::new(Default::default(), &cpu.feature_msrs, cpu.vendor),
                    GFP_KERNEL_ACCOUNT,
                )?,
                tsc,
                paravirt,
                halt_window: halt_poll::Window::default(),
                timer: apic::Timer::Stop,
                deadline: None,
                not_before: 0,
                signal_mask: None,
                spare: Spare::default(),
                pending: Pending::None,
                emulation: KBox::new(Default::default(), GFP_KERNEL_ACCOUNT)?,
                has_run: false,
                shared: shared.clone(),
                run: run.clone(),
                cpu,
                vm,
            },
            GFP_KERNEL_ACCOUNT,
        )?;
        state.reset(boots);
        state.publish_identity();
        Arc::pin_init(
            pin_init!(Self {
                shared,
                run,
                state <- new_mutex!(state),
            }),
            GFP_KERNEL_ACCOUNT,
        )
    }

    /// Returns the part that others may touch.
    pub(crate) fn shared(&self) -> &Arc<VcpuShared> {
        &self.shared
    }
}

impl State {
    /// `KVM_ENABLE_CAP`.
    fn enable_cap(&mut self, cap: &uapi::kvm_enable_cap) -> Result {
        let [first, ..] = cap.args;
        match cap.cap {
            _ if cap.flags != 0 => Err(EINVAL),
            uapi::KVM_CAP_ENFORCE_PV_FEATURE_CPUID => {
                self.enforce_paravirt(first != 0);
                Ok(())
            }
            _ => Err(EINVAL),
        }
    }
}

impl FileOperations for Vcpu {
    const NAME: &'static CStr = c"kvm-vcpu";

    fn ioctl(this: ArcBorrow<'_, Self>, cmd: u32, arg: usize) -> Result<isize> {
        let mut guard = this.state.lock();
        let state = &mut **guard;
        state.vm.check_process()?;
        match cmd {
            uapi::RUN if arg == 0 => return state.run().map(|()| 0),
            uapi::RUN => return Err(EINVAL),
            uapi::GET_REGS => uapi::put(arg, &state.get_regs())?,
            uapi::SET_REGS => state.set_regs(&uapi::get(arg)?),
            uapi::GET_SREGS => uapi::put(arg, &state.get_sregs())?,
            uapi::SET_SREGS => state.set_sregs(&uapi::get(arg)?)?,
            uapi::GET_FPU => state.get_fpu(arg)?,
            uapi::SET_FPU => state.set_fpu(arg)?,
            uapi::GET_XSAVE => state.get_xsave(arg)?,
            uapi::GET_XSAVE2 => state.get_xsave(arg)?,
            uapi::SET_XSAVE => state.set_xsave(arg)?,
            uapi::GET_XCRS => uapi::put(arg, &state.get_xcrs())?,
            uapi::SET_XCRS => state.set_xcrs(&uapi::get(arg)?)?,
            uapi::GET_DEBUGREGS => uapi::put(arg, &state.get_debugregs())?,
            uapi::SET_DEBUGREGS => state.set_debugregs(&uapi::get(arg)?)?,
            uapi::GET_VCPU_EVENTS => uapi::put(arg, &state.get_events())?,
            uapi::SET_VCPU_EVENTS => state.set_events(&uapi::get(arg)?)?,
            uapi::GET_MP_STATE => uapi::put(arg, &state.get_mp_state())?,
            uapi::SET_MP_STATE => state.set_mp_state(&uapi::get(arg)?)?,
            uapi::GET_MSRS => return state.get_msrs(arg),
            uapi::SET_MSRS => return state.set_msrs(arg),
            uapi::SET_CPUID2 => state.set_cpuid(arg)?,
            uapi::GET_CPUID2 => state.get_cpuid(arg)?,
            uapi::GET_LAPIC => state.get_lapic(arg)?,
            uapi::SET_LAPIC => state.set_lapic(arg)?,
            uapi::INTERRUPT => state.queue_interrupt(&uapi::get(arg)?)?,
            uapi::NMI => state.shared.tell(table::news::NMI),
            uapi::SET_SIGNAL_MASK => state.set_signal_mask(arg)?,
            uapi::TRANSLATE => state.translate(arg)?,
            uapi::X86_SETUP_MCE => {
                let cap: u64 = uapi::get(arg)?;
                state.msrs.setup_mce(cap)?;
            }
            uapi::ENABLE_CAP => state.enable_cap(&uapi::get(arg)?)?,
            uapi::KVMCLOCK_CTRL => state.guest_was_stopped()?,
            uapi::GET_TSC_KHZ => return Ok(state.tsc.khz() as isize),
            // Bits 63:32 of the argument are ignored.
            uapi::SET_TSC_KHZ => state.set_tsc_khz(arg as u32)?,
            uapi::HAS_DEVICE_ATTR | uapi::GET_DEVICE_ATTR | uapi::SET_DEVICE_ATTR => {
                state.device_attr(cmd, &uapi::get(arg)?)?;
            }
            uapi::CHECK_EXTENSION => return caps::check_extension(arg),
            _ => return Err(ENOTTY),
        }
        Ok(0)
    }

    fn mmap(this: ArcBorrow<'_, Self>, vma: &VmaNew) -> Result {
        this.run.map(vma)
    }
}
