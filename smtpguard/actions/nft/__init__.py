"""Refusal by nftables: one table of ours, uid sets with kernel timeouts, one output chain before NAT.

`render`, `elements`, `difference` and `heal_limiter` are pure; `uid_set` changes one set, `table` keeps the table,
`enforcer` joins them. `smtpguard.kernel.nft` speaks with the kernel, and tells what others did.
"""
