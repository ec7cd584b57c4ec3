/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What the program, maps.py, credits.py and decode/bpf_event.py agree on: structures, maps, and the constants that are
 * set before loading. Times are CLOCK_BOOTTIME in nanoseconds, uids those of the initial user namespace.
 */
#ifndef SMTPGUARD_LAYOUT_H
#define SMTPGUARD_LAYOUT_H

#include <linux/bpf.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#define AF_INET 2
#define AF_INET6 10
#define IPPROTO_TCP 6
#define IPPROTO_MPTCP 262
/* A sum is worked out here, not when all its terms are there: these would not fit on the stack. */
#define settle(sum) asm volatile("" : "+r"(sum) : : "memory")
/*
 * What a number is known to be is forgotten, and the number stays: the ways that met here are one to the verifier from now
 * on, else it walks all that follows once for each. `any` must be a number of which nothing is known: a time.
 */
#define forget(number, any) asm volatile("%0 ^= %1\n\t%0 ^= %1" : "+r"(number) : "r"(any))
#define UID_UNKNOWN 0xffffffffU
#define IPV4_MAPPED bpf_htonl(0x0000ffff)
#define IPV4_LOOPBACK bpf_htonl(0x7f000001)
#define MAX_RULES 16
#define HEARTBEAT_MAX_NS 2000000000ULL /* a daemon silent for longer refuses nobody by credits */

/*
 * Set before loading, constant afterwards: features that some kernels refuse. The verifier never visits a branch that a
 * constant closes, so one object serves all kernels.
 */
const volatile __u8 use_pid = 1;     /* bpf_get_current_pid_tgid: every program type from 6.10, some before */
const volatile __u8 use_comm = 1;    /* bpf_get_current_comm: wants CAP_PERFMON */
const volatile __u8 use_netns = 1;   /* bpf_get_netns_cookie: 5.7 */
const volatile __u8 use_outcome = 1; /* the sockops program is attached too */
const volatile __u8 use_tell = 1;    /* getpeername hooks: 5.8 */
const volatile __u8 use_keys = 1;    /* too much for the verifier to look at without CAP_PERFMON */
const volatile __u8 use_storage = 1; /* bpf_sk_storage_get in both hooks */

enum flag {
	FLAG_ENFORCE = 1,  /* without it everything is reported as allowed, and is */
	FLAG_LOOPBACK = 2, /* loopback passes whatever else is said */
	FLAG_CREDITS = 4,  /* rules are enforced here */
	FLAG_CAP = 8,      /* so is the cap */
	FLAG_PACED = 16,   /* not every event wakes the reader: see must_wake() */
	FLAG_TELL = 32,    /* refused senders are told why */
	FLAG_LOOK = 64,    /* processes are looked at: whoever connects may be gone a millisecond later */
	FLAG_EXACT = 128,  /* every rule that refuses is enforced here: no verdict waits for the reader */
	FLAG_NOTING = 256, /* credits are taken and keys noted, and nobody is refused by them yet */
};

enum port_bit { /* of the values of `ports`; bits 0 to 15 say which connections rules count the port */
	PORT_GUARDED = 1U << 31,
	PORT_TELL = 1U << 30, /* a server speaks first there: a refused sender can be told why */
};

enum kind {
	KIND_CONNECT = 1,
	KIND_PROBE = 2, /* the self-test's socket: reported and refused, whatever the flags */
	KIND_REPORT = 3,
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
	__u64 heartbeat_ns; /* when the daemon last said that it lives */
	__u64 drained_ns;   /* what came before has been read */
	__u64 cap_interval_ns; /* the cap: one token in this time ... */
	__u64 cap_depth_ns;    /* ... and so much of it saved up: burst times the interval */
	__u32 flags;
	__u16 tell_port; /* where the responder listens on loopback; 0 for nowhere */
	__u16 reserved;
	__u32 keyed;   /* rules that count keys; the others count attempts */
	__u32 holding; /* rules whose refusal holds for all attempts on its ports until userspace has spoken; from bit 16
			  on those that hold for all guarded ports */
	__u64 reading_ns; /* when the reader last began to read */
};

struct event {
	__u64 time_ns;
	__u64 netns; /* 0: the guard's own, or not known */
	__u64 cookie;
	__u32 tgid;  /* 0: not known */
	__u32 uid;   /* the caller's real uid */
	__u32 owner; /* uid it counts for: the owner of the subordinate range, else uid */
	__u16 port;
	__u16 protocol;
	__u8 kind;
	__u8 verdict;
	__u8 family; /* AF_INET for IPv4-mapped destinations too */
	__u8 rule;   /* which rule, with REFUSED_CREDIT */
	__u16 credited; /* bit per rule of which a credit was used */
	__u8 urgent;    /* the reader was to be woken at once */
	__u8 passes;    /* the destination is exempt, or the host's own */
	__u8 address[16];
	char comm[16];
	__u32 creator; /* fsuid of who made the socket; UID_UNKNOWN if not known */
	__u32 unbudgeted; /* it took a credit, or reached what was not reached before: the limits bound how many these are */
};

enum outcome {
	OUTCOME_ESTABLISHED = 1,
	OUTCOME_REFUSED = 2,
	OUTCOME_TIMEOUT = 3,
	OUTCOME_GAVE_UP = 4,
	OUTCOME_OPEN = 5, /* an established session goes on: at most once a second */
	OUTCOME_CLOSED = 6,
	/* Nothing can be kept with the socket, whose option memory is full: it is followed in a map of limited size ... */
	OUTCOME_UNTRACKED = 7,
	OUTCOME_UNFOLLOWED = 8, /* ... or nowhere, because its owner has had a share of that. */
};

struct report { /* as `struct event` up to address */
	__u64 time_ns;
	__u64 netns;
	__u64 cookie;
	__u32 retransmissions;
	__u32 uid;
	__u32 owner;
	__u16 port;
	__u16 protocol;
	__u8 kind;
	__u8 outcome;
	__u8 family;
	__u8 reserved;
	__u32 reserved2;
	__u8 address[16];
	__u64 connect_ns; /* with the cookie it names the attempt: a socket may connect again */
	__u64 latency_ns; /* from connect() to established or to its end */
	__u64 bytes_sent; /* acknowledged by the peer */
	__u64 bytes_received; /* the peer's FIN may count as one */
	__u64 bytes_told; /* of those sent: what reports before told of */
	__u8 own[16]; /* the socket's own address, before any NAT; all 0 if not known */
};

struct session { /* what a report repeats of its attempt */
	__u64 connect_ns;
	__u64 reported_ns;
	__u64 bytes_told;
	__u64 netns;
	__u32 uid;
	__u32 owner;
	__u16 port;
	__u16 protocol;
	__u8 family;
	__u8 passes; /* as in struct event */
	__u8 reserved[2];
	__u8 address[16];
};

struct owed_key {
	__u32 owner;
	__u16 port;
	__u8 family;
	__u8 reserved;
};

struct owed {
	__u64 bytes; /* only rises */
	__u8 address[16]; /* of the first such session */
};

struct subject {
	__u32 uid;
	__u32 port; /* of a deny: which port; 0 for all, and for whatever else is kept of a subject */
	__u64 netns;
};

struct ends { /* 0 for none */
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
	__u32 quiet; /* attempts since `quiet_ns` that woke nobody */
	__u64 quiet_ns;
	__u64 used[MAX_RULES];
	__u64 cap_full_ns; /* when the bucket will be full again (GCRA's theoretical arrival time) */
	__u64 by_credit;   /* refusals */
	__u64 by_cap;
	__u64 tell_full_ns; /* as cap_full_ns, for answers of the responder */
	__u64 verdict_ns;   /* when a holding rule was last exceeded ... */
	__u32 verdict_rule; /* ... and which */
	__u32 reserved;
	__u64 last_ns; /* time of the last attempt that was judged */
};

enum grant_flag {
	GRANT_TOLD = 1, /* nothing of this subject is refused by credits or cap */
	GRANT_WAKE = 2, /* each attempt wakes the reader: a limit that it judges is near */
	GRANT_UNCAPPED = 4, /* the cap is not this subject's */
};

struct grant {
	struct bpf_spin_lock lock;
	__u32 flags;
	__u64 as_of_ns; /* `allowed` is right for attempts from this time on */
	__u64 allowed[MAX_RULES]; /* of a rule that counts keys: how many there may be */
	__u64 spoken_ns; /* userspace knows of verdicts up to here */
	__u64 emptied_ns[MAX_RULES]; /* of a rule that counts keys: what came up to here does not count */
	__u64 settled_ns; /* when userspace last spoke of a verdict: its deny was written before */
};

struct uid_prefix {
	__u32 bits;
	__be32 uid;
};

struct denied_prefix { /* the port is always compared in full */
	__u32 bits;
	__be32 port; /* 0 for all */
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
	__uint(max_entries, 1 << 20); /* 10,000 events; userspace may choose another size before loading */
} events SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct config);
} config SEC(".maps");

/* Indexed by port; 0 is not ours. An array, because this is all that a connect() to any other port pays for. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 65536);
	__type(key, __u32);
	__type(value, __u32);
} ports SEC(".maps");

/* When the reader was last woken. Two CPUs may write it at once: then it is woken twice. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u64);
} woken SEC(".maps");

enum count {
	COUNT_LOST = 0,       /* events lost because the ring was full */
	COUNT_UNCREDITED = 1, /* attempts let through without credits because no entry could be made */
	COUNT_UNKEYED = 2,    /* attempts of which a rule's keys could not be looked at, because no entry could be made */
	COUNT_HELD = 3,       /* verdicts of holding rules */
	COUNT_UNTRACKED = 4,  /* sockets that could keep nothing: followed in a map of limited size ... */
	COUNT_UNFOLLOWED = 5, /* ... or nowhere */
	COUNT_UNSENT = 8,     /* events of whoever was beyond his budget: see budget.bpf.h */
	COUNTS = 16,
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, COUNTS);
	__type(key, __u32);
	__type(value, __u64);
} counts SEC(".maps");

#define TRIE(name, entries, key_type, value_type)          \
	struct {                                           \
		__uint(type, BPF_MAP_TYPE_LPM_TRIE);       \
		__uint(map_flags, BPF_F_NO_PREALLOC);      \
		__uint(max_entries, entries);              \
		__type(key, key_type);                     \
		__type(value, value_type);                 \
	} name SEC(".maps")
#define UID_TRIE(name, entries, value_type) TRIE(name, entries, struct uid_prefix, value_type)

UID_TRIE(exempt_uids, 65536, __u32);
UID_TRIE(told_uids, 65536, __u32);           /* counted and never refused by credits or cap: shared and system users */
UID_TRIE(owners, 1 << 20, __u32);            /* subordinate uid to the uid of its owner */
/* Subordinate ranges that a deny covers, in whatever namespace. */
TRIE(deny_ranges, 1 << 20, struct denied_prefix, struct ends);

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

#define SUBJECT_HASH(name, value_type)                     \
	struct {                                           \
		__uint(type, BPF_MAP_TYPE_HASH);           \
		__uint(map_flags, BPF_F_NO_PREALLOC);      \
		__uint(max_entries, 1 << 17);              \
		__type(key, struct subject);               \
		__type(value, value_type);                 \
	} name SEC(".maps")

SUBJECT_HASH(deny, struct ends);
SUBJECT_HASH(accounts, struct account);
SUBJECT_HASH(grants, struct grant);

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

/* Sockets whose outcome is awaited: each has its own, and takes it with it. Nobody pushes another's out. */
struct {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct session);
} of_socket SEC(".maps");

/*
 * Where the kernel has no such storage, or the socket no room for it (whoever has it can fill its option memory): from
 * connect() to the SYN, a moment, in a map whose least recently used entries make room ...
 */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 16384);
	__type(key, __u64);
	__type(value, struct session);
} beginning SEC(".maps");

#define FOLLOWED 65536
#define FOLLOWED_SHARE 1024

/* ... and from there to the close in one that nobody is pushed out of, where each owner has a share. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, FOLLOWED);
	__type(key, __u64);
	__type(value, struct session);
} followed SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, FOLLOWED);
	__type(key, __u32);
	__type(value, __u64);
} followed_by_owner SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 16384);
	__type(key, struct owed_key);
	__type(value, struct owed);
} owed_bytes SEC(".maps");

static __always_inline void count(__u32 which)
{
	__u64 *value = bpf_map_lookup_elem(&counts, &which);

	if (value)
		*value += 1; /* per CPU */
}

#endif
