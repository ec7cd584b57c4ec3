/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Credits, keys and the cap: limits that hold where connect() happens, on all CPUs. See smtpguard/policy/credits.py. */
#ifndef SMTPGUARD_CREDITS_H
#define SMTPGUARD_CREDITS_H

#include "keys.bpf.h"

#define NEAR 8      /* so few credits left: each attempt is reported at once */
#define QUIET_MAX 3 /* so many attempts of one user may wait to be reported, unless all rules that refuse are judged here */

static __always_inline struct grant *find_grant(const struct subject *subject)
{
	struct grant *grant = bpf_map_lookup_elem(&grants, subject);
	__u32 zero = 0;
	void *blank;

	if (grant)
		return grant;
	blank = bpf_map_lookup_elem(&new_grant, &zero);
	if (blank)
		bpf_map_update_elem(&grants, subject, blank, BPF_NOEXIST); /* another CPU may be first: the same to us */
	return bpf_map_lookup_elem(&grants, subject);
}

static __always_inline struct account *find_account(const struct subject *subject)
{
	struct account *account = bpf_map_lookup_elem(&accounts, subject);
	__u32 zero = 0;
	void *blank;

	if (account)
		return account;
	blank = bpf_map_lookup_elem(&new_account, &zero);
	if (blank)
		bpf_map_update_elem(&accounts, subject, blank, BPF_NOEXIST);
	return bpf_map_lookup_elem(&accounts, subject);
}

/*
 * Takes a credit and a key of every rule in the mask and a token of the cap, or none of them: attempt limit + 1 is
 * refused on whatever CPU it comes. Once a holding rule is exceeded, so is each further attempt on its ports, until
 * userspace has spoken. Only subjects of the guard's own namespace and subordinate uids have an account. Loops are unrolled, and sums
 * stand for branches: without CAP_PERFMON the verifier refuses pointers that are chosen between.
 *
 * While the daemon is silent keys go on to be noted, as long as there is room, and nothing is refused. Nor while new
 * rules begin: then credits are taken as well.
 */
static __noinline __u8 take(const struct config *cfg, struct event *event, __u32 rules)
{
	struct subject subject = {.uid = event->owner};
	struct uid_prefix prefix = {.bits = 32, .uid = bpf_htonl(event->owner)};
	__u64 cap_full_ns, address[2], network[2];
	__u32 flags, taken, quiet, entered = 0, reached = 0, exhausted = 0, near = 0, keyed, left_over, held, unsettled, begins;
	__u32 capped = cfg->flags & FLAG_CAP;
	__u32 strict, refuses, on = cfg->flags / FLAG_CREDITS & 1;
	struct keys *known[KEYED_MAX] = {};
	struct account *account;
	struct grant *grant;
	__u64 latest_ns, netns = event->netns, verdict, urgent;
	int i;

	rules &= -on;
	strict = on & ~((cfg->heartbeat_ns + HEARTBEAT_MAX_NS - event->time_ns) >> 63);
	settle(strict);
	refuses = strict & ~(cfg->flags / FLAG_NOTING);
	settle(refuses);
	settle(rules);
	keyed = rules & cfg->keyed;
	forget(netns, event->time_ns);
	if (netns && event->owner == event->uid)
		return ALLOWED;
	if (bpf_map_lookup_elem(&told_uids, &prefix))
		return ALLOWED;
	grant = find_grant(&subject);
	account = find_account(&subject);
	if (!grant || !account) {
		event->urgent = 1;
		count(COUNT_UNCREDITED);
		return ALLOWED;
	}
	left_over = keyed;
#pragma clang loop unroll(full)
	for (i = 0; i < KEYED_MAX; i++) {
		if (use_keys && left_over && (!i || known[i - 1])) /* so the verifier has three ways to follow, not four */
			known[i] = find_keys(event, lowest_bit(left_over));
		left_over &= left_over - 1;
		settle(left_over);
	}
	address_of(event, (__be32 *)address);
	network_of(event, (__be32 *)network);

	bpf_spin_lock(&grant->lock);
	flags = grant->flags;
	if (flags & GRANT_TOLD) {
		bpf_spin_unlock(&grant->lock);
		return ALLOWED;
	}
	capped &= -!(flags & GRANT_UNCAPPED);
	unsettled = (grant->spoken_ns - account->verdict_ns) >> 63;
	/* It began before userspace had settled the verdict, so it may have looked for a deny before there was one. */
	unsettled |= (event->time_ns - grant->settled_ns - 1) >> 63;
	/*
	 * Its time was taken before the lock. With the order of the locks as the order of times, the daemon sees what was
	 * judged here; and where credits came back meanwhile it would stand in the window that they have left.
	 */
	latest_ns = account->last_ns > grant->as_of_ns ? account->last_ns : grant->as_of_ns;
	if (event->time_ns <= latest_ns)
		event->time_ns = latest_ns + 1;
	account->last_ns = event->time_ns;
	held = unsettled & (rules | cfg->holding >> 16) >> (account->verdict_rule & 15);
#pragma clang loop unroll(full)
	for (i = 0; i < MAX_RULES; i++) {
		__u64 left = grant->allowed[i] - account->used[i]; /* counts stay below 2^63: the top bit is the sign */

		exhausted |= (__u32)((left - 1) >> 63) << i;
		near |= (__u32)((left - NEAR - 1) >> 63) << i;
		settle(exhausted);
		settle(near);
	}
	near &= rules & ~keyed;
	exhausted &= rules & ~keyed;
	left_over = keyed;
#pragma clang loop unroll(full)
	for (i = 0; i < KEYED_MAX; i++) {
		__u64 *limits = grant->allowed, *emptied_ns = grant->emptied_ns;
		__u32 number = lowest_bit(left_over);

		settle(limits);
		settle(emptied_ns);
		if (known[i]) {
			known[i]->enters = known[i]->exceeds = 0;
			scan(known[i], address, network, event->time_ns, emptied_ns[number], limits[number]);
			barrier();
			exhausted |= (known[i]->exceeds & 1) << number;
		}
		left_over &= left_over - 1;
		settle(left_over);
	}
	exhausted &= -refuses;
	held &= -refuses;
	begins = (unsettled - 1) & exhausted & cfg->holding & 0xffff;
	verdict = held | exhausted ? REFUSED_CREDIT : ALLOWED;
	cap_full_ns = account->cap_full_ns > event->time_ns ? account->cap_full_ns : event->time_ns;
	cap_full_ns += cfg->cap_interval_ns;
	if (!verdict && capped && cap_full_ns - event->time_ns > cfg->cap_depth_ns)
		verdict = REFUSED_CAP;
	forget(verdict, grant->as_of_ns);
	taken = verdict ? 0 : rules & ~keyed & -(__u32)strict;
#pragma clang loop unroll(full)
	for (i = 0; i < MAX_RULES; i++)
		account->used[i] += taken >> i & 1;
	if (!verdict) {
		if (capped)
			account->cap_full_ns = cap_full_ns;
		left_over = keyed;
#pragma clang loop unroll(full)
		for (i = 0; i < KEYED_MAX; i++) {
			if (known[i] && enter(known[i], address, network, event->time_ns)) {
				entered |= 1U << lowest_bit(left_over);
				reached |= known[i]->is_new;
			}
			left_over &= left_over - 1;
		}
	}
	if (begins) {
		account->verdict_ns = event->time_ns;
		account->verdict_rule = lowest_bit(begins);
	}
	forget(begins, grant->as_of_ns);
	event->rule = held | begins ? account->verdict_rule : lowest_bit(exhausted);
	account->by_credit += verdict == REFUSED_CREDIT;
	account->by_cap += verdict == REFUSED_CAP;
	if (account->quiet_ns <= cfg->drained_ns) {
		account->quiet_ns = event->time_ns;
		account->quiet = 0;
	}
	account->quiet += verdict != REFUSED_CAP;
	quiet = account->quiet;
	bpf_spin_unlock(&grant->lock);

	urgent = event->urgent || near || begins || (quiet > QUIET_MAX && !(cfg->flags & FLAG_EXACT)) ||
		 (flags & GRANT_WAKE);
	forget(urgent, event->time_ns);
	event->urgent = urgent;
	event->credited = taken | entered;
	event->unbudgeted = taken || reached;
	event->verdict = verdict;
	if (begins) {
		count(COUNT_HELD);
		bpf_map_update_elem(&verdicts, &subject, event, BPF_ANY);
	}
	return verdict;
}

#endif
