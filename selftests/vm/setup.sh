#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-only
# Installs what a fresh Debian 12 lacks: packages as root or through sudo, bindgen into the cache folder.
# setup.sh [PACKAGE...]: those too.
set -euo pipefail
. "$(dirname "$(readlink -f "$0")")/lib.sh"
. "$vm_dir/progress.sh"

bindgen_version=0.71.1
packages=(
	# the kernel and the module
	rustc-web rust-web-src clang-19 lld-19 llvm-19 libclang-19-dev flex bison libelf-dev libssl-dev bc cpio kmod
	xz-utils make gcc libc6-dev binutils python3 debian-archive-keyring ca-certificates
	# the nested VM
	bochs bochsbios vgabios qemu-system-x86 qemu-system-data seabios busybox-static
)
# A cargo that is there already (rustup's) is used as it is.
command -v cargo >/dev/null || packages+=(cargo-web rustfmt-web rust-web-clippy)

packages+=("$@")

missing_packages() {
	local package
	for package in "${packages[@]}"; do
		[ "$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null)" = installed ] || echo "$package"
	done
}

install_packages() {
	local as_root=() log=$cache/install.log
	command -v apt-get >/dev/null ||
		die "this is not a Debian system: install the equivalents of these yourself: $*"
	if [ "$(id -u)" -ne 0 ]; then
		command -v sudo >/dev/null && { [ -t 0 ] || sudo -n true 2>/dev/null; } ||
			die "packages are missing and sudo does not work here; as root: apt-get install $*"
		as_root=(sudo)
		sudo -v || die "packages are missing and sudo was refused; as root: apt-get install $*"
	fi
	say "installing $# packages (usually 2 minutes, 300 MB): $*"
	measure() { tail -n 1 "$log" | cut -c 1-60; }
	with_progress "$log" measure "${as_root[@]}" sh -c 'apt-get -q update && exec env \
		DEBIAN_FRONTEND=noninteractive apt-get -q -y --no-install-recommends install "$@"' sh "$@" ||
		die "installing packages failed: $(why "$log")"
}

install_bindgen() {
	local log=$cache/bindgen.log
	[ "$("$cache/tools/bin/bindgen" --version 2>/dev/null)" != "bindgen $bindgen_version" ] || return 0
	say "building bindgen $bindgen_version (usually 1 minute)"
	measure() { echo "$(grep -c Compiling "$log") crates"; }
	with_progress "$log" measure cargo install --locked --force --root "$cache/tools" \
		--version "$bindgen_version" bindgen-cli ||
		die "building bindgen failed: $(why "$log")"
}

mkdir -p "$cache" 2>/dev/null && [ -w "$cache" ] || die "cannot write $cache: set XDG_CACHE_HOME to a folder of yours"
# One query answers the usual case.
if ! dpkg-query -W -f '${db:Status-Status}\n' "${packages[@]}" 2>/dev/null |
	awk -v want="${#packages[@]}" '$1 == "installed" { n++ } END { exit n != want }'; then
	missing=$(missing_packages)
	[ -z "$missing" ] || locked setup install_packages $missing
fi
[ -x "$cache/tools/bin/bindgen" ] || locked setup install_bindgen
