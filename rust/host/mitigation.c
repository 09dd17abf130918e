// SPDX-License-Identifier: GPL-2.0-only
/*
 * What keeps a guest from reading other people's data through the CPU: the level-1 data cache before an
 * entry (L1TF), branch predictions between guests, those that a guest leaves for userspace (VMSCAPE), and those
 * of return addresses that it leaves for the host (SRSO).
 *
 * The guests have no IA32_SPEC_CTRL, so the host's value stays in force while they run; buffers are cleared
 * and the return stack is refilled in entry.S.
 */
#include <linux/cpu.h>
#include <linux/gfp.h>
#include <linux/percpu.h>
#include <linux/unroll.h>
#include <asm/cpufeature.h>
#include <asm/hardirq.h>
#include <asm/msr.h>
#include <asm/nospec-branch.h>
#include <asm/processor.h>
#include "shim.h"

/* A fill of twice the size of any level-1 data cache that is affected by L1TF evicts what was there. */
#define FILL_ORDER	4
#define FILL_SIZE	(PAGE_SIZE << FILL_ORDER)
#define CACHE_LINE	64

static bool flush_needed;
static u8 *fill_pages;

/* The guest whose predictions the CPU may hold. */
static DEFINE_PER_CPU(const void *, last_guest);

int vireo_mitigation_setup(void)
{
	u64 capabilities = 0;
	unsigned int page;

	if (!boot_cpu_has_bug(X86_BUG_L1TF) || l1tf_mitigation == L1TF_MITIGATION_OFF)
		return 0;
	if (boot_cpu_has(X86_FEATURE_ARCH_CAPABILITIES))
		rdmsrq(MSR_IA32_ARCH_CAPABILITIES, capabilities);
	if (capabilities & ARCH_CAP_SKIP_VMENTRY_L1DFLUSH)
		return 0;
	if (!boot_cpu_has(X86_FEATURE_FLUSH_L1D)) {
		fill_pages = (u8 *)__get_free_pages(GFP_KERNEL, FILL_ORDER);
		if (!fill_pages)
			return -ENOMEM;
		/* Different contents, or a hypervisor below could merge the pages. */
		for (page = 0; page < 1 << FILL_ORDER; page++)
			memset(fill_pages + page * PAGE_SIZE, page + 1, PAGE_SIZE);
	}
	flush_needed = true;
	return 0;
}

void vireo_mitigation_cleanup(void)
{
	free_pages((unsigned long)fill_pages, FILL_ORDER);
	fill_pages = NULL;
}

/*
 * Says that data of the host's have gone through the cache: on the way from userspace or another thread,
 * and in handlers that read much. Interrupt handlers set the same flag; KVM knows it, too, and whoever
 * flushes clears it.
 */
void vireo_l1d_used(void)
{
	if (flush_needed)
		raw_cpu_write(irq_stat.kvm_cpu_l1tf_flush_l1d, 1);
}

static noinstr void fill_l1d(void)
{
	const u8 *pages = fill_pages;
	unsigned long i;
	u8 byte;

	/* The pages first, so that no page walk comes between the lines. */
	for (i = 0; i < FILL_SIZE; i += PAGE_SIZE)
		asm volatile("movb %1, %0" : "=q" (byte) : "m" (pages[i]));
	asm volatile("lfence" : : : "memory");
	/* A thousand lines: unrolled, as counting them would cost more than reading them. */
	unrolled_count(16)
	for (i = 0; i < FILL_SIZE; i += CACHE_LINE)
		asm volatile("movb %1, %0" : "=q" (byte) : "m" (pages[i]));
	asm volatile("lfence" : : : "memory");
}

/* Before an entry, with interrupts off. */
noinstr void vireo_l1d_flush(void)
{
	if (likely(!flush_needed) || !__this_cpu_read(irq_stat.kvm_cpu_l1tf_flush_l1d))
		return;
	__this_cpu_write(irq_stat.kvm_cpu_l1tf_flush_l1d, 0);
	if (boot_cpu_has(X86_FEATURE_FLUSH_L1D))
		native_wrmsrq(MSR_IA32_FLUSH_CMD, L1D_FLUSH);
	else
		fill_l1d();
}

/* When a vCPU is put on a CPU, with interrupts off: @guest tells guests apart. */
void vireo_switch_guest(const void *guest)
{
	if (this_cpu_read(last_guest) == guest)
		return;
	this_cpu_write(last_guest, guest);
	if (static_branch_likely(&switch_vcpu_ibpb))
		indirect_branch_prediction_barrier();
}

/*
 * Before VMRUN, with GIF 0: where Linux has chosen this against SRSO, the CPU must not predict returns in the
 * host by what a guest has trained. KVM sets the bit as well, and clears it when its last VM goes, whoever else
 * needs it: so it is looked at before each entry, and never cleared, as KVM may need it.
 */
noinstr void vireo_reduce_speculation(void)
{
	u64 config;

	if (!cpu_feature_enabled(X86_FEATURE_SRSO_BP_SPEC_REDUCE))
		return;
	config = native_rdmsrq(MSR_ZEN4_BP_CFG);
	if (!(config & BIT_ULL(MSR_ZEN4_BP_CFG_BP_SPEC_REDUCE_BIT)))
		native_wrmsrq(MSR_ZEN4_BP_CFG, config | BIT_ULL(MSR_ZEN4_BP_CFG_BP_SPEC_REDUCE_BIT));
}

/* After an exit: userspace must not run on the guest's predictions. */
noinstr void vireo_guest_left(void)
{
	if (cpu_feature_enabled(X86_FEATURE_IBPB_EXIT_TO_USER))
		this_cpu_write(x86_ibpb_exit_to_user, true);
}
