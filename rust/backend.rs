// SPDX-License-Identifier: GPL-2.0-only

//! The two kinds of hardware virtualisation behind one interface: what the shared code and a backend say to
//! each other.
//!
//! [`Hardware`] is the machine's, found once when the module loads. It makes the [`AnyVcpu`]s, and everything
//! that the shared code wants of one goes through the operations of [`BackendVcpu`].

use kernel::{
    prelude::*,
    sync::{
        Arc,
        SetOnce, //
    }, //
};

use crate::{
    bindings as b,
    host::{
        cpu::{
            self,
            IrqOff, //
        },
        global::GlobalOwner,
        page::ApicPage,
        sched, //
    },
    model::{
        addr::Hpa,
        apic::Mode,
        clock::scale::Format,
        cpuid::{
            Guest,
            Provides, //
        },
        exit::{
            Event,
            Exit, //
        },
        pt::{
            nested::Nested,
            PageSize, //
        },
        x86::{
            SegReg,
            Segment, //
        }, //
    },
    svm::{
        self,
        Svm,
        SvmVcpu, //
    },
    vcpu::table::VcpuShared,
    vmx::{
        self,
        Vmx,
        VmxVcpu, //
    }, //
};

/// What follows the thread of a vCPU, on whose behalf its siblings look where it is.
pub(crate) type Loaded<T> = sched::Loaded<T, VcpuShared>;

/// A register that a backend holds, other than segments and MSRs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reg {
    /// The instruction pointer.
    Rip,
    /// The stack pointer.
    Rsp,
    /// The flags; their fixed bit is added when they are set.
    Rflags,
    /// CR0 as the guest sees it.
    Cr0,
    /// CR3.
    Cr3,
    /// CR4 as the guest sees it.
    Cr4,
    /// EFER as the guest sees it; its LMA must agree with CR0.PG and LME.
    Efer,
    /// DR7.
    Dr7,
    /// What is added to the host's TSC, scaled, for the guest.
    TscOffset,
    /// By what the host's TSC is multiplied, where the processor can ([`Hardware::tsc_format`]).
    TscMultiplier,
    /// The current privilege level, which is set with SS.
    Cpl,
}

/// A segment register, those of the system and the descriptor tables included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Hidden {
    /// One that instructions name.
    Seg(SegReg),
    /// The local descriptor table's.
    Ldtr,
    /// The task's.
    Tr,
    /// The global descriptor table's: base and limit only.
    Gdtr,
    /// The interrupt descriptor table's: base and limit only.
    Idtr,
}

/// What keeps events from the guest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Blocking {
    /// RFLAGS.IF is set.
    pub(crate) interrupts_enabled: bool,
    /// The instruction after STI has not been executed.
    pub(crate) sti: bool,
    /// The instruction after MOV SS or POP SS has not been executed.
    pub(crate) mov_ss: bool,
    /// An NMI is being handled.
    pub(crate) nmi: bool,
}

/// What the processor does by itself of the local APIC's work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ApicHelp {
    /// Nothing but CR8, at most.
    None,
    /// It serves the guest's reads of most registers from the page, and takes note of writes.
    Registers,
    /// It delivers and completes interrupts, too: while the guest runs, IRR and ISR are the page's.
    Interrupts,
}

/// What an entry needs besides the guest's registers.
pub(crate) struct Entry<'a> {
    /// An event to deliver first.
    pub(crate) inject: Option<&'a Event>,
    /// The guest's own address translations must be forgotten.
    pub(crate) flush_guest: bool,
    /// The generation of the VM's memory: another one than at the last entry makes old translations of
    /// guest-physical addresses invalid.
    pub(crate) tlb_generation: u64,
    /// The host's TSC at which the guest must be left, where the backend has such a timer.
    pub(crate) deadline: Option<u64>,
    /// The host's TSC before which the guest's code must not run, a few microseconds away at most; or 0.
    pub(crate) not_before: u64,
    /// The local APIC's task priority.
    pub(crate) tpr: u8,
    /// The priority class below which a write of CR8 must exit, for a pending interrupt.
    pub(crate) tpr_threshold: u8,
}

/// How the guest was left.
pub(crate) struct Left {
    /// Why.
    pub(crate) exit: Exit,
    /// The event whose delivery the exit cut short.
    pub(crate) vectored: Option<Event>,
    /// The task priority, where the guest has changed it without an exit.
    pub(crate) tpr: Option<u8>,
    /// The processor does not say how long the instruction is that exited, or what its operands are:
    /// [`BackendVcpu::set_instruction_length`] comes before [`BackendVcpu::skip_instruction`].
    pub(crate) incomplete: bool,
}

/// What the instruction emulator begins with.
pub(crate) struct EmulationContext {
    pub(crate) rip: u64,
    pub(crate) rsp: u64,
    pub(crate) rflags: u64,
    /// The access rights of CS.
    pub(crate) cs_rights: u32,
    /// The current privilege level.
    pub(crate) cpl: u8,
    pub(crate) cr0: u64,
    pub(crate) cr3: u64,
    pub(crate) cr4: u64,
    pub(crate) efer: u64,
    /// The linear address of the access that led to the exit, where the processor tells it.
    pub(crate) linear: Option<u64>,
}

/// The first bytes of an instruction.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct CodeBytes {
    bytes: [u8; Self::MAX],
    length: u8,
}

impl CodeBytes {
    const MAX: usize = 15;

    /// Takes up to 15 bytes.
    pub(crate) fn new(code: &[u8]) -> Self {
        let mut this = Self::default();
        for (to, from) in this.bytes.iter_mut().zip(code) {
            *to = *from;
            this.length = this.length.saturating_add(1);
        }
        this
    }

    /// Returns `count` bytes from the start, if there are as many.
    pub(crate) fn first(&self, count: usize) -> Option<&[u8]> {
        self.bytes.get(..usize::from(self.length))?.get(..count)
    }
}

/// Declares the operations once: as a trait, and for the type that has either backend behind it.
macro_rules! operations {
    ($($(#[$doc:meta])* fn $name:ident(&mut self $(, $arg:ident: $type:ty)*) $(-> $result:ty)?;)*) => {
        /// The operations on a vCPU that VMX and SVM carry out each in its way.
        ///
        /// Those that take no [`IrqOff`] may be called whether the vCPU is on a CPU or not.
        pub(crate) trait BackendVcpu {
            $($(#[$doc])* fn $name(&mut self $(, $arg: $type)*) $(-> $result)?;)*
        }

        /// A vCPU on this machine's hardware.
        pub(crate) enum AnyVcpu {
            /// On VMX.
            Vmx(VmxVcpu),
            /// On SVM.
            Svm(SvmVcpu),
        }

        impl BackendVcpu for AnyVcpu {
            $(
                #[inline(always)]
                fn $name(&mut self $(, $arg: $type)*) $(-> $result)? {
                    match self {
                        Self::Vmx(vcpu) => vcpu.$name($($arg),*),
                        Self::Svm(vcpu) => vcpu.$name($($arg),*),
                    }
                }
            )*
        }
    };
}

operations! {
    /// Puts the vCPU on the current CPU and ties it to the current thread.
    fn load(&mut self);

    /// Takes it off again.
    fn put(&mut self);

    /// Runs the guest until its next exit. The vCPU must be on the CPU.
    fn enter(&mut self, irq: &IrqOff, regs: &mut b::vireo_regs, entry: &Entry<'_>) -> Left;

    /// Returns a register.
    fn register(&mut self, reg: Reg) -> u64;

    /// Sets a register to a value that is valid for it.
    fn set_register(&mut self, reg: Reg, value: u64);

    /// Returns a segment register. The DPL of SS is the current privilege level.
    fn segment(&mut self, reg: Hidden) -> Segment;

    /// Sets a segment register.
    fn set_segment(&mut self, reg: Hidden, segment: &Segment);

    /// Sets the page-directory-pointer entries that PAE paging uses, where the processor does not read them
    /// by itself.
    fn set_pdptes(&mut self, value: [u64; 4]);

    /// Returns an MSR that the backend holds, or `None` for another.
    fn msr(&mut self, number: u32) -> Option<u64>;

    /// Sets such an MSR to a value that is valid for it; `false` for another MSR.
    fn set_msr(&mut self, number: u32, value: u64) -> bool;

    /// Takes note of the guest's CPUID, which says what it may do without an exit.
    fn set_cpuid(&mut self, guest: &Guest);

    /// Returns what keeps events from the guest.
    fn blocking(&mut self, irq: &IrqOff) -> Blocking;

    /// Sets what keeps events from the guest, but for RFLAGS.IF.
    fn set_blocking(&mut self, blocking: Blocking);

    /// Asks for exits as soon as the guest can take an interrupt or an NMI.
    fn request_windows(&mut self, irq: &IrqOff, interrupt: bool, nmi: bool);

    /// Says how long the instruction is that exited, in bytes, where the processor does not.
    fn set_instruction_length(&mut self, length: u8);

    /// Moves RIP behind the instruction that exited, as if it had been executed, and ends the shadow of STI
    /// and MOV SS. Returns whether the guest is being single-stepped.
    fn skip_instruction(&mut self) -> bool;

    /// Ends an emulated instruction: sets RIP, RSP and RFLAGS, and ends the shadow of STI and MOV SS.
    /// Returns whether the guest is being single-stepped.
    fn retire(&mut self, rip: u64, rsp: u64, rflags: u64) -> bool;

    /// Ends an emulated instruction of 64-bit code that has changed neither RSP nor RFLAGS: moves RIP on by
    /// `length` bytes, clears RFLAGS.RF, and ends the shadow of STI and MOV SS. Returns whether the guest is being
    /// single-stepped.
    fn retire_move(&mut self, length: u8) -> bool;

    /// Returns what the instruction emulator begins with.
    fn emulation_context(&mut self) -> EmulationContext;

    /// Returns the code at RIP, where the processor tells it.
    fn fetched_code(&mut self) -> CodeBytes;

    /// Returns the page of the local APIC's registers, where the processor virtualises accesses to it.
    fn apic_page(&mut self) -> Option<&mut ApicPage>;

    /// Has the processor virtualise the local APIC in `mode`, as far as it can; not at all when that is
    /// [`Mode::Disabled`]. It may deliver interrupts only if `enabled`. Returns what it does.
    fn set_apic_mode(&mut self, mode: Mode, enabled: bool) -> ApicHelp;

    /// Tells a processor that delivers the APIC's interrupts which are the highest requested vector (bits 7:0
    /// of `status`) and the highest in service (bits 15:8), and, where that has changed, the vectors whose
    /// completion must exit.
    fn hand_over_interrupts(&mut self, irq: &IrqOff, status: u16, exits: Option<[u64; 4]>);

    /// Returns the vector of the interrupt by which the guest has just been left, if the exit has acknowledged
    /// it: the host must be told then.
    fn acknowledged_interrupt(&mut self, irq: &IrqOff) -> Option<u8>;

    /// Writes the VMCS or VMCB to the kernel log.
    fn dump(&mut self);
}

/// The machine's hardware virtualisation.
#[derive(Clone, Copy)]
pub(crate) enum Hardware {
    /// Intel VT-x.
    Vmx(&'static Vmx),
    /// AMD-V.
    Svm(&'static Svm),
}

/// Keeps what [`Hardware`] refers to.
#[expect(dead_code, reason = "they are there to be dropped")]
pub(crate) enum HardwareOwner {
    /// For VMX.
    Vmx(GlobalOwner<Vmx>),
    /// For SVM.
    Svm(GlobalOwner<Svm>),
}

static HARDWARE: SetOnce<Hardware> = SetOnce::new();

/// The CPUID leaf of AMD's features.
const EXTENDED_FEATURES: u32 = 0x8000_0001;

/// CPUID.1:ECX.VMX.
const CPUID_VMX: u32 = 1 << 5;

/// CPUID.80000001:ECX.SVM.
const CPUID_SVM: u32 = 1 << 2;

impl Hardware {
    /// Finds out which there is and what it can do.
    ///
    /// # Errors
    ///
    /// `EOPNOTSUPP`, with one line in the kernel log that names what is missing.
    pub(crate) fn probe() -> Result<HardwareOwner> {
        let (hardware, owner) = if cpu::cpuid(1, 0)[2] & CPUID_VMX != 0 {
            let (vmx, owner) = Vmx::probe()?;
            (Self::Vmx(vmx), HardwareOwner::Vmx(owner))
        } else if cpu::cpuid(EXTENDED_FEATURES, 0)[2] & CPUID_SVM != 0 {
            let (svm, owner) = Svm::probe()?;
            (Self::Svm(svm), HardwareOwner::Svm(owner))
        } else {
            pr_err!("cannot load: the CPU has neither VMX nor SVM\n");
            return Err(EOPNOTSUPP);
        };
        HARDWARE.populate(hardware);
        Ok(owner)
    }

    /// Returns it, once [`Hardware::probe`] has succeeded.
    #[inline(always)]
    pub(crate) fn get() -> Option<Self> {
        HARDWARE.as_ref().copied()
    }

    /// Returns how the hardware is switched on and off.
    pub(crate) fn extension(&self) -> Extension {
        match self {
            Self::Vmx(_) => vmx::EXTENSION,
            Self::Svm(_) => svm::EXTENSION,
        }
    }

    /// Returns the format of nested page tables, and the largest page that they can map.
    pub(crate) fn tables(&self) -> (Nested, PageSize) {
        match self {
            Self::Vmx(vmx) => vmx.tables(),
            Self::Svm(svm) => svm.tables(),
        }
    }

    /// Returns what the hardware lets guests have.
    pub(crate) fn provides(&self) -> Provides {
        match self {
            Self::Vmx(vmx) => vmx.provides(),
            Self::Svm(svm) => svm.provides(),
        }
    }

    /// Whether an entry can have a deadline ([`Entry::deadline`]).
    #[inline(always)]
    pub(crate) fn has_deadline(&self) -> bool {
        match self {
            Self::Vmx(vmx) => vmx.has_deadline(),
            Self::Svm(_) => false,
        }
    }

    /// Returns how the processor scales the guests' TSC, if it can.
    pub(crate) fn tsc_format(&self) -> Option<Format> {
        match self {
            Self::Vmx(vmx) => vmx.controls.features.tsc_scaling.then_some(Format::VMX),
            Self::Svm(svm) => svm.scales_tsc().then_some(Format::SVM),
        }
    }

    /// Makes a vCPU.
    ///
    /// `root` is the root of the VM's nested page tables, `index` the number of the VM's vCPUs so far, and
    /// `apic` the page that is mapped at the local APIC's address, if the APIC is in the kernel; `shared` is told
    /// where the vCPU's thread is.
    pub(crate) fn vcpu(
        &self,
        root: Hpa,
        index: usize,
        apic: Option<Hpa>,
        shared: Arc<VcpuShared>,
    ) -> Result<AnyVcpu> {
        match self {
            Self::Vmx(vmx) => VmxVcpu::new(vmx, root, index, apic, shared).map(AnyVcpu::Vmx),
            Self::Svm(svm) => SvmVcpu::new(svm, root, apic.is_some(), shared).map(AnyVcpu::Svm),
        }
    }
}

/// How hardware virtualisation is switched on and off on a CPU.
pub(crate) struct Extension {
    /// It is SVM, not VMX.
    pub(crate) svm: bool,
    /// Called on each CPU, with interrupts off, right before it is switched off there.
    pub(crate) release: fn(&IrqOff),
}
