// SPDX-License-Identifier: Apache-2.0

//! Linux's bzImage by the 64-bit boot protocol (Documentation/arch/x86/boot.rst in Linux).

use linux_loader::bootparam::setup_header;
use linux_loader::loader::{BzImage, KernelLoader};
use vm_memory::GuestAddress;

use super::{Entry, KernelFile, LoadedKernel};
use crate::error::{Error, Result};
use crate::layout::HIGH_RAM_START;
use crate::memory::{low_end, GuestMemory, Size};

/// The first boot protocol version with `xloadflags`.
const VERSION_XLOADFLAGS: u16 = 0x020c;
/// `xloadflags`: there is a 64-bit entry point.
const XLF_KERNEL_64: u16 = 1 << 0;
/// `xloadflags`: kernel, zero page, command line and initrd may lie above 4 GiB.
const XLF_CAN_BE_LOADED_ABOVE_4G: u16 = 1 << 1;
/// The 64-bit entry point's offset from the load address.
const ENTRY_64_OFFSET: u64 = 0x200;

/// Highest byte that the kernel touches before it reads the memory map, plus one.
fn needed_end(header: &setup_header, loaded_end: u64) -> u64 {
    let unpacked = header
        .pref_address
        .saturating_add(u64::from(header.init_size));
    unpacked.max(loaded_end)
}

/// Loads the image's protected-mode part at 1 MiB.
pub(super) fn load(
    kernel: &mut KernelFile,
    memory: &GuestMemory,
    mem: Size,
) -> Result<LoadedKernel> {
    let load_addr = GuestAddress(HIGH_RAM_START);
    let end_if_loaded = HIGH_RAM_START.saturating_add(kernel.len);
    if end_if_loaded > low_end(mem.bytes()) {
        return Err(Error::KernelTooLarge {
            mem,
            needed: Size(end_if_loaded),
        });
    }
    let loaded = BzImage::load(memory, Some(load_addr), &mut kernel.file, None)
        .map_err(|e| kernel.bad(e.to_string()))?;
    let header = loaded
        .setup_header
        .ok_or_else(|| kernel.bad("no setup header"))?;
    // Fields of a packed structure: copied before they are used.
    let (version, xloadflags) = (header.version, header.xloadflags);
    if version < VERSION_XLOADFLAGS || xloadflags & XLF_KERNEL_64 == 0 {
        return Err(kernel.bad("no 64-bit entry point"));
    }
    let end = needed_end(&header, loaded.kernel_end);
    if end > low_end(mem.bytes()) {
        return Err(Error::KernelTooLarge {
            mem,
            needed: Size(end),
        });
    }
    let initrd_max = match xloadflags & XLF_CAN_BE_LOADED_ABOVE_4G {
        0 => u64::from(header.initrd_addr_max),
        _ => u64::from(u32::MAX),
    };
    Ok(LoadedKernel {
        entry: Entry::Linux64 {
            rip: HIGH_RAM_START + ENTRY_64_OFFSET,
        },
        end,
        setup_header: Some(header),
        initrd_max,
        cmdline_max: header.cmdline_size as usize,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::boot::Format;
    use crate::layout::MIB;
    use crate::memory::allocate;
    use std::fs::File;
    use std::os::unix::fs::FileExt;

    const XLOADFLAGS_OFFSET: u64 = 0x236;

    /// A file with a valid setup header of one sector and `payload` bytes of kernel.
    fn image(name: &str, payload: u64, change: impl Fn(&File)) -> Result<KernelFile> {
        let path = std::env::temp_dir().join(format!("vireo-{}-{name}", std::process::id()));
        let file = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .open(&path)
            .unwrap();
        file.set_len(1024 + payload).unwrap();
        file.write_at(&[1], 0x1f1).unwrap();
        file.write_at(&[0x55, 0xaa], 0x1fe).unwrap();
        file.write_at(b"HdrS", 0x202).unwrap();
        file.write_at(&0x020fu16.to_le_bytes(), 0x206).unwrap();
        file.write_at(&[1], 0x211).unwrap();
        file.write_at(&0x10_0000u32.to_le_bytes(), 0x214).unwrap();
        file.write_at(&0x7fff_ffffu32.to_le_bytes(), 0x22c).unwrap();
        file.write_at(&[3], XLOADFLAGS_OFFSET).unwrap();
        file.write_at(&2047u32.to_le_bytes(), 0x238).unwrap();
        file.write_at(&(16 * MIB).to_le_bytes(), 0x258).unwrap();
        file.write_at(&(8 * MIB as u32).to_le_bytes(), 0x260)
            .unwrap();
        change(&file);
        let kernel = KernelFile::open(&path);
        std::fs::remove_file(&path).unwrap();
        kernel
    }

    fn load_into(kernel: Result<KernelFile>, size: u64) -> Result<LoadedKernel> {
        let mut kernel = kernel?;
        let mem = Size(size);
        kernel.load(&allocate(mem)?, mem)
    }

    #[test]
    fn loads_and_reports() {
        let kernel = image("ok", 4096, |_| {});
        assert_eq!(kernel.as_ref().unwrap().format, Format::BzImage);
        let loaded = load_into(kernel, 64 * MIB).unwrap();
        assert_eq!(loaded.entry, Entry::Linux64 { rip: 0x10_0200 });
        assert_eq!(loaded.end, 24 * MIB);
        assert_eq!(loaded.cmdline_max, 2047);
        assert_eq!(loaded.initrd_max, 0xffff_ffff);
    }

    #[test]
    fn too_little_memory_is_named() {
        let e = load_into(image("unpacked", 4096, |_| {}), 16 * MIB).unwrap_err();
        assert!(
            matches!(e, Error::KernelTooLarge { needed: Size(n), .. } if n == 24 * MIB),
            "{e}"
        );
        let e = load_into(image("file", 4 * MIB, |_| {}), 4 * MIB).unwrap_err();
        assert!(matches!(e, Error::KernelTooLarge { .. }), "{e}");
    }

    #[test]
    fn needs_a_64_bit_entry() {
        let kernel = image("no64", 4096, |f| {
            f.write_at(&[0], XLOADFLAGS_OFFSET).unwrap();
        });
        let e = load_into(kernel, 64 * MIB).unwrap_err();
        assert!(e.to_string().contains("no 64-bit entry point"), "{e}");
    }

    #[test]
    fn truncated_images_are_refused() {
        let kernel = image("short", 4096, |f| {
            f.write_at(&[200], 0x1f1).unwrap();
        });
        assert!(matches!(
            load_into(kernel, 64 * MIB),
            Err(Error::BadKernel { .. })
        ));
    }

    #[test]
    fn damaged_headers_do_no_harm() {
        for at in 0x1f1..0x268 {
            for value in [0u8, 1, 0x7f, 0x80, 0xff] {
                let kernel = image("damaged", 4096, |f| {
                    f.write_at(&[value], at).unwrap();
                });
                // Whatever the result: no panic, no endless loop.
                let _ = load_into(kernel, 64 * MIB);
            }
        }
    }
}
