// SPDX-License-Identifier: Apache-2.0

//! `vireo run`: builds the machine, boots the kernel, and waits for the end.

use std::io;
use std::os::fd::AsRawFd;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};

use event_manager::MutEventSubscriber;
use kvm_ioctls::{Cap, VcpuFd, VmFd};
use vmm_sys_util::eventfd::{EventFd, EFD_NONBLOCK};

use crate::boot::initrd::InitrdFile;
use crate::boot::{self, cmdline, KernelFile};
use crate::devices::acpi_pm::{PowerButton, SleepRegisters};
use crate::devices::bus::{Bus, SharedDevice};
use crate::devices::debug_exit::DebugExit;
use crate::devices::ioapic::{self, IoApic, KernelRoutes};
use crate::devices::irq::EdgeLine;
use crate::devices::post::Post;
use crate::devices::reset::{ResetControl, I8042};
use crate::devices::rtc::{host_time, Rtc};
use crate::devices::serial::{Com, RoomEvent};
use crate::error::{Error, Result};
use crate::events;
use crate::events::flush::Flush;
use crate::events::input::Input;
use crate::events::signals::{self, Signals};
use crate::hypervisor::{Hypervisor, Irqchip};
use crate::layout::{
    ACPI_SLEEP_PORT, COM1_GSI, COM1_LEN, COM1_PORT, DEBUG_EXIT_LEN, DEBUG_EXIT_PORT, GED_GSI,
    I8042_LEN, I8042_PORT, IOAPIC_ADDR, POST_PORT, RESET_PORT, RTC_PORT,
};
use crate::memory::{self, GuestMemory, Size};
use crate::outcome::{Outcome, Stop};
use crate::terminal::escape::HELP;
use crate::terminal::output::{FlushTimer, Output};
use crate::terminal::raw::{is_terminal, RawMode};
use crate::vcpu::cpuid::{self, Place};
use crate::vcpu::exit::Buses;
use crate::vcpu::run::Cpu;
use crate::vcpu::{kick, regs};

/// What to run.
#[derive(Clone, Debug)]
pub struct Config {
    /// The kernel's file.
    pub kernel: PathBuf,
    /// The initrd's file.
    pub initrd: Option<PathBuf>,
    /// The kernel's command line.
    pub cmdline: String,
    /// Guest memory.
    pub mem: Size,
    /// Virtual CPUs.
    pub cpus: u8,
    /// Where the I/O APIC is.
    pub irqchip: Irqchip,
    /// The hypervisor's node.
    pub device: PathBuf,
}

/// COM1 as this machine has it.
type Com1 = Com<EdgeLine, Output>;

/// A machine that is ready to run.
struct Machine {
    cpus: Vec<Cpu>,
    com1: Arc<Mutex<Com1>>,
    /// Signalled when COM1 can take more input.
    room: Arc<EventFd>,
    /// Expires when COM1's output should be written.
    timer: Arc<FlushTimer>,
    button: Arc<PowerButton<EdgeLine>>,
    stop: Arc<Stop>,
    /// Dropped last: the CPUs access it while they run.
    _memory: GuestMemory,
}

/// Runs a guest to its end.
pub fn run(config: &Config) -> Result<Outcome> {
    let mut kernel_file = KernelFile::open(&config.kernel)?;
    let mut initrd_file = config.initrd.as_deref().map(InitrdFile::open).transpose()?;
    let memory = memory::allocate(config.mem)?;
    let kernel = kernel_file.load(&memory, config.mem)?;
    let initrd = match &mut initrd_file {
        Some(file) => file.load(&memory, config.mem, &kernel)?,
        None => None,
    };
    cmdline::check(&config.cmdline, kernel.cmdline_max)?;

    let hypervisor = Hypervisor::open(&config.device)?;
    hypervisor.check(config.cpus, config.irqchip)?;
    let supported = hypervisor.supported_cpuid()?;
    let vm = Arc::new(hypervisor.create_vm(config.irqchip)?);
    memory::register(&vm, &memory)?;
    let mut vcpus = Vec::new();
    for id in 0..config.cpus {
        vcpus.push(create_vcpu(&vm, &supported, id, config.cpus)?);
    }
    let tsc_khz = vcpus.first().map_or(0, tsc_khz);
    let extra = cpuid::timing_parameters(&supported, tsc_khz);
    let line = cmdline::build(&config.cmdline, &extra, kernel.cmdline_max)?;
    tracing::info!("entry {:x?}, command line: {line}", kernel.entry);
    boot::describe(&memory, config.mem, &kernel, initrd, &line, config.cpus)?;
    if let Some(first) = vcpus.first() {
        regs::set_boot_state(first, kernel.entry)?;
    }
    Machine::new(vm, memory, vcpus, config)?.run()
}

/// The guest's TSC frequency in kHz, or 0 when the hypervisor does not say.
fn tsc_khz(vcpu: &VcpuFd) -> u32 {
    vcpu.get_tsc_khz().unwrap_or_else(|e| {
        tracing::info!("KVM_GET_TSC_KHZ: {e}");
        0
    })
}

/// A virtual CPU with its CPUID and the state that all CPUs share.
fn create_vcpu(vm: &VmFd, supported: &kvm_bindings::CpuId, id: u8, cpus: u8) -> Result<VcpuFd> {
    let vcpu = vm
        .create_vcpu(u64::from(id))
        .map_err(Error::hypervisor("KVM_CREATE_VCPU"))?;
    let tsc_deadline = vm.check_extension(Cap::TscDeadlineTimer);
    let cpuid = cpuid::build(
        supported,
        Place {
            cpu: id,
            cpus,
            tsc_khz: tsc_khz(&vcpu),
            tsc_deadline,
        },
    )?;
    vcpu.set_cpuid2(&cpuid)
        .map_err(Error::hypervisor("KVM_SET_CPUID2"))?;
    regs::set_common_state(&vcpu)?;
    Ok(vcpu)
}

impl Machine {
    /// Builds the devices around `vm`.
    fn new(
        vm: Arc<VmFd>,
        memory: GuestMemory,
        vcpus: Vec<VcpuFd>,
        config: &Config,
    ) -> Result<Self> {
        let stop = Arc::new(Stop::new().map_err(Error::host("cannot create an event"))?);
        let room = EventFd::new(EFD_NONBLOCK).map_err(Error::host("cannot create an event"))?;
        let room = Arc::new(room);
        let line = |gsi| EdgeLine::new(vm.clone(), gsi);
        let timer = FlushTimer::new().map_err(Error::host("cannot create a timer"))?;
        let timer = Arc::new(timer);
        let stdout = io::stdout().as_raw_fd();
        let output = Output::new(stdout, timer.clone(), stop.clone());
        let com1 = Com::new(line(COM1_GSI), RoomEvent::new(room.clone()), output);
        let com1 = Arc::new(Mutex::new(com1));
        let buses = Buses {
            ports: ports(com1.clone(), config.mem, &stop)?,
            mmio: mmio(&vm, config.irqchip)?,
        };
        let buses = Arc::new(buses);
        let cpus = (0..)
            .zip(vcpus)
            .map(|(id, vcpu)| Cpu {
                id,
                vcpu,
                buses: buses.clone(),
                stop: stop.clone(),
            })
            .collect();
        let button = Arc::new(PowerButton::new(line(GED_GSI)));
        Ok(Machine {
            cpus,
            com1,
            room,
            timer,
            button,
            stop,
            _memory: memory,
        })
    }

    /// Runs the CPUs on threads of their own until the end.
    fn run(self) -> Result<Outcome> {
        kick::install().map_err(Error::host("cannot install a signal handler"))?;
        let signals = signals::block().map_err(Error::host("cannot block signals"))?;
        let stdin = io::stdin().as_raw_fd();
        let raw = is_terminal(stdin)
            .then(|| RawMode::enter(stdin))
            .transpose()
            .map_err(Error::host("cannot set up the terminal"))?;
        if raw.is_some() {
            eprintln!("vireo: {HELP}");
        }
        let press = |button: &Arc<PowerButton<EdgeLine>>| {
            let button = button.clone();
            move || {
                if let Err(e) = button.press() {
                    tracing::warn!("power button: {e}");
                }
            }
        };
        let input = Input::new(
            stdin,
            raw.is_some(),
            self.com1.clone(),
            self.room,
            press(&self.button),
            self.stop.clone(),
        );
        let signals = Signals::new(signals, press(&self.button), self.stop.clone())
            .map_err(Error::host("cannot create a timer"))?;
        let com1 = self.com1.clone();
        let drain = move || com1.try_lock().map(|mut com1| com1.drain()).is_ok();
        let flush = Flush::new(self.timer, drain, self.stop.clone());
        let subscribers: Vec<Box<dyn MutEventSubscriber>> =
            vec![Box::new(input), Box::new(signals), Box::new(flush)];

        let mut threads = Vec::new();
        for cpu in self.cpus {
            match spawn(cpu) {
                Ok(thread) => threads.push(thread),
                Err(e) => {
                    let reason = crate::error::reason(&e);
                    self.stop
                        .request(Outcome::Failure(format!("cannot start a thread: {reason}")));
                }
            }
        }
        let result = events::run(&self.stop, subscribers);
        if result.is_err() {
            self.stop.request(Outcome::Quit);
        }
        for thread in threads {
            kick::until_finished(&thread);
            if thread.join().is_err() {
                return Ok(Outcome::Failure("a CPU's thread panicked".into()));
            }
        }
        drop(raw);
        // The last output may take as long as its reader needs, but not against a signal.
        signals::unblock().map_err(Error::host("cannot unblock signals"))?;
        if !self.stop.is_hurried() {
            self.com1.lock().unwrap_or_else(|e| e.into_inner()).drain();
        }
        result
    }
}

/// Starts a CPU's thread. Should it panic, the run ends.
fn spawn(cpu: Cpu) -> io::Result<JoinHandle<()>> {
    /// Ends the run when the thread goes, for whatever reason.
    struct Ended(Arc<Stop>);
    impl Drop for Ended {
        fn drop(&mut self) {
            self.0
                .request(Outcome::Failure("a CPU's thread ended".into()));
        }
    }
    thread::Builder::new()
        .name(format!("vcpu{}", cpu.id))
        .spawn(move || {
            let _ended = Ended(cpu.stop.clone());
            cpu.run();
        })
}

/// The port bus with all devices.
fn ports(com1: Arc<Mutex<Com1>>, mem: Size, stop: &Arc<Stop>) -> Result<Bus> {
    let stop = || stop.clone();
    let devices: [(u16, u16, SharedDevice); 7] = [
        (COM1_PORT, COM1_LEN, com1),
        (
            RTC_PORT,
            Rtc::LEN,
            shared(Rtc::new(mem.bytes(), Box::new(host_time))),
        ),
        (POST_PORT, 1, shared(Post::default())),
        (I8042_PORT, I8042_LEN, shared(I8042::new(stop()))),
        (RESET_PORT, 1, shared(ResetControl::new(stop()))),
        (
            DEBUG_EXIT_PORT,
            DEBUG_EXIT_LEN,
            shared(DebugExit::new(stop())),
        ),
        (
            ACPI_SLEEP_PORT,
            SleepRegisters::LEN,
            shared(SleepRegisters::new(stop())),
        ),
    ];
    let mut bus = Bus::new();
    for (port, len, device) in devices {
        bus.insert(u64::from(port), u64::from(len), device)
            .map_err(|_| Error::Setup(format!("two devices at port {port:#x}")))?;
    }
    Ok(bus)
}

/// The memory bus with all devices.
fn mmio(vm: &Arc<VmFd>, irqchip: Irqchip) -> Result<Bus> {
    let mut bus = Bus::new();
    if irqchip == Irqchip::Split {
        let chip = shared(IoApic::new(KernelRoutes(vm.clone())));
        bus.insert(u64::from(IOAPIC_ADDR), ioapic::LEN, chip)
            .map_err(|_| Error::Setup("two devices at one address".into()))?;
    }
    Ok(bus)
}

fn shared<D: crate::devices::bus::Device + 'static>(device: D) -> SharedDevice {
    Arc::new(Mutex::new(device))
}
