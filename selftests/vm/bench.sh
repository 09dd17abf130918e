#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-only
# Measures Vireo beside KVM in one nested boot and writes the table to .build/bench-BACKEND.txt: bench.sh BACKEND
set -euo pipefail
. "$(dirname "$(readlink -f "$0")")/lib.sh"

backend=$1
"$vm_dir/cargo.sh" "$top/selftests/suite"
program=$top/selftests/suite/target/x86_64-unknown-linux-gnu/release/vireo-bench
mkdir -p "$build/logs"
say "a nested VM ($backend) boots with KVM and Vireo; the measurement takes about a minute"
# Both hypervisors as they are shipped: with the CPU-bug mitigations on.
"$vm_dir/run" --backend "$backend" --kvm --timeout 1200 --append mitigations=auto \
	--log "$build/logs/bench-$backend.log" --add "$program:/usr/bin/vireo-bench" -- vireo-bench |
	tee "$build/bench-$backend.txt"
