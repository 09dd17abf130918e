// SPDX-License-Identifier: GPL-2.0-only
//! A virtual machine with one vCPU, some memory, and guest code ready to run.

use std::ops::ControlFlow;

use kvm_bindings as kb;

use crate::guest::*;
use crate::harness::{env, fail, touches_memory, Outcome};
use crate::host::Mapping;
use crate::kvm::{self, Exit, System, Vcpu, Vm};

/// CR0.PE.
pub const CR0_PE: u64 = 1 << 0;
/// CR0.MP.
pub const CR0_MP: u64 = 1 << 1;
/// CR0.ET, always 1.
pub const CR0_ET: u64 = 1 << 4;
/// CR0.NE.
pub const CR0_NE: u64 = 1 << 5;
/// CR0.WP.
pub const CR0_WP: u64 = 1 << 16;
/// CR0.AM.
pub const CR0_AM: u64 = 1 << 18;
/// CR0.PG.
pub const CR0_PG: u64 = 1 << 31;
/// CR4.PAE.
pub const CR4_PAE: u64 = 1 << 5;
/// CR4.OSFXSR and CR4.OSXMMEXCPT.
pub const CR4_SSE: u64 = 3 << 9;
/// CR4.OSXSAVE.
pub const CR4_OSXSAVE: u64 = 1 << 18;
/// EFER.SCE.
pub const EFER_SCE: u64 = 1 << 0;
/// EFER.LME.
pub const EFER_LME: u64 = 1 << 8;
/// EFER.LMA.
pub const EFER_LMA: u64 = 1 << 10;
/// EFER.NXE.
pub const EFER_NXE: u64 = 1 << 11;
/// RFLAGS bit 1, always 1.
pub const RFLAGS_ONE: u64 = 1 << 1;
/// RFLAGS.IF.
pub const RFLAGS_IF: u64 = 1 << 9;

/// Present, writable and user in a page-table entry.
pub const PTE_PWU: u64 = 7;
/// A large page.
const PTE_LARGE: u64 = 1 << 7;

/// The mode in which the guest starts.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// 64-bit, paging on, all of 4 GiB identity-mapped, exception stubs installed.
    Long,
    /// 32-bit protected mode, paging off, flat segments.
    Flat32,
    /// 16-bit real mode; the code segment starts at [`CODE`].
    Real,
}

/// How to build a [`Machine`].
#[derive(Clone, Copy)]
pub struct Setup {
    mode: Mode,
    irqchip: bool,
    split: Option<u64>,
    device: Option<&'static str>,
}

impl Setup {
    /// A machine that starts in `mode`.
    pub fn new(mode: Mode) -> Self {
        Self {
            mode,
            irqchip: false,
            split: None,
            device: None,
        }
    }

    /// With in-kernel interrupt controllers.
    pub fn irqchip(mut self) -> Self {
        self.irqchip = true;
        self
    }

    /// With only the local APICs in the kernel, and `pins` inputs of an I/O APIC outside.
    pub fn split(mut self, pins: u64) -> Self {
        self.split = Some(pins);
        self
    }

    /// On another device node than the one under test.
    pub fn device(mut self, node: &'static str) -> Self {
        self.device = Some(node);
        self
    }

    /// Builds it with `code` at [`CODE`].
    pub fn build(self, code: &[u8]) -> Result<Machine, Outcome> {
        let sys = System::open(match self.device {
            Some(node) => node,
            None => &env().device,
        })?;
        let vm = sys.create_vm()?;
        if self.irqchip {
            vm.create_irqchip()?;
        }
        if let Some(pins) = self.split {
            vm.enable_cap(kb::KVM_CAP_SPLIT_IRQCHIP, pins)?;
        }
        let mem = Mapping::anonymous(RAM_SIZE);
        // Clearing a huge page costs more than most tests do.
        mem.advise(0, RAM_SIZE, libc::MADV_NOHUGEPAGE);
        vm.set_slot(0, 0, 0, RAM_SIZE as u64, mem.addr())?;
        let vcpu = vm.create_vcpu(0)?;
        vcpu.set_cpuid(sys.supported_cpuid()?.entries())?;
        let mut machine = Machine { vcpu, vm, sys, mem };
        machine.mem.write(CODE, code);
        match self.mode {
            Mode::Long => {
                machine.enter_long()?;
                if (self.irqchip || self.split.is_some()) && touches_memory() {
                    machine.touch_memory()?;
                }
            }
            Mode::Flat32 => machine.enter_flat32()?,
            Mode::Real => machine.enter_real()?,
        }
        Ok(machine)
    }
}

guest!(touch_pages:
    "mov ebx, 0x1000",
    "2: or byte ptr [rbx], 0",
    "add ebx, 0x1000",
    "cmp ebx, 0x70000", "jb 2b",
    "out DONE, al",
);

/// A machine with one vCPU.
pub struct Machine {
    /// vCPU 0.
    pub vcpu: Vcpu,
    /// The virtual machine.
    pub vm: Vm,
    /// The device node.
    pub sys: System,
    /// The memory of slot 0, at guest-physical address 0.
    pub mem: Mapping,
}

impl Machine {
    /// A 64-bit machine without interrupt controllers.
    pub fn long(code: &[u8]) -> Result<Self, Outcome> {
        Setup::new(Mode::Long).build(code)
    }

    /// A 64-bit machine with in-kernel interrupt controllers; stubs send EOI by MMIO.
    pub fn irqchip(code: &[u8]) -> Result<Self, Outcome> {
        let machine = Setup::new(Mode::Long).irqchip().build(code)?;
        machine.mem.set(EOI_MODE, EOI_XAPIC);
        Ok(machine)
    }

    fn enter_long(&mut self) -> Result<(), Outcome> {
        self.mem.set(PML4, PDPT | PTE_PWU);
        for i in 0..4 {
            self.mem.set(PDPT + i * 8, (PD + i * 0x1000) | PTE_PWU);
        }
        for i in 0..2048 {
            self.mem.set(PD + i * 8, i << 21 | PTE_PWU | PTE_LARGE);
        }
        let gdt: [u64; 7] = [
            0,
            0x00af_9b00_0000_ffff,
            0x00cf_9300_0000_ffff,
            0x00cf_9b00_0000_ffff,
            0x00cf_9300_0000_ffff,
            0x00cf_f300_0000_ffff,
            0x00af_fb00_0000_ffff,
        ];
        for (i, entry) in gdt.iter().enumerate() {
            self.mem.set(GDT + i as u64 * 8, *entry);
        }
        self.mem
            .set(GDT + u64::from(SEL_TSS), 0x0000_8b00_0000_0067 | TSS << 16);
        self.mem.set(TSS + 4, STACK0);
        for vector in 0..256u64 {
            self.set_gate(vector, STUBS + vector * 16);
        }
        self.mem.write(STUBS, stubs::code());

        let mut sregs = self.vcpu.sregs()?;
        sregs.cs = segment(SEL_CODE64, 0xb, 0);
        (sregs.cs.l, sregs.cs.db) = (1, 0);
        let data = segment(SEL_DATA, 3, 0);
        (sregs.ds, sregs.es, sregs.ss, sregs.fs, sregs.gs) = (data, data, data, data, data);
        sregs.tr = kb::kvm_segment {
            base: TSS,
            limit: 0x67,
            selector: SEL_TSS,
            type_: 0xb,
            present: 1,
            ..Default::default()
        };
        sregs.gdt = kb::kvm_dtable {
            base: GDT,
            limit: 0x47,
            padding: [0; 3],
        };
        sregs.idt = kb::kvm_dtable {
            base: IDT,
            limit: 0xfff,
            padding: [0; 3],
        };
        sregs.cr0 = CR0_PE | CR0_MP | CR0_ET | CR0_NE | CR0_WP | CR0_PG;
        sregs.cr3 = PML4;
        sregs.cr4 = CR4_PAE | CR4_SSE;
        sregs.efer = EFER_SCE | EFER_LME | EFER_LMA | EFER_NXE;
        self.vcpu.set_sregs(&sregs)?;
        self.start(CODE, STACK)
    }

    /// Runs code that writes to each page that the tests use.
    fn touch_memory(&mut self) -> Result<(), Outcome> {
        self.mem.write(FREE, touch_pages());
        self.start(FREE, STACK)?;
        self.run_done()?;
        self.mem.write(FREE, &vec![0; touch_pages().len()]);
        self.start(CODE, STACK)
    }

    fn enter_flat32(&mut self) -> Result<(), Outcome> {
        let mut sregs = self.vcpu.sregs()?;
        sregs.cs = segment(SEL_CODE32, 0xb, 0);
        let data = segment(SEL_DATA, 3, 0);
        (sregs.ds, sregs.es, sregs.ss, sregs.fs, sregs.gs) = (data, data, data, data, data);
        sregs.cr0 = CR0_PE | CR0_ET | CR0_NE;
        self.vcpu.set_sregs(&sregs)?;
        self.start(CODE, STACK)
    }

    fn enter_real(&mut self) -> Result<(), Outcome> {
        let mut sregs = self.vcpu.sregs()?;
        sregs.cs.base = CODE;
        sregs.cs.selector = (CODE >> 4) as u16;
        self.vcpu.set_sregs(&sregs)?;
        self.start(0, 0x8000)
    }

    fn start(&mut self, rip: u64, rsp: u64) -> Result<(), Outcome> {
        let regs = kb::kvm_regs {
            rip,
            rsp,
            rflags: RFLAGS_ONE,
            ..Default::default()
        };
        Ok(self.vcpu.set_regs(&regs)?)
    }

    /// Points the interrupt gate of `vector` to `handler`, ring 3 may call it.
    pub fn set_gate(&self, vector: u64, handler: u64) {
        let low = handler & 0xffff | u64::from(SEL_CODE64) << 16 | 0xee << 40;
        self.mem
            .set(IDT + vector * 16, low | (handler >> 16 & 0xffff) << 48);
        self.mem.set(IDT + vector * 16 + 8, handler >> 32);
    }

    /// Maps the 4 KiB page `gva` (below 4 GiB) to `pte` by giving its 2 MiB a table at `table`.
    pub fn map_small(&self, gva: u64, table: u64, pte: u64) {
        let pde = PD + (gva >> 21) * 8;
        if self.mem.get(pde) & PTE_LARGE != 0 {
            let base = gva & !0x1f_ffff;
            for i in 0..512 {
                self.mem.set(table + i * 8, (base + i * 0x1000) | PTE_PWU);
            }
            self.mem.set(pde, table | PTE_PWU);
        }
        self.mem.set(table + (gva >> 12 & 0x1ff) * 8, pte);
    }

    /// A second vCPU in the state of the first, ready to run `code` at [`FREE`] with a stack of its own.
    pub fn second(&self, code: &[u8]) -> Result<Vcpu, Outcome> {
        self.mem.write(FREE, code);
        let vcpu = self.vm.create_vcpu(1)?;
        vcpu.set_cpuid(self.sys.supported_cpuid()?.entries())?;
        let mut sregs = self.vcpu.sregs()?;
        sregs.apic_base = vcpu.sregs()?.apic_base;
        vcpu.set_sregs(&sregs)?;
        let mut regs = self.vcpu.regs()?;
        (regs.rip, regs.rsp) = (FREE, STACK - 0x2000);
        vcpu.set_regs(&regs)?;
        vcpu.set_mp_state(&kb::kvm_mp_state {
            mp_state: kb::KVM_MP_STATE_RUNNABLE,
        })?;
        Ok(vcpu)
    }

    /// Changes the general registers.
    pub fn with_regs(&self, change: impl FnOnce(&mut kb::kvm_regs)) -> Result<(), Outcome> {
        let mut regs = self.vcpu.regs()?;
        change(&mut regs);
        Ok(self.vcpu.set_regs(&regs)?)
    }

    /// Changes the special registers.
    pub fn with_sregs(&self, change: impl FnOnce(&mut kb::kvm_sregs)) -> Result<(), Outcome> {
        let mut sregs = self.vcpu.sregs()?;
        change(&mut sregs);
        Ok(self.vcpu.set_sregs(&sregs)?)
    }

    /// Runs to the next exit that is not an unexpected exception.
    pub fn run(&mut self) -> Result<Exit, Outcome> {
        let exit = self.vcpu.run()?;
        if matches!(exit, Exit::Out { port: PORT_EXC, .. }) {
            return fail(self.describe_exception());
        }
        Ok(exit)
    }

    /// What the exception record says.
    pub fn describe_exception(&self) -> String {
        format!(
            "guest exception {} error {:#x} at code+{:#x} cr2 {:#x}",
            self.mem.get(EXC_VECTOR),
            self.mem.get(EXC_ERROR),
            self.mem.get(EXC_RIP).wrapping_sub(CODE),
            self.mem.get(EXC_CR2),
        )
    }

    /// Runs to a write to `port`, which must be the next exit; the registers there.
    pub fn run_to(&mut self, port: u16) -> Result<kb::kvm_regs, Outcome> {
        match self.run()? {
            Exit::Out { port: p, .. } if p == port => Ok(self.vcpu.regs()?),
            other => {
                let rip = self.vcpu.regs()?.rip;
                fail(format!(
                    "expected a write to port {port:#x}, got {other:x?} at {rip:#x}"
                ))
            }
        }
    }

    /// Runs to [`PORT_DONE`], which must be the next exit; the registers there.
    pub fn run_done(&mut self) -> Result<kb::kvm_regs, Outcome> {
        self.run_to(PORT_DONE)
    }

    /// Runs to [`PORT_SYNC`], which must be the next exit; the registers there.
    pub fn run_sync(&mut self) -> Result<kb::kvm_regs, Outcome> {
        self.run_to(PORT_SYNC)
    }

    /// Runs to [`PORT_DONE`]; `handler` gets every other exit. A signal is no reason to stop.
    pub fn run_with(
        &mut self,
        mut handler: impl FnMut(&mut Self, &Exit) -> Result<ControlFlow<()>, Outcome>,
    ) -> Result<kb::kvm_regs, Outcome> {
        loop {
            let exit = match self.vcpu.run() {
                Ok(exit) => exit,
                Err(error) if error.errno == kvm::Errno(libc::EINTR) => continue,
                Err(error) => return Err(error.into()),
            };
            match exit {
                Exit::Out {
                    port: PORT_DONE, ..
                } => break,
                Exit::Out { port: PORT_EXC, .. } => return fail(self.describe_exception()),
                exit => {
                    if handler(self, &exit)?.is_break() {
                        break;
                    }
                }
            }
        }
        Ok(self.vcpu.regs()?)
    }

    /// The `index`th 64-bit result.
    pub fn data(&self, index: u64) -> u64 {
        self.mem.get(DATA + index * 8)
    }

    /// Sets the `index`th 64-bit result.
    pub fn set_data(&self, index: u64, value: u64) {
        self.mem.set(DATA + index * 8, value);
    }

    /// How often the guest's stub took `vector`.
    pub fn irq_count(&self, vector: u64) -> u32 {
        self.mem.get32(IRQ_COUNTS + vector * 4)
    }

    /// The vectors in the interrupt log, oldest first.
    pub fn irq_log(&self) -> Vec<u64> {
        let count = self.mem.get(IRQ_LOGGED).min(128);
        (0..count).map(|i| self.mem.get(IRQ_LOG + i * 16)).collect()
    }
}

/// A flat 4 GiB segment of privilege `dpl`.
pub fn segment(selector: u16, type_: u8, dpl: u8) -> kb::kvm_segment {
    kb::kvm_segment {
        base: 0,
        limit: 0xffff_ffff,
        selector,
        type_,
        present: 1,
        dpl,
        db: 1,
        s: 1,
        l: 0,
        g: 1,
        ..Default::default()
    }
}
