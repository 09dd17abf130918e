#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-only
# Configures and builds the test kernel: kernel-build.sh SOURCE BUILD CONFIG-FRAGMENT...
# The fragments are merged onto tinyconfig, a later line over an earlier one; a line that does not survive is an error.
set -euo pipefail

source=$1 build=$2
shift 2
: "${RUSTC:=/usr/bin/rustc}" "${BINDGEN:?the bindgen to use}"
# The kernel's rustc is the distribution's; a rustup cargo's environment must not reach it.
unset RUSTUP_TOOLCHAIN RUSTC_WRAPPER RUSTFLAGS
rust_src=/usr/src/rustc-$("$RUSTC" --version | cut -d" " -f2)/library
kmake() {
	make -C "$source" O="$build" ARCH=x86 LLVM=-19 RUSTC="$RUSTC" BINDGEN="$BINDGEN" \
		RUST_LIB_SRC="$rust_src" LIBCLANG_PATH=/usr/lib/llvm-19/lib \
		KBUILD_BUILD_USER=vireo KBUILD_BUILD_HOST=vireo "$@"
}

mkdir -p "$build"
kmake -s tinyconfig
cat "$@" >>"$build/.config"
kmake -s olddefconfig 2>/dev/null
# Of what the fragments say of an option, the last counts; an option that is off may also be absent.
missing=$(awk 'match($0, /CONFIG_[A-Z0-9_]+/) && /^(CONFIG_[A-Z0-9_]+=|# CONFIG_[A-Z0-9_]+ is not set)/ {
		option = substr($0, RSTART, RLENGTH)
		if (FILENAME != result) last[option] = $0
		else if (/^CONFIG/) got[option] = $0
	}
	END {
		for (option in last)
			if (last[option] ~ /^#/ ? option in got : got[option] != last[option]) print last[option]
	}' result="$build/.config" "$@" "$build/.config")
if [ -n "$missing" ]; then
	echo "these options did not survive olddefconfig: $missing" >&2
	exit 1
fi
kmake -s rustavailable
kmake -j"$(nproc)" bzImage modules
