// SPDX-License-Identifier: GPL-2.0-only
/*
 * Inline functions and macros of the kernel, as functions that Rust can call. No policy lives here.
 *
 * The functions under "for KVM's modules" use symbols that Linux exports to KVM only; a substitute for a
 * stock kernel belongs in their place.
 */
#include <linux/context_tracking.h>
#include <linux/entry-virt.h>
#include <linux/eventfd.h>
#include <linux/file.h>
#include <linux/irqflags.h>
#include <linux/mm.h>
#include <linux/pgtable.h>
#include <linux/poll.h>
#include <linux/rcuwait.h>
#include <linux/sched/signal.h>
#include <linux/sched/stat.h>
#include <linux/slab.h>
#include <linux/smp.h>
#include <linux/syscore_ops.h>
#include <linux/timekeeping.h>
#include <linux/uaccess.h>
#include <linux/vtime.h>
#include <trace/events/ipi.h>
#include <asm/apic.h>
#include <asm/cpu_entry_area.h>
#include <asm/debugreg.h>
#include <asm/desc.h>
#include <asm/entry-common.h>
#include <asm/fpu/api.h>
#include <asm/fpu/xcr.h>
#include <asm/fred.h>
#include <asm/fsgsbase.h>
#include <asm/mce.h>
#include <asm/mmu_context.h>
#include <asm/msr.h>
#include <asm/tsc.h>
#include <asm/virt.h>
#include <asm/vmx.h>
#include "shim.h"

static_assert(offsetof(struct vireo_regs, host_rsp) == VIREO_REGS_HOST_RSP);
static_assert(offsetof(struct vireo_regs, launched) == VIREO_REGS_LAUNCHED);

/* --- CPU features ------------------------------------------------------------------------------- */

bool vireo_cpu_has_vmx(void)
{
	return boot_cpu_has(X86_FEATURE_VMX);
}

bool vireo_cpu_has_svm(void)
{
	return boot_cpu_has(X86_FEATURE_SVM);
}

/* --- for KVM's modules -------------------------------------------------------------------------- */

int vireo_virt_get_ref(bool svm)
{
	return x86_virt_get_ref(svm ? X86_FEATURE_SVM : X86_FEATURE_VMX);
}

void vireo_virt_put_ref(bool svm)
{
	x86_virt_put_ref(svm ? X86_FEATURE_SVM : X86_FEATURE_VMX);
}

/* Makes the FPU registers those of the current fpstate. Interrupts are off. */
void vireo_fpu_sync(void)
{
	fpregs_assert_state_consistent();
	if (test_thread_flag(TIF_NEED_FPU_LOAD))
		switch_fpu_return();
}

/* Interrupts are off. */
void vireo_restore_host_debug(void)
{
	if (hw_breakpoint_active())
		hw_breakpoint_restore();
}

/* Interrupts are off: an NMI that ended the guest's run is delivered to the host here. */
static __always_inline void vireo_deliver_nmi(void)
{
	instrumentation_begin();
	x86_entry_from_kvm(EVENT_TYPE_NMI, NMI_VECTOR);
	instrumentation_end();
}

/* Interrupts are off: an interrupt that the VM exit has acknowledged is delivered to the host here. */
void vireo_deliver_interrupt(u8 vector)
{
	x86_entry_from_kvm(EVENT_TYPE_EXTINT, vector);
}

void vireo_host_save(struct vireo_host_state *state)
{
	store_ldt(state->ldt);
	savesegment(ds, state->ds);
	savesegment(es, state->es);
	current_save_fsgs();
	state->fs = current->thread.fsindex;
	state->gs = current->thread.gsindex;
	state->fs_base = current->thread.fsbase;
	state->kernel_gs_base = current->thread.gsbase;
}

/* --- the rest is exported to all modules -------------------------------------------------------- */

void vireo_host_restore(const struct vireo_host_state *state)
{
	/* A VM exit loads null selectors and maximal limits (SDM vol. 3 28.5.2). */
	if (state->ldt)
		asm volatile("lldt %0" : : "m"(state->ldt));
	if (state->gs)
		load_gs_index(state->gs);
	if (state->fs) {
		loadsegment(fs, state->fs);
		wrmsrq(MSR_FS_BASE, state->fs_base);
	}
	if (unlikely(state->ds | state->es)) {
		loadsegment(ds, state->ds);
		loadsegment(es, state->es);
	}
	invalidate_tss_limit();
	load_fixmap_gdt(raw_smp_processor_id());
	wrmsrq(MSR_KERNEL_GS_BASE, state->kernel_gs_base);
}

void vireo_cpu_state(struct vireo_cpu_state *state)
{
	int cpu = raw_smp_processor_id();
	struct desc_ptr idt;

	store_idt(&idt);
	state->idt_base = idt.address;
	state->gs_base = cpu_kernelmode_gs_base(cpu);
	state->tr_base = (unsigned long)&get_cpu_entry_area(cpu)->tss.x86_tss;
	state->gdt_base = (unsigned long)get_current_gdt_ro();
	rdmsrq(MSR_IA32_SYSENTER_ESP, state->sysenter_esp);
}

int vireo_this_cpu(void)
{
	return raw_smp_processor_id();
}

unsigned long vireo_irq_save(void)
{
	unsigned long flags;

	local_irq_save(flags);
	return flags;
}

void vireo_irq_restore(unsigned long flags)
{
	local_irq_restore(flags);
}

int vireo_rdmsr_safe(u32 msr, u64 *value)
{
	return rdmsrq_safe(msr, value);
}

bool vireo_exit_work_pending(void)
{
	return __xfer_to_guest_mode_work_pending();
}

int vireo_handle_exit_work(void)
{
	return xfer_to_guest_mode_handle_work();
}

/* Whether nobody else wants to run on this CPU. */
bool vireo_alone(void)
{
	return single_task_running();
}

void vireo_cond_resched(void)
{
	cond_resched();
}

/* Whether the current thread, which is being switched out, would rather go on. */
bool vireo_wants_cpu(void)
{
	return task_is_runnable(current);
}

/* Interrupts are off; from here to vireo_guest_end() they count as on, since they end the guest's run. */
static __always_inline void vireo_guest_begin(void)
{
	instrumentation_begin();
	vtime_account_guest_enter();
	trace_hardirqs_on_prepare();
	lockdep_hardirqs_on_prepare();
	if (!context_tracking_guest_enter())
		rcu_virt_note_context_switch();
	instrumentation_end();
	lockdep_hardirqs_on(CALLER_ADDR0);
}

static __always_inline void vireo_guest_end(void)
{
	lockdep_hardirqs_off(CALLER_ADDR0);
	context_tracking_guest_exit();
	instrumentation_begin();
	trace_hardirqs_off_finish();
	instrumentation_end();
}

int vireo_vmx_enter(struct vireo_regs *regs);

/*
 * Runs the guest of the current VMCS until its next VM exit. Interrupts are off. Returns 0, or 1 when
 * the VM-entry instruction itself failed. *@reason is the exit reason; an NMI has been handled.
 */
noinstr int vireo_enter_vmx(struct vireo_regs *regs, u32 *reason)
{
	unsigned long value = 0;
	int failed;

	vireo_guest_begin();
	if (regs->cr2 != native_read_cr2())
		native_write_cr2(regs->cr2);
	vireo_l1d_flush();
	failed = vireo_vmx_enter(regs);
	regs->cr2 = native_read_cr2();
	vireo_guest_left();

	if (likely(!failed)) {
		asm volatile("vmread %1, %0" : "=rm"(value) : "r"(0x4402UL) : "cc");
		*reason = value;
	}
	if (unlikely(!failed && *reason == 0)) {
		asm volatile("vmread %1, %0" : "=rm"(value) : "r"(0x4404UL) : "cc");
		if ((value & (INTR_INFO_INTR_TYPE_MASK | INTR_INFO_VALID_MASK)) ==
		    (INTR_TYPE_NMI_INTR | INTR_INFO_VALID_MASK))
			vireo_deliver_nmi();
	}
	vireo_guest_end();
	return failed;
}

void vireo_svm_enter(struct vireo_regs *regs, u64 vmcb, u64 host);

/*
 * Runs the guest of @vmcb until its next #VMEXIT. Interrupts are off. Returns 0, or 1 when SVM has been
 * turned off for a reboot. An NMI that ended the run has been handled.
 */
noinstr int vireo_enter_svm(struct vireo_regs *regs, u64 vmcb, u64 host)
{
	/* With GIF 0 nothing arrives until STGI, so RFLAGS.IF is free to say that interrupts end the guest's run. */
	asm goto("1: clgi\n\t" _ASM_EXTABLE(1b, %l[off]) : : : "memory" : off);
	vireo_reduce_speculation();
	vireo_guest_begin();
	raw_local_irq_enable();
	vireo_svm_enter(regs, vmcb, host);
	raw_local_irq_disable();
	vireo_guest_left();
	vireo_guest_end();
	/* NMIs are taken here. */
	asm volatile("stgi" : : : "memory");
	return 0;
off:
	return 1;
}

/*
 * Runs the guest of @vmcb, which is left before it executes anything: what counts is what VMRUN does to the
 * TLB. Interrupts are off, and the host's breakpoints are lost.
 */
void vireo_svm_flush(u64 vmcb)
{
	asm goto("1: clgi\n\t" _ASM_EXTABLE(1b, %l[off]) : : : "memory" : off);
	asm volatile("vmrun %%rax\n\tstgi" : : "a"(vmcb) : "cc", "memory");
off:
	return;
}

/* Takes the interrupts that arrived in the guest, on its account; interrupts are off before, on after. */
void vireo_irq_window(void)
{
	local_irq_enable();
	asm volatile("nop" : : : "memory");
	local_irq_disable();
	vtime_account_guest_exit();
	local_irq_enable();
}

void vireo_machine_check(void)
{
#ifdef CONFIG_X86_MCE
	struct pt_regs regs = {
		.cs = 3,	/* user mode: the fault hit a guest, not the kernel */
		.flags = X86_EFLAGS_IF,
	};

	do_machine_check(&regs);
#endif
}

u64 vireo_host_xcr0(void)
{
	return boot_cpu_has(X86_FEATURE_OSXSAVE) ? xgetbv(XCR_XFEATURE_ENABLED_MASK) : 0;
}

u64 vireo_host_xss(void)
{
	u64 xss = 0;

	if (boot_cpu_has(X86_FEATURE_XSAVES))
		rdmsrq(MSR_IA32_XSS, xss);
	return xss;
}

/* --- memory ------------------------------------------------------------------------------------- */

/*
 * Takes a reference to the page behind @hva of the current process, faulting it in. *@writable says
 * whether a guest may write to it; a read does not break copy-on-write. -EAGAIN when the page must be
 * fetched from somewhere and the caller does not want to @wait for that.
 */
int vireo_gup(unsigned long hva, bool write, bool wait, bool *writable, unsigned long *pfn)
{
	unsigned int flags = FOLL_HWPOISON | (write ? FOLL_WRITE : 0) | (wait ? 0 : FOLL_NOWAIT);
	struct page *page;
	long n;

	*writable = true;
	if (get_user_page_fast_only(hva, FOLL_WRITE, &page)) {
		*pfn = page_to_pfn(page);
		return 0;
	}
	n = get_user_pages_unlocked(hva, 1, &page, flags);
	if (n != 1)
		return n < 0 ? n : wait ? -EFAULT : -EAGAIN;
	*writable = write;
	*pfn = page_to_pfn(page);
	return 0;
}

/* Has the page behind @hva of @mm, whose users are kept, in memory when it returns, if it can be had. */
void vireo_fetch(struct mm_struct *mm, unsigned long hva, bool write)
{
	int locked = 1;

	mmap_read_lock(mm);
	get_user_pages_remote(mm, hva, 1, write ? FOLL_WRITE : 0, NULL, &locked);
	if (locked)
		mmap_read_unlock(mm);
}

void vireo_release_pfn(unsigned long pfn)
{
	put_page(pfn_to_page(pfn));
}

int vireo_get_user(unsigned long hva, u64 *value)
{
	return get_user(*value, (u64 __user *)hva);
}

/* Whether the current process' memory holds all of @list. What cannot be read does not. */
bool vireo_user_holds(const struct vireo_expected *list, unsigned int count)
{
	const struct vireo_expected *end = list + count, *at;
	u64 differing = 0;

	for (at = list; at < end; at++) {
		if (!access_ok((void __user *)at->hva, sizeof(u64)))
			return false;
	}
	if (!count || !user_read_access_begin((void __user *)list->hva, sizeof(u64)))
		return false;
	for (at = list; at < end; at++) {
		u64 seen;

		unsafe_get_user(seen, (u64 __user *)at->hva, fault);
		differing |= (seen ^ at->value) & at->mask;
	}
	user_read_access_end();
	return !differing;
fault:
	user_read_access_end();
	return false;
}

/*
 * Replaces *@old by @new at @hva of the current process, atomically. Returns 0, 1 when another value was
 * there (it is in *@old then), or an error.
 */
int vireo_user_cmpxchg(unsigned long hva, u64 *old, u64 new, unsigned int size)
{
	if (!IS_ALIGNED(hva, size) || !access_ok((void __user *)hva, size))
		return -EFAULT;
	switch (size) {
	case 1:
		return __try_cmpxchg_user((u8 __user *)hva, (u8 *)old, (u8)new, fault1);
	case 2:
		return __try_cmpxchg_user((u16 __user *)hva, (u16 *)old, (u16)new, fault2);
	case 4:
		return __try_cmpxchg_user((u32 __user *)hva, (u32 *)old, (u32)new, fault4);
	case 8:
		return __try_cmpxchg_user((u64 __user *)hva, old, new, fault8);
	default:
		return -EINVAL;
	}
}

/* Replaces the byte at @hva of the current process by 0, atomically; *@old is what was there. */
int vireo_user_take(unsigned long hva, u8 *old)
{
	u8 value = 0;

	if (!user_access_begin((void __user *)hva, sizeof(value)))
		return -EFAULT;
	asm goto("1: xchgb %0, %1\n\t" _ASM_EXTABLE_UA(1b, %l[fault])
		 : "+q"(value), "+m"(*(u8 __user *)hva) : : "memory" : fault);
	user_access_end();
	*old = value;
	return 0;
fault:
	user_access_end();
	return -EFAULT;
}

/* Stores a byte at @hva of the current process, if that needs no page to be fetched. Any context. */
bool vireo_user_store_nofault(unsigned long hva, u8 value)
{
	return !copy_to_user_nofault((void __user *)hva, &value, sizeof(value));
}

/*
 * Returns the order of the host's mapping of @hva: 0, 9 (2 MiB) or 18 (1 GiB). The answer is stale as
 * soon as it is given: it may be used only under a check that no invalidation has come between.
 */
unsigned int vireo_host_order(struct mm_struct *mm, unsigned long hva)
{
	unsigned int order = 0;
	unsigned long flags;
	pgd_t pgd;
	p4d_t p4d;
	pud_t pud;
	pmd_t pmd;

	/* Interrupts off keep the tables from being freed; each entry is read once. */
	local_irq_save(flags);
	pgd = READ_ONCE(*pgd_offset(mm, hva));
	if (pgd_none(pgd))
		goto out;
	p4d = READ_ONCE(*p4d_offset(&pgd, hva));
	if (p4d_none(p4d) || !p4d_present(p4d))
		goto out;
	pud = READ_ONCE(*pud_offset(&p4d, hva));
	if (pud_none(pud) || !pud_present(pud))
		goto out;
	if (pud_leaf(pud)) {
		order = PUD_SHIFT - PAGE_SHIFT;
		goto out;
	}
	pmd = READ_ONCE(*pmd_offset(&pud, hva));
	if (pmd_present(pmd) && pmd_leaf(pmd))
		order = PMD_SHIFT - PAGE_SHIFT;
out:
	local_irq_restore(flags);
	return order;
}

unsigned long vireo_virt_to_pfn(const void *addr)
{
	return page_to_pfn(virt_to_page(addr));
}

void *vireo_pfn_to_virt(unsigned long pfn)
{
	return page_to_virt(pfn_to_page(pfn));
}

int vireo_insert_page(struct vm_area_struct *vma, unsigned long uaddr, void *kaddr)
{
	vm_flags_set(vma, VM_MIXEDMAP);
	return vm_insert_page(vma, uaddr, virt_to_page(kaddr));
}

unsigned long vireo_alloc_pages(unsigned int order)
{
	return __get_free_pages(GFP_KERNEL_ACCOUNT | __GFP_ZERO, order);
}

void vireo_free_pages(unsigned long addr, unsigned int order)
{
	free_pages(addr, order);
}

/* --- eventfds ----------------------------------------------------------------------------------- */

void vireo_eventfd_signal(void *ctx)
{
	eventfd_signal(ctx);
}

/* A caller who is told of each signal of an eventfd instead of those who read it. */
struct vireo_event_watch {
	struct eventfd_ctx *ctx;
	wait_queue_head_t *queue;
	wait_queue_entry_t wait;
	poll_table poll;
	int error;
	bool closed;
	void (*event)(void *arg);
	void *arg;
};

/* Called with the queue's lock held and interrupts off. */
static int vireo_event_wake(wait_queue_entry_t *wait, unsigned int mode, int sync, void *key)
{
	struct vireo_event_watch *watch = container_of(wait, struct vireo_event_watch, wait);
	__poll_t flags = key_to_poll(key);
	u64 count;

	if (flags & EPOLLHUP)
		WRITE_ONCE(watch->closed, true);
	if (!(flags & EPOLLIN))
		return 0;
	eventfd_ctx_do_read(watch->ctx, &count);
	watch->event(watch->arg);
	return 1;
}

static void vireo_event_attach(struct file *file, wait_queue_head_t *queue, poll_table *poll)
{
	struct vireo_event_watch *watch = container_of(poll, struct vireo_event_watch, poll);

	init_waitqueue_func_entry(&watch->wait, vireo_event_wake);
	watch->queue = queue;
	watch->error = add_wait_queue_priority_exclusive(queue, &watch->wait);
}

/*
 * Calls @event(@arg) for each signal of the eventfd @fd, in any context and with interrupts off, and once for
 * those that came before. An eventfd has one watch at most: -EBUSY.
 */
struct vireo_event_watch *vireo_event_watch(int fd, void (*event)(void *arg), void *arg)
{
	struct vireo_event_watch *watch;
	unsigned long flags;
	u64 count;
	int error;

	CLASS(fd, f)(fd);
	if (fd_empty(f))
		return ERR_PTR(-EBADF);
	watch = kzalloc(sizeof(*watch), GFP_KERNEL_ACCOUNT);
	if (!watch)
		return ERR_PTR(-ENOMEM);
	watch->event = event;
	watch->arg = arg;
	watch->error = -EINVAL;
	watch->ctx = eventfd_ctx_fileget(fd_file(f));
	if (IS_ERR(watch->ctx)) {
		error = PTR_ERR(watch->ctx);
		kfree(watch);
		return ERR_PTR(error);
	}
	init_poll_funcptr(&watch->poll, vireo_event_attach);
	if (vfs_poll(fd_file(f), &watch->poll) & EPOLLIN && !watch->error) {
		spin_lock_irqsave(&watch->queue->lock, flags);
		eventfd_ctx_do_read(watch->ctx, &count);
		if (count)
			event(arg);
		spin_unlock_irqrestore(&watch->queue->lock, flags);
	}
	if (watch->error) {
		error = watch->error;
		eventfd_ctx_put(watch->ctx);
		kfree(watch);
		return ERR_PTR(error);
	}
	return watch;
}

bool vireo_event_watch_is(const struct vireo_event_watch *watch, const void *ctx)
{
	return watch->ctx == ctx;
}

/* Whether all descriptors of the eventfd are closed. */
bool vireo_event_watch_closed(const struct vireo_event_watch *watch)
{
	return READ_ONCE(watch->closed);
}

/* After this the callback runs no more. */
void vireo_event_unwatch(struct vireo_event_watch *watch)
{
	u64 count;

	eventfd_ctx_remove_wait_queue(watch->ctx, &watch->wait, &count);
	eventfd_ctx_put(watch->ctx);
	kfree(watch);
}

/* --- signals ------------------------------------------------------------------------------------ */

/* The mask that KVM_SET_SIGNAL_MASK asks for holds during KVM_RUN only. */
void vireo_sigmask_enter(const sigset_t *mask)
{
	sigset_t new = *mask;

	sigprocmask(SIG_SETMASK, &new, &current->real_blocked);
}

void vireo_sigmask_leave(void)
{
	sigprocmask(SIG_SETMASK, &current->real_blocked, NULL);
	sigemptyset(&current->real_blocked);
}

/* --- waiting, time, other CPUs ------------------------------------------------------------------ */

void vireo_wait_init(struct rcuwait *wait)
{
	rcuwait_init(wait);
}

/* Sleeps until @ready(@arg) or a signal; returns 0 or -EINTR. */
int vireo_wait(struct rcuwait *wait, bool (*ready)(void *), void *arg)
{
	return rcuwait_wait_event(wait, ready(arg), TASK_INTERRUPTIBLE);
}

u64 vireo_tsc_khz(void)
{
	return tsc_khz;
}

/* How long the current thread has been ready to run without running, in ns. */
u64 vireo_run_delay(void)
{
	return current->sched_info.run_delay;
}

void vireo_kick_cpu(int cpu)
{
	if (cpu_online(cpu))
		smp_send_reschedule(cpu);
}

/* Has the guest that runs on @cpu take what has been posted to it. */
void vireo_notify_posted(int cpu)
{
	if (cpu_online(cpu))
		__apic_send_IPI_mask(cpumask_of(cpu), POSTED_INTR_VECTOR);
}

static void vireo_nop(void *unused)
{
}

/* Returns when @cpu has taken an interrupt, hence left the guest that it ran. */
void vireo_call_on_cpu(int cpu)
{
	smp_call_function_single(cpu, vireo_nop, NULL, 1);
}

/* --- suspend, shutdown and kexec ---------------------------------------------------------------- */

static void (*vireo_resume_hook)(void);
static void (*vireo_suspend_hook)(void);

static int vireo_syscore_suspend(void *unused)
{
	vireo_suspend_hook();
	return 0;
}

static void vireo_syscore_resume(void *unused)
{
	vireo_resume_hook();
}

static void vireo_syscore_stop_cpu(void *unused)
{
	vireo_suspend_hook();
}

/* Firmware and the next kernel need INIT, which VMX operation blocks. */
static void vireo_syscore_shutdown(void *unused)
{
	on_each_cpu(vireo_syscore_stop_cpu, NULL, 1);
}

static const struct syscore_ops vireo_syscore_ops = {
	.suspend = vireo_syscore_suspend,
	.resume = vireo_syscore_resume,
	.shutdown = vireo_syscore_shutdown,
};

static struct syscore vireo_syscore = {
	.ops = &vireo_syscore_ops,
};

void vireo_register_syscore(void (*resume)(void), void (*suspend)(void))
{
	vireo_resume_hook = resume;
	vireo_suspend_hook = suspend;
	register_syscore(&vireo_syscore);
}

void vireo_unregister_syscore(void)
{
	unregister_syscore(&vireo_syscore);
}
