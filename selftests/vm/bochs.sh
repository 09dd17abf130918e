# SPDX-License-Identifier: GPL-2.0-only
# Bochs as the nested VM: emulates VT-x; sourced by emulator.sh.

# The model that KVM's own guests run best in (see README.md).
bochs_model=broadwell_ult

# start_bochs CMDLINE
start_bochs() {
	# The model claims hyper-threading and describes none, which this kernel answers with a WARN.
	local cmdline="$1 clearcpuid=ht"
	local cylinders output_mode=file output=$work/output
	if [ "$interactive" = yes ]; then
		output_mode=term output=$(tty)
	fi
	cylinders=$("$vm_dir/bochs/mkimage.py" "$kernel/vmlinux" "$work/initrd" "$cmdline" "$work") ||
		die "cannot make the disk image in $work (is the disk full?)"
	sed -e "s|@DIR@|$work|; s|@CPUS@|$cpus|; s|@MEM@|$mem|; s|@MODEL@|$bochs_model|" \
		-e "s|@CYLINDERS@|$cylinders|; s|@CONSOLE@|$work/console|" \
		-e "s|@OUTPUT_MODE@|$output_mode|; s|@OUTPUT@|$output|" \
		"$vm_dir/bochs/bochsrc.in" >"$work/bochsrc"
	# Debian's build starts in its debugger; c lets the machine run.
	bochs -q -f "$work/bochsrc" <<<c >"$work/emulator.log" 2>&1 7>&- 8>&- &
	emulator=$!
}
