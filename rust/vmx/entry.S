/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The VMX world switch: loads the guest's general-purpose registers, enters, and stores them at the exit.
 * All policy is in Rust; this file knows only struct vireo_regs.
 */
#include <linux/linkage.h>
#include <asm/asm.h>
#include <asm/nospec-branch.h>
#include "host/regs.h"
#include "host/shim.h"

#define HOST_RSP_FIELD	0x6c14

	.section .noinstr.text, "ax"

/*
 * int vireo_vmx_enter(struct vireo_regs *regs)
 *
 * Returns 0 after a VM exit, 1 when VMLAUNCH or VMRESUME failed. The stack at the exit is the one at the
 * entry: HOST_RSP is written only when it has moved.
 */
SYM_FUNC_START(vireo_vmx_enter)
	push	%rbp
	mov	%rsp, %rbp
	push	%r15
	push	%r14
	push	%r13
	push	%r12
	push	%rbx
	push	%rdi

	cmp	%rsp, VIREO_REGS_HOST_RSP(%rdi)
	je	1f
	mov	%rsp, VIREO_REGS_HOST_RSP(%rdi)
	mov	$HOST_RSP_FIELD, %eax
	vmwrite	%rsp, %rax
1:
	/* CF, below, says "not launched": ZF would not do, as VERW changes it. */
	cmpq	$1, VIREO_REGS_LAUNCHED(%rdi)
	mov	0x00(%rdi), %rax
	LOAD_GUEST_REGS
	ALTERNATIVE "", __CLEAR_CPU_BUFFERS, X86_FEATURE_CLEAR_CPU_BUF_VM
	jb	.Llaunch

	/* The exit resumes at vireo_vmx_exit with this very stack. */
	UNWIND_HINT_SAVE
.Lresume:
	vmresume
	jmp	.Lfail
.Llaunch:
	vmlaunch
	jmp	.Lfail

	/* A CPU whose VMX was turned off for a reboot raises #UD: that is a failed entry too. */
	_ASM_EXTABLE(.Lresume, .Lfail)
	_ASM_EXTABLE(.Llaunch, .Lfail)

SYM_INNER_LABEL_ALIGN(vireo_vmx_exit, SYM_L_GLOBAL)
	UNWIND_HINT_RESTORE
	ENDBR
	STORE_GUEST_REGS
	mov	%rax, 0x00(%rdi)
	movq	$1, VIREO_REGS_LAUNCHED(%rdi)
	xor	%ebx, %ebx

.Ldone:
	xor	%eax, %eax
	CLEAR_GUEST_REGS
	/* Before the first unbalanced RET. */
	FILL_RETURN_BUFFER %rcx, RSB_CLEAR_LOOPS, X86_FEATURE_RSB_VMEXIT, X86_FEATURE_RSB_VMEXIT_LITE
	CLEAR_BRANCH_HISTORY_VMEXIT
	mov	%ebx, %eax
	pop	%rdi
	pop	%rbx
	pop	%r12
	pop	%r13
	pop	%r14
	pop	%r15
	pop	%rbp
	RET

.Lfail:
	mov	$1, %ebx
	jmp	.Ldone
SYM_FUNC_END(vireo_vmx_enter)
