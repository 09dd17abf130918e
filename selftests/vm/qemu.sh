# SPDX-License-Identifier: GPL-2.0-only
# QEMU as the nested VM: AMD-V by emulation, or either kind where the machine has it; sourced by emulator.sh.

# Whether CPU 0 is kept from running guests, so that one more CPU is needed. TCG has a thread for each CPU; FXRSTOR
# and XRSTOR on any of them clear IGNNE in CPU 0's word of flags without a lock or an atomic operation
# (cpu_clear_ignne; 5.1 to 11.1 at least). The same word says whether GIF is set, nested paging is on and interrupts
# are masked: now and then what CPU 0's VMRUN or #VMEXIT has just changed there is undone, and its host or guest dies
# or hangs, under KVM as well.
spare_cpu() { [ "$backend" = svm ] && [ "$cpus" -gt 1 ] && ! in_hardware; }

# start_qemu CMDLINE ACCELERATOR CPU
start_qemu() {
	local output clock=() smp=$cpus
	! spare_cpu || smp=$((cpus + 1))
	if [ "$interactive" = yes ]; then
		output=stdio,signal=off
	else
		output=file,path=$work/output
	fi
	# A nanosecond of the machine's time is one instruction, and so is a tick of the time-stamp counter; where it
	# idles, time is skipped.
	[ "$icount" = no ] || clock=(-icount shift=0,sleep=off)
	local command=(qemu-system-x86_64 -nodefaults -no-user-config -display none -no-reboot
		-machine q35 -accel "$2" -cpu "$3" -smp "$smp" -m "$mem" "${clock[@]}"
		-kernel "$kernel/vmlinux" -initrd "$work/initrd" -append "$1"
		-chardev "pipe,id=console,path=$work/console" -serial chardev:console
		-chardev "$output,id=output" -serial chardev:output)
	if [ "$interactive" = yes ]; then
		"${command[@]}" <&0 2>"$work/emulator.log" 7>&- 8>&- &
	else
		"${command[@]}" </dev/null >"$work/emulator.log" 2>&1 7>&- 8>&- &
	fi
	emulator=$!
}
