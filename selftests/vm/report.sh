# SPDX-License-Identifier: GPL-2.0-only
# Finds what a kernel reports about itself in a console log; sourced.

# What begins a report, after the time stamp. The stamp keeps a program's own "BUG:" from counting.
report_start='(WARNING: |BUG: |Oops|general protection fault|kernel BUG at |Kernel panic|INFO: task |INFO: rcu|rcu: INFO: |INFO: lockdep|INFO: trying to register|\[ BUG: |ODEBUG: | *not ok [0-9]| *# .*(EXPECTATION|ASSERTION) FAILED|UBSAN: |KASAN: |KFENCE: |kmemleak: ([1-9][0-9]* new|unreferenced object|.*(disabled|Memory pool empty|Cannot allocate))|unchecked MSR access|=====+ *$|watchdog: BUG|refcount_t: |list_(add|del) corruption|page_owner|Bad page state|stack segment: |double fault: |divide error: |invalid opcode: |traps: PANIC|DEBUG_LOCKS_WARN)'
report_stamp='\[ *[0-9]+\.[0-9]+\](\[ *[TC][0-9]+\])? '

# kernel_report LOG: prints the reports in LOG, each with what follows it; fails when there is none. What shortens
# them must read to the end: head would not, and grep, ended by SIGPIPE, would say that there is none.
kernel_report() {
	grep -aE -A 60 "$report_stamp$report_start" "$1" | sed -n 1,200p
	return "${PIPESTATUS[0]}"
}

# A report that the machine does not survive.
kernel_died() { grep -aqE "${report_stamp}(---\[ end Kernel panic|Kernel panic)" "$1"; }
