/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The SVM world switch: loads the guest's registers, enters, stores them at the exit, and gives the host back
 * what VMRUN does not switch. All policy is in Rust; this file knows only struct vireo_regs.
 */
#include <linux/linkage.h>
#include <asm/asm.h>
#include <asm/nospec-branch.h>
#include "host/regs.h"
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
	LOAD_GUEST_REGS
	ALTERNATIVE "", __CLEAR_CPU_BUFFERS, X86_FEATURE_CLEAR_CPU_BUF_VM

	vmrun	%rax

	/* RAX is the VMCB's address again. */
	STORE_GUEST_REGS
	vmsave	%rax
	pop	%rax
	pop	%rax
	vmload	%rax

	/* Before the first unbalanced RET. */
	FILL_RETURN_BUFFER %rax, RSB_CLEAR_LOOPS, X86_FEATURE_RSB_VMEXIT
	/* Before any RET: a guest may have trained it (retbleed, SRSO). */
	UNTRAIN_RET_VM

	xor	%ebx, %ebx
	CLEAR_GUEST_REGS
	pop	%rbx
	pop	%r12
	pop	%r13
	pop	%r14
	pop	%r15
	pop	%rbp
	RET
SYM_FUNC_END(vireo_svm_enter)
