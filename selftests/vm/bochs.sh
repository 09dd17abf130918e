# SPDX-License-Identifier: GPL-2.0-only
# Bochs as the nested VM: emulates VT-x; sourced by emulator.sh.

# The model that KVM's own guests run best in (see README.md).
bochs_model=broadwell_ult

# start_bochs CMDLINE
start_bochs() {
	local model=${cpu_model:-$bochs_model} clear=ht
	# The models claim hyper-threading and describe none, which this kernel answers with a WARN. Those with
	# AVX-512 have XSAVE areas that do not add up for it.
	case $model in
	tigerlake | corei7_icelake_u) clear=ht,pku,avx512f ;;
	esac
	local cmdline="$1 clearcpuid=$clear"
	local cylinders output_mode=file output=$work/output
	if [ "$interactive" = yes ]; then
		output_mode=term output=$(tty)
	fi
	cylinders=$("$vm_dir/bochs/mkimage.py" "$kernel/vmlinux" "$work/initrd" "$cmdline" "$work") ||
		die "cannot make the disk image in $work (is the disk full?)"
	sed -e "s|@DIR@|$work|; s|@CPUS@|$cpus|; s|@MEM@|$mem|; s|@MODEL@|$model|" \
		-e "s|@CYLINDERS@|$cylinders|; s|@CONSOLE@|$work/console|" \
		-e "s|@OUTPUT_MODE@|$output_mode|; s|@OUTPUT@|$output|" \
		"$vm_dir/bochs/bochsrc.in" >"$work/bochsrc"
	# Debian's build starts in its debugger; c lets the machine run.
	bochs -q -f "$work/bochsrc" <<<c >"$work/emulator.log" 2>&1 7>&- 8>&- &
	emulator=$!
}
