// SPDX-License-Identifier: Apache-2.0

//! What can go wrong before or around a guest's run; each variant prints as one line.

use std::io;
use std::path::PathBuf;

use crate::memory::Size;

/// An error that ends the command, with exit status 1.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file named on the command line cannot be opened or read.
    #[error("cannot read {what} {}: {}", path.display(), reason(source))]
    File {
        /// What the file is for.
        what: &'static str,
        /// The name as given.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// The kernel file has neither format that can be booted.
    #[error("{}: not a kernel (neither a bzImage nor a 64-bit x86 ELF file)", .0.display())]
    NotAKernel(PathBuf),
    /// The kernel file has the right format but something in it cannot be used.
    #[error("kernel {}: {reason}", path.display())]
    BadKernel {
        /// The name as given.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The kernel needs more memory than the guest has.
    #[error("{mem} of guest memory is too little: the kernel alone needs {needed}; use --mem")]
    KernelTooLarge {
        /// The guest's memory.
        mem: Size,
        /// What would do, without an initrd.
        needed: Size,
    },
    /// The initrd does not fit between the kernel and the end of memory.
    #[error(
        "initrd {} ({size}) does not fit beside the kernel: {free} of {mem} are free; use --mem",
        path.display()
    )]
    InitrdTooLarge {
        /// The name as given.
        path: PathBuf,
        /// The initrd's size.
        size: Size,
        /// Room left by the kernel.
        free: Size,
        /// The guest's memory.
        mem: Size,
    },
    /// The kernel command line is longer than the kernel accepts.
    #[error("the kernel command line has {len} bytes; this kernel takes at most {max}")]
    CmdlineTooLong {
        /// Bytes, without the terminating NUL.
        len: usize,
        /// The kernel's limit.
        max: usize,
    },
    /// The kernel command line has a character that a kernel command line cannot have.
    #[error("the kernel command line may only have printable ASCII characters")]
    CmdlineCharacters,
    /// The device node is not there.
    #[error("{}: no such device; is the module loaded? (`vireo info` says more)", .0.display())]
    NoDevice(PathBuf),
    /// The device node may not be opened.
    #[error("{}: permission denied; run as root or get access to the device", .0.display())]
    NoPermission(PathBuf),
    /// The device node cannot be opened for another reason.
    #[error("cannot open {}: {}", path.display(), reason(source))]
    OpenDevice {
        /// The name as given.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// The node is something else than a KVM-compatible device.
    #[error("{}: not a device with KVM's interface", .0.display())]
    NotAHypervisor(PathBuf),
    /// The device speaks another version of the interface.
    #[error("{}: API version {version}, expected {expected}", path.display())]
    ApiVersion {
        /// The name as given.
        path: PathBuf,
        /// What the device says.
        version: i32,
        /// What this program speaks.
        expected: i32,
    },
    /// The device lacks something that the machine cannot do without.
    #[error("{}: lacks {capability}, which this machine needs", path.display())]
    MissingCapability {
        /// The name as given.
        path: PathBuf,
        /// The capability's name.
        capability: &'static str,
    },
    /// More virtual CPUs asked for than the device or the tables allow.
    #[error("--cpus {asked}: {} supports at most {max}", path.display())]
    TooManyCpus {
        /// As given.
        asked: u8,
        /// The limit.
        max: usize,
        /// The device.
        path: PathBuf,
    },
    /// Guest memory cannot be had from the host.
    #[error("cannot allocate {size} of guest memory: {reason}")]
    Memory {
        /// What was asked for.
        size: Size,
        /// The reason, in words.
        reason: String,
    },
    /// An ioctl of the hypervisor failed while the machine was built.
    #[error("{what} failed: {}", reason(source))]
    Hypervisor {
        /// The operation, named as in KVM's interface.
        what: &'static str,
        /// The system's reason.
        source: io::Error,
    },
    /// A host resource (event, timer, thread, terminal) cannot be set up.
    #[error("{what}: {}", reason(source))]
    Host {
        /// The operation.
        what: &'static str,
        /// The system's reason.
        source: io::Error,
    },
    /// This user may not make a mount namespace.
    #[error("a mount namespace takes root or CAP_SYS_ADMIN")]
    NoNamespace,
    /// Something went wrong while guest memory was filled; carries the reason in words.
    #[error("cannot prepare the guest: {0}")]
    Setup(String),
}

impl Error {
    /// Wraps a failed ioctl.
    pub fn hypervisor(what: &'static str) -> impl FnOnce(kvm_ioctls::Error) -> Error {
        move |e| Error::Hypervisor {
            what,
            source: io::Error::from_raw_os_error(e.errno()),
        }
    }

    /// Wraps a failed host operation.
    pub fn host<E: Into<io::Error>>(what: &'static str) -> impl FnOnce(E) -> Error {
        move |e| Error::Host {
            what,
            source: e.into(),
        }
    }
}

/// The system's reason without the "(os error N)" that `io::Error` adds.
pub fn reason(e: &io::Error) -> String {
    let text = e.to_string();
    match text.find(" (os error ") {
        Some(end) => text[..end].to_lowercase(),
        None => text,
    }
}

/// A result with this crate's error.
pub type Result<T> = std::result::Result<T, Error>;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_are_plain_words() {
        let e = io::Error::from_raw_os_error(libc::ENOENT);
        assert_eq!(reason(&e), "no such file or directory");
        assert_eq!(reason(&io::Error::other("Odd thing")), "Odd thing");
    }

    #[test]
    fn every_message_is_one_line() {
        let io = || io::Error::from_raw_os_error(libc::EACCES);
        let p = || PathBuf::from("x");
        let all = [
            Error::File {
                what: "kernel",
                path: p(),
                source: io(),
            },
            Error::NotAKernel(p()),
            Error::NoDevice(p()),
            Error::NoPermission(p()),
            Error::InitrdTooLarge {
                path: p(),
                size: Size(1),
                free: Size(2),
                mem: Size(3),
            },
        ];
        for e in all {
            assert!(!e.to_string().contains('\n'));
        }
        assert_eq!(
            Error::File {
                what: "kernel",
                path: p(),
                source: io()
            }
            .to_string(),
            "cannot read kernel x: permission denied"
        );
    }
}
