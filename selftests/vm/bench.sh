#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-only
# Measures Vireo beside KVM in one nested boot and writes the table to .build/bench-BACKEND.txt: bench.sh BACKEND
set -euo pipefail
. "$(dirname "$(readlink -f "$0")")/lib.sh"

backend=$1
# QEMU counts instructions when it is told to; in Bochs a tick of the time-stamp counter is one anyway.
options=() counted=()
[ "$backend" = vmx ] || { options=(--icount) && counted=(--counted); }
"$vm_dir/cargo.sh" "$top/selftests/suite"
program=$top/selftests/suite/target/x86_64-unknown-linux-gnu/release/vireo-bench
mkdir -p "$build/logs"
result=$build/bench-$backend.txt
: >"$result"
# As kernels are shipped, and without the mitigations of CPU bugs, which cost each exit to userspace a cache flush.
status=0
for mitigations in auto off; do
	say "a nested VM ($backend, mitigations=$mitigations) boots with KVM and Vireo; this usually takes 20 seconds"
	echo "mitigations=$mitigations, $(date -u +%F):" | tee -a "$result"
	"$vm_dir/run" --backend "$backend" --kvm --timeout 1200 --append "mitigations=$mitigations" "${options[@]}" \
		--log "$build/logs/bench-$backend-$mitigations.log" --add "$program:/usr/bin/vireo-bench" -- vireo-bench "${counted[@]}" |
		tee -a "$result" || status=$?
done
say "the tables are in ${result#"$top"/}"
exit "$status"
