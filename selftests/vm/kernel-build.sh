#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-only
# Configures and builds the test kernel: kernel-build.sh SOURCE BUILD CONFIG-FRAGMENT...
# The fragments are merged onto tinyconfig; a line that does not survive is an error.
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
missing=$(grep -hE '^(CONFIG_[A-Z0-9_]+=|# CONFIG_[A-Z0-9_]+ is not set)' "$@" |
	grep -vxFf "$build/.config" || true)
if [ -n "$missing" ]; then
	echo "these options did not survive olddefconfig: $missing" >&2
	exit 1
fi
kmake -s rustavailable
kmake -j"$(nproc)" bzImage modules
