// SPDX-License-Identifier: GPL-2.0-only

//! The error numbers that the KVM API documents, as the model returns them.

/// An error of an ioctl, by its Linux name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Errno {
    /// `E2BIG`: the caller's buffer is too small for the list.
    TooBig,
    /// `EBUSY`: the object is in use.
    Busy,
    /// `EEXIST`: the object exists already or overlaps one that does.
    Exist,
    /// `EFAULT`: a pointer of the caller's is bad.
    Fault,
    /// `EINVAL`: an argument is out of range or contradicts another.
    Invalid,
    /// `ENOENT`: the object does not exist.
    NoEntry,
    /// `ENOMEM`: no memory.
    NoMemory,
    /// `ENXIO`: the facility has not been created.
    NoDevice,
    /// `EOPNOTSUPP`: not supported here.
    NotSupported,
    /// `EPERM`: the operation is not permitted in this state.
    NotPermitted,
}
