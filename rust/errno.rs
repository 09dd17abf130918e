// SPDX-License-Identifier: GPL-2.0-only

//! The model's errors as the kernel's.

use kernel::error::{
    code,
    Error, //
};

use crate::model::errno::Errno;

impl From<Errno> for Error {
    fn from(error: Errno) -> Self {
        match error {
            Errno::TooBig => code::E2BIG,
            Errno::Busy => code::EBUSY,
            Errno::Exist => code::EEXIST,
            Errno::Fault => code::EFAULT,
            Errno::Invalid => code::EINVAL,
            Errno::NoEntry => code::ENOENT,
            Errno::NoMemory => code::ENOMEM,
            Errno::NoDevice => code::ENXIO,
            Errno::NotSupported => code::EOPNOTSUPP,
            Errno::NotPermitted => code::EPERM,
        }
    }
}
