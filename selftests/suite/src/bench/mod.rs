// SPDX-License-Identifier: GPL-2.0-only
//! Instructions (time-stamp ticks) per operation, of the same guest code on two device nodes.
//!
//! Each row reads the time-stamp counter in the guest before and after the operation, takes the
//! least of many rounds, and subtracts what the reading costs. In Bochs a tick is an instruction.

mod judge;
mod rows;

use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::time::Duration;

use kvm_bindings as kb;

use crate::cpus::move_to;
use crate::guest::*;
use crate::harness::{fail, Outcome};
use crate::host::Mapping;
use crate::kvm::{ioctl, ioctl_in, msi_route, Exit, KVM_IOEVENTFD, KVM_RUN};
use crate::machine::*;

pub use judge::Verdict;
pub use rows::ROWS;

/// Bytes of a page.
const PAGE: usize = 4096;

/// Who handles the operation.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum By {
    /// The kernel; an exit to userspace means that this node has no such device.
    Kernel,
    /// Userspace: this program just runs the vCPU again.
    User,
    /// Userspace signals an eventfd that is an interrupt, and runs the vCPU again.
    Eventfd,
    /// Userspace sends a message.
    Message,
    /// Userspace raises a level at the first exit and lowers it at the second.
    Level,
    /// Userspace gives a pulse to the PIC.
    Pic,
    /// The kernel and a second vCPU, which runs on the same CPU.
    Other,
}

/// The line of [`By::Level`], as the row's code programs the I/O APIC,
const LEVEL_LINE: u32 = 11;
/// that of [`By::Pic`],
const PIC_LINE: u32 = 1;
/// and the one that [`By::Eventfd`] makes a message.
const MESSAGE_GSI: u32 = 24;

/// An operation to measure.
pub struct Row {
    /// Its name, without spaces.
    pub name: &'static str,
    /// What it is.
    pub title: &'static str,
    /// Who handles it.
    pub by: By,
    /// How often it runs.
    pub rounds: u64,
    /// Whether the cost of an empty round is taken off.
    pub net: bool,
    /// The guest code.
    pub code: fn() -> &'static [u8],
}

/// Ticks of one row on `device`: `None` when the node does not have the operation.
pub fn measure(device: &'static str, row: &Row) -> Result<Option<u64>, Outcome> {
    let setup = Setup::new(Mode::Long).irqchip().device(device);
    let code = (row.code)();
    let mut m = setup.build(code)?;
    let mut entries = m.vcpu.cpuid()?;
    for entry in entries.iter_mut().filter(|entry| entry.function == 1) {
        entry.ecx |= 1 << 24; // TSC-deadline
    }
    m.vcpu.set_cpuid(&entries)?;
    // A node without ioeventfds leaves these writes to userspace, which gives no figure.
    let _event = add_events(&m);
    let new = Mapping::anonymous(row.rounds as usize * PAGE);
    // A huge page would be one fault instead of many.
    new.advise(0, new.size(), libc::MADV_NOHUGEPAGE);
    m.vm.set_slot(1, 0, rows::NEW_GPA, new.size() as u64, new.addr())?;
    // Interrupts go to the row's own short handler, which is at the end of its code.
    m.set_gate(rows::VECTOR, CODE + code.len() as u64 - rows::HANDLER_LEN);
    m.with_regs(|r| (r.r13, r.r14) = (row.rounds, u64::MAX))?;
    if row.by != By::Other {
        return run(&mut m, row);
    }
    let mut other = m.second(rows::other())?;
    // This thread, and those that it starts.
    move_to(0, 0);
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| other.run());
        while m.data(8) == 0 {
            std::thread::sleep(Duration::from_millis(1));
        }
        let result = run(&mut m, row);
        m.set_data(9, 1);
        m.vm.signal_msi(0xfee0_1000, rows::VECTOR as u32)?;
        match thread.join() {
            Ok(Ok(Exit::Out {
                port: PORT_DONE, ..
            })) => result,
            exit => fail(format!("{}: the other vCPU: {exit:?}", row.name)),
        }
    })
}

/// What the guest has measured when it is done; `None` when the node does not have the operation.
fn run(m: &mut Machine, row: &Row) -> Result<Option<u64>, Outcome> {
    let message = new_eventfd();
    if row.by == By::Eventfd {
        m.vm.set_routes(&[msi_route(MESSAGE_GSI, rows::VECTOR as u32)])?;
        m.vm.irqfd(message.as_raw_fd(), MESSAGE_GSI, 0, 0)?;
    }
    let fd = m.vcpu.fd();
    loop {
        ioctl(fd, KVM_RUN, 0)?;
        let run = m.vcpu.kvm_run();
        // SAFETY: the member that the exit reason names.
        let port = unsafe { run.__bindgen_anon_1.io.port };
        match run.exit_reason {
            kb::KVM_EXIT_IO if port == PORT_DONE => break,
            kb::KVM_EXIT_IO if port == PORT_EXC => return Ok(None),
            kb::KVM_EXIT_IO | kb::KVM_EXIT_MMIO => match row.by {
                By::Kernel | By::Other => return Ok(None),
                By::User => {}
                By::Eventfd => signal(&message),
                By::Message => drop(m.vm.signal_msi(0xfee0_0000, rows::VECTOR as u32)?),
                By::Level => m.vm.irq_line(LEVEL_LINE, u32::from(port == PORT_SYNC))?,
                By::Pic => {
                    m.vm.irq_line(PIC_LINE, 1)?;
                    m.vm.irq_line(PIC_LINE, 0)?;
                }
            },
            reason => return fail(format!("{}: exit reason {reason}", row.name)),
        }
    }
    Ok(Some(m.vcpu.regs()?.r14))
}

/// Makes writes to [`rows::EVENT_PORT`] (a byte) and [`rows::EVENT_GPA`] (four) events of the
/// descriptor that it returns.
fn add_events(m: &Machine) -> OwnedFd {
    let event = new_eventfd();
    let pio = 1 << kb::kvm_ioeventfd_flag_nr_pio;
    for (addr, len, flags) in [(rows::EVENT_PORT, 1, pio), (rows::EVENT_GPA, 4, 0)] {
        let fd = event.as_raw_fd();
        let arg = kb::kvm_ioeventfd {
            addr,
            len,
            fd,
            flags,
            ..Default::default()
        };
        let _ = ioctl_in(m.vm.fd(), KVM_IOEVENTFD, &arg);
    }
    event
}

/// A new eventfd that does not block.
fn new_eventfd() -> OwnedFd {
    // SAFETY: a new descriptor that the caller owns.
    unsafe { OwnedFd::from_raw_fd(libc::eventfd(0, libc::EFD_NONBLOCK)) }
}

/// Adds one to `event`.
fn signal(event: &OwnedFd) {
    let one = 1u64;
    // SAFETY: eight bytes of a local variable.
    unsafe { libc::write(event.as_raw_fd(), std::ptr::from_ref(&one).cast(), 8) };
}

/// The least of two measurements of `row`, net of what an empty round costs (`empty`).
pub fn best(device: &'static str, row: &Row, empty: u64) -> Result<Option<u64>, Outcome> {
    let (first, second) = (measure(device, row)?, measure(device, row)?);
    let least = first.min(second);
    Ok(least.map(|ticks| {
        if row.net {
            ticks.saturating_sub(empty)
        } else {
            ticks
        }
    }))
}

/// The cost of reading the counter twice.
pub fn empty_round(device: &'static str) -> Result<u64, Outcome> {
    match measure(device, &rows::EMPTY)? {
        Some(ticks) => Ok(ticks),
        None => fail("the empty round left the guest"),
    }
}
