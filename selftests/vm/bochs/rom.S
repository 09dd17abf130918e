# SPDX-License-Identifier: GPL-2.0-only
# Option ROM that starts a Linux kernel in Bochs without a boot loader.
#
# The BIOS calls it once its ACPI tables and its memory map stand. It asks the BIOS for that map, enters
# protected mode, reads the image that mkimage.py wrote to the first disk (ATA PIO, LBA28) and jumps to the
# kernel's PVH entry point (struct hvm_start_info and the note are described in Linux's
# include/xen/interface/hvm/start_info.h and include/xen/interface/elfnote.h).
# A second pass through here means that the machine was reset: it is then switched off.
#
# ROM_SEGMENT, BOOT_INFO and MEMORY_MAP come from mkimage.py, which assembles this file.

	.set HEADER, 0x7000		# where sector 0 of the disk goes
	.set HEADER_ENTRY, 0x1f0	# its field: physical address of the entry point
	.set MEMMAP_ENTRIES, 48		# hvm_start_info.memmap_entries
	.set MAP_ENTRY, 24		# size of hvm_memmap_table_entry
	.set MAP_LIMIT, 64
	.set SMAP, 0x534d4150		# "SMAP"
	.set BOOTED, 0x0600		# a word of memory that no one else uses
	.set BOOTED_MAGIC, 0x7676
	.set SHUTDOWN_PORT, 0x8900	# Bochs: the text "Shutdown" written here ends it
	.set ATA, 0x1f0
	.set ATA_COUNT, ATA + 2
	.set ATA_STATUS, ATA + 7
	.set ATA_BUSY, 0x80
	.set ATA_READY_FOR_DATA, 0x08
	.set ATA_READ_SECTORS, 0x20
	.set ATA_MAX_SECTORS, 128
	.set SECTOR_WORDS, 256

	.code16
	.byte 0x55, 0xaa, 1		# signature, size in units of 512 bytes
	jmp start

start:	cli
	cld
	xor %ax, %ax
	mov %ax, %ds
	cmpw $BOOTED_MAGIC, BOOTED
	je off
	movw $BOOTED_MAGIC, BOOTED

	# Memory map: INT 15h, AX=E820h, one entry a call, into the PVH table.
	mov $MEMORY_MAP >> 4, %ax
	mov %ax, %es
	xor %di, %di
	xor %ebx, %ebx
	xor %bp, %bp
1:	mov $0xe820, %eax
	mov $20, %ecx
	mov $SMAP, %edx
	int $0x15
	jc 2f
	inc %bp
	add $MAP_ENTRY, %di
	cmp $MAP_LIMIT, %bp
	je 2f
	test %ebx, %ebx
	jnz 1b
2:	cli
	lgdtl %cs:gdtr
	mov %cr0, %eax
	or $1, %al
	mov %eax, %cr0
	ljmpl $0x08, $(ROM_SEGMENT << 4) + protected

off:	mov $shutdown, %si
	mov $SHUTDOWN_PORT, %dx
1:	lodsb %cs:(%si), %al
	out %al, %dx
	test %al, %al
	jnz 1b
	hlt

	.code32
protected:
	mov $0x10, %ax
	mov %ax, %ds
	mov %ax, %es
	mov %ax, %ss
	mov $HEADER, %esp
	movzwl %bp, %ebp
	push %ebp			# entries of the memory map
	mov $HEADER, %edi
	xor %ebx, %ebx
	mov $1, %ecx
	call read
	mov $HEADER, %ebp		# {first sector, sectors, address}, ended by zero sectors
1:	mov 0(%ebp), %ebx
	mov 4(%ebp), %ecx
	mov 8(%ebp), %edi
	jecxz 2f
	call read
	add $12, %ebp
	jmp 1b
2:	mov $BOOT_INFO, %ebx
	pop MEMMAP_ENTRIES(%ebx)
	jmp *HEADER + HEADER_ENTRY

	# Reads %ecx sectors from sector %ebx on to %edi; uses %eax, %edx, %esi.
read:	push %ecx
	cmp $ATA_MAX_SECTORS, %ecx
	jbe 1f
	mov $ATA_MAX_SECTORS, %ecx
1:	mov $ATA_COUNT, %edx
	mov %cl, %al
	out %al, %dx
	mov %ebx, %eax
	inc %edx
	out %al, %dx			# LBA 7:0, 15:8, 23:16, then 27:24 with the LBA flag
	shr $8, %eax
	inc %edx
	out %al, %dx
	shr $8, %eax
	inc %edx
	out %al, %dx
	mov %ah, %al
	or $0xe0, %al
	inc %edx
	out %al, %dx
	inc %edx
	mov $ATA_READ_SECTORS, %al
	out %al, %dx
	add %ecx, %ebx
	mov %ecx, %esi
2:	mov $ATA_STATUS, %edx
3:	in %dx, %al
	and $ATA_BUSY | ATA_READY_FOR_DATA, %al
	cmp $ATA_READY_FOR_DATA, %al
	jne 3b
	mov $ATA, %edx
	mov $SECTOR_WORDS, %ecx
	rep insw
	dec %esi
	jnz 2b
	pop %ecx
	sub $ATA_MAX_SECTORS, %ecx
	ja read
	ret

	.align 8
gdt:	.quad 0
	.quad 0x00cf9b000000ffff	# flat 32-bit code
	.quad 0x00cf93000000ffff	# flat data
gdtr:	.word gdtr - gdt - 1
	.long (ROM_SEGMENT << 4) + gdt
shutdown:
	.asciz "Shutdown"
	.org 511
	.byte 0				# checksum, set by mkimage.py
