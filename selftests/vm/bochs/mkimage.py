#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-only
"""Writes what Bochs boots: mkimage.py VMLINUX INITRD CMDLINE FOLDER

FOLDER/boot.img gets a header sector, the PVH start info, the initrd and the kernel's segments;
FOLDER/rom.bin gets the option ROM that loads them (rom.S, assembled here).
Prints the number of cylinders of the disk. One cylinder is HEADS * SECTORS sectors of 512 bytes.
"""

import os
import struct
import subprocess
import sys

SECTOR = 512
HEADS, SECTORS = 16, 63
ROM_SEGMENT = 0xD000
BOOT_INFO = 0x10000
MODULES = BOOT_INFO + 0x100
CMDLINE = BOOT_INFO + 0x200
BOOT_INFO_SIZE = 0x1000
MEMORY_MAP = BOOT_INFO + BOOT_INFO_SIZE
HEADER_ENTRY = 0x1F0
SEGMENT_ALIGN = 2 << 20

HVM_START_MAGIC = 0x336EC578
PT_LOAD, PT_NOTE = 1, 4
XEN_ELFNOTE_PHYS32_ENTRY = 18


def align(value, unit):
    return -(-value // unit) * unit


def pvh_entry(notes):
    """The entry point that a PT_NOTE segment gives, or None."""
    at = 0
    while at + 12 <= len(notes):
        name_size, size, kind = struct.unpack_from("<III", notes, at)
        name = at + 12
        data = name + align(name_size, 4)
        if kind == XEN_ELFNOTE_PHYS32_ENTRY and notes[name : name + 3] == b"Xen":
            return int.from_bytes(notes[data : data + size], "little")
        at = data + align(size, 4)
    return None


def read_kernel(path):
    """The segments of an ELF64 kernel as (bytes, physical address), their end, and the PVH entry point."""
    with open(path, "rb") as file:
        elf = file.read()
    if elf[:5] != b"\x7fELF\x02":
        sys.exit(f"{path}: not a 64-bit ELF file")
    (table,) = struct.unpack_from("<Q", elf, 32)
    (count,) = struct.unpack_from("<H", elf, 56)
    segments, end, entry = [], 0, None
    for index in range(count):
        kind, _, offset, _, address, size, memory, _ = struct.unpack_from("<IIQQQQQQ", elf, table + 56 * index)
        if kind == PT_LOAD:
            segments.append((elf[offset : offset + size], address))
            end = max(end, address + memory)
        elif kind == PT_NOTE:
            entry = entry or pvh_entry(elf[offset : offset + size])
    if entry is None:
        sys.exit(f"{path}: no PVH entry point (the kernel needs CONFIG_PVH=y)")
    return segments, end, entry


def boot_info(cmdline, initrd_address, initrd_size):
    """hvm_start_info with its module list and command line; the ROM fills in the number of map entries."""
    text = cmdline.encode() + b"\0"
    if CMDLINE + len(text) > MEMORY_MAP:
        sys.exit("the kernel command line is too long")
    info = bytearray(BOOT_INFO_SIZE)
    struct.pack_into(
        "<IIIIQQQQII", info, 0, HVM_START_MAGIC, 1, 0, 1, MODULES, CMDLINE, 0, MEMORY_MAP, 0, 0
    )
    struct.pack_into("<QQQQ", info, MODULES - BOOT_INFO, initrd_address, initrd_size, 0, 0)
    info[CMDLINE - BOOT_INFO : CMDLINE - BOOT_INFO + len(text)] = text
    return bytes(info)


def write_rom(folder):
    """Assembles the ROM and makes its bytes add up to zero."""
    source = os.path.join(os.path.dirname(os.path.abspath(__file__)), "rom.S")
    objfile, binary = os.path.join(folder, "rom.o"), os.path.join(folder, "rom.bin")
    symbols = {"ROM_SEGMENT": ROM_SEGMENT, "BOOT_INFO": BOOT_INFO, "MEMORY_MAP": MEMORY_MAP}
    defines = [f"--defsym={name}={value}" for name, value in symbols.items()]
    subprocess.run(["as", "--32", *defines, "-o", objfile, source], check=True)
    subprocess.run(["objcopy", "-O", "binary", "-j", ".text", objfile, binary], check=True)
    with open(binary, "r+b") as file:
        rom = file.read()
        file.seek(len(rom) - 1)
        file.write(bytes([-sum(rom[:-1]) & 0xFF]))


def main():
    kernel, initrd_path, cmdline, folder = sys.argv[1:]
    segments, end, entry = read_kernel(kernel)
    with open(initrd_path, "rb") as file:
        initrd = file.read()
    initrd_address = align(end, SEGMENT_ALIGN)
    parts = [(boot_info(cmdline, initrd_address, len(initrd)), BOOT_INFO), (initrd, initrd_address), *segments]

    header = bytearray(SECTOR)
    sector = 1
    with open(os.path.join(folder, "boot.img"), "wb") as image:
        for index, (data, address) in enumerate(parts):
            count = align(len(data), SECTOR) // SECTOR
            struct.pack_into("<III", header, 12 * index, sector, count, address)
            image.seek(sector * SECTOR)
            image.write(data)
            sector += count
        struct.pack_into("<I", header, HEADER_ENTRY, entry)
        image.seek(0)
        image.write(header)
        cylinders = align(sector, HEADS * SECTORS) // (HEADS * SECTORS)
        image.truncate(cylinders * HEADS * SECTORS * SECTOR)
    write_rom(folder)
    print(cylinders)


if __name__ == "__main__":
    main()
