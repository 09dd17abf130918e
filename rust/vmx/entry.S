/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The VMX world switch: loads the guest's general-purpose registers, enters, and stores them at the exit.
 * All policy is in Rust; this file knows only struct vireo_regs.
 */
#include <linux/linkage.h>
#include <asm/asm.h>
#include <asm/nospec-branch.h>
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
	push	%rdi
	mov	8(%rsp), %rdi
	mov	%rax, 0x00(%rdi)
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
	movq	$1, VIREO_REGS_LAUNCHED(%rdi)
	xor	%ebx, %ebx

.Ldone:
	/* No guest value may stay in a register that the host could use speculatively. */
	xor	%eax, %eax
	xor	%ecx, %ecx
	xor	%edx, %edx
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
