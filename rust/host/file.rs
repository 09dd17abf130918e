// SPDX-License-Identifier: GPL-2.0-only

//! Anonymous files: the descriptors of VMs and vCPUs.

use core::marker::PhantomData;

use kernel::{
    bindings,
    error::from_err_ptr,
    ffi,
    fs::{
        file::FileDescriptorReservation,
        File, //
    },
    mm::virt::VmaNew,
    module::this_module,
    prelude::*,
    sync::{
        aref::ARef,
        Arc,
        ArcBorrow, //
    },
    types::ForeignOwnable, //
};

use crate::bindings as b;

/// What a file descriptor of this module does.
pub(crate) trait FileOperations: Sized + Send + Sync + 'static {
    /// The name that `/proc/PID/fd` shows.
    const NAME: &'static CStr;

    /// Handles an ioctl; `arg` is a number or an address of the caller's.
    fn ioctl(this: ArcBorrow<'_, Self>, cmd: u32, arg: usize) -> Result<isize>;

    /// Maps pages of the object into the caller's memory.
    fn mmap(_this: ArcBorrow<'_, Self>, _vma: &VmaNew) -> Result {
        Err(ENODEV)
    }

    /// The last descriptor has been closed; the object may live on.
    fn release(_this: ArcBorrow<'_, Self>) {}
}

/// Opens a new descriptor on `object` in the current process.
///
/// # Errors
///
/// `EMFILE` and `ENFILE` when the process or the system has too many files, `ENOMEM`.
pub(crate) fn install<T: FileOperations>(object: Arc<T>) -> Result<isize> {
    let fd = FileDescriptorReservation::get_unused_fd_flags(bindings::O_CLOEXEC)?;
    let private = object.into_foreign();
    // SAFETY: The name is a C string, the table lives as long as the module (whose reference the
    // file takes through `owner`), and `private` is owned by the file from here on.
    let file = from_err_ptr(unsafe {
        b::anon_inode_getfile(
            T::NAME.as_char_ptr(),
            Table::<T>::get(),
            private,
            bindings::O_RDWR as ffi::c_int,
        )
    });
    let file = match file {
        Ok(file) => file,
        Err(e) => {
            // SAFETY: No file took the ownership.
            drop(unsafe { <Arc<T> as ForeignOwnable>::from_foreign(private) });
            return Err(e);
        }
    };
    // SAFETY: `anon_inode_getfile` returned a new reference, which is not null.
    let file: ARef<File> =
        unsafe { ARef::from_raw(core::ptr::NonNull::new_unchecked(file.cast())) };
    let number = fd.reserved_fd();
    fd.fd_install(file);
    Ok(number as isize)
}

/// The C operations table of `T`.
struct Table<T>(PhantomData<T>);

impl<T: FileOperations> Table<T> {
    const OPS: bindings::file_operations = bindings::file_operations {
        owner: this_module::<crate::LocalModule>().as_ptr(),
        unlocked_ioctl: Some(Self::ioctl),
        compat_ioctl: Some(Self::ioctl),
        mmap: Some(Self::mmap),
        release: Some(Self::release),
        llseek: Some(bindings::noop_llseek),
        ..pin_init::zeroed()
    };

    const fn get() -> &'static bindings::file_operations {
        &Self::OPS
    }

    /// # Safety
    ///
    /// `file` must have been made by [`install`] for this `T`.
    unsafe fn object<'a>(file: *mut bindings::file) -> ArcBorrow<'a, T> {
        // SAFETY: `install` put an `Arc<T>` there, which lives until `release`.
        unsafe { <Arc<T> as ForeignOwnable>::borrow((*file).private_data) }
    }

    unsafe extern "C" fn ioctl(
        file: *mut bindings::file,
        cmd: ffi::c_uint,
        arg: ffi::c_ulong,
    ) -> ffi::c_long {
        // SAFETY: The kernel calls this for a file of `install`'s only.
        let this = unsafe { Self::object(file) };
        match T::ioctl(this, cmd, arg) {
            Ok(value) => value,
            Err(e) => e.to_errno() as ffi::c_long,
        }
    }

    unsafe extern "C" fn mmap(
        file: *mut bindings::file,
        vma: *mut bindings::vm_area_struct,
    ) -> ffi::c_int {
        // SAFETY: As `ioctl`.
        let this = unsafe { Self::object(file) };
        // SAFETY: The kernel passes a VMA that is being set up by this call.
        let vma = unsafe { VmaNew::from_raw(vma) };
        match T::mmap(this, vma) {
            Ok(()) => 0,
            Err(e) => e.to_errno(),
        }
    }

    unsafe extern "C" fn release(
        _inode: *mut bindings::inode,
        file: *mut bindings::file,
    ) -> ffi::c_int {
        // SAFETY: As `ioctl`.
        T::release(unsafe { Self::object(file) });
        // SAFETY: The last use of the file: the ownership that `install` gave comes back.
        drop(unsafe { <Arc<T> as ForeignOwnable>::from_foreign((*file).private_data) });
        0
    }
}
