# The rows, in order. Each is measured with the servers' two ways of taking frames where both are possible.
alone bounce prog/bounce
alone swap prog/swap
none none xdp
none none skb
none none pass
xdp swap swap xdp
xdp swap swap pass
xdp swap-redirect swap_redirect xdp
xdp swap-redirect swap_redirect skb
oneip oneip source - xdp
oneip oneip source - pass
alone oneip own/oneip
oneip oneip-ports ports - pass
oneip oneip-quic quic - pass
oneip oneip-redirect source d0 skb
of fragments none none-fragments xdp
of fragments oneip oneip-fragments source - xdp
of v6 none none-v6 xdp
of v6 oneip oneip-v6 source - xdp
nft_to_ports skb
nft_to_servers skb
ipvs ipvs-sh sh '' skb
ipvs ipvs-sh-ops sh -o skb
ipvs ipvs-mh mh '' skb
ipvs ipvs-mh-ops mh -o skb
