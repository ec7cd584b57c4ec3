/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Puts a key that an attempt reached while nobody noted it into its user's window, under the user's lock, which a write
 * of userspace can't take. It is attached nowhere: userspace runs it (bpf(2), BPF_PROG_TEST_RUN), and of all types that
 * can be run so the one for packets may take a spin lock and is there on every kernel that has the others.
 */
#ifndef SMTPGUARD_ENTER_H
#define SMTPGUARD_ENTER_H

#include "credits.bpf.h"

struct entry {
	__u8 header[16]; /* of a packet: the kernel looks at it */
	__u32 uid;
	__u32 rule;
	__u64 last_ns;
	__u64 key[2];
};

SEC("tc")
int smtpguard_enter(struct __sk_buff *skb)
{
	struct event event = {};
	struct subject subject = {};
	struct entry entry;
	struct grant *grant;
	struct keys *keys;
	__u32 rule;
	__u64 now = bpf_ktime_get_boot_ns(), limit, emptied_ns, window_ns;

	if (bpf_skb_load_bytes(skb, 0, &entry, sizeof(entry)))
		return 0;
	subject.uid = event.owner = entry.uid;
	grant = find_grant(&subject);
	keys = find_keys(&event, entry.rule & (MAX_RULES - 1));
	if (!grant || !keys)
		return 0;
	bpf_spin_lock(&grant->lock);
	rule = entry.rule & (MAX_RULES - 1);
	limit = grant->allowed[rule];
	emptied_ns = grant->emptied_ns[rule];
	window_ns = keys->window_ns;
	if (entry.last_ns > emptied_ns && entry.last_ns + window_ns > now) {
		scan(keys, entry.key, entry.key, now, emptied_ns, limit);
		barrier();
		enter(keys, entry.key, entry.key, entry.last_ns);
	}
	bpf_spin_unlock(&grant->lock);
	return 1;
}

#endif
