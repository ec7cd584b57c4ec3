/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What became of a connection that was let through: a sockops program that reports it established, failed, its bytes
 * once a second while it is open, and its end. It follows sockets that the connect programs noted, whoever has them by
 * then, also after their process has died. It changes nothing.
 */
#ifndef SMTPGUARD_OUTCOME_H
#define SMTPGUARD_OUTCOME_H

#include "budget.bpf.h"

#define REPORT_NS 1000000000ULL

enum tcp_state { /* include/net/tcp_states.h */
	TCP_SYN_SENT = 2,
	TCP_FIN_WAIT2 = 5,
	TCP_CLOSE = 7,
	TCP_LAST_ACK = 9,
	TCP_CLOSING = 11,
};

static __always_inline void note_session(const struct event *event)
{
	struct session session = {
		.connect_ns = event->time_ns,
		.reported_ns = event->time_ns,
		.netns = event->netns,
		.uid = event->uid,
		.owner = event->owner,
		.port = event->port,
		.protocol = event->protocol,
		.family = event->family,
	};

	__builtin_memcpy(session.address, event->address, sizeof(session.address));
	bpf_map_update_elem(&sessions, &event->cookie, &session, BPF_ANY);
}

static __always_inline void report(struct bpf_sock_ops *ctx, const struct session *session, __u64 cookie, __u64 now,
				   __u8 outcome, __u64 uncounted)
{
	__u32 zero = 0;
	struct config *cfg = bpf_map_lookup_elem(&config, &zero);
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
	};

	if (!cfg)
		return;
	__builtin_memcpy(report.address, session->address, sizeof(report.address));
	report.bytes_sent = report.bytes_sent > uncounted ? report.bytes_sent - uncounted : 0;
	if (!take_budget(session->owner, LANE_REPORT, now)) {
		count(COUNT_UNSENT);
		note_unsent(session->owner, session->port, RESULT_REPORT + outcome);
		return;
	}
	if (bpf_ringbuf_output(&events, &report, sizeof(report), must_wake(cfg, 0, now))) {
		count(COUNT_LOST);
		note_unsent(session->owner, session->port, RESULT_REPORT + outcome);
	}
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
	port = bpf_ntohl(ctx->remote_port) & 0xffff;
	found = bpf_map_lookup_elem(&ports, &port);
	if (!found || !*found)
		return 1;
	if (op == BPF_SOCK_OPS_STATE_CB && ctx->args[1] != TCP_CLOSE)
		return 1;
	cookie = bpf_get_socket_cookie(ctx);
	session = bpf_map_lookup_elem(&sessions, &cookie);
	if (!session)
		return 1;
	now = bpf_ktime_get_boot_ns();
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
		session->reported_ns = now;
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
		bpf_map_delete_elem(&sessions, &cookie);
	return 1;
}

#endif
