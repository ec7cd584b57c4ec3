/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * When the reader is woken: most of what an event costs whoever connects is the interrupt that wakes another process,
 * and on a CPU that both share the reader's turn.
 */
#ifndef SMTPGUARD_WAKE_H
#define SMTPGUARD_WAKE_H

#include "budget.bpf.h"

#define WAKE_NS 10000000ULL  /* the reader looks by itself so long after it was woken: source.py, PACE_NS */
#define COMING_NS 1000000ULL /* a reader that was woken and has not begun to read by then is woken again */
#define WAKE_BYTES (128 * 1024)

/*
 * Whether an event must wake the reader: if it is urgent, if it is the first after a pause, if much is waiting, or if
 * the process behind it is to be looked at. Never if the reader is on its way: what is in the ring before it begins to
 * read it will find.
 */
__noinline int must_wake(__u32 urgent, __u32 look, __u32 owner, __u32 elsewhere, __u64 now)
{
	__u32 zero = 0;
	__u64 *last = bpf_map_lookup_elem(&woken, &zero);
	const struct config *cfg = bpf_map_lookup_elem(&config, &zero);

	if (!last || !cfg)
		return BPF_RB_FORCE_WAKEUP;
	if (*last > cfg->reading_ns && now - *last < COMING_NS)
		return BPF_RB_NO_WAKEUP;
	if ((cfg->flags & FLAG_PACED) && !urgent && now < *last + WAKE_NS &&
	    bpf_ringbuf_query(&events, BPF_RB_AVAIL_DATA) < WAKE_BYTES &&
	    !(look && (cfg->flags & FLAG_LOOK) && take_budget(owner, LANE_LOOK, elsewhere, now)))
		return BPF_RB_NO_WAKEUP;
	*last = now;
	return BPF_RB_FORCE_WAKEUP;
}

#endif
