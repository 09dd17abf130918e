// SPDX-License-Identifier: GPL-2.0-only
/*
 * The host's clocks, and which counter they are computed from.
 */
#include <linux/notifier.h>
#include <linux/pvclock_gtod.h>
#include <linux/timekeeper_internal.h>
#include <linux/timekeeping.h>
#include <asm/tsc.h>
#include "shim.h"

void vireo_now(struct vireo_moment *moment)
{
	struct system_time_snapshot snapshot;

	ktime_get_snapshot_id(CLOCK_REALTIME, &snapshot);
	moment->stable = snapshot.valid && snapshot.cs_id == CSID_X86_TSC;
	if (moment->stable) {
		moment->tsc = snapshot.cycles;
		moment->raw_ns = ktime_to_ns(snapshot.monoraw);
		moment->real_ns = ktime_to_ns(snapshot.systime);
	} else {
		moment->tsc = rdtsc_ordered();
		moment->raw_ns = ktime_get_raw_ns();
		moment->real_ns = ktime_get_real_ns();
	}
	moment->raw_ns += ktime_to_ns(ktime_mono_to_any(0, TK_OFFS_BOOT));
}

unsigned int vireo_clock_changes;

/* Called at each update of the clocks, under their lock, with the state they are to have. */
static int note_source(struct notifier_block *block, unsigned long stepped, void *data)
{
	static bool by_tsc;
	const struct timekeeper *clocks = data;
	bool is_tsc = clocks->cs_id == CSID_X86_TSC;

	if (is_tsc != by_tsc) {
		by_tsc = is_tsc;
		WRITE_ONCE(vireo_clock_changes, vireo_clock_changes + 1);
	}
	return NOTIFY_OK;
}

static struct notifier_block source_notifier = { .notifier_call = note_source };

int vireo_clock_watch(void)
{
	return pvclock_gtod_register_notifier(&source_notifier);
}

void vireo_clock_unwatch(void)
{
	pvclock_gtod_unregister_notifier(&source_notifier);
}
