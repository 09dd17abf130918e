# SPDX-License-Identifier: GPL-2.0-only
# The commands; README.md says what they show. The module's objects are in Kbuild.

# What the nested VM offers (vmx or svm), the guest to boot in it (test or debian), and a kernel build folder
# to use in place of the project's own.
BACKEND ?= vmx
GUEST ?= test
KDIR ?=
# The test kernel's flavour: the usual one, or debug (KASAN, lockdep, kmemleak and so on).
FLAVOUR ?=
export KDIR FLAVOUR

VM := selftests/vm

.PHONY: run shell test quick check fuzz bench setup kernel modules vmm clean help

help:
	@echo 'make run      boot a Linux guest on vireo.ko in a nested VM; ends when the guest powers off'
	@echo 'make shell    the same, with a shell in the guest'
	@echo 'make test     every test'
	@echo 'make quick    the module built and tried under SVM, in less than a minute'
	@echo 'make check    the tests that need no VM: fmt, clippy, unit tests, docs'
	@echo 'make fuzz     long tests of the emulator: 10 million instructions beside the CPU, fuzz targets'
	@echo 'make bench    instructions per operation, beside KVM'
	@echo 'make setup | kernel | modules | vmm    the parts: packages, test kernel, vireo.ko, the vireo VMM'
	@echo 'make clean    remove what was built in this tree (the cache folder stays)'
	@echo 'Variables: BACKEND=vmx|svm  GUEST=test|debian  KDIR=a built kernel of your own  FLAVOUR=debug'

setup:
	@$(VM)/setup.sh

kernel: setup
	@$(VM)/kernel.sh

modules: setup
	@$(VM)/module.sh

vmm: setup
	@$(VM)/cargo.sh userspace-vmm

run: modules vmm
	@$(VM)/boot.sh $(BACKEND) $(GUEST) hello

shell: modules vmm
	@$(VM)/boot.sh $(BACKEND) $(GUEST) shell

test:
	@$(VM)/all test

quick:
	@$(VM)/all quick

check: setup
	@$(VM)/all check

fuzz:
	@$(VM)/setup.sh g++
	@selftests/fuzz/run

bench: modules
	@$(VM)/bench.sh $(BACKEND)

clean:
	@rm -rf .build
	@for package in selftests/unit selftests/suite selftests/fuzz userspace-vmm; do rm -rf $$package/target; done
