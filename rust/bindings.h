/* SPDX-License-Identifier: GPL-2.0-only */
#include <linux/anon_inodes.h>
#include <linux/preempt.h>
#include <linux/rcuwait.h>
#include <asm/fpu/api.h>
#include <asm/virt.h>
#include "host/shim.h"
