/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Who may fill the ring, and how fast: a budget of events for each owner, over all network namespaces together. What is
 * beyond it is judged and refused as ever, and counted here instead of being sent.
 */
#ifndef SMTPGUARD_BUDGET_H
#define SMTPGUARD_BUDGET_H

#include "layout.bpf.h"

#define BUDGET_OWNERS (1 << 17)
#define UNSENT_ENTRIES 16384

enum budget_lane { /* each has a budget of its own: refusals don't hide attempts, nor reports either of them */
	LANE_ALLOWED = 0,
	LANE_REFUSED = 1,
	LANE_REPORT = 2,
	LANE_UNTRACKED = 3, /* reports of sockets that can't be followed: nothing else hides them */
	LANE_LOOK = 4, /* no events, but wake-ups: so many processes of a user are looked at, see enrich/looker/client.py */
	LANE_PASSED = 5, /* what counts for no rule, because of where it goes, hides nothing that does */
	LANES = 8, /* as many again are of what is nobody's of this host: a container's root takes any uid */
};

/* So many events at once, and so many a second: together a third of the ring. */
#define BUDGET_BURST_NS 1000000000ULL
#define INTERVAL_ALLOWED_NS 500000ULL  /* 2,000 */
#define INTERVAL_REFUSED_NS 2000000ULL /* 500 */
#define INTERVAL_REPORT_NS 1000000ULL  /* 1,000 */
#define INTERVAL_LOOK_NS 20000000ULL   /* 50 */

struct budget_key {
	__u32 owner; /* the uid alone: namespaces are free to make */
	__u32 lane; /* plus LANES, elsewhere */
};

struct budget {
	struct bpf_spin_lock lock;
	__u32 reserved;
	__u64 full_ns; /* GCRA, as the cap */
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, BUDGET_OWNERS);
	__type(key, struct budget_key);
	__type(value, struct budget);
} budgets SEC(".maps");

/* Of whoever finds no room in `budgets`, together. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct budget);
} common_budget SEC(".maps");

#define RESULT_REPORT 16 /* + enum outcome; below it enum verdict */

struct unsent_key {
	__u32 owner;
	__u16 port;
	__u8 result;
	__u8 elsewhere;
};

/* What was not sent, for whatever reason; COUNT_LOST and COUNT_UNSENT also tell of what finds no room here. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, UNSENT_ENTRIES);
	__type(key, struct unsent_key);
	__type(value, __u64);
} unsent SEC(".maps");

/* Whether an attempt is nobody's of this host: of another network namespace, or of a range that is root's. */
static __always_inline __u32 is_elsewhere(__u32 uid, __u32 owner, __u64 netns)
{
	return owner == uid ? netns != 0 : !owner;
}

__noinline int take_budget(__u32 owner, __u32 lane, __u32 elsewhere, __u64 now)
{
	struct budget_key key = {
		.owner = elsewhere ? 0 : owner, /* a container's root takes any number of uids: one share for all */
		.lane = elsewhere ? lane + LANES : lane,
	};
	__u64 full_ns, interval_ns = INTERVAL_REPORT_NS;
	struct budget *budget;
	__u32 zero = 0;
	int granted;

	if (lane == LANE_ALLOWED || lane == LANE_PASSED)
		interval_ns = INTERVAL_ALLOWED_NS;
	if (lane == LANE_REFUSED)
		interval_ns = INTERVAL_REFUSED_NS;
	if (lane == LANE_LOOK)
		interval_ns = INTERVAL_LOOK_NS;
	budget = bpf_map_lookup_elem(&budgets, &key);
	if (!budget) {
		struct budget fresh = {};

		bpf_map_update_elem(&budgets, &key, &fresh, BPF_NOEXIST); /* another CPU may be first */
		budget = bpf_map_lookup_elem(&budgets, &key);
	}
	if (!budget)
		budget = bpf_map_lookup_elem(&common_budget, &zero);
	if (!budget)
		return 1;
	bpf_spin_lock(&budget->lock);
	full_ns = budget->full_ns > now ? budget->full_ns : now;
	full_ns += interval_ns;
	granted = full_ns - now <= BUDGET_BURST_NS;
	if (granted)
		budget->full_ns = full_ns;
	bpf_spin_unlock(&budget->lock);
	return granted;
}

__noinline int note_unsent(__u32 owner, __u32 port, __u32 result, __u32 elsewhere)
{
	struct unsent_key key = {.owner = elsewhere ? 0 : owner, .port = port, .result = result, .elsewhere = elsewhere};
	__u64 *value = bpf_map_lookup_elem(&unsent, &key);
	__u64 none = 0;

	if (!value) {
		bpf_map_update_elem(&unsent, &key, &none, BPF_NOEXIST);
		value = bpf_map_lookup_elem(&unsent, &key);
	}
	if (value)
		__sync_fetch_and_add(value, 1);
	return 0;
}

#endif
