#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-only
# Makes what a guest of the nested VM boots, in .build/guest: guest.sh test|debian
# Prints the kernel's path; the initramfs is .build/guest/initrd for either.
set -euo pipefail
. "$(dirname "$(readlink -f "$0")")/lib.sh"
. "$vm_dir/progress.sh"
. "$vm_dir/apt.sh"
. "$vm_dir/initramfs.sh"

guest=$build/guest

make_guest_initramfs() {
	local root
	root=$(mktemp -d "$guest/root.XXXXXX")
	make_base "$root"
	install -m 755 "$vm_dir/guest-init" "$root/init"
	[ ! -x "$suite/vireo-load" ] || cp "$suite/vireo-load" "$root/usr/bin/"
	(cd "$root" && find . | cpio --quiet -o -H newc --owner=0:0) >"$guest/initrd.$$"
	mv "$guest/initrd.$$" "$guest/initrd"
	rm -rf "$root"
}

# Debian's stock cloud kernel, as its package has it.
get_debian_kernel() {
	local release name version folder
	release=$(. /etc/os-release && echo "$VERSION_CODENAME")
	[ ! -e "$cache/debian-guest/vmlinuz" ] || return 0
	say "downloading Debian's stock cloud kernel (usually 1 minute)"
	open_suite "$release" || die "cannot look for linux-image-cloud-amd64: $(why "$apt_log")"
	name=$(apt-cache "${apt_options[@]}" depends linux-image-cloud-amd64 | awk '$1 == "Depends:" { print $2; exit }')
	version=$(newest "${name:-linux-image-cloud-amd64}")
	[ -n "$name" ] && [ -n "$version" ] || die "Debian $release has no linux-image-cloud-amd64: use GUEST=test"
	folder=$cache/debian-guest.new
	rm -rf "$folder"
	download "$name" "$version" "$folder" || die "downloading $name failed: $(why "$apt_log")"
	dpkg-deb --fsys-tarfile "$folder"/*.deb | tar -C "$folder" -xf - --wildcards './boot/vmlinuz-*' ||
		die "unpacking $name failed: is the disk full?"
	mv "$folder"/boot/vmlinuz-* "$folder/vmlinuz"
	echo "$name $version" >"$folder/version"
	rm -rf "$folder"/*.deb "$folder/boot" "$cache/debian-guest"
	mv "$folder" "$cache/debian-guest"
}

mkdir -p "$guest"
make_guest_initramfs
case $1 in
test)
	# Uncompressed: in an emulator the decompression would take longer than the boot. Never of the debug flavour,
	# which looks for the host's mistakes.
	kernel=$(FLAVOUR='' "$vm_dir/kernel.sh")
	[ "$guest/vmlinux" -nt "$kernel/vmlinux" ] && [ "$(cat "$guest/kernel" 2>/dev/null)" = "$kernel" ] || {
		llvm-strip-19 -o "$guest/vmlinux.$$" "$kernel/vmlinux"
		mv "$guest/vmlinux.$$" "$guest/vmlinux"
		echo "$kernel" >"$guest/kernel"
	}
	echo "$guest/vmlinux"
	;;
debian)
	locked debian-guest get_debian_kernel
	echo "$cache/debian-guest/vmlinuz"
	;;
*) die "GUEST is test or debian, not '$1'" ;;
esac
