# SPDX-License-Identifier: GPL-2.0-only
# Starts and watches the machine emulator that plays the nested VM's hardware; sourced by run.

. "$vm_dir/bochs.sh"
. "$vm_dir/qemu.sh"

# No waiting for what is known (timer check, delay loop); warnings and worse on the console, as they happen.
# The CPU-bug mitigations stay off: most nested tests ask what a kernel does, not how fast it does it safely.
# A test that is about them says --append mitigations=auto.
base_cmdline='console=ttyS0,115200 loglevel=5 oops=panic panic=0 tsc=reliable no_timer_check lpj=100000'

# Whether the machine's own processor plays the nested VM's.
in_hardware() { [ "$icount" = no ] && [ -z "$cpu_model" ] && nests_in_hardware "$backend"; }

# Sets $emulator to the pid and writes to $work only.
start_emulator() {
	local cmdline
	cmdline=$(echo $base_cmdline $append)
	[[ $append == *mitigations=* ]] || cmdline="$cmdline mitigations=off"
	if in_hardware; then
		start_qemu "$cmdline" kvm host
		return
	fi
	case $backend in
	vmx) start_bochs "$cmdline" ;;
	svm) start_qemu "$cmdline" tcg EPYC,+svm,+npt ;;
	none) start_qemu "$cmdline" tcg EPYC,-svm ;;
	esac
}

# What the emulator itself said.
emulator_log() { cat "$work/emulator.log" "$work/bochs.log" 2>/dev/null || true; }

# watch_emulator PID LOG SECONDS: ends with 124 after SECONDS, with 70 when LOG shows that the kernel died.
watch_emulator() {
	local deadline=$((SECONDS + $3)) seen=0 size
	while kill -0 "$1" 2>/dev/null; do
		sleep 0.5
		[ "$SECONDS" -lt "$deadline" ] || return "$EX_TIMEOUT"
		size=$(stat -c %s "$2")
		[ "$size" = "$seen" ] || ! kernel_died "$2" || {
			sleep 1 # the rest of the report
			return "$EX_KERNEL_REPORT"
		}
		seen=$size
	done
}
