#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-only
# Prints the folder of the built test kernel, of the flavour that FLAVOUR names. Builds it first when the cache has
# none for the present configuration and tools. KDIR names another built kernel, which is checked.
set -euo pipefail
. "$(dirname "$(readlink -f "$0")")/lib.sh"
. "$vm_dir/progress.sh"
. "$vm_dir/apt.sh"

tested_package=linux-source-7.3
tested_version=7.3.4-1~bpo13+1
# Where the source is looked for, in this order.
suites=(trixie-backports forky sid)
# Raise when kernel-build.sh changes what it builds.
recipe=1
configs=("$vm_dir/kernel.config")
[ -z "$flavour" ] || configs+=("$vm_dir/kernel-$flavour.config")
rustc=${RUSTC:-/usr/bin/rustc}

# check_kernel FOLDER: dies with the reason when the folder is no kernel build that the module can use.
check_kernel() {
	local auto=$1/include/config/auto.conf want built_by ours
	[ -d "$1" ] || die "KDIR: there is no folder $1"
	[ -f "$auto" ] && [ -f "$1/Module.symvers" ] && [ -f "$1/vmlinux" ] ||
		die "KDIR: $1 is not a built kernel (vmlinux, Module.symvers or include/config/auto.conf is missing): build it first"
	for want in "RUST=y:the module is written in Rust" "MODULES=y:it is a module" \
		"KVM=m:it brings the virtualisation core that the module shares" "KVM_INTEL=m:so" "KVM_AMD=m:so" \
		"MODULE_ALLOW_MISSING_NAMESPACE_IMPORTS=y:the module uses symbols exported for KVM" \
		"PVH=y:the nested VM boots vmlinux directly" "BLK_DEV_INITRD=y:the nested VM boots an initramfs" \
		"SERIAL_8250_CONSOLE=y:the nested VM's console is serial" "DEVTMPFS=y:the nested VM's /dev"; do
		grep -qx "CONFIG_${want%%:*}" "$auto" ||
			die "KDIR: the kernel in $1 lacks CONFIG_${want%%:*} (${want#*:}): set it and rebuild that kernel"
	done
	built_by=$(sed -n 's/^CONFIG_RUSTC_VERSION_TEXT="\?\([^"]*\)"\?/\1/p' "$auto")
	ours=$("$rustc" --version) || die "there is no $rustc: install rustc-web, or set RUSTC"
	[ "$built_by" = "$ours" ] ||
		die "KDIR: that kernel was built by $built_by, but $rustc is $ours: rebuild it, or set RUSTC to its compiler"
}

# Sets $package, $version and $suite to the source to use: the tested one, else the nearest other 7.x.
choose_source() {
	local candidate failure=''
	for suite in "${suites[@]}"; do
		open_suite "$suite" || {
			failure=$(why "$apt_log")
			continue
		}
		# By distance from the tested minor version, the tested package first.
		for candidate in $(apt-cache "${apt_options[@]}" pkgnames linux-source-7. |
			awk -F. -v minor="${tested_package##*.}" '$2 ~ /^[0-9]+$/ { d = $2 - minor; print (d < 0 ? -d : d), $0 }' |
			sort -n | cut -d ' ' -f 2); do
			package=$candidate version=$(newest "$candidate")
			[ -z "$version" ] || return 0
		done
	done
	[ -z "$failure" ] || die "cannot look for the kernel source: $failure"
	die "no suite of ${suites[*]} has a linux-source-7.x any more: build a 7.x kernel yourself and set KDIR"
}

# Sets $source to the unpacked kernel source.
get_source() {
	local deb folder
	source=$cache/src/${tested_package}_$tested_version
	[ ! -d "$source" ] || return 0
	say "looking for the kernel source ($tested_package $tested_version in Debian's ${suites[0]})"
	choose_source
	[ "$version" = "$tested_version" ] ||
		say "NOTE: $tested_version is gone; taking $package $version from $suite, which is not the tested version"
	source=$cache/src/${package}_$version
	[ ! -d "$source" ] || return 0
	# What an interrupted run left is of no use; the lock makes this name ours.
	folder=$cache/src/unpack
	rm -rf "$folder"
	mkdir -p "$folder"
	say "downloading $package $version (usually 1 minute)"
	download "$package" "$version" "$folder" || die "downloading $package failed: $(why "$apt_log")"
	say "unpacking it (usually 1 minute, 1.8 GB)"
	deb=$(echo "$folder"/*.deb)
	measure() { du -sh "$folder" 2>/dev/null | cut -f 1; }
	with_progress "$cache/src/log" measure sh -ec 'dpkg -x "$1" "$2" && rm "$1" && mkdir "$2/tree" &&
		tar -C "$2/tree" --strip-components=1 -xf "$2"/usr/src/linux-source-*.tar.xz' sh "$deb" "$folder" ||
		die "unpacking $package failed: $(why "$cache/src/log")"
	mv "$folder/tree" "$source"
	rm -rf "$folder"
}

build_kernel() {
	local log=$folder.log name="${flavour:+$flavour flavour of the }test kernel"
	[ ! -e "$folder/.complete" ] || return 0
	[ "$(df --output=avail -k "$cache" | tail -n 1)" -gt 4000000 ] ||
		die "the disk is nearly full: the test kernel needs 4 GB where $cache is; free some, or set XDG_CACHE_HOME"
	get_source
	say "building the $name with $(nproc) CPUs (usually $((30 / $(nproc) + 1)) minutes; log in $log)"
	# An interrupted build goes on where it was.
	lines=2500
	measure() { echo "$(($(wc -l <"$log") * 100 / lines))%"; }
	with_progress "$log" measure env BINDGEN="$cache/tools/bin/bindgen" RUSTC="$rustc" \
		"$vm_dir/kernel-build.sh" "$source" "$folder" "${configs[@]}" ||
		die "building the $name failed: $(why "$log")"
	# Modules are built against headers, scripts and Rust metadata; the kernel's own objects are not needed.
	find "$folder" \( -name '*.o' -o -name '*.a' -o -name '*.cmd' \) -not -path '*/scripts/*' -not -path '*/tools/*' -delete
	rm -f "$folder/vmlinux.unstripped"
	basename "$source" >"$folder/.complete"
}

if [ -n "${KDIR:-}" ]; then
	check_kernel "$KDIR"
	readlink -f "$KDIR"
	exit
fi
tools=$(dpkg-query -W -f '${Package} ${Version}\n' rustc-web clang-19 lld-19 2>/dev/null || true)
key=$(cat "${configs[@]}" - <<<"$tested_version $recipe $tools" | sha256sum | cut -c 1-12)
folder=$cache/kernel-$key
if [ ! -e "$folder/.complete" ]; then
	"$vm_dir/setup.sh"
	locked kernel build_kernel
fi
[ "$(cat "$folder/.complete")" = "${tested_package}_$tested_version" ] ||
	say "NOTE: the test kernel is $(cat "$folder/.complete"), not the tested ${tested_package}_$tested_version"
echo "$folder"
