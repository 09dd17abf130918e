#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-only
# Builds vireo.ko into .build/module (with FLAVOUR=debug .build/module-debug) when a source or the kernel is newer.
set -euo pipefail
. "$(dirname "$(readlink -f "$0")")/lib.sh"

kernel=$("$vm_dir/kernel.sh")
output=${module%/*}
rustc=${RUSTC:-/usr/bin/rustc}

up_to_date() {
	[ -f "$module" ] && [ "$(cat "$output/.kernel" 2>/dev/null)" = "$kernel" ] &&
		[ ! "$kernel/Module.symvers" -nt "$module" ] &&
		[ -z "$(find "$top/Kbuild" "$top/rust" -newer "$module" ! -name '*.md' -print -quit)" ]
}

build_module() {
	local compiler=()
	! up_to_date || return 0
	say "building vireo.ko${flavour:+ ($flavour)}"
	# Objects for another kernel are of no use to this one.
	[ "$(cat "$output/.kernel" 2>/dev/null)" = "$kernel" ] || rm -rf "$output"
	mkdir -p "$output"
	echo "$kernel" >"$output/.kernel"
	! grep -qx CONFIG_CC_IS_CLANG=y "$kernel/include/config/auto.conf" || compiler=(LLVM=-19)
	# modpost warns of every symbol that the kernel exports to KVM's modules: the namespace option allows them.
	env -u RUSTFLAGS -u RUSTC_WRAPPER make -s -C "$kernel" M="$top" MO="$output" "${compiler[@]}" RUSTC="$rustc" \
		BINDGEN="$cache/tools/bin/bindgen" LIBCLANG_PATH=/usr/lib/llvm-19/lib modules 2>&1 |
		grep -v "^WARNING: modpost: .* from namespace 'module:kvm," >&2 || [ "${PIPESTATUS[0]}" -eq 0 ] ||
		die "building vireo.ko failed"
	touch "$module"
}

[ -f "$top/Kbuild" ] || die "there is no module in this tree (no Kbuild): use --no-module"
up_to_date || locked "module${flavour:+-$flavour}-$(cksum <<<"$top" | cut -d ' ' -f 1)" build_module
