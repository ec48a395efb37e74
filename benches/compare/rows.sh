# The rows, in order. Each is measured with the servers' two ways of taking frames where both are possible.
alone bounce bounce
alone swap swap
none xdp
none skb
none pass
xdp swap swap xdp
xdp swap swap pass
xdp swap-redirect swap_redirect xdp
xdp swap-redirect swap_redirect skb
nft_to_ports skb
nft_to_servers skb
ipvs ipvs-sh sh '' skb
ipvs ipvs-sh-ops sh -o skb
ipvs ipvs-mh mh '' skb
ipvs ipvs-mh-ops mh -o skb
