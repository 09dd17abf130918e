#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-only
# Boots a Linux guest on vireo.ko in a nested VM: boot.sh BACKEND test|debian hello|workload|shell [ROUNDS]
# The guest's console is standard output; the status is 0 when the guest did its work and powered off.
# boot.sh BACKEND test events|reboot|coexist: what happens to several guests when the host suspends and so on, or
# reboots, and beside KVM's guests; see host-events and host-coexist.
# boot.sh BACKEND test smp CASE...: guests with several vCPUs; see host-smp.
set -euo pipefail
. "$(dirname "$(readlink -f "$0")")/lib.sh"

backend=$1 guest=$2 mode=$3
shift 3
rounds=1 cases=()
if [ "$mode" = smp ]; then
	cases=("$@")
	[ -x "$suite/vireo-load" ] || "$vm_dir/cargo.sh" "$top/selftests/suite"
else
	rounds=${1:-1}
fi
kernel=$("$vm_dir/guest.sh" "$guest")
"$vm_dir/module.sh"
[ -x "$vmm" ] || "$vm_dir/cargo.sh" "$top/userspace-vmm"

options=(--backend "$backend" --add "$kernel:/guest/kernel" --add "$build/guest/initrd:/guest/initrd"
	--add "$vm_dir/boot-guest:/guest/boot" --timeout $((600 + 120 * rounds)))
[ "$guest" != debian ] || options+=(--timeout 1800)
mkdir -p "$build/logs"
log=$build/logs/boot-$backend-$guest-$mode${flavour:+-$flavour}.log
if [ "$mode" = shell ]; then
	say "a nested VM ($backend) boots, then a $guest guest on vireo.ko; its console is yours in about 20 s"
	options+=(--interactive --timeout 86400)
else
	say "a nested VM ($backend) boots, loads vireo.ko and boots a $guest guest on it (log of the VM: $log)"
fi
command=(/guest/boot "$mode" "$rounds")
case $mode in
events | reboot) command=(/guest/host "$mode" /lib/modules/vireo.ko) script=host-events ;;
coexist)
	# On few CPUs they meet more often.
	options+=(--cpus 2)
	command=(/guest/host) script=host-coexist
	;;
smp)
	options+=(--add "$vm_dir/host-smp:/guest/smp" --timeout 1800)
	if [ "$backend" = vmx ]; then
		# In Bochs a vCPU would wait for its emulator's next CPU otherwise.
		options+=(--cpus 2)
		again=no
	else
		# At VMRUN QEMU's TCG (7.2) forgets that the guest is in STI's shadow: an interrupt then comes before a HLT
		# that it should have ended. It also leaves an injected interrupt's vector where a request to stop finds it,
		# which delivers it a second time. A guest that hangs or dies of that gets another chance.
		options+=(--cpus 4)
		again=yes
	fi
	command=(/guest/smp "$again" "${cases[@]}") script=''
	;;
*) script='' ;;
esac
if [ -n "$script" ]; then
	options+=(--kvm --add "$vm_dir/$script:/guest/host" --add "$vm_dir/guests.sh:/guest/guests.sh")
	if [ "$backend" = vmx ]; then
		# Its emulator has one thread for all CPUs, and no input.
		options+=(--cpus 2)
		command+=(no)
	else
		options+=(--wake 3)
		command+=(yes)
	fi
fi
status=0
"$vm_dir/run" "${options[@]}" --log "$log" -- "${command[@]}" || status=$?
# That the VM is gone before its command has ended is what a reboot means.
if [ "$mode" = reboot ] && [ "$status" -eq "$EX_HARNESS" ] && grep -aq '^host: guests are at work' "$log" &&
	grep -aq 'reboot: Restarting system' "$log"; then
	status=0
fi
if [ "$status" -ne 0 ]; then
	say "the guest did not end well (status $status); the end of $log:"
	tail -n 15 "$log" >&2
fi
exit "$status"
