"""Refusal by nftables: one table of ours, uid sets with kernel timeouts, one output chain before NAT.

`render`, `elements` and `parse` are pure (data in, text out and back), `heal` too; `sets` changes one set, `apply` is
the enforcer. `smtpguard.kernel.nft` hands text to the kernel, `smtpguard.kernel.nft_watch` tells what others did.
"""
