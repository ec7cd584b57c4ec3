/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What became of a connection that was let through: a sockops program that reports it established, failed, its bytes
 * once a second while it is open, and its end. It follows sockets that the connect programs noted, whoever has them by
 * then, also after their process has died. It changes nothing.
 */
#ifndef SMTPGUARD_OUTCOME_H
#define SMTPGUARD_OUTCOME_H

#include "wake.bpf.h"

#define REPORT_NS 1000000000ULL
#define RETRY_NS 100000000ULL /* a report that could not be sent is tried again so soon */

enum tcp_state { /* include/net/tcp_states.h */
	TCP_SYN_SENT = 2,
	TCP_FIN_WAIT2 = 5,
	TCP_CLOSE = 7,
	TCP_LAST_ACK = 9,
	TCP_CLOSING = 11,
};

static __noinline int note_session(struct bpf_sock_addr *ctx, const struct event *event)
{
	struct session *kept = 0;
	struct session session = {
		.connect_ns = event->time_ns,
		.reported_ns = event->time_ns,
		.netns = event->netns,
		.uid = event->uid,
		.owner = event->owner,
		.port = event->port,
		.protocol = event->protocol,
		.family = event->family,
		.passes = event->passes,
	};

	__builtin_memcpy(session.address, event->address, sizeof(session.address));
	if (use_storage && ctx->sk)
		kept = bpf_sk_storage_get(&of_socket, ctx->sk, &session, BPF_SK_STORAGE_GET_F_CREATE);
	if (kept)
		*kept = session; /* it may be there from an attempt before */
	else
		bpf_map_update_elem(&beginning, &event->cookie, &session, BPF_ANY);
	return 0;
}

static __always_inline struct session *find_session(struct bpf_sock_ops *ctx, __u64 cookie)
{
	if (use_storage) {
		struct bpf_sock *sk = ctx->sk;
		struct session *session = sk ? bpf_sk_storage_get(&of_socket, sk, 0, 0) : 0;

		if (session)
			return session;
	}
	return bpf_map_lookup_elem(&followed, &cookie);
}

/* One more of this owner, if there is room for it in his share. */
__noinline int take_share(__u32 owner)
{
	__u64 *taken = bpf_map_lookup_elem(&followed_by_owner, &owner);
	__u64 none = 0;

	if (!taken) {
		bpf_map_update_elem(&followed_by_owner, &owner, &none, BPF_NOEXIST); /* another CPU may be first */
		taken = bpf_map_lookup_elem(&followed_by_owner, &owner);
	}
	if (!taken || *taken >= FOLLOWED_SHARE) /* as many CPUs as there are may pass it by one each */
		return 0;
	__sync_fetch_and_add(taken, 1);
	return 1;
}

__noinline int give_share(__u32 owner)
{
	__u64 *taken = bpf_map_lookup_elem(&followed_by_owner, &owner);

	if (taken)
		__sync_fetch_and_add(taken, -1);
	return 0;
}

/* Nothing is to be kept of it any more. */
static __always_inline void leave(struct bpf_sock_ops *ctx, __u32 owner, __u64 cookie)
{
	struct bpf_sock *sk = ctx->sk;

	if (use_storage && sk)
		bpf_sk_storage_delete(&of_socket, sk);
	if (!bpf_map_delete_elem(&followed, &cookie))
		give_share(owner);
}

/* The SYN of a socket that can keep nothing itself. Its end will be seen, so its entry will be removed. */
static __always_inline __u8 follow(const struct session *begun, __u64 cookie)
{
	int owned = take_share(begun->owner);

	if (owned && !bpf_map_update_elem(&followed, &cookie, begun, BPF_NOEXIST)) {
		if (use_storage)
			count(COUNT_UNTRACKED);
		return OUTCOME_UNTRACKED;
	}
	if (owned)
		give_share(begun->owner);
	count(COUNT_UNFOLLOWED);
	return OUTCOME_UNFOLLOWED;
}

/* A last report that could not be sent: what it would have told of is kept for its owner, and read once a second. */
static __always_inline void owe(const struct report *report)
{
	struct owed_key key = {.owner = report->owner, .port = report->port, .family = report->family};
	struct owed *owed = bpf_map_lookup_elem(&owed_bytes, &key);

	if (!owed) {
		struct owed none = {};

		__builtin_memcpy(none.address, report->address, sizeof(none.address));
		bpf_map_update_elem(&owed_bytes, &key, &none, BPF_NOEXIST); /* another CPU may be first */
		owed = bpf_map_lookup_elem(&owed_bytes, &key);
	}
	if (owed)
		__sync_fetch_and_add(&owed->bytes, report->bytes_sent - report->bytes_told);
}

/* The address that the socket has on this host. The family is the destination's: a mapped one is IPv4. */
static __always_inline void note_own(struct bpf_sock_ops *ctx, __u8 family, __u8 own[16])
{
	__u32 address4 = ctx->local_ip4;
	__u32 address6[4];

	settle(address4); /* each is read by its own offset: the verifier knows no other way into `ctx` */
	address6[0] = ctx->local_ip6[0];
	settle(address6[0]);
	address6[1] = ctx->local_ip6[1];
	settle(address6[1]);
	address6[2] = ctx->local_ip6[2];
	settle(address6[2]);
	address6[3] = ctx->local_ip6[3];
	settle(address6[3]);
	if (family == AF_INET)
		__builtin_memcpy(own, &address4, sizeof(address4));
	else
		__builtin_memcpy(own, address6, sizeof(address6));
}

static __always_inline void report(struct bpf_sock_ops *ctx, struct session *session, __u64 cookie, __u64 now,
				   __u8 outcome, __u64 uncounted)
{
	__u32 lane = outcome >= OUTCOME_UNTRACKED ? LANE_UNTRACKED : LANE_REPORT;
	__u32 elsewhere = is_elsewhere(session->uid, session->owner, session->netns);
	struct report report = {
		.time_ns = now,
		.netns = session->netns,
		.cookie = cookie,
		.retransmissions = ctx->total_retrans,
		.uid = session->uid,
		.owner = session->owner,
		.port = session->port,
		.protocol = session->protocol,
		.kind = KIND_REPORT,
		.outcome = outcome,
		.family = session->family,
		.connect_ns = session->connect_ns,
		.latency_ns = now - session->connect_ns,
		.bytes_sent = ctx->bytes_acked,
		.bytes_received = ctx->bytes_received,
		.bytes_told = session->bytes_told,
	};

	__builtin_memcpy(report.address, session->address, sizeof(report.address));
	note_own(ctx, session->family, report.own);
	report.bytes_sent = report.bytes_sent > uncounted ? report.bytes_sent - uncounted : 0;
	if (report.bytes_told > report.bytes_sent)
		report.bytes_told = report.bytes_sent; /* the FIN was told of as a byte */
	if (take_budget(session->owner, lane, elsewhere, now)) {
		if (!bpf_ringbuf_output(&events, &report, sizeof(report),
					must_wake(0, 0, session->owner, elsewhere, now))) {
			session->bytes_told = report.bytes_sent;
			session->reported_ns = now;
			return;
		}
		count(COUNT_LOST);
	} else {
		count(COUNT_UNSENT);
	}
	note_unsent(session->owner, session->port, RESULT_REPORT + outcome, elsewhere);
	session->reported_ns = now - REPORT_NS + RETRY_NS;
	/* Of namespaces that are no account's there is no end. */
	if (outcome == OUTCOME_CLOSED && !session->passes && (!session->netns || session->owner != session->uid))
		owe(&report);
}

SEC("sockops")
int smtpguard_outcome(struct bpf_sock_ops *ctx)
{
	__u32 port, op = ctx->op;
	struct session *session;
	__u64 cookie, now;
	__u32 *found, before;
	__u64 uncounted = 1; /* SYN and FIN are acknowledged like a byte each */
	__u8 outcome;

	if (op != BPF_SOCK_OPS_TCP_CONNECT_CB && op != BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB &&
	    op != BPF_SOCK_OPS_STATE_CB && op != BPF_SOCK_OPS_RTT_CB)
		return 1;
	if (op == BPF_SOCK_OPS_STATE_CB && ctx->args[1] != TCP_CLOSE)
		return 1;
	port = bpf_ntohl(ctx->remote_port) & 0xffff;
	found = bpf_map_lookup_elem(&ports, &port);
	/* The end of one that was followed is seen to even if its port is not guarded any more. */
	if ((!found || !*found) && op != BPF_SOCK_OPS_STATE_CB)
		return 1;
	cookie = bpf_get_socket_cookie(ctx);
	now = bpf_ktime_get_boot_ns();
	session = find_session(ctx, cookie);
	if (!session) {
		if (op != BPF_SOCK_OPS_TCP_CONNECT_CB)
			return 1;
		session = bpf_map_lookup_elem(&beginning, &cookie);
		if (!session)
			return 1;
		outcome = follow(session, cookie);
		if (outcome == OUTCOME_UNTRACKED)
			bpf_sock_ops_cb_flags_set(ctx, BPF_SOCK_OPS_STATE_CB_FLAG | BPF_SOCK_OPS_RTT_CB_FLAG);
		if (use_storage)
			report(ctx, session, cookie, now, outcome, uncounted);
		bpf_map_delete_elem(&beginning, &cookie);
		return 1;
	}
	switch (op) {
	case BPF_SOCK_OPS_TCP_CONNECT_CB:
		bpf_sock_ops_cb_flags_set(ctx, BPF_SOCK_OPS_STATE_CB_FLAG | BPF_SOCK_OPS_RTT_CB_FLAG);
		return 1;
	case BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB:
		outcome = OUTCOME_ESTABLISHED;
		break;
	case BPF_SOCK_OPS_RTT_CB:
		if (now - session->reported_ns < REPORT_NS)
			return 1;
		outcome = OUTCOME_OPEN;
		break;
	default: /* closed */
		before = ctx->args[0];
		if (before != TCP_SYN_SENT) {
			outcome = OUTCOME_CLOSED;
			uncounted += before == TCP_FIN_WAIT2 || before == TCP_LAST_ACK || before == TCP_CLOSING;
		} else if (ctx->segs_in) {
			outcome = OUTCOME_REFUSED; /* something came back: a reset */
		} else {
			/* Nothing came, though asked again: nobody is there. Not asked again: the caller left. */
			outcome = ctx->total_retrans ? OUTCOME_TIMEOUT : OUTCOME_GAVE_UP;
		}
	}
	report(ctx, session, cookie, now, outcome, uncounted);
	if (op == BPF_SOCK_OPS_STATE_CB)
		leave(ctx, session->owner, cookie);
	return 1;
}

#endif
