# SPDX-License-Identifier: GPL-2.0-only
# In the nested VM: guests that work until they are told to stop, and results in KTAP; sourced.

number=0 failed=0
# result STATUS NAME
result() {
	number=$((number + 1))
	if [ "$1" -eq 0 ]; then
		echo "ok $number $2"
	else
		failed=$((failed + 1))
		echo "not ok $number $2"
	fi
}

# start_guest NAME [DEVICE]: its console is /tmp/NAME.console. Sets $pid_NAME.
start_guest() {
	local options=
	# Under QEMU, KVM's XSAVE leaves are not consistent, which this kernel does not survive as a guest.
	[ "${2:-}" != /dev/kvm ] || options=noxsave
	[ -p "/tmp/$1.input" ] || mkfifo "/tmp/$1.input"
	# Opened for both, the pipe neither waits for a writer nor ends.
	vireo run --device "${2:-/dev/vireo}" --kernel /guest/kernel --initrd /guest/initrd --mem 96M \
		--cmdline "console=ttyS0 panic=-1 quiet mode=load $options" <>"/tmp/$1.input" >"/tmp/$1.console" 2>&1 &
	eval "pid_$1=$!"
}

rounds() { grep -c '^guest: workload done' "/tmp/$1.console"; }

# works NAME...: each of the guests goes on and ends a round of its work.
works() {
	local name goal tries
	for name; do
		goal=$(($(rounds "$name") + 1)) tries=0
		until [ "$(rounds "$name")" -ge "$goal" ]; do
			tries=$((tries + 1))
			[ "$tries" -le 300 ] && [ -d "/proc/$(pid "$name")" ] || {
				tail -n 10 "/tmp/$name.console" | sed "s/^/# $name: /"
				return 1
			}
			sleep 1
		done
	done
}
pid() { eval "echo \$pid_$1"; }

# stop NAME...: the guests end, each with its work done well.
stop() {
	local name status=0
	for name; do echo stop >"/tmp/$name.input"; done
	for name; do
		wait "$(pid "$name")" && grep -q '^guest: powering off' "/tmp/$name.console" &&
			! grep -q '^guest: FAILED' "/tmp/$name.console" || {
			tail -n 10 "/tmp/$name.console" | sed "s/^/# $name: /"
			status=1
		}
	done
	return "$status"
}
