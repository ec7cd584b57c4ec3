// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Sees every TCP and MPTCP connect() to a guarded port of one cgroup, reports it with its verdict, and refuses what
 * the maps say. Attached by link to cgroup/connect4 and cgroup/connect6, so it dies with the process that holds it.
 *
 * Never: refuse uid 0, refuse while FLAG_ENFORCE is off, look at UDP, touch a packet. Every deny carries its own end
 * in CLOCK_BOOTTIME, so that a block ends without userspace.
 *
 * Kernel interfaces: include/uapi/linux/bpf.h, struct bpf_sock_addr and bpf-helpers(7).
 */
#include "layout.bpf.h"
#include "budget.bpf.h"
#include "wake.bpf.h"
#include "credits.bpf.h"
#include "enter.bpf.h"
#include "outcome.bpf.h"
#include "creator.bpf.h"
#include "tell.bpf.h"

static __always_inline __u8 denied(const struct ends *ends, __u64 now)
{
	if (!ends)
		return ALLOWED;
	if (now < ends->block_ns)
		return REFUSED_BLOCK;
	if (now < ends->throttle_ns)
		return REFUSED_THROTTLE;
	return ALLOWED;
}

static __always_inline int is_loopback(const __be32 *address, __u8 family)
{
	if (family == AF_INET)
		return (address[0] & bpf_htonl(0xff000000)) == bpf_htonl(0x7f000000);
	return !address[0] && !address[1] && !address[2] && address[3] == bpf_htonl(1);
}

static __always_inline int passes(const __be32 *address, __u8 family)
{
	if (family == AF_INET) {
		struct net4_prefix key = {.bits = 32, .address = address[0]};

		return bpf_map_lookup_elem(&pass4, &key) != 0;
	}
	struct net6_prefix key = {
		.bits = 128,
		.address = {address[0], address[1], address[2], address[3]},
	};

	return bpf_map_lookup_elem(&pass6, &key) != 0;
}

static __always_inline int is_exempt(__u32 uid)
{
	struct uid_prefix key = {.bits = 32, .uid = bpf_htonl(uid)};

	return bpf_map_lookup_elem(&exempt_uids, &key) != 0;
}

static __always_inline __u32 owner_of(__u32 uid)
{
	struct uid_prefix key = {.bits = 32, .uid = bpf_htonl(uid)};
	__u32 *owner = bpf_map_lookup_elem(&owners, &key);

	return owner ? *owner : uid;
}

/* A block of some kind is stronger than a throttle of another: whoever is told wants to hear of the block. */
static __always_inline __u8 stronger(__u8 one, __u8 other)
{
	if (!one)
		return other;
	return other == REFUSED_BLOCK ? other : one;
}

/* What is refused all ports (port 0), or one. */
static __always_inline __u8 denied_at(__u32 uid, __u32 owner, __u64 netns, __u32 port, __u64 now)
{
	struct subject subject = {.uid = uid, .port = port, .netns = netns};
	struct denied_prefix prefix = {.bits = 64, .port = bpf_htonl(port), .uid = bpf_htonl(uid)};
	__u8 verdict = denied(bpf_map_lookup_elem(&deny, &subject), now);

	if (verdict)
		return verdict;
	verdict = denied(bpf_map_lookup_elem(&deny_ranges, &prefix), now);
	if (verdict || owner == uid)
		return verdict;
	subject.uid = owner; /* a subordinate uid is its owner's wherever it is seen */
	subject.netns = 0;
	return denied(bpf_map_lookup_elem(&deny, &subject), now);
}

__noinline int denied_by_maps(__u32 uid, __u32 owner, __u64 netns, __u32 port, __u64 now)
{
	__u8 verdict = denied_at(uid, owner, netns, 0, now);

	if (verdict == REFUSED_BLOCK)
		return verdict;
	return stronger(verdict, denied_at(uid, owner, netns, port, now));
}

/* What becomes of this attempt. The order is the contract: root, destination, exempt user, deny, credits. */
static __always_inline __u8 decide(const struct config *cfg, struct event *event, __u32 rules)
{
	const __be32 *address = (const __be32 *)event->address;
	__u8 verdict;

	if (event->uid == 0 || !(cfg->flags & FLAG_ENFORCE))
		return ALLOWED;
	event->passes = passes(address, event->family);
	if (event->passes)
		return ALLOWED;
	if (is_exempt(event->uid) || (event->owner != event->uid && is_exempt(event->owner)))
		return ALLOWED;

	verdict = denied_by_maps(event->uid, event->owner, event->netns, event->port, event->time_ns);
	if (verdict)
		return verdict;
	/* A user's socket in another user's hands: no way round a block. */
	if (event->creator != UID_UNKNOWN && event->creator != event->uid && event->creator != 0) {
		__u32 owner = owner_of(event->creator);

		if (!is_exempt(event->creator) && !is_exempt(owner))
			verdict = denied_by_maps(event->creator, owner, event->netns, event->port, event->time_ns);
		if (verdict)
			return verdict;
	}
	return take(cfg, event, rules);
}

static __always_inline void emit(struct event *event, int urgent)
{
	__u32 lane = event->verdict ? LANE_REFUSED : event->passes ? LANE_PASSED : LANE_ALLOWED;
	__u32 elsewhere = is_elsewhere(event->uid, event->owner, event->netns);
	int look = event->kind == KIND_CONNECT && event->tgid;

	if (event->kind == KIND_CONNECT && !event->unbudgeted &&
	    !take_budget(event->owner, lane, elsewhere, event->time_ns)) {
		count(COUNT_UNSENT);
		note_unsent(event->owner, event->port, event->verdict, elsewhere);
		return;
	}
	if (bpf_ringbuf_output(&events, event, sizeof(*event),
			       must_wake(urgent, look, event->owner, elsewhere, event->time_ns))) {
		count(COUNT_LOST);
		note_unsent(event->owner, event->port, event->verdict, elsewhere);
	}
}

/* The kernel takes "any" for loopback (ip_route_connect, tcp_v6_connect); so do we, or 0.0.0.0 would be a way round. */
static __always_inline void set_address(struct event *event, __u64 a, __u64 b, __u64 c, __u64 d)
{
	__be32 *address = (__be32 *)event->address;
	__u64 family = event->family;

	if (family == AF_INET6 && !a && !b && c == IPV4_MAPPED) {
		family = AF_INET;
		a = d;
		b = c = d = 0;
	}
	if (!a && !b && !c && !d) {
		if (family == AF_INET)
			a = bpf_htonl(0x7f000001);
		else
			d = bpf_htonl(1);
	}
	forget(family, event->time_ns);
	forget(a, event->time_ns);
	forget(b, event->time_ns);
	forget(c, event->time_ns);
	forget(d, event->time_ns);
	event->family = family;
	address[0] = a;
	address[1] = b;
	address[2] = c;
	address[3] = d;
}

static __always_inline int is_kworker(const char *comm)
{
	return comm[0] == 'k' && comm[1] == 'w' && comm[2] == 'o' && comm[3] == 'r' && comm[4] == 'k' &&
	       comm[5] == 'e' && comm[6] == 'r' && comm[7] == '/';
}

static __always_inline int on_connect(struct bpf_sock_addr *ctx, __u8 family)
{
	struct event event = {};
	struct config *cfg;
	__u32 zero = 0, port, port_bits, protocol = ctx->protocol;
	__u32 *found;

	if (protocol != IPPROTO_TCP && protocol != IPPROTO_MPTCP)
		return 1;
	port = bpf_ntohs((__u16)ctx->user_port);
	found = bpf_map_lookup_elem(&ports, &port);
	if (!found || !*found)
		return 1;
	port_bits = *found;
	cfg = bpf_map_lookup_elem(&config, &zero);
	if (!cfg)
		return 1;

	event.uid = (__u32)bpf_get_current_uid_gid();
	if (use_comm) {
		bpf_get_current_comm(event.comm, sizeof(event.comm));
		/* MPTCP opens further subflows from a worker, as root; a tenant may take the name, not the uid. */
		if (event.uid == 0 && is_kworker(event.comm))
			return 1;
	}
	if (use_pid)
		event.tgid = bpf_get_current_pid_tgid() >> 32;
	event.time_ns = bpf_ktime_get_boot_ns();
	event.cookie = bpf_get_socket_cookie(ctx);
	if (use_netns)
		event.netns = bpf_get_netns_cookie(ctx);
	event.port = port;
	event.protocol = protocol;
	event.family = family;
	if (family == AF_INET)
		set_address(&event, ctx->user_ip4, 0, 0, 0);
	else
		set_address(&event, ctx->user_ip6[0], ctx->user_ip6[1], ctx->user_ip6[2], ctx->user_ip6[3]);

	if (cfg->probe_cookie && cfg->probe_cookie == event.cookie) {
		event.kind = KIND_PROBE;
		emit(&event, 1);
		return 0;
	}

	/* It passes and counts for nobody: without a word, or a user's own traffic would crowd out what counts. */
	if ((cfg->flags & FLAG_LOOPBACK) && is_loopback((const __be32 *)event.address, event.family))
		return 1;
	if (event.netns == cfg->own_netns)
		event.netns = 0;
	forget(event.netns, event.time_ns);
	event.owner = owner_of(event.uid);
	event.creator = creator_of(ctx);
	event.kind = KIND_CONNECT;
	event.verdict = decide(cfg, &event, port_bits & ((1U << MAX_RULES) - 1));
	if (use_outcome && event.verdict == ALLOWED)
		note_session(ctx, &event);
	emit(&event, event.urgent);
	return event.verdict == ALLOWED || tell(ctx, cfg, &event, port_bits, family);
}

SEC("cgroup/connect4")
int smtpguard_v4(struct bpf_sock_addr *ctx)
{
	return on_connect(ctx, AF_INET);
}

SEC("cgroup/connect6")
int smtpguard_v6(struct bpf_sock_addr *ctx)
{
	return on_connect(ctx, AF_INET6);
}

char LICENSE[] SEC("license") = "GPL";
