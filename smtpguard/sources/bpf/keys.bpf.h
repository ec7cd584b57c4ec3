/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Destinations and networks rules, exact: for each user and rule the keys he reached, each with the time of its last
 * attempt. A known key passes and is refreshed, a new one takes a slot that is free or whose key has left the window.
 *
 * All of a user's slots are under the lock of his grant, so that an attempt enters all windows or none. The lock in
 * the value is for userspace, which writes it in place (BPF_F_LOCK), and only while the program leaves it alone.
 */
#ifndef SMTPGUARD_KEYS_H
#define SMTPGUARD_KEYS_H

#include "layout.bpf.h"

#define KEY_SLOTS 64
#define KEY_STEP 16    /* slots that are looked at in one go */
#define TOP_BIT (1ULL << 63)
#define KEYED_MAX 2    /* of these rules on one port; beyond them the daemon judges */
#define KEY_USERS 65536 /* 1.5 KiB each, made with the first attempt */

struct key_slot {
	__u64 key[2]; /* an address, or a network with zeros behind; IPv4 as ::ffff:a.b.c.d */
	__u64 last_ns;
};

struct keys {
	struct bpf_spin_lock lock;
	__u32 high;      /* slots from here on were never used */
	__u32 whole;     /* keys are addresses, not networks */
	__u32 slot;      /* where the key of the attempt that is being judged goes ... */
	__u32 enters;    /* ... if there is room for it; here, because what is loaded looks the same to the verifier ... */
	__u32 exceeds;   /* ... whichever way it came: else it follows all ways through all rules */
	__u32 is_new;    /* it is not in the window yet */
	__u32 next;      /* of a user without a limit, when all slots are in use: which one is used again */
	__u64 window_ns;
	struct key_slot slots[KEY_SLOTS];
};

struct keys_of {
	__u32 uid;
	__u32 lane; /* of the rule; a number is never used for another rule */
};

struct key_rule {
	__u64 window_ns;
	__u32 lane;
	__u32 whole; /* keys are addresses, not networks */
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, KEY_USERS);
	__type(key, struct keys_of);
	__type(value, struct keys);
} keys SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u8[sizeof(struct keys)]);
} new_keys SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, MAX_RULES);
	__type(key, __u32);
	__type(value, struct key_rule);
} key_rules SEC(".maps");

/* The attempt with which a rule was exceeded, by user: a full ring loses it, this does not. Userspace takes it out. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 1 << 17);
	__type(key, struct subject);
	__type(value, struct event);
} verdicts SEC(".maps");

#define MAX_TRANSLATORS 4

/* A prefix of the host's own NAT64 (RFC 6052), and where its addresses have the first three bytes of an IPv4 one. */
struct translator {
	__u64 used;
	__u64 prefix[2], mask[2]; /* as numbers, the address's first half first */
	__u64 shift[2], keep[2];  /* of each half: shifted down so far, so much of it */
	__u64 up;                 /* how far up the first half's share goes */
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, MAX_TRANSLATORS);
	__type(key, __u32);
	__type(value, struct translator);
} translators SEC(".maps");

/* The IPv4 network in an address of one of the host's own translators, and whether it is of one. Sums stand for branches. */
static __always_inline __u32 translated(const __be32 *a, __be32 *v4)
{
	__u64 first = (__u64)bpf_ntohl(a[0]) << 32 | bpf_ntohl(a[1]);
	__u64 second = (__u64)bpf_ntohl(a[2]) << 32 | bpf_ntohl(a[3]);
	__u64 network = 0, found = 0;
	__u32 i;

#pragma clang loop unroll(full)
	for (i = 0; i < MAX_TRANSLATORS; i++) {
		__u32 number = i;
		const struct translator *t = bpf_map_lookup_elem(&translators, &number);
		__u64 differs, hit;

		if (!t || !t->used)
			break; /* they are used from the first on */
		differs = ((first ^ t->prefix[0]) & t->mask[0]) | ((second ^ t->prefix[1]) & t->mask[1]);
		hit = (1 - ((differs | -differs) >> 63)) & (1 - found);
		settle(hit);
		network += hit * ((((first >> t->shift[0]) & t->keep[0]) << t->up) |
				  ((second >> t->shift[1]) & t->keep[1]));
		found |= hit;
		settle(network);
		settle(found);
	}
	*v4 = bpf_htonl((__u32)network << 8);
	return found;
}

/* Which bit is the lowest one set, without a branch: each would double what the verifier has to look at. */
static __always_inline __u32 lowest_bit(__u32 mask)
{
	__u32 below = ((mask & -mask) - 1) & 0xffff;

	below -= below >> 1 & 0x5555;
	below = (below & 0x3333) + (below >> 2 & 0x3333);
	below = (below + (below >> 4)) & 0x0f0f;
	return (below + (below >> 8)) & 0xf;
}

static __always_inline __u64 count_bits(__u64 bits)
{
	bits -= bits >> 1 & 0x5555555555555555ULL;
	bits = (bits & 0x3333333333333333ULL) + (bits >> 2 & 0x3333333333333333ULL);
	bits = (bits + (bits >> 4)) & 0x0f0f0f0f0f0f0f0fULL;
	return bits * 0x0101010101010101ULL >> 56;
}

/* The network an address counts for: the very same as network_of() in smtpguard/policy/networks.py. */
static __always_inline void network_of(const struct event *event, __be32 *network)
{
	const __be32 *a = (const __be32 *)event->address;
	__be32 v4 = a[3], own = 0, mask, embedded = 1;

	if (event->family == AF_INET)
		v4 = a[0];
	else if (translated(a, &own))
		v4 = own;
	else if ((a[0] & bpf_htonl(0xffff0000)) == bpf_htonl(0x20020000)) /* 6to4 */
		v4 = bpf_htonl(bpf_ntohl(a[0]) << 16 | bpf_ntohl(a[1]) >> 16);
	else
		embedded = (!a[0] && !a[1] && !a[2]) ||                                   /* compatible */
			   (a[0] == bpf_htonl(0x0064ff9b) && !a[1] && !a[2]) ||           /* NAT64 */
			   (a[0] == bpf_htonl(0x0064ff9b) &&
			    (a[1] & bpf_htonl(0xffff0000)) == bpf_htonl(0x00010000));     /* NAT64, local */
	mask = -embedded;
	settle(mask); /* or a pointer is chosen, see take() */
	network[0] = a[0] & ~mask;
	network[1] = a[1] & ~mask & bpf_htonl(0xffff0000);
	network[2] = IPV4_MAPPED & mask;
	network[3] = v4 & mask & bpf_htonl(0xffffff00);
}

/* An address as a key. */
static __always_inline void address_of(const struct event *event, __be32 *address)
{
	const __be32 *a = (const __be32 *)event->address;

	if (event->family == AF_INET) {
		address[0] = address[1] = 0;
		address[2] = IPV4_MAPPED;
		address[3] = a[0];
	} else {
		address[0] = a[0];
		address[1] = a[1];
		address[2] = a[2];
		address[3] = a[3];
	}
}

static __always_inline struct keys *find_keys(struct event *event, __u32 number)
{
	struct key_rule *rule = bpf_map_lookup_elem(&key_rules, &number);
	struct keys_of of = {.uid = event->owner};
	struct keys *found;
	__u32 zero = 0;
	void *blank;

	if (!rule)
		return 0;
	of.lane = rule->lane;
	found = bpf_map_lookup_elem(&keys, &of);
	if (!found) {
		blank = bpf_map_lookup_elem(&new_keys, &zero);
		if (blank)
			bpf_map_update_elem(&keys, &of, blank, BPF_NOEXIST);
		found = bpf_map_lookup_elem(&keys, &of);
	}
	if (!found) {
		event->urgent = 1;
		count(COUNT_UNKEYED);
		return 0;
	}
	found->window_ns = rule->window_ns; /* always the same for a lane */
	found->whole = rule->whole;
	return found;
}

/*
 * Looks for the key among those in the window, under the user's lock: no helper may be called. Sums stand for branches,
 * so that the verifier has one way to look at.
 */
static __always_inline void scan(struct keys *keys, const __u64 *address, const __u64 *network, __u64 now,
				  __u64 emptied_ns, __u64 limit)
{
	const struct key_slot *slot = keys->slots;
	__u64 whole = -(__u64)keys->whole;
	__u64 first = (address[0] & whole) | (network[0] & ~whole);
	__u64 second = (address[1] & whole) | (network[1] & ~whole);
	__u64 alive = 0, same = 0; /* a bit per slot: in the window; of this key */
	__u64 known, at, free, unlimited, again, negated;
	__u64 edge_ns = now > keys->window_ns ? now - keys->window_ns : 0;
	__u32 high = keys->high;
	__u64 i, j;

	if (edge_ns < emptied_ns)
		edge_ns = emptied_ns;
#pragma clang loop unroll(full)
	for (i = 0; i < KEY_SLOTS; i += KEY_STEP) {
		if (i >= high)
			continue;
#pragma clang loop unroll(full)
		for (j = 0; j < KEY_STEP; j++) {
			__u64 differs = (slot[i + j].key[0] ^ first) | (slot[i + j].key[1] ^ second);
			__u64 before = differs - 1;

			settle(before); /* or a comparison is made of it, and a branch of that */
			same = same >> 1 | (before & ~differs & TOP_BIT);
			alive = alive >> 1 | ((edge_ns - slot[i + j].last_ns) & TOP_BIT); /* times stay below 2^63 */
			settle(same); /* or all slots are looked at before they are summed up: not enough stack */
			settle(alive);
		}
	}
	/* The first slot's bit is the lowest one, however many were looked at. */
	alive >>= -((high + KEY_STEP - 1) / KEY_STEP * KEY_STEP) & 63;
	same >>= -((high + KEY_STEP - 1) / KEY_STEP * KEY_STEP) & 63;
	same &= alive;
	forget(alive, now);
	forget(same, now);
	negated = -same;
	settle(negated);
	known = (same | negated) >> 63;
	at = count_bits((same & -same) - 1);
	free = count_bits(alive & ~(alive + 1)); /* the lowest bit that is not set; KEY_SLOTS if all are */
	unlimited = (KEY_SLOTS - limit) >> 63;
	again = unlimited & (1 - known) & (1 - ((free - KEY_SLOTS) >> 63));
	keys->slot = known * at + (1 - known) * (free + again * keys->next); /* enter() takes it modulo KEY_SLOTS */
	keys->next += again;
	keys->enters = known | (free - KEY_SLOTS) >> 63 | unlimited;
	keys->is_new = (1 - known) & (1 - unlimited); /* without a limit they are not few */
	keys->exceeds = (1 - known) & (1 - ((count_bits(alive) - limit) >> 63));
}

/* The attempt is let through: its key is in the window from now on, if there is room for it. */
static __always_inline __u32 enter(struct keys *keys, const __u64 *address, const __u64 *network, __u64 now)
{
	__u32 number = keys->slot & (KEY_SLOTS - 1);
	struct key_slot *slot = keys->slots;
	__u64 whole = -(__u64)keys->whole;

	if (!keys->enters)
		return 0;
	settle(slot); /* walked from the value's beginning the pointer might be at its lock: refused without CAP_PERFMON */
	slot += number;
	slot->key[0] = (address[0] & whole) | (network[0] & ~whole);
	slot->key[1] = (address[1] & whole) | (network[1] & ~whole);
	if (slot->last_ns < now)
		slot->last_ns = now; /* attempts of two CPUs may come in any order */
	if (keys->high <= number)
		keys->high = number + 1;
	return 1;
}

#endif
