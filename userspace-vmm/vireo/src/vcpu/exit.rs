// SPDX-License-Identifier: Apache-2.0

//! What a return from KVM_RUN means for the machine.
//!
//! [`Exit`] has the facts of one exit; [`handle`] acts on them. It needs no hypervisor, so
//! tests feed it exits of their own.

use std::ptr::addr_of;

use kvm_bindings::{
    kvm_run, KVM_EXIT_INTERNAL_ERROR, KVM_EXIT_IO, KVM_INTERNAL_ERROR_DELIVERY_EV,
    KVM_INTERNAL_ERROR_EMULATION, KVM_INTERNAL_ERROR_SIMUL_EX,
    KVM_INTERNAL_ERROR_UNEXPECTED_EXIT_REASON, KVM_SYSTEM_EVENT_CRASH, KVM_SYSTEM_EVENT_RESET,
    KVM_SYSTEM_EVENT_SHUTDOWN,
};
use kvm_ioctls::VcpuExit;

use crate::devices::bus::Bus;
use crate::outcome::Outcome;

/// The buses that a CPU's accesses go to.
#[derive(Default)]
pub struct Buses {
    /// Port I/O.
    pub ports: Bus,
    /// Memory-mapped I/O.
    pub mmio: Bus,
}

/// One exit, with what is needed to act on it.
#[derive(Debug)]
pub enum Exit<'a> {
    /// IN or INS: fill `data`, one `width` after another, from `port`.
    PortIn {
        /// First port.
        port: u16,
        /// Bytes per access: 1, 2 or 4.
        width: usize,
        /// Room for all accesses.
        data: &'a mut [u8],
    },
    /// OUT or OUTS: `data`, one `width` after another, goes to `port`.
    PortOut {
        /// First port.
        port: u16,
        /// Bytes per access: 1, 2 or 4.
        width: usize,
        /// All accesses.
        data: &'a [u8],
    },
    /// A read outside guest memory.
    MmioRead {
        /// Guest-physical address.
        addr: u64,
        /// Room for the value.
        data: &'a mut [u8],
    },
    /// A write outside guest memory.
    MmioWrite {
        /// Guest-physical address.
        addr: u64,
        /// The value.
        data: &'a [u8],
    },
    /// HLT reached user space although the interrupt controllers are in the kernel.
    Halt,
    /// A triple fault.
    Shutdown,
    /// VM entry failed.
    FailEntry {
        /// The processor's reason, or KVM's.
        reason: u64,
        /// The host CPU.
        cpu: u32,
    },
    /// The hypervisor could not go on.
    InternalError {
        /// KVM_INTERNAL_ERROR_*.
        suberror: u32,
        /// What it says about it.
        data: Vec<u64>,
    },
    /// The guest asked the hypervisor for a power state.
    SystemEvent(u32),
    /// The host memory behind guest memory cannot be used.
    MemoryFault {
        /// Guest-physical address.
        gpa: u64,
    },
    /// A signal, or nothing to do.
    Interrupted,
    /// The guest has completed a level-triggered interrupt of our I/O APIC.
    IoApicEoi {
        /// The vector.
        vector: u8,
    },
    /// Any other exit, by name.
    Other(String),
}

/// Facts that kvm-ioctls' exit lacks, read from the page shared with the kernel.
#[derive(Clone, Debug, Default)]
pub struct RunFacts {
    /// Bytes per port access.
    pub io_width: usize,
    /// Internal error and its data.
    pub internal_error: Option<(u32, Vec<u64>)>,
}

impl RunFacts {
    /// Reads them from the page that describes the last exit. Members of its union that do not
    /// belong to the exit reason are left alone.
    ///
    /// # Safety
    ///
    /// `run` must be readable, as must be the page of a vCPU that is not running.
    pub unsafe fn read(run: *const kvm_run) -> Self {
        // SAFETY: readable as the caller promises; only plain integers are copied, and no
        // reference is made, so a buffer of the same page may be borrowed meanwhile.
        let reason = unsafe { addr_of!((*run).exit_reason).read() };
        match reason {
            KVM_EXIT_IO => {
                // SAFETY: as above, and the exit reason says that this member is valid.
                let io = unsafe { addr_of!((*run).__bindgen_anon_1.io).read() };
                RunFacts {
                    io_width: usize::from(io.size),
                    ..Default::default()
                }
            }
            KVM_EXIT_INTERNAL_ERROR => {
                // SAFETY: as above, and the exit reason says that this member is valid.
                let internal = unsafe { addr_of!((*run).__bindgen_anon_1.internal).read() };
                let count = (internal.ndata as usize).min(internal.data.len());
                let data = internal.data[..count].to_vec();
                RunFacts {
                    internal_error: Some((internal.suberror, data)),
                    ..Default::default()
                }
            }
            _ => RunFacts::default(),
        }
    }
}

impl<'a> Exit<'a> {
    /// Joins kvm-ioctls' exit with the facts that it lacks.
    pub fn new(exit: VcpuExit<'a>, facts: RunFacts) -> Self {
        match exit {
            VcpuExit::IoIn(port, data) => Exit::PortIn {
                port,
                width: facts.io_width,
                data,
            },
            VcpuExit::IoOut(port, data) => Exit::PortOut {
                port,
                width: facts.io_width,
                data,
            },
            VcpuExit::MmioRead(addr, data) => Exit::MmioRead { addr, data },
            VcpuExit::MmioWrite(addr, data) => Exit::MmioWrite { addr, data },
            VcpuExit::Hlt => Exit::Halt,
            VcpuExit::Shutdown => Exit::Shutdown,
            VcpuExit::FailEntry(reason, cpu) => Exit::FailEntry { reason, cpu },
            VcpuExit::InternalError => {
                let (suberror, data) = facts.internal_error.unwrap_or_default();
                Exit::InternalError { suberror, data }
            }
            VcpuExit::SystemEvent(kind, _) => Exit::SystemEvent(kind),
            VcpuExit::MemoryFault { gpa, .. } => Exit::MemoryFault { gpa },
            VcpuExit::Intr | VcpuExit::IrqWindowOpen => Exit::Interrupted,
            VcpuExit::IoapicEoi(vector) => Exit::IoApicEoi { vector },
            other => Exit::Other(format!("{other:?}")),
        }
    }
}

/// Acts on `exit`; the outcome is there when the CPU cannot go on.
pub fn handle(buses: &Buses, exit: Exit<'_>) -> Option<Outcome> {
    match exit {
        Exit::PortIn { port, width, data } => {
            for access in data.chunks_mut(width.max(1)) {
                buses.ports.read(u64::from(port), access);
            }
            None
        }
        Exit::PortOut { port, width, data } => {
            for access in data.chunks(width.max(1)) {
                buses.ports.write(u64::from(port), access);
            }
            None
        }
        Exit::MmioRead { addr, data } => {
            buses.mmio.read(addr, data);
            None
        }
        Exit::MmioWrite { addr, data } => {
            buses.mmio.write(addr, data);
            None
        }
        Exit::Interrupted => None,
        Exit::IoApicEoi { vector } => {
            // No line of this machine stays high.
            tracing::trace!("end of vector {vector:#x}");
            None
        }
        Exit::Halt => Some(Outcome::Failure("guest CPU halted for good".into())),
        Exit::Shutdown => Some(Outcome::TripleFault(String::new())),
        Exit::FailEntry { reason, cpu } => Some(Outcome::EntryFailure(format!(
            "hardware reason {reason:#x} on host CPU {cpu}"
        ))),
        Exit::InternalError { suberror, data } => {
            Some(Outcome::InternalError(internal_error(suberror, &data)))
        }
        Exit::SystemEvent(kind) => Some(match kind {
            KVM_SYSTEM_EVENT_SHUTDOWN => Outcome::PowerOff,
            KVM_SYSTEM_EVENT_RESET => Outcome::Reset,
            KVM_SYSTEM_EVENT_CRASH => Outcome::Failure("guest reported a crash".into()),
            kind => Outcome::Failure(format!("unknown system event {kind}")),
        }),
        Exit::MemoryFault { gpa } => Some(Outcome::Failure(format!(
            "host memory behind {gpa:#x} cannot be used"
        ))),
        Exit::Other(name) => Some(Outcome::Failure(format!("unexpected exit {name}"))),
    }
}

/// An internal error in words.
fn internal_error(suberror: u32, data: &[u64]) -> String {
    let name = match suberror {
        KVM_INTERNAL_ERROR_EMULATION => "an instruction that it cannot emulate",
        KVM_INTERNAL_ERROR_SIMUL_EX => "simultaneous exceptions",
        KVM_INTERNAL_ERROR_DELIVERY_EV => "an exit during event delivery",
        KVM_INTERNAL_ERROR_UNEXPECTED_EXIT_REASON => "an unexpected exit reason",
        _ => "unknown",
    };
    let data: Vec<_> = data.iter().map(|d| format!("{d:#x}")).collect();
    format!("{name} (suberror {suberror}, data [{}])", data.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::devices::bus::Device;
    use std::sync::{Arc, Mutex};

    #[derive(Default)]
    struct Log(Vec<(u64, Vec<u8>)>);

    impl Device for Log {
        fn read(&mut self, offset: u64, data: &mut [u8]) {
            self.0.push((offset, vec![]));
            data.fill(self.0.len() as u8);
        }
        fn write(&mut self, offset: u64, data: &[u8]) {
            self.0.push((offset, data.to_vec()));
        }
    }

    fn buses() -> (Buses, Arc<Mutex<Log>>) {
        let log = Arc::new(Mutex::new(Log::default()));
        let mut buses = Buses::default();
        buses.ports.insert(0x100, 4, log.clone()).unwrap();
        buses.mmio.insert(0xd000_0000, 0x1000, log.clone()).unwrap();
        (buses, log)
    }

    #[test]
    fn string_output_is_one_access_after_another() {
        let (buses, log) = buses();
        let exit = Exit::PortOut {
            port: 0x102,
            width: 2,
            data: &[1, 2, 3, 4],
        };
        assert_eq!(handle(&buses, exit), None);
        assert_eq!(log.lock().unwrap().0, [(2, vec![1, 2]), (2, vec![3, 4])]);
    }

    #[test]
    fn string_input_is_one_access_after_another() {
        let (buses, _) = buses();
        let mut data = [0; 3];
        handle(
            &buses,
            Exit::PortIn {
                port: 0x100,
                width: 1,
                data: &mut data,
            },
        );
        assert_eq!(data, [1, 2, 3]);
        let mut data = [0; 4];
        handle(
            &buses,
            Exit::PortIn {
                port: 0xcfc,
                width: 4,
                data: &mut data,
            },
        );
        assert_eq!(data, [0xff; 4]);
        handle(
            &buses,
            Exit::PortIn {
                port: 0,
                width: 0,
                data: &mut data,
            },
        );
    }

    #[test]
    fn mmio_reaches_the_other_bus() {
        let (buses, log) = buses();
        handle(
            &buses,
            Exit::MmioWrite {
                addr: 0xd000_0008,
                data: &[7],
            },
        );
        assert_eq!(log.lock().unwrap().0, [(8, vec![7])]);
        let mut data = [0; 8];
        handle(
            &buses,
            Exit::MmioRead {
                addr: 0xe000_0000,
                data: &mut data,
            },
        );
        assert_eq!(data, [0xff; 8]);
    }

    #[test]
    fn ends_have_distinct_outcomes() {
        let (buses, _) = buses();
        let end = |exit| handle(&buses, exit).unwrap();
        assert!(matches!(end(Exit::Shutdown), Outcome::TripleFault(_)));
        let text = end(Exit::FailEntry {
            reason: 0x8000_0021,
            cpu: 1,
        })
        .to_string();
        assert!(
            text.contains("0x80000021") && text.contains("CPU 1"),
            "{text}"
        );
        let text = end(Exit::InternalError {
            suberror: 1,
            data: vec![0xab, 2],
        })
        .to_string();
        assert!(
            text.contains("suberror 1") && text.contains("0xab"),
            "{text}"
        );
        assert_eq!(
            end(Exit::SystemEvent(KVM_SYSTEM_EVENT_SHUTDOWN)),
            Outcome::PowerOff
        );
        assert_eq!(
            end(Exit::SystemEvent(KVM_SYSTEM_EVENT_RESET)),
            Outcome::Reset
        );
        assert_ne!(end(Exit::SystemEvent(99)).status(), 0);
        assert_ne!(end(Exit::Halt).status(), 0);
        assert_ne!(end(Exit::MemoryFault { gpa: 0 }).status(), 0);
        assert_ne!(end(Exit::Other("X".into())).status(), 0);
        assert_eq!(handle(&buses, Exit::Interrupted), None);
        assert_eq!(handle(&buses, Exit::IoApicEoi { vector: 0x31 }), None);
    }

    #[test]
    fn facts_come_from_the_shared_page() {
        // SAFETY: a live local stands in for the shared page.
        let read = |run: &kvm_run| unsafe { RunFacts::read(run) };
        let mut run = kvm_run {
            exit_reason: KVM_EXIT_INTERNAL_ERROR,
            ..Default::default()
        };
        run.__bindgen_anon_1.internal = Default::default();
        run.__bindgen_anon_1.internal.suberror = 3;
        run.__bindgen_anon_1.internal.ndata = 1000;
        assert_eq!(
            read(&run).internal_error.map(|(s, d)| (s, d.len())),
            Some((3, 16))
        );
        run.exit_reason = KVM_EXIT_IO;
        run.__bindgen_anon_1.io = Default::default();
        run.__bindgen_anon_1.io.size = 2;
        assert_eq!((read(&run).io_width, read(&run).internal_error), (2, None));
    }
}
