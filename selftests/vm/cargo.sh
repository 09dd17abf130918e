#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-only
# Builds a cargo package as static programs, which run in the nested VM's initramfs: cargo.sh FOLDER
# They land in FOLDER/target/x86_64-unknown-linux-gnu/release.
set -euo pipefail
. "$(dirname "$(readlink -f "$0")")/lib.sh"
. "$vm_dir/progress.sh"

build_static() {
	local log=$build/logs/cargo-${1##*/}.log
	mkdir -p "$build/logs"
	measure() { echo "$(grep -c Compiling "$log") crates"; }
	# Naming the target keeps build scripts and procedural macros dynamic, which they must be.
	with_progress "$log" measure env -C "$1" RUSTFLAGS='-C target-feature=+crt-static' \
		cargo build --release --locked --target x86_64-unknown-linux-gnu || {
		grep -aE -A 12 '^error' "$log" | sed -n 1,40p >&2 || true
		die "building ${1#"$top"/} failed: $(why "$log")"
	}
}

command -v cargo >/dev/null || die "there is no cargo: run selftests/vm/setup.sh, or install rustup's"
say "building ${1#"$top"/}"
locked "cargo-$(cksum <<<"$1" | cut -d ' ' -f 1)" build_static "$(readlink -f "$1")"
