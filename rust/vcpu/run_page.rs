// SPDX-License-Identifier: GPL-2.0-only

//! The pages that a vCPU shares with the VMM: `struct kvm_run`, and the data of port I/O.
//!
//! The VMM may write to them at any time, so each field is read once, by a volatile access, and what is
//! read is checked like any other input.

use core::ptr::{
    addr_of,
    addr_of_mut, //
};

use kernel::{
    mm::virt::VmaNew,
    prelude::*, //
};

use crate::{
    bindings as b,
    host::page::{
        HostPage,
        PAGE_SIZE, //
    },
    uapi::{
        self,
        kvm_run, //
    }, //
};

/// Pages of the mapping: `kvm_run`, port data, coalesced I/O.
const PAGES: usize = 3;

/// The page with the data of port I/O (`KVM_PIO_PAGE_OFFSET`).
const PIO_PAGE: usize = 1;

/// Bytes of the mapping.
pub(crate) const MMAP_SIZE: usize = PAGES * PAGE_SIZE;

/// The shared pages.
pub(crate) struct RunPages {
    pages: [HostPage; PAGES],
}

/// Reads a field of `kvm_run`.
macro_rules! read {
    ($this:expr, $($field:tt)+) => {{
        let run = $this.run();
        // SAFETY: The page holds a `kvm_run` as long as `$this` lives; any bytes are a valid integer.
        unsafe { addr_of!((*run).$($field)+).read_volatile() }
    }};
}

/// Writes a field of `kvm_run`.
macro_rules! write {
    ($this:expr, $($field:ident).+ = $value:expr) => {{
        let value = $value;
        let run = $this.run();
        // SAFETY: As for reading.
        unsafe { addr_of_mut!((*run).$($field).+).write_volatile(value) }
    }};
}

impl RunPages {
    /// Allocates the pages, all zero.
    pub(crate) fn new() -> Result<Self> {
        Ok(Self {
            pages: [HostPage::new()?, HostPage::new()?, HostPage::new()?],
        })
    }

    #[inline(always)]
    fn run(&self) -> *mut kvm_run {
        self.pages[0].as_ptr().cast()
    }

    /// Maps the pages into the VMM's memory. What lies beyond them raises SIGBUS.
    pub(crate) fn map(&self, vma: &VmaNew) -> Result {
        let raw = vma.as_ptr();
        // SAFETY: The VMA is being set up by this call.
        let first = unsafe { (*raw).vm_pgoff };
        let count = (vma.end() - vma.start()) / PAGE_SIZE;
        for (i, page) in self.pages.iter().enumerate().skip(first).take(count) {
            let address = vma.start() + (i - first) * PAGE_SIZE;
            // SAFETY: The address is inside the VMA, and the page is a whole page of ours.
            kernel::error::to_result(unsafe {
                b::vireo_insert_page(raw, address, page.as_ptr().cast())
            })?;
        }
        Ok(())
    }

    /// Whether the VMM wants `KVM_RUN` to return at once.
    #[inline(always)]
    pub(crate) fn immediate_exit(&self) -> bool {
        read!(self, immediate_exit__unsafe) != 0
    }

    /// Whether the VMM wants to know when it can inject an interrupt.
    #[inline(always)]
    pub(crate) fn wants_interrupt_window(&self) -> bool {
        read!(self, request_interrupt_window) != 0
    }

    /// Returns the CR8 that the VMM wants set.
    pub(crate) fn cr8(&self) -> u64 {
        read!(self, cr8)
    }

    /// Writes what `kvm_run` says of the vCPU at each return to the VMM.
    pub(crate) fn publish(&self, state: &Published) {
        write!(
            self,
            ready_for_interrupt_injection = state.ready_for_interrupt.into()
        );
        write!(self, if_flag = state.if_flag.into());
        write!(self, flags = 0);
        write!(self, cr8 = state.cr8);
        write!(self, apic_base = state.apic_base);
    }

    /// Sets the exit reason.
    pub(crate) fn set_reason(&self, reason: u32) {
        write!(self, exit_reason = reason);
    }

    /// Reports port I/O whose data are in the port page.
    pub(crate) fn set_io(&self, out: bool, size: u8, port: u16, count: u32) {
        self.set_reason(uapi::KVM_EXIT_IO);
        let direction = if out {
            uapi::KVM_EXIT_IO_OUT
        } else {
            uapi::KVM_EXIT_IO_IN
        };
        write!(self, __bindgen_anon_1.io.direction = direction as u8);
        write!(self, __bindgen_anon_1.io.size = size);
        write!(self, __bindgen_anon_1.io.port = port);
        write!(self, __bindgen_anon_1.io.count = count);
        write!(
            self,
            __bindgen_anon_1.io.data_offset = (PIO_PAGE * PAGE_SIZE) as u64
        );
    }

    /// Copies to the port page; `data` has a page at most.
    pub(crate) fn write_pio(&self, data: &[u8]) {
        let count = data.len().min(PAGE_SIZE);
        // SAFETY: Both hold `count` bytes; the VMM's concurrent accesses can only garble its own data.
        unsafe { core::ptr::copy(data.as_ptr(), self.pages[PIO_PAGE].as_ptr(), count) };
    }

    /// Copies from the port page; `data` has a page at most.
    pub(crate) fn read_pio(&self, data: &mut [u8]) {
        let count = data.len().min(PAGE_SIZE);
        // SAFETY: As `write_pio`.
        unsafe { core::ptr::copy(self.pages[PIO_PAGE].as_ptr(), data.as_mut_ptr(), count) };
    }

    /// Reports an access to device memory. Of `data` the first `length` bytes count, the rest is 0.
    pub(crate) fn set_mmio(&self, gpa: u64, data: [u8; 8], length: usize, write: bool) {
        self.set_reason(uapi::KVM_EXIT_MMIO);
        write!(self, __bindgen_anon_1.mmio.phys_addr = gpa);
        write!(self, __bindgen_anon_1.mmio.data = data);
        write!(self, __bindgen_anon_1.mmio.len = length as u32);
        write!(self, __bindgen_anon_1.mmio.is_write = write.into());
    }

    /// Returns the VMM's answer to a read of device memory.
    pub(crate) fn mmio_data(&self) -> [u8; 8] {
        read!(self, __bindgen_anon_1.mmio.data)
    }

    /// Reports that the interrupt with `vector` of the VMM's I/O APIC has been handled.
    pub(crate) fn set_ioapic_eoi(&self, vector: u8) {
        self.set_reason(uapi::KVM_EXIT_IOAPIC_EOI);
        write!(self, __bindgen_anon_1.eoi.vector = vector);
    }

    /// Reports that the processor refused the guest's state.
    pub(crate) fn set_fail_entry(&self, reason: u64, cpu: u32) {
        self.set_reason(uapi::KVM_EXIT_FAIL_ENTRY);
        write!(
            self,
            __bindgen_anon_1.fail_entry.hardware_entry_failure_reason = reason
        );
        write!(self, __bindgen_anon_1.fail_entry.cpu = cpu);
    }

    /// Reports something that the module cannot handle, with up to 16 numbers about it.
    pub(crate) fn set_internal_error(&self, suberror: u32, data: &[u64]) {
        self.set_reason(uapi::KVM_EXIT_INTERNAL_ERROR);
        let mut numbers = [0u64; 16];
        for (to, from) in numbers.iter_mut().zip(data) {
            *to = *from;
        }
        write!(self, __bindgen_anon_1.internal.suberror = suberror);
        write!(
            self,
            __bindgen_anon_1.internal.ndata = data.len().min(numbers.len()) as u32
        );
        write!(self, __bindgen_anon_1.internal.data = numbers);
    }
}

/// What `kvm_run` says of the vCPU at each return to the VMM.
pub(crate) struct Published {
    /// An interrupt can be injected with `KVM_INTERRUPT`.
    pub(crate) ready_for_interrupt: bool,
    /// RFLAGS.IF.
    pub(crate) if_flag: bool,
    /// CR8.
    pub(crate) cr8: u64,
    /// IA32_APIC_BASE.
    pub(crate) apic_base: u64,
}
