/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What Rust cannot call by itself: inline functions and macros of the kernel, and the few symbols that
 * Linux exports to KVM's modules only (rust/README.md lists them).
 */
#ifndef VIREO_SHIM_H
#define VIREO_SHIM_H

/* Offsets within struct vireo_regs that entry.S uses; checked in shim.c. */
#define VIREO_REGS_HOST_RSP	(16 * 8)
#define VIREO_REGS_LAUNCHED	(17 * 8)

#ifndef __ASSEMBLER__

#include <linux/types.h>
#include <linux/mm_types.h>
#include <linux/rcuwait.h>
#include <linux/signal_types.h>
#include <asm/irq_vectors.h>
#include <asm/segment.h>

/* The guest's registers that VM entry and exit do not switch, in hardware order (RAX, RCX, RDX, ...). */
struct vireo_regs {
	u64 gpr[16];		/* the slot of RSP is filled from the VMCS or VMCB */
	u64 host_rsp;		/* what the VMCS holds in HOST_RSP */
	u64 launched;		/* VMRESUME instead of VMLAUNCH */
	u64 cr2;
};

/* The host's user state that a guest displaces while its vCPU is loaded. */
struct vireo_host_state {
	u64 fs_base;
	u64 kernel_gs_base;
	u16 ds, es, fs, gs, ldt;
};

/* Registers of the host that a VM exit loads and that differ between CPUs. */
struct vireo_cpu_state {
	u64 gs_base;
	u64 tr_base;
	u64 gdt_base;
	u64 idt_base;
	u64 sysenter_esp;
};

/* Selectors that a VM exit loads. */
static const u32 VIREO_KERNEL_CS = __KERNEL_CS;
static const u32 VIREO_KERNEL_DS = __KERNEL_DS;
static const u32 VIREO_KERNEL_TSS = GDT_ENTRY_TSS * 8;

/* The vector that notifies a guest of posted interrupts, or 0 where the host does not handle it. */
#if IS_ENABLED(CONFIG_KVM)
static const u32 VIREO_POSTED_VECTOR = POSTED_INTR_VECTOR;
#else
static const u32 VIREO_POSTED_VECTOR;
#endif

bool vireo_cpu_has_vmx(void);
bool vireo_cpu_has_svm(void);
int vireo_virt_get_ref(bool svm);
void vireo_virt_put_ref(bool svm);
void vireo_register_syscore(void (*resume)(void), void (*suspend)(void));
void vireo_unregister_syscore(void);

int vireo_this_cpu(void);
unsigned long vireo_irq_save(void);
void vireo_irq_restore(unsigned long flags);
int vireo_rdmsr_safe(u32 msr, u64 *value);
bool vireo_exit_work_pending(void);
int vireo_handle_exit_work(void);
void vireo_cond_resched(void);
bool vireo_alone(void);
bool vireo_wants_cpu(void);

void vireo_cpu_state(struct vireo_cpu_state *state);
void vireo_host_save(struct vireo_host_state *state);
void vireo_host_restore(const struct vireo_host_state *state);

int vireo_mitigation_setup(void);
void vireo_mitigation_cleanup(void);
void vireo_l1d_used(void);
void vireo_l1d_flush(void);
void vireo_switch_guest(const void *guest);
void vireo_reduce_speculation(void);
void vireo_guest_left(void);

int vireo_enter_vmx(struct vireo_regs *regs, u32 *reason);
int vireo_enter_svm(struct vireo_regs *regs, u64 vmcb, u64 host);
void vireo_svm_flush(u64 vmcb);
void vireo_irq_window(void);
void vireo_deliver_interrupt(u8 vector);
void vireo_machine_check(void);
void vireo_vmx_exit(void);

void vireo_fpu_sync(void);
u64 vireo_host_xcr0(void);
u64 vireo_host_xss(void);
void vireo_restore_host_debug(void);

int vireo_gup(unsigned long hva, bool write, bool wait, bool *writable, unsigned long *pfn);
void vireo_fetch(struct mm_struct *mm, unsigned long hva, bool write);
void vireo_release_pfn(unsigned long pfn);
int vireo_get_user(unsigned long hva, u64 *value);

/* What eight bytes of the VMM's memory should hold, in the bits of @mask. */
struct vireo_expected {
	u64 hva;
	u64 mask;
	u64 value;
};

bool vireo_user_holds(const struct vireo_expected *list, unsigned int count);
int vireo_user_cmpxchg(unsigned long hva, u64 *old, u64 new, unsigned int size);
int vireo_user_take(unsigned long hva, u8 *old);
bool vireo_user_store_nofault(unsigned long hva, u8 value);
unsigned int vireo_host_order(struct mm_struct *mm, unsigned long hva);
unsigned long vireo_virt_to_pfn(const void *addr);
void *vireo_pfn_to_virt(unsigned long pfn);
unsigned long vireo_alloc_pages(unsigned int order);
void vireo_free_pages(unsigned long addr, unsigned int order);

int vireo_insert_page(struct vm_area_struct *vma, unsigned long uaddr, void *kaddr);

void vireo_sigmask_enter(const sigset_t *mask);
void vireo_sigmask_leave(void);

void vireo_eventfd_signal(void *ctx);

struct vireo_event_watch;
struct vireo_event_watch *vireo_event_watch(int fd, void (*event)(void *arg), void *arg);
bool vireo_event_watch_is(const struct vireo_event_watch *watch, const void *ctx);
bool vireo_event_watch_closed(const struct vireo_event_watch *watch);
void vireo_event_unwatch(struct vireo_event_watch *watch);

void vireo_wait_init(struct rcuwait *wait);
int vireo_wait(struct rcuwait *wait, bool (*ready)(void *), void *arg);

u64 vireo_tsc_khz(void);

/* One moment of the host, by all its clocks. */
struct vireo_moment {
	u64 tsc;
	u64 raw_ns;	/* since boot, suspended time included, at the TSC's own rate */
	u64 real_ns;	/* CLOCK_REALTIME */
	bool stable;	/* the clocks are computed from the TSC */
};

void vireo_now(struct vireo_moment *moment);
int vireo_clock_watch(void);
void vireo_clock_unwatch(void);
/* How often the clocks have gone over to the TSC or left it. Written under their lock, read without. */
extern unsigned int vireo_clock_changes;
u64 vireo_run_delay(void);
void vireo_kick_cpu(int cpu);
void vireo_notify_posted(int cpu);
void vireo_call_on_cpu(int cpu);

#endif /* __ASSEMBLER__ */
#endif
