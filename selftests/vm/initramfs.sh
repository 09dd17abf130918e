# SPDX-License-Identifier: GPL-2.0-only
# Makes the initramfs of the nested VM (and the base of its guest's); sourced.

# One argument of a POSIX shell command, quoted.
quote() { printf "'%s' " "${1//\'/\'\\\'\'}"; }

# Prints the shared libraries, with the loader, that a dynamically linked program needs.
libraries() {
	[ "$(head -c 4 "$1" 2>/dev/null | tr -d '\0')" = $'\x7fELF' ] || return 0
	ldd "$1" 2>/dev/null | grep -oE '/[^ ]+' || true
}

# add_path HOST GUEST: copies a file or folder, and what its programs need, to the same place in $root.
add_path() {
	local file library
	mkdir -p "$root$(dirname "$2")"
	cp -rL --preserve=mode,timestamps "$1" "$root$2.new"
	rm -rf "$root$2"
	mv "$root$2.new" "$root$2"
	while IFS= read -r -d '' file; do
		for library in $(libraries "$file"); do
			[ -e "$root$library" ] || install -D "$library" "$root$library"
		done
	done < <(find "$root$2" -type f -perm /111 -print0)
}

# Prints the test kernel's modules that module $1 needs, and itself last, as files, in load order.
module_files() {
	local file dependency
	file=$(find "$kernel" -name "${1//_/[-_]}.ko" -print -quit)
	[ -n "$file" ] || die "the test kernel in $kernel has no module $1"
	for dependency in $(modinfo -F depends "$file" | tr ',' ' '); do
		module_files "$dependency"
	done
	echo "$file"
}

# make_base ROOT: folders and busybox.
make_base() {
	mkdir -p "$1"/{dev,etc,proc,root,run,sys,tmp,usr/bin,usr/lib/modules,usr/lib64,var,vm}
	ln -s usr/bin usr/lib usr/lib64 "$1/"
	ln -s usr/bin "$1/sbin"
	ln -s bin "$1/usr/sbin"
	ln -s ../tmp ../run "$1/var/"
	cp /usr/bin/busybox "$1/usr/bin/"
	# The links point to the path of the busybox that makes them.
	/usr/bin/busybox --install -s "$1/usr/bin"
	echo root:x:0:0:root:/root:/bin/sh >"$1/etc/passwd"
	echo root:x:0: >"$1/etc/group"
}

# make_initramfs COMMAND...: writes $work/initrd.
make_initramfs() {
	local root=$work/root add file vendor=intel
	[ "$backend" = vmx ] || vendor=amd
	make_base "$root"
	install -m 755 "$vm_dir/init" "$root/init"
	: >"$root/vm/modules"
	if [ "$with_kvm" = yes ]; then
		for file in $(module_files "kvm_$vendor" | awk '!seen[$0]++'); do
			cp "$file" "$root/lib/modules/"
			basename "$file" >>"$root/vm/modules"
		done
	fi
	if [ "$with_module" = yes ]; then
		cp "$module" "$root/lib/modules/vireo.ko"
		echo "vireo.ko $params" >>"$root/vm/modules"
	fi
	[ ! -x "$vmm" ] || cp "$vmm" "$root/usr/bin/vireo"
	for add in "${adds[@]}"; do
		add_path "${add%:*}" "${add##*:}"
	done
	echo "$token" >"$root/vm/token"
	echo "$interactive" >"$root/vm/interactive"
	{
		printf 'exec '
		! spare_cpu || printf 'taskset -c 1-%d ' "$cpus"
		for add in "$@"; do quote "$add"; done
		echo
	} >"$root/vm/command"
	(cd "$root" && find . | cpio --quiet -o -H newc --owner=0:0) >"$work/initrd" || return 1
	rm -rf "$root"
}
