"""Refusal by nftables: one table of ours, uid sets with kernel timeouts, one output chain before NAT.

`render` and `elements` and `parse` are pure (data in, text out and back); `run` hands text to the kernel; `apply`
is the enforcer; `watch` tells what others did to our table.
"""
