// SPDX-License-Identifier: Apache-2.0

//! The command line.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{ArgAction, Args, Parser, Subcommand};

use crate::boot::cmdline;
use crate::hypervisor::Irqchip;
use crate::machine::Config;
use crate::memory::Size;

/// The node of Vireo's module.
pub const DEFAULT_DEVICE: &str = "/dev/vireo";
/// The highest number of CPUs whose APIC IDs an 8-bit field can hold, the broadcast ID apart.
const MAX_CPUS: i64 = 254;

/// A virtual machine monitor for /dev/vireo and /dev/kvm.
#[derive(Debug, Parser)]
#[command(name = "vireo", version, arg_required_else_help = true)]
pub struct Cli {
    /// Say more on standard error; twice for even more.
    #[arg(short, long, action = ArgAction::Count, global = true)]
    pub verbose: u8,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Boot a guest; its serial console is this terminal.
    Run(RunArgs),
    /// Say what this host supports, and why not.
    Info(InfoArgs),
    /// Run a command in a mount namespace where /dev/kvm is the device.
    Exec(ExecArgs),
}

/// Arguments of `run`.
#[derive(Args, Debug)]
#[command(
    after_help = "Exit status: 0 after the guest's power-off or reset, or the quit key; \
1 for what is wrong before the guest starts; 2 for wrong usage; 4 triple fault; 6 internal \
error; 8 failed entry; 10 other failures; 128+N after signal N; (V << 1) | 1 after a write of V \
to the debug-exit port 0xf4.\n\nKeys: Ctrl-a x quits, Ctrl-a p presses the power button, \
Ctrl-a Ctrl-a sends Ctrl-a."
)]
pub struct RunArgs {
    /// Kernel: a bzImage, or an ELF file by its PVH note or the 64-bit boot protocol.
    #[arg(long, value_name = "FILE")]
    kernel: PathBuf,
    /// Initial RAM disk.
    #[arg(long, value_name = "FILE")]
    initrd: Option<PathBuf>,
    /// Kernel command line, instead of the default.
    #[arg(long, value_name = "STRING", default_value = cmdline::DEFAULT, allow_hyphen_values = true)]
    cmdline: String,
    /// Guest memory: a number with K, M or G; without a unit, MiB.
    #[arg(long, value_name = "SIZE", default_value = "256M")]
    mem: Size,
    /// Virtual CPUs.
    #[arg(long, value_name = "N", default_value_t = 1,
          value_parser = clap::value_parser!(u8).range(1..=MAX_CPUS))]
    cpus: u8,
    /// Where the I/O APIC is: in the kernel, or here, with only the local APICs in the kernel.
    #[arg(long, value_name = "WHERE", value_enum, default_value_t = Irqchip::Kernel)]
    irqchip: Irqchip,
    /// The hypervisor's device node.
    #[arg(long, value_name = "NODE", default_value = DEFAULT_DEVICE)]
    device: PathBuf,
}

/// Arguments of `info`.
#[derive(Args, Debug)]
pub struct InfoArgs {
    /// The hypervisor's device node.
    #[arg(long, value_name = "NODE", default_value = DEFAULT_DEVICE)]
    pub device: PathBuf,
}

/// Arguments of `exec`.
#[derive(Args, Debug)]
pub struct ExecArgs {
    /// The node that becomes /dev/kvm.
    #[arg(long, value_name = "NODE", default_value = DEFAULT_DEVICE)]
    pub device: PathBuf,
    /// The command and its arguments.
    #[arg(required = true, last = true, value_name = "CMD")]
    pub command: Vec<OsString>,
}

impl From<RunArgs> for Config {
    fn from(args: RunArgs) -> Self {
        Config {
            kernel: args.kernel,
            initrd: args.initrd,
            cmdline: args.cmdline,
            mem: args.mem,
            cpus: args.cpus,
            irqchip: args.irqchip,
            device: args.device,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn definition_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn run_has_defaults() {
        let cli = Cli::try_parse_from(["vireo", "run", "--kernel", "k"]).unwrap();
        let Command::Run(args) = cli.command else {
            panic!("not run")
        };
        let config = Config::from(args);
        assert_eq!(config.mem.to_string(), "256 MiB");
        assert_eq!(config.device, PathBuf::from("/dev/vireo"));
        assert_eq!(
            (config.cpus, config.cmdline.as_str()),
            (1, cmdline::DEFAULT)
        );
        assert_eq!(config.irqchip, Irqchip::Kernel);
    }

    #[test]
    fn exec_takes_everything_after_the_dashes() {
        let cli = Cli::try_parse_from(["vireo", "exec", "--", "ls", "-l", "--", "x"]).unwrap();
        let Command::Exec(args) = cli.command else {
            panic!("not exec")
        };
        assert_eq!(args.command, ["ls", "-l", "--", "x"]);
        assert!(Cli::try_parse_from(["vireo", "exec"]).is_err());
    }

    #[test]
    fn wrong_usage_is_refused() {
        for bad in [
            &["vireo", "run"][..],
            &["vireo", "run", "--kernel", "k", "--mem", "lots"],
            &["vireo", "run", "--kernel", "k", "--mem", "0"],
            &["vireo", "run", "--kernel", "k", "--cpus", "0"],
            &["vireo", "run", "--kernel", "k", "--cpus", "255"],
            &["vireo", "fly"],
        ] {
            assert!(Cli::try_parse_from(bad).is_err(), "{bad:?}");
        }
    }
}
