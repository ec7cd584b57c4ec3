/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Who made the socket: the fsuid of its file's opener, which is what `meta skuid` of nftables is. Only in the object
 * that is built with WITH_CREATOR: it needs the running kernel's type information and CAP_PERFMON.
 */
#ifndef SMTPGUARD_CREATOR_H
#define SMTPGUARD_CREATOR_H

#include "layout.bpf.h"

#ifdef WITH_CREATOR

/* As little of the kernel's structures as is read; libbpf finds where the running kernel has it. */
#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)

typedef struct {
	__u32 val;
} kuid_t;

struct cred {
	kuid_t fsuid;
};

struct file {
	const struct cred *f_cred;
};

struct socket {
	struct file *file;
};

struct sock {
	struct socket *sk_socket;
};

#pragma clang attribute pop

static __always_inline __u32 creator_of(struct bpf_sock_addr *ctx)
{
	const struct cred *cred;
	struct socket *socket;
	struct file *file;
	struct sock *sk;

	if (!ctx->sk)
		return UID_UNKNOWN;
	sk = (struct sock *)bpf_skc_to_tcp_sock(ctx->sk); /* none for MPTCP's own kind of socket */
	if (!sk)
		return UID_UNKNOWN;
	socket = sk->sk_socket;
	if (!socket)
		return UID_UNKNOWN;
	file = socket->file;
	if (!file)
		return UID_UNKNOWN;
	cred = file->f_cred;
	return cred ? cred->fsuid.val : UID_UNKNOWN;
}

#else

static __always_inline __u32 creator_of(struct bpf_sock_addr *ctx)
{
	(void)ctx;
	return UID_UNKNOWN;
}

#endif
#endif
