# SPDX-License-Identifier: GPL-2.0-only
# What the scripts of this folder share; sourced.

vm_dir=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
top=$(cd "$vm_dir/../.." && pwd)
cache=${XDG_CACHE_HOME:-$HOME/.cache}/vireo
# Products of this tree; the folder's name starts with a dot so that the top level stays as it is.
build=$top/.build
# Which test kernel: the usual one, or with FLAVOUR=debug the one that looks for mistakes.
flavour=${FLAVOUR:-}
module=$build/module${flavour:+-$flavour}/vireo.ko
vmm=$top/userspace-vmm/target/x86_64-unknown-linux-gnu/release/vireo
# The folder of the suite's programs.
suite=$top/selftests/suite/target/x86_64-unknown-linux-gnu/release

# Exit statuses of the harness itself.
EX_KERNEL_REPORT=70
EX_TIMEOUT=124
EX_HARNESS=125

say() { printf '%s\n' "vireo: $*" >&2; }
die() {
	say "$*"
	exit "$EX_HARNESS"
}

case $flavour in '' | debug) ;; *) die "FLAVOUR is debug or nothing, not '$flavour'" ;; esac

# locked NAME COMMAND...: runs COMMAND while no other process runs one under the same NAME.
locked() {
	local lock
	mkdir -p "$cache/locks"
	lock=$cache/locks/$1
	shift
	(
		flock -n 9 || {
			say "waiting for another run that holds $lock"
			flock 9
		}
		"$@" 9>&-
	) 9>"$lock"
}

# Whether this machine can give a nested VM hardware virtualisation of the kind vmx or svm. /dev/kvm alone
# proves nothing: a paravirtual KVM has the node and cannot nest.
nests_in_hardware() {
	local nested
	grep -qwm1 "$1" /proc/cpuinfo && [ -r /dev/kvm ] && [ -w /dev/kvm ] || return 1
	nested=$(cat /sys/module/kvm_{intel,amd}/parameters/nested 2>/dev/null)
	[ "$nested" = Y ] || [ "$nested" = 1 ]
}
