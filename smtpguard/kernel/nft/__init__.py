"""Ways to nftables: nfnetlink for what is written and read, a compiler for text of nft's language."""
