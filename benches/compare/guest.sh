#!/bin/sh
# Process 1 of the guest. Two machines, each a namespace with one port: clients and servers at `c0`, the dispatcher at `d0`. Every
# row has new ones. Frames go from c0 to d0, and what is dispatched goes back from d0 to c0, as on a network with one switch.
# Prints lines that begin with `@`, for the host.
export PATH=/tools:/bin
# The shell has an `ip` of its own, which knows no namespaces.
ip() { /tools/ip "$@"; }
tc() { /tools/tc "$@"; }
mkdir -p /proc /sys /dev /bpf /run /tmp
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev 2>/dev/null
mount -t bpf bpf /bpf
. /settings
export TABLE_BYTES

while read -r module; do insmod "$module" || echo "@trouble $module was not loaded"; done </modules
echo 1 >/proc/sys/net/core/bpf_jit_enable
echo 1 >/proc/sys/net/ipv6/conf/default/disable_ipv6
ip link set lo up
bpftool prog loadall /programs.o /bpf/prog pinmaps /bpf/map || echo "@trouble the programs were not loaded"
if [ -f /oneip.o ]; then
    bpftool prog loadall /oneip.o /bpf/own pinmaps /bpf/map || echo "@trouble the ONE-IP program was not loaded"
fi
echo "@kernel $(uname -r)"

dispatcher=02:00:00:00:00:fe
mac() { printf '02:00:00:00:01:%02x' "$1"; }

# fresh SINK: two new machines. SINK is how c0 takes what comes back: `xdp` counts and drops it before there is a socket buffer, `skb` after, `pass` after
# and behind an XDP program.
fresh() {
    ip netns del lan 2>/dev/null
    ip netns del box 2>/dev/null
    ip netns add lan
    ip netns add box
    ip -n lan link add c0 address 02:00:00:00:02:01 type veth peer name d0 netns box address $dispatcher
    ip netns exec lan ethtool -K c0 gro on
    ip netns exec box ethtool -K d0 gro on
    ip -n lan link set c0 up
    ip -n box link set lo up
    ip -n box link set d0 up
    sink lan c0 "$1"
}

# sink MACHINE PORT SINK
sink() {
    case $3 in
    xdp) ip -n "$1" link set "$2" xdpdrv pinned /bpf/prog/count_xdp ;;
    pass) ip -n "$1" link set "$2" xdpdrv pinned /bpf/prog/pass ;;
    esac
    if [ "$3" != xdp ]; then
        tc -n "$1" qdisc add dev "$2" clsact
        tc -n "$1" filter add dev "$2" ingress bpf da pinned /bpf/prog/count_skb
    fi
}

# The dispatcher's addresses, as every kernel's own forwarding needs them.
addressed() {
    {
        echo 'addr add 10.0.0.254/24 dev d0'
        echo 'addr add 10.0.0.100/32 dev lo'
        echo 'route add 10.1.0.0/16 dev d0'
        n=0
        while [ $n -lt "$SERVERS" ]; do
            echo "neigh replace 10.0.0.$((n + 1)) lladdr $(mac $n) dev d0 nud permanent"
            n=$((n + 1))
        done
    } | ip -n box -batch -
}

dropped() {
    {
        ip netns exec lan cat /sys/class/net/c0/statistics/rx_dropped /sys/class/net/c0/statistics/tx_dropped
        ip netns exec box cat /sys/class/net/d0/statistics/rx_dropped /sys/class/net/d0/statistics/tx_dropped
    } | { sum=0; while read -r n; do sum=$((sum + n)); done; echo $sum; }
}

# measure NAME TO: a row. Each client is seen once before, so that whoever keeps a table has it filled.
measure() {
    echo "@row $1"
    ip netns exec lan pace run /bpf c0 "$2" "$CLIENTS" "$((CLIENTS > 2000 ? CLIENTS : 2000))" 1 quiet
    before=$(dropped)
    counters
    ip netns exec lan pace run /bpf c0 "$2" "$CLIENTS" "$FRAMES" "$TIMES" | sed 's/^/@/'
    counters
    echo "@dropped $(($(dropped) - before))"
}
counters() { [ -z "$counting" ] || pace counters /bpf | sed 's/^/@/'; }

none() { # NAME SINK
    fresh xdp
    sink box d0 "$2"
    measure "$1 $2" "$(mac 0)"
}

# of KIND ROW...: a row with other frames.
of() {
    export KIND="$1"
    shift
    "$@"
    unset KIND
}

xdp() { # NAME PROGRAM SINK
    fresh "$3"
    ip -n box link set d0 xdpdrv pinned /bpf/prog/"$2"
    ip netns exec box pace port /bpf d0
    measure "$1 $3" $dispatcher
}

oneip() { # NAME KEY PORT SINK
    [ -f /oneip.o ] || return
    fresh "$4"
    ip -n box link set d0 xdpdrv pinned /bpf/own/oneip
    ip netns exec box pace oneip /bpf /table-"$2" $dispatcher "$3"
    counting=yes
    measure "$1 $4" $dispatcher
    counting=
}

nft_to_ports() { # SINK
    fresh "$1"
    {
        echo 'table netdev oneip {'
        echo 'chain in {'
        echo 'type filter hook ingress device "d0" priority 0;'
        printf 'ip daddr 10.0.0.100 fwd to jhash ip saddr mod %s seed 0x1997 map {' "$SERVERS"
        n=0
        while [ $n -lt "$SERVERS" ]; do printf ' %s : "d0",' $n; n=$((n + 1)); done
        printf ' }\n}\n}\n'
    } >/tmp/rules
    ip netns exec box nft -f /tmp/rules
    measure "nft-ports $1" $dispatcher
}

nft_to_servers() { # SINK
    fresh "$1"
    {
        echo 'table netdev oneip {'
        echo 'chain in {'
        echo 'type filter hook ingress device "d0" priority 0;'
        printf 'ip daddr 10.0.0.100 ether daddr set jhash ip saddr mod %s seed 0x1997 map {' "$SERVERS"
        n=0
        while [ $n -lt "$SERVERS" ]; do printf ' %s : %s,' $n "$(mac $n)"; n=$((n + 1)); done
        printf ' } fwd to "d0"\n}\n}\n'
    } >/tmp/rules
    ip netns exec box nft -f /tmp/rules
    measure "nft-servers $1" $dispatcher
}

ipvs() { # NAME SCHEDULER ONE-PACKET SINK
    fresh "$4"
    addressed
    {
        echo "-A -u 10.0.0.100:53 -s $2 $3"
        n=0
        while [ $n -lt "$SERVERS" ]; do
            echo "-a -u 10.0.0.100:53 -r 10.0.0.$((n + 1)):53 -g"
            n=$((n + 1))
        done
    } | ip netns exec box ipvsadm -R
    measure "$1 $4" $dispatcher
    echo "@connections $(ip netns exec box grep -c ^UDP /proc/net/ip_vs_conn)"
}

alone() { # NAME PROGRAM
    [ -e /bpf/"$2" ] || return
    echo "@row $1 alone"
    pace alone /bpf/"$2" $dispatcher | sed 's/^/@/'
}

# three VIA: a client, a server and the dispatcher, at a bridge. The client sends what is for the cluster's address to the address VIA.
three() {
    for each in lan srv box net; do
        ip netns del $each 2>/dev/null
        ip netns add $each
    done
    ip -n net link add br0 type bridge
    while read -r machine port address; do
        ip -n net link add "p$port" type veth peer name "$port" address "$address" netns "$machine"
        # What a program sends back is taken by who polls; a checksum left to the card is never made.
        ip netns exec "$machine" ethtool -K "$port" gro on tx off >/dev/null
        ip netns exec net ethtool -K "p$port" gro on
        ip -n net link set "p$port" xdpdrv pinned /bpf/prog/pass
        ip -n net link set "p$port" master br0 up
        ip -n "$machine" link set lo up
        ip -n "$machine" link set "$port" up
    done <<END
lan c0 $client
srv s0 $(mac 0)
box d0 $dispatcher
END
    ip -n net link set br0 up
    ip -n lan addr add 10.0.2.1/16 dev c0
    ip -n srv addr add 10.0.0.1/16 dev s0
    ip -n box addr add 10.0.0.254/16 dev d0
    for machine in srv box; do ip -n $machine addr add 10.0.0.100/32 dev lo; done
    ip -n lan neigh replace 10.0.0.100 lladdr "$1" dev c0 nud permanent
    for at in 'srv s0' 'box d0'; do ip -n "${at% *}" neigh replace 10.0.2.1 lladdr $client dev "${at#* }" nud permanent; done
    ip -n box neigh replace 10.0.0.1 lladdr "$(mac 0)" dev d0 nud permanent
    ip -n srv neigh replace 10.0.0.254 lladdr $dispatcher dev s0 nud permanent
}
client=02:00:00:00:02:01

# connect NAME: a row of whole connections, with one request and with eleven; each way is tried before.
connect() {
    echo "@row $1 tcp"
    ip netns exec srv tcp serve 80 &
    server=$!
    sleep 1
    for requests in 1 11; do
        ip netns exec lan tcp ask 10.0.0.100 80 20 $requests >/dev/null
        n=0
        while [ $n -lt "$TIMES" ]; do
            ip netns exec lan tcp ask 10.0.0.100 80 "$CONNECTIONS" $requests | sed 's/^/@/'
            n=$((n + 1))
        done
    done
    kill $server
}

tcp_none() {
    three "$(mac 0)"
    connect tcp-none
}

tcp_oneip() {
    [ -f /oneip.o ] || return
    three $dispatcher
    ip -n box link set d0 xdpdrv pinned /bpf/own/oneip
    ip netns exec box pace oneip /bpf /table-one $dispatcher -
    connect tcp-oneip
}

tcp_ipvs() {
    three $dispatcher
    printf '%s\n' '-A -t 10.0.0.100:80 -s sh' '-a -t 10.0.0.100:80 -r 10.0.0.1:80 -g' | ip netns exec box ipvsadm -R
    connect tcp-ipvs
}

tcp_haproxy() {
    [ -x /tools/haproxy ] || return
    three $dispatcher
    cat >/tmp/haproxy.cfg <<'END'
global
    nbthread 1
    maxconn 1000
defaults
    mode tcp
    timeout connect 5s
    timeout client 20s
    timeout server 20s
listen cluster
    bind 10.0.0.100:80
    balance source
    server one 10.0.0.1:80
END
    ip netns exec box /tools/haproxy -q -db -f /tmp/haproxy.cfg &
    proxy=$!
    connect tcp-haproxy
    kill $proxy
}

[ "$ONLY" = tcp ] || . /rows
if [ "$ONLY" != frames ]; then
    tcp_none
    tcp_oneip
    tcp_ipvs
    tcp_haproxy
fi
echo "@end"
sync
echo o >/proc/sysrq-trigger
sleep 100
