/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Tells a refused sender why: instead of EPERM his connect() is led to the guard's responder on loopback, which says
 * 421 and the reason. He still sees the peer he asked for. Only in the guard's own network namespace, only on ports
 * where a server speaks first, only so often a second for each user, and only while the daemon lives; else EPERM.
 */
#ifndef SMTPGUARD_TELL_H
#define SMTPGUARD_TELL_H

#include "credits.bpf.h"

#define TELL_INTERVAL_NS 200000000ULL /* five a second ... */
#define TELL_DEPTH_NS (20 * TELL_INTERVAL_NS) /* ... after the first twenty */

/* Sockets that were led to the responder, by cookie: whom he takes them for, and what their owners take him for. */
struct told {
	__u64 time_ns;
	__u32 uid;
	__u32 owner;
	__u16 port;
	__u8 family; /* of the address: AF_INET for a mapped one too */
	__u8 verdict;
	__u32 reserved;
	__be32 address[4];
};

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 4096);
	__type(key, __u64);
	__type(value, struct told);
} told SEC(".maps");

/* One more answer for this user now? GCRA, as the cap. */
__noinline int may_tell(__u32 owner, __u64 now)
{
	struct subject subject = {.uid = owner};
	struct account *account = find_account(&subject);
	__u64 full_ns;
	int granted;

	if (!account)
		return 0;
	bpf_spin_lock(&account->lock);
	full_ns = account->tell_full_ns > now ? account->tell_full_ns : now;
	full_ns += TELL_INTERVAL_NS;
	granted = full_ns - now <= TELL_DEPTH_NS;
	if (granted)
		account->tell_full_ns = full_ns;
	bpf_spin_unlock(&account->lock);
	return granted;
}

/* Leads a refused attempt to the responder; 0 if it is to be refused after all. */
static __always_inline int tell(struct bpf_sock_addr *ctx, const struct config *cfg, const struct event *event,
				__u32 port_bits, __u8 family)
{
	struct told entry = {
		.time_ns = event->time_ns,
		.uid = event->uid,
		.owner = event->owner,
		.port = event->port,
		.family = event->family,
		.verdict = event->verdict,
	};

	if (!use_tell || !use_netns || !(cfg->flags & FLAG_TELL) || !(port_bits & PORT_TELL) || !cfg->tell_port)
		return 0;
	if (event->netns || event->verdict == REFUSED_CAP || event->time_ns > cfg->heartbeat_ns + HEARTBEAT_MAX_NS)
		return 0;
	if (!may_tell(event->owner, event->time_ns))
		return 0;
	__builtin_memcpy(entry.address, event->address, sizeof(entry.address));
	if (bpf_map_update_elem(&told, &event->cookie, &entry, BPF_ANY))
		return 0;
	if (family == AF_INET) {
		ctx->user_ip4 = IPV4_LOOPBACK;
	} else if (event->family == AF_INET) { /* mapped stays mapped: the socket may not speak IPv6 */
		ctx->user_ip6[0] = 0;
		ctx->user_ip6[1] = 0;
		ctx->user_ip6[2] = IPV4_MAPPED;
		ctx->user_ip6[3] = IPV4_LOOPBACK;
	} else {
		ctx->user_ip6[0] = 0;
		ctx->user_ip6[1] = 0;
		ctx->user_ip6[2] = 0;
		ctx->user_ip6[3] = bpf_htonl(1);
	}
	ctx->user_port = bpf_htons(cfg->tell_port);
	return 1;
}

/* The socket's peer as its owner asked for it; NULL if it was not led anywhere. */
static __always_inline struct told *find_told(struct bpf_sock_addr *ctx)
{
	__u32 zero = 0;
	struct config *cfg = bpf_map_lookup_elem(&config, &zero);
	__u64 cookie;

	if (!cfg || !cfg->tell_port || (__u16)ctx->user_port != bpf_htons(cfg->tell_port))
		return 0;
	cookie = bpf_get_socket_cookie(ctx);
	return bpf_map_lookup_elem(&told, &cookie);
}

SEC("cgroup/getpeername4")
int smtpguard_peer4(struct bpf_sock_addr *ctx)
{
	struct told *entry = find_told(ctx);

	if (entry && entry->family == AF_INET) {
		ctx->user_ip4 = entry->address[0];
		ctx->user_port = bpf_htons(entry->port);
	}
	return 1;
}

SEC("cgroup/getpeername6")
int smtpguard_peer6(struct bpf_sock_addr *ctx)
{
	struct told *entry = find_told(ctx);

	if (!entry)
		return 1;
	if (entry->family == AF_INET) {
		ctx->user_ip6[3] = entry->address[0];
	} else {
		ctx->user_ip6[0] = entry->address[0];
		ctx->user_ip6[1] = entry->address[1];
		ctx->user_ip6[2] = entry->address[2];
		ctx->user_ip6[3] = entry->address[3];
	}
	ctx->user_port = bpf_htons(entry->port);
	return 1;
}

#endif
