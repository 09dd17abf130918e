// SPDX-License-Identifier: Apache-2.0

//! `vireo exec`: runs a command that finds our device as /dev/kvm.
//!
//! The command gets a mount namespace of its own, so nobody else sees the change. Where
//! /dev/kvm exists, the device is mounted over it. Where it does not, the command gets a /dev
//! of its own with everything that /dev has and /dev/kvm besides.

use std::ffi::{CStr, CString, OsString};
use std::fs::{self, File, Metadata, Permissions};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{chown, symlink, FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::error::{reason, Error, Result};

/// Where programs look for KVM.
const KVM_NODE: &str = "/dev/kvm";
const DEV: &str = "/dev";

/// Why the command did not start.
#[derive(Debug, thiserror::Error)]
pub enum ExecError {
    /// The namespace could not be made.
    #[error(transparent)]
    Setup(#[from] Error),
    /// The command could not be run.
    #[error("{}: {}", command.to_string_lossy(), reason(source))]
    Command {
        /// The program's name.
        command: OsString,
        /// The system's reason.
        source: io::Error,
    },
}

impl ExecError {
    /// The exit status: as shells have it for commands that cannot be run, else 1.
    pub fn status(&self) -> u8 {
        match self {
            ExecError::Command { source, .. } if source.kind() == io::ErrorKind::NotFound => 127,
            ExecError::Command { .. } => 126,
            ExecError::Setup(_) => 1,
        }
    }
}

/// Replaces this process by `command`; returns only if that fails.
pub fn exec(device: &Path, command: &[OsString]) -> ExecError {
    if let Err(e) = enter_namespace(device) {
        return e.into();
    }
    let Some((program, args)) = command.split_first() else {
        let source = io::ErrorKind::InvalidInput.into();
        return ExecError::Command {
            command: OsString::new(),
            source,
        };
    };
    let source = Command::new(program).args(args).exec();
    ExecError::Command {
        command: program.clone(),
        source,
    }
}

/// Puts this process into a mount namespace where /dev/kvm is `device`.
fn enter_namespace(device: &Path) -> Result<()> {
    let kind = fs::metadata(device).map_err(|e| match e.kind() {
        io::ErrorKind::PermissionDenied => Error::NoPermission(device.into()),
        _ => Error::NoDevice(device.into()),
    })?;
    if !kind.file_type().is_char_device() {
        return Err(Error::NotAHypervisor(device.into()));
    }
    // SAFETY: no pointers; this process has one thread.
    if unsafe { libc::unshare(libc::CLONE_NEWNS) } < 0 {
        let source = io::Error::last_os_error();
        return Err(match source.raw_os_error() {
            Some(libc::EPERM) => Error::NoNamespace,
            _ => Error::Host {
                what: "cannot make a mount namespace",
                source,
            },
        });
    }
    let private = libc::MS_REC | libc::MS_PRIVATE;
    mount(None, Path::new("/"), None, private)
        .map_err(Error::host("cannot make mounts private"))?;
    if !Path::new(KVM_NODE).exists() {
        rebuild_dev().map_err(Error::host("cannot make a /dev with a kvm node"))?;
    }
    mount(Some(device), Path::new(KVM_NODE), None, libc::MS_BIND)
        .map_err(Error::host("cannot mount the device over /dev/kvm"))
}

/// mount(2).
fn mount(
    source: Option<&Path>,
    target: &Path,
    kind: Option<&CStr>,
    flags: libc::c_ulong,
) -> io::Result<()> {
    let c = |p: &Path| CString::new(p.as_os_str().as_bytes());
    let source = source.map(c).transpose()?;
    let target = c(target)?;
    let pointer = |s: Option<&CStr>| s.map_or(std::ptr::null(), CStr::as_ptr);
    // SAFETY: every pointer is null or to a NUL-terminated string that outlives the call.
    let result = unsafe {
        libc::mount(
            pointer(source.as_deref()),
            target.as_ptr(),
            pointer(kind),
            flags,
            std::ptr::null(),
        )
    };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Mounts a new file system at /dev whose entries are those of the old one, plus `kvm`.
fn rebuild_dev() -> io::Result<()> {
    // The old directory stays reachable through its descriptor once it is covered.
    let old: OwnedFd = File::open(DEV)?.into();
    let old_path = PathBuf::from(format!("/proc/self/fd/{}", old.as_raw_fd()));
    let entries = fs::read_dir(DEV)?.collect::<io::Result<Vec<_>>>()?;
    let tmpfs = Some(Path::new("tmpfs"));
    mount(tmpfs, Path::new(DEV), Some(c"tmpfs"), libc::MS_NOSUID)?;
    fs::set_permissions(DEV, Permissions::from_mode(0o755))?;
    for entry in entries {
        let from = old_path.join(entry.file_name());
        let to = Path::new(DEV).join(entry.file_name());
        copy_entry(&from, &to)?;
    }
    File::create(KVM_NODE)?;
    Ok(())
}

/// Makes `to` the same as `from`: links and device nodes anew, the rest as a mount.
fn copy_entry(from: &Path, to: &Path) -> io::Result<()> {
    let metadata = fs::symlink_metadata(from)?;
    let kind = metadata.file_type();
    if kind.is_symlink() {
        return symlink(fs::read_link(from)?, to);
    }
    if kind.is_char_device() || kind.is_block_device() {
        make_node(to, &metadata)?;
        chown(to, Some(metadata.uid()), Some(metadata.gid()))?;
        return fs::set_permissions(to, metadata.permissions());
    }
    if kind.is_dir() {
        fs::create_dir(to)?;
    } else {
        File::create(to)?;
    }
    mount(Some(from), to, None, libc::MS_BIND | libc::MS_REC)
}

/// A device node with the type, mode and number in `metadata`.
fn make_node(path: &Path, metadata: &Metadata) -> io::Result<()> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    // SAFETY: the name is NUL-terminated and outlives the call.
    match unsafe { libc::mknod(path.as_ptr(), metadata.mode(), metadata.rdev()) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_device_is_checked_first() {
        let ls = [OsString::from("ls")];
        let e = exec(Path::new("/nonexistent"), &ls);
        assert!(matches!(e, ExecError::Setup(Error::NoDevice(_))));
        assert_eq!(e.status(), 1);
        let e = exec(Path::new("/etc/passwd"), &ls);
        assert!(matches!(e, ExecError::Setup(Error::NotAHypervisor(_))));
    }

    #[test]
    fn statuses_are_the_shell_s() {
        let status = |errno| {
            let source = io::Error::from_raw_os_error(errno);
            ExecError::Command {
                command: "x".into(),
                source,
            }
            .status()
        };
        assert_eq!((status(libc::ENOENT), status(libc::EACCES)), (127, 126));
    }
}
