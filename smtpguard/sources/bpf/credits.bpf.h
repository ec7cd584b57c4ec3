/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Credits and the cap: limits that hold where connect() happens, on all CPUs. See smtpguard/policy/credits.py. */
#ifndef SMTPGUARD_CREDITS_H
#define SMTPGUARD_CREDITS_H

#include "layout.bpf.h"

#define NEAR 8      /* so few credits left: each attempt is reported at once */
#define QUIET_MAX 3 /* so many attempts of one user may wait to be reported, where the reader judges a rule */

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

static __always_inline __u8 lowest_bit(__u32 mask)
{
	__u8 bit = 0;

	if (!(mask & 0xff)) {
		bit += 8;
		mask >>= 8;
	}
	if (!(mask & 0xf)) {
		bit += 4;
		mask >>= 4;
	}
	if (!(mask & 3)) {
		bit += 2;
		mask >>= 2;
	}
	return mask & 1 ? bit : bit + 1;
}

/*
 * Takes a credit of every rule in the mask and a token of the cap, or none of them: attempt limit + 1 is refused on
 * whatever CPU it comes. Only subjects of the guard's own namespace and subordinate uids have an account. Loops are
 * unrolled, and sums stand for branches: without CAP_PERFMON the verifier refuses pointers that walk over a map value
 * or are chosen between.
 */
static __noinline __u8 take(const struct config *cfg, struct event *event, __u32 rules)
{
	struct subject subject = {.uid = event->owner};
	struct uid_prefix prefix = {.bits = 32, .uid = bpf_htonl(event->owner)};
	__u64 allowed[MAX_RULES], cap_full_ns, as_of_ns;
	__u32 flags, taken, quiet, exhausted = 0, near = 0;
	int capped = cfg->flags & FLAG_CAP;
	struct account *account;
	struct grant *grant;
	__u8 verdict;
	int i;

	if (!(cfg->flags & FLAG_CREDITS) || event->time_ns > cfg->heartbeat_ns + HEARTBEAT_MAX_NS)
		rules = 0;
	if (event->netns && event->owner == event->uid)
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

	bpf_spin_lock(&grant->lock);
	flags = grant->flags;
	as_of_ns = grant->as_of_ns;
#pragma clang loop unroll(full)
	for (i = 0; i < MAX_RULES; i++)
		allowed[i] = grant->allowed[i];
	bpf_spin_unlock(&grant->lock);
	if (flags & GRANT_TOLD)
		return ALLOWED;
	/* Credits came back meanwhile: an attempt that claims an earlier time would stand in the window they have left. */
	if (event->time_ns < as_of_ns)
		event->time_ns = bpf_ktime_get_boot_ns();

	bpf_spin_lock(&account->lock);
#pragma clang loop unroll(full)
	for (i = 0; i < MAX_RULES; i++) {
		__u64 left = allowed[i] - account->used[i]; /* counts stay below 2^63: the top bit is the sign */

		exhausted |= (__u32)((left - 1) >> 63) << i;
		near |= (__u32)((left - NEAR - 1) >> 63) << i;
	}
	exhausted &= rules;
	verdict = exhausted ? REFUSED_CREDIT : ALLOWED;
	cap_full_ns = account->cap_full_ns > event->time_ns ? account->cap_full_ns : event->time_ns;
	cap_full_ns += cfg->cap_interval_ns;
	if (!verdict && capped && cap_full_ns - event->time_ns > cfg->cap_depth_ns)
		verdict = REFUSED_CAP;
	taken = verdict ? 0 : rules;
#pragma clang loop unroll(full)
	for (i = 0; i < MAX_RULES; i++)
		account->used[i] += taken >> i & 1;
	if (!verdict && capped)
		account->cap_full_ns = cap_full_ns;
	account->by_credit += verdict == REFUSED_CREDIT;
	account->by_cap += verdict == REFUSED_CAP;
	if (account->quiet_ns <= cfg->drained_ns) {
		account->quiet_ns = event->time_ns;
		account->quiet = 0;
	}
	account->quiet += verdict != REFUSED_CAP;
	quiet = account->quiet;
	bpf_spin_unlock(&account->lock);

	event->urgent = (near & rules) || quiet > QUIET_MAX || (flags & GRANT_WAKE);
	event->credited = taken;
	event->rule = lowest_bit(exhausted);
	return verdict;
}

#endif
