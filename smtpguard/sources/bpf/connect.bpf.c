// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Sees every TCP and MPTCP connect() to a guarded port of one cgroup, reports it with its verdict, and refuses what
 * the maps say. Attached by link to cgroup/connect4 and cgroup/connect6, so it dies with the process that holds it.
 *
 * Never: refuse uid 0, refuse while FLAG_ENFORCE is off, look at UDP, touch a packet. Every deny carries its own end
 * in CLOCK_BOOTTIME, so that a block ends without userspace.
 *
 * Layouts are read by smtpguard/decode/bpf_event.py and written by maps.py; LAYOUT_VERSION ties the three together.
 * Kernel interfaces: include/uapi/linux/bpf.h, struct bpf_sock_addr and bpf-helpers(7). Features that some kernels
 * refuse are switched by the .rodata constants below: the verifier never visits a branch that a constant closes, so
 * one object serves all kernels.
 */
#include <linux/bpf.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#define AF_INET 2
#define AF_INET6 10
#define IPPROTO_TCP 6
#define IPPROTO_MPTCP 262
#define MAX_RULES 16
#define HEARTBEAT_MAX_NS 2000000000ULL /* a daemon silent for longer refuses nobody by credits */
#define IPV4_MAPPED bpf_htonl(0x0000ffff)

/* Set before loading, constant afterwards. */
const volatile __u8 use_pid = 1;   /* bpf_get_current_pid_tgid: every program type from 6.10, some before */
const volatile __u8 use_comm = 1;  /* bpf_get_current_comm: wants CAP_PERFMON */
const volatile __u8 use_netns = 1; /* bpf_get_netns_cookie: 5.7 */

enum flag {
	FLAG_ENFORCE = 1,  /* without it everything is reported as allowed, and is */
	FLAG_LOOPBACK = 2, /* loopback passes whatever else is said */
	FLAG_CREDITS = 4,  /* connections rules are enforced here */
	FLAG_CAP = 8,      /* so is the cap */
};

enum kind {
	KIND_CONNECT = 1,
	KIND_PROBE = 2, /* the self-test's socket: reported and refused, whatever the flags */
};

enum verdict {
	ALLOWED = 0,
	REFUSED_BLOCK = 1,
	REFUSED_THROTTLE = 2,
	REFUSED_CREDIT = 3,
	REFUSED_CAP = 4,
};

/* One page that userspace maps and writes field by field: aligned stores, so no reader sees half of one. */
struct config {
	__u64 own_netns;    /* SO_NETNS_COOKIE of the guard's own namespace; reported and looked up as 0 */
	__u64 probe_cookie; /* socket cookie of a running self-test; 0 for none */
	__u64 heartbeat_ns; /* when the daemon last said that it lives, CLOCK_BOOTTIME */
	__u64 cap_interval_ns; /* the cap: one token in this time ... */
	__u64 cap_depth_ns;    /* ... and so much of it saved up: burst times the interval */
	__u32 flags;
	__u32 reserved;
};

struct event {
	__u64 time_ns; /* CLOCK_BOOTTIME */
	__u64 netns;   /* 0: the guard's own, or not known */
	__u64 cookie;
	__u32 tgid;  /* 0: not known */
	__u32 uid;   /* real uid in the initial user namespace */
	__u32 owner; /* uid it counts for: the owner of the subordinate range, else uid */
	__u16 port;
	__u16 protocol;
	__u8 kind;
	__u8 verdict;
	__u8 family; /* AF_INET for IPv4-mapped destinations too */
	__u8 rule;   /* which rule, with REFUSED_CREDIT */
	__u32 credited; /* bit per rule of which a credit was used */
	__u8 address[16];
	char comm[16];
};

struct subject {
	__u32 uid;
	__u32 pad;
	__u64 netns;
};

struct ends { /* CLOCK_BOOTTIME; 0 for none */
	__u64 block_ns;
	__u64 throttle_ns;
};

/*
 * Credits: `used` counts the credits a subject has taken of each rule and only rises, here and nowhere else; `allowed`
 * is how many it may have taken, written only by userspace: the limit and those that have left the window. Two maps,
 * so that neither side can overwrite the other's word, and each value under its own lock.
 */
struct account {
	struct bpf_spin_lock lock;
	__u32 reserved;
	__u64 used[MAX_RULES];
	__u64 cap_full_ns;   /* when the bucket will be full again (GCRA's theoretical arrival time) */
	__u64 by_credit;     /* refusals */
	__u64 by_cap;
};

enum grant_flag {
	GRANT_TOLD = 1, /* nothing of this subject is refused by credits or cap */
};

struct grant {
	struct bpf_spin_lock lock;
	__u32 flags;
	__u64 as_of_ns; /* `allowed` is right for attempts from this time on */
	__u64 allowed[MAX_RULES];
};

struct uid_prefix {
	__u32 bits;
	__be32 uid;
};

struct net4_prefix {
	__u32 bits;
	__be32 address;
};

struct net6_prefix {
	__u32 bits;
	__be32 address[4];
};

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 1 << 20); /* 13,000 events; userspace may choose another size before loading */
} events SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct config);
} config SEC(".maps");

/* Indexed by port: 0 is not ours; bit 31 says guarded, bits 0 to 15 which connections rules count it. An array, because
 * this is all that a connect() to any other port pays for. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 65536);
	__type(key, __u32);
	__type(value, __u32);
} ports SEC(".maps");

enum count {
	COUNT_LOST = 0,       /* events lost because the ring was full */
	COUNT_UNCREDITED = 1, /* attempts let through without credits because no entry could be made */
	COUNTS = 2,
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, COUNTS);
	__type(key, __u32);
	__type(value, __u64);
} counts SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 65536);
	__type(key, struct uid_prefix);
	__type(value, __u32);
} exempt_uids SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 65536);
	__type(key, struct net4_prefix);
	__type(value, __u32);
} pass4 SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 65536);
	__type(key, struct net6_prefix);
	__type(value, __u32);
} pass6 SEC(".maps");

/* Subordinate uid to the uid of its owner. */
struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 1 << 20);
	__type(key, struct uid_prefix);
	__type(value, __u32);
} owners SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 1 << 17);
	__type(key, struct subject);
	__type(value, struct ends);
} deny SEC(".maps");

/* Subordinate ranges that a deny covers, in whatever namespace. */
struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 1 << 20);
	__type(key, struct uid_prefix);
	__type(value, struct ends);
} deny_ranges SEC(".maps");

/* Uids that are counted and never refused by credits or cap: shared and system users. */
struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 65536);
	__type(key, struct uid_prefix);
	__type(value, __u32);
} told_uids SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 1 << 17);
	__type(key, struct subject);
	__type(value, struct account);
} accounts SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 1 << 17);
	__type(key, struct subject);
	__type(value, struct grant);
} grants SEC(".maps");

/* What a subject without entries starts with. Plain bytes: values here are only copied from, never locked. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u8[sizeof(struct account)]);
} new_account SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u8[sizeof(struct grant)]);
} new_grant SEC(".maps");

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

static __always_inline void count(__u32 which)
{
	__u64 *value = bpf_map_lookup_elem(&counts, &which);

	if (value)
		*value += 1; /* per CPU */
}

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
 * Takes a credit of every rule in the mask and a token of the cap, or none of them: attempt limit + 1 is refused on
 * whatever CPU it comes. Only subjects of the guard's own namespace and subordinate uids have an account.
 */
static __always_inline __u8 take(const struct config *cfg, struct event *event, __u32 rules)
{
	struct subject subject = {.uid = event->owner};
	struct uid_prefix prefix = {.bits = 32, .uid = bpf_htonl(event->owner)};
	__u64 allowed[MAX_RULES], cap_full_ns;
	struct account *account;
	struct grant *grant;
	__u64 as_of_ns;
	__u8 verdict = ALLOWED;
	__u8 rule = 0;
	__u32 flags, taken;
	int capped = cfg->flags & FLAG_CAP;
	int i;

	if (!(cfg->flags & FLAG_CREDITS) || event->time_ns > cfg->heartbeat_ns + HEARTBEAT_MAX_NS)
		rules = 0;
	if (!rules && !capped)
		return ALLOWED;
	if (event->netns && event->owner == event->uid)
		return ALLOWED;
	if (bpf_map_lookup_elem(&told_uids, &prefix))
		return ALLOWED;
	grant = find_grant(&subject);
	account = find_account(&subject);
	if (!grant || !account) {
		count(COUNT_UNCREDITED);
		return ALLOWED;
	}

	bpf_spin_lock(&grant->lock);
	flags = grant->flags;
	as_of_ns = grant->as_of_ns;
	/* Loops are unrolled: without CAP_PERFMON a pointer that walks over a map value is refused. */
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
		if (!verdict && (rules & (1U << i)) && account->used[i] >= allowed[i]) {
			verdict = REFUSED_CREDIT;
			rule = i;
		}
	}
	cap_full_ns = account->cap_full_ns > event->time_ns ? account->cap_full_ns : event->time_ns;
	cap_full_ns += cfg->cap_interval_ns;
	if (!verdict && capped && cap_full_ns - event->time_ns > cfg->cap_depth_ns)
		verdict = REFUSED_CAP;
	/* Sums instead of branches, or the compiler would choose between addresses. */
	taken = verdict ? 0 : rules;
#pragma clang loop unroll(full)
	for (i = 0; i < MAX_RULES; i++)
		account->used[i] += taken >> i & 1;
	if (!verdict && capped)
		account->cap_full_ns = cap_full_ns;
	account->by_credit += verdict == REFUSED_CREDIT;
	account->by_cap += verdict == REFUSED_CAP;
	bpf_spin_unlock(&account->lock);

	event->credited = taken;
	event->rule = rule;
	return verdict;
}

/* What becomes of this attempt. The order is the contract: root, destination, exempt user, deny, credits. */
static __always_inline __u8 decide(const struct config *cfg, struct event *event, __u32 rules)
{
	const __be32 *address = (const __be32 *)event->address;
	struct subject subject = {.uid = event->uid, .netns = event->netns};
	struct uid_prefix prefix = {.bits = 32, .uid = bpf_htonl(event->uid)};
	__u8 verdict;

	if (event->uid == 0 || !(cfg->flags & FLAG_ENFORCE))
		return ALLOWED;
	if ((cfg->flags & FLAG_LOOPBACK) && is_loopback(address, event->family))
		return ALLOWED;
	if (passes(address, event->family))
		return ALLOWED;
	if (is_exempt(event->uid) || (event->owner != event->uid && is_exempt(event->owner)))
		return ALLOWED;

	verdict = denied(bpf_map_lookup_elem(&deny, &subject), event->time_ns);
	if (verdict)
		return verdict;
	verdict = denied(bpf_map_lookup_elem(&deny_ranges, &prefix), event->time_ns);
	if (verdict)
		return verdict;
	if (event->owner != event->uid) {
		subject.uid = event->owner;
		subject.netns = 0;
		verdict = denied(bpf_map_lookup_elem(&deny, &subject), event->time_ns);
		if (verdict)
			return verdict;
	}
	return take(cfg, event, rules);
}

static __always_inline void emit(const struct event *event)
{
	if (bpf_ringbuf_output(&events, (void *)event, sizeof(*event), 0))
		count(COUNT_LOST);
}

/* The kernel takes "any" for loopback (ip_route_connect, tcp_v6_connect); so do we, or 0.0.0.0 would be a way round. */
static __always_inline void set_address(struct event *event, __be32 a, __be32 b, __be32 c, __be32 d)
{
	__be32 *address = (__be32 *)event->address;

	if (event->family == AF_INET6 && !a && !b && c == IPV4_MAPPED) {
		event->family = AF_INET;
		a = d;
		b = c = d = 0;
	}
	if (!a && !b && !c && !d) {
		if (event->family == AF_INET)
			a = bpf_htonl(0x7f000001);
		else
			d = bpf_htonl(1);
	}
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
	struct uid_prefix prefix = {.bits = 32};
	struct config *cfg;
	__u32 zero = 0, port, rules, protocol = ctx->protocol;
	__u32 *found;

	if (protocol != IPPROTO_TCP && protocol != IPPROTO_MPTCP)
		return 1;
	port = bpf_ntohs((__u16)ctx->user_port);
	found = bpf_map_lookup_elem(&ports, &port);
	if (!found || !*found)
		return 1;
	rules = *found & ((1U << MAX_RULES) - 1);
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
		emit(&event);
		return 0;
	}

	if (event.netns == cfg->own_netns)
		event.netns = 0;
	prefix.uid = bpf_htonl(event.uid);
	found = bpf_map_lookup_elem(&owners, &prefix);
	event.owner = found ? *found : event.uid;
	event.kind = KIND_CONNECT;
	event.verdict = decide(cfg, &event, rules);
	emit(&event);
	return event.verdict == ALLOWED;
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
