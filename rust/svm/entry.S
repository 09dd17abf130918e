/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The SVM world switch: loads the guest's registers, enters, stores them at the exit, and gives the host back
 * what VMRUN does not switch. All policy is in Rust; this file knows only struct vireo_regs.
 */
#include <linux/linkage.h>
#include <asm/asm.h>
#include <asm/nospec-branch.h>
#include "host/shim.h"

	.section .noinstr.text, "ax"

/*
 * void vireo_svm_enter(struct vireo_regs *regs, u64 vmcb, u64 host)
 *
 * @vmcb and @host are physical addresses: the guest's VMCB, and one that VMSAVE has filled with the host's
 * state. GIF is 0, so nothing interrupts between the entry and the last instruction here, where RSP is the
 * host's again but the FS and GS bases, the task register and the LDT are not yet.
 */
SYM_FUNC_START(vireo_svm_enter)
	push	%rbp
	mov	%rsp, %rbp
	push	%r15
	push	%r14
	push	%r13
	push	%r12
	push	%rbx
	push	%rdx
	push	%rdi

	mov	%rsi, %rax
	vmload	%rax
	/* RAX and RSP are in the VMCB. */
	mov	0x08(%rdi), %rcx
	mov	0x10(%rdi), %rdx
	mov	0x18(%rdi), %rbx
	mov	0x28(%rdi), %rbp
	mov	0x30(%rdi), %rsi
	mov	0x40(%rdi), %r8
	mov	0x48(%rdi), %r9
	mov	0x50(%rdi), %r10
	mov	0x58(%rdi), %r11
	mov	0x60(%rdi), %r12
	mov	0x68(%rdi), %r13
	mov	0x70(%rdi), %r14
	mov	0x78(%rdi), %r15
	mov	0x38(%rdi), %rdi
	ALTERNATIVE "", __CLEAR_CPU_BUFFERS, X86_FEATURE_CLEAR_CPU_BUF_VM

	vmrun	%rax

	/* RAX is the VMCB's address again. */
	xchg	%rdi, (%rsp)
	mov	%rcx, 0x08(%rdi)
	mov	%rdx, 0x10(%rdi)
	mov	%rbx, 0x18(%rdi)
	mov	%rbp, 0x28(%rdi)
	mov	%rsi, 0x30(%rdi)
	popq	0x38(%rdi)
	mov	%r8, 0x40(%rdi)
	mov	%r9, 0x48(%rdi)
	mov	%r10, 0x50(%rdi)
	mov	%r11, 0x58(%rdi)
	mov	%r12, 0x60(%rdi)
	mov	%r13, 0x68(%rdi)
	mov	%r14, 0x70(%rdi)
	mov	%r15, 0x78(%rdi)
	vmsave	%rax
	pop	%rax
	vmload	%rax

	/* Before the first unbalanced RET. */
	FILL_RETURN_BUFFER %rax, RSB_CLEAR_LOOPS, X86_FEATURE_RSB_VMEXIT
	/* Before any RET: a guest may have trained it (retbleed, SRSO). */
	UNTRAIN_RET_VM

	/* No guest value may stay in a register that the host could use speculatively. */
	xor	%ecx, %ecx
	xor	%edx, %edx
	xor	%ebx, %ebx
	xor	%esi, %esi
	xor	%edi, %edi
	xor	%ebp, %ebp
	xor	%r8d, %r8d
	xor	%r9d, %r9d
	xor	%r10d, %r10d
	xor	%r11d, %r11d
	xor	%r12d, %r12d
	xor	%r13d, %r13d
	xor	%r14d, %r14d
	xor	%r15d, %r15d
	pop	%rbx
	pop	%r12
	pop	%r13
	pop	%r14
	pop	%r15
	pop	%rbp
	RET
SYM_FUNC_END(vireo_svm_enter)
