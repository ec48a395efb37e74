// Both ends of the measurement, the same in every row, and the least a dispatcher could do.
//
// `blast` makes frames from many clients and hands them to a port. `count_xdp` and `count_skb` are the server: they look at
// each frame, count it by the server it is addressed to, and drop it, without and with a socket buffer.

#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/pkt_cls.h>

#define SEC(name) __attribute__((section(name), used))
#define MAP(kind, entries, key_type, value_type)                                                                                \
    struct {                                                                                                                    \
        int (*type)[kind];                                                                                                      \
        int (*max_entries)[entries];                                                                                            \
        key_type *key;                                                                                                          \
        value_type *value;                                                                                                      \
    }

static void *(*const lookup)(void *map, const void *key) = (void *)BPF_FUNC_map_lookup_elem;
static __u64 (*const now)(void) = (void *)BPF_FUNC_ktime_get_ns;
static long (*const redirect)(__u32 port, __u64 flags) = (void *)BPF_FUNC_redirect;
static long (*const redirect_map)(void *map, __u32 key, __u64 flags) = (void *)BPF_FUNC_redirect_map;

/// Servers; the last byte of a server's address is its number.
#define SERVERS 16

/// What `pace` tells the generator.
struct plan {
    /// Port to hand the frames to.
    __u32 port;
    /// Clients less one; a power of two less one.
    __u32 clients;
    /// Number of the next frame.
    __u32 next;
    /// When the first was made, by the boot's clock in nanoseconds.
    __u64 began;
    /// Where the frames go first.
    __u8 to[6];
    /// 0: UDP in IPv4; 1: the first fragment of such a packet; 2: UDP in IPv6 behind two extension headers.
    __u16 kind;
};

/// What has arrived.
struct seen {
    /// Whole, by the number of the server.
    __u64 server[SERVERS];
    /// Whole, but still addressed to the dispatcher.
    __u64 unaddressed;
    /// For the cluster, but damaged, or for a machine that does not exist.
    __u64 wrong;
    /// All of these, and how many there will be.
    __u64 all, expected;
    /// When the last of them came.
    __u64 ended;
};

MAP(BPF_MAP_TYPE_ARRAY, 1, __u32, struct plan) plan SEC(".maps");
MAP(BPF_MAP_TYPE_ARRAY, 1, __u32, struct seen) seen SEC(".maps");
MAP(BPF_MAP_TYPE_DEVMAP, 1, __u32, __u32) port SEC(".maps");

/// An Ethernet, an IPv4 and a UDP header, in words.
struct frame {
    __u8 to[6], from[6];
    __u16 kind;
    __u16 version, length, id, fragment, ttl, checksum, from_ip[2], to_ip[2];
    __u16 from_port, to_port, udp_length, udp_checksum;
} __attribute__((packed, aligned(2)));

/// An Ethernet, an IPv6, a hop-by-hop, a destination options and a UDP header.
struct frame6 {
    __u8 to[6], from[6];
    __u16 kind;
    __u16 version, flow, length, next, from_ip[8], to_ip[8];
    __u16 hop_by_hop[4], options[4];
    __u16 from_port, to_port, udp_length, udp_checksum;
} __attribute__((packed, aligned(2)));

#define BE(word) __builtin_bswap16(word)
/// 10.0.0.100, port 53.
#define CLUSTER_HIGH BE(0x0a00)
#define CLUSTER_LOW BE(0x0064)
#define LENGTH 46
#define LENGTH6 30
#define FRAGMENT 1
#define V6 2

/// The rest of an IPv6 frame, from fd01::CLIENT to fd00::100.
static inline __attribute__((always_inline)) int blast6(struct xdp_md *ctx, __u32 client)
{
    struct frame6 *f = (void *)(long)ctx->data;
    if ((void *)(f + 1) > (void *)(long)ctx->data_end)
        return 0;
    f->kind = BE(ETH_P_IPV6);
    f->version = BE(0x6000);
    f->flow = 0;
    f->length = BE(LENGTH6);
    f->next = BE(0 << 8 | 64);
    __builtin_memset(f->from_ip, 0, 32);
    f->from_ip[0] = BE(0xfd01);
    f->from_ip[7] = BE((__u16)client);
    f->to_ip[0] = BE(0xfd00);
    f->to_ip[7] = BE(0x100);
    // Destination options come next, six bytes of padding; then UDP, and the same.
    f->hop_by_hop[0] = BE(60 << 8);
    f->options[0] = BE(17 << 8);
    f->hop_by_hop[1] = f->options[1] = BE(0x0104);
    f->hop_by_hop[2] = f->hop_by_hop[3] = f->options[2] = f->options[3] = 0;
    f->from_port = BE(4096);
    f->to_port = BE(53);
    f->udp_length = BE(LENGTH6 - 16);
    f->udp_checksum = 0;
    return 1;
}

SEC("xdp")
int blast(struct xdp_md *ctx)
{
    struct frame *f = (void *)(long)ctx->data;
    __u32 zero = 0;
    struct plan *p = lookup(&plan, &zero);
    if (!p || (void *)(f + 1) > (void *)(long)ctx->data_end)
        return XDP_ABORTED;
    if (p->next == 0)
        p->began = now();
    __u32 client = p->next++ & p->clients;
    __builtin_memcpy(f->to, p->to, 6);
    __builtin_memcpy(f->from, (__u8[6]){2, 0, 0, 0, 2, 1}, 6);
    if (p->kind == V6)
        return blast6(ctx, client) ? redirect(p->port, 0) : XDP_ABORTED;
    __u16 fragment = p->kind == FRAGMENT ? 0x2000 : 0x4000;
    f->kind = BE(ETH_P_IP);
    f->version = BE(0x4500);
    f->length = BE(LENGTH);
    f->id = 0;
    f->fragment = BE(fragment);
    f->ttl = BE(64 << 8 | 17);
    f->from_ip[0] = BE(0x0a01);
    f->from_ip[1] = BE((__u16)client);
    f->to_ip[0] = CLUSTER_HIGH;
    f->to_ip[1] = CLUSTER_LOW;
    __u32 sum = 0x4500 + LENGTH + fragment + (64 << 8 | 17) + 0x0a01 + (client & 0xffff) + 0x0a00 + 0x0064;
    sum = (sum & 0xffff) + (sum >> 16);
    sum = (sum & 0xffff) + (sum >> 16);
    f->checksum = BE((__u16)~sum);
    f->from_port = BE(4096);
    f->to_port = BE(53);
    f->udp_length = BE(LENGTH - 20);
    f->udp_checksum = 0;
    // A QUIC packet with a short header, whose connection id names a server (for whoever looks at that).
    if ((void *)((__u32 *)(f + 1) + 1) > (void *)(long)ctx->data_end)
        return XDP_ABORTED;
    *(__u32 *)(f + 1) = 0x40 | (client % SERVERS) << 24;
    return redirect(p->port, 0);
}

/// Counts a frame if it is one of ours; 0 if not.
static inline __attribute__((always_inline)) int count(void *data, void *end)
{
    struct frame *f = data;
    __u32 zero = 0;
    struct seen *s = lookup(&seen, &zero);
    if (!s || (void *)(f + 1) > end)
        return 0;
    int whole;
    if (f->kind == BE(ETH_P_IP)) {
        if (f->to_ip[0] != CLUSTER_HIGH || f->to_ip[1] != CLUSTER_LOW)
            return 0;
        whole = f->length == BE(LENGTH) && f->from_ip[0] == BE(0x0a01) && f->to_port == BE(53);
    } else if (f->kind == BE(ETH_P_IPV6)) {
        struct frame6 *g = data;
        if ((void *)(g + 1) > end || g->to_ip[0] != BE(0xfd00) || g->to_ip[7] != BE(0x100))
            return 0;
        whole = g->length == BE(LENGTH6) && g->from_ip[0] == BE(0xfd01) && g->to_port == BE(53);
    } else {
        return 0;
    }
    __u16 *to = (__u16 *)f->to;
    __u8 number = f->to[5];
    if (!whole || to[0] != BE(0x0200))
        s->wrong++;
    else if (to[1] == 0 && f->to[4] == 1 && number < SERVERS)
        s->server[number]++;
    else if (to[1] == 0 && f->to[4] == 0 && number == 0xfe)
        s->unaddressed++;
    else
        s->wrong++;
    if (++s->all == s->expected)
        s->ended = now();
    return 1;
}

SEC("xdp")
int count_xdp(struct xdp_md *ctx)
{
    return count((void *)(long)ctx->data, (void *)(long)ctx->data_end) ? XDP_DROP : XDP_PASS;
}

SEC("classifier")
int count_skb(struct __sk_buff *skb)
{
    return count((void *)(long)skb->data, (void *)(long)skb->data_end) ? TC_ACT_SHOT : TC_ACT_OK;
}

/// A port that only gives its frames to the system. Frames sent back with XDP_TX need one at the other end.
SEC("xdp")
int pass(struct xdp_md *ctx)
{
    return XDP_PASS;
}

/// Nothing but the verdict.
SEC("xdp")
int bounce(struct xdp_md *ctx)
{
    return XDP_TX;
}

/// The least that reaches a server: two constant addresses, no look at the packet, no choice.
static inline __attribute__((always_inline)) int readdress(struct xdp_md *ctx)
{
    struct frame *f = (void *)(long)ctx->data;
    if ((void *)(f + 1) > (void *)(long)ctx->data_end)
        return XDP_PASS;
    // To 02:00:00:00:01:03, from 02:00:00:00:00:fe.
    *(__u64 *)f = 0x0002030100000002;
    *((__u32 *)f + 2) = 0xfe000000;
    return XDP_TX;
}

SEC("xdp")
int swap(struct xdp_md *ctx)
{
    return readdress(ctx);
}

/// The same, sent by way of a map of ports.
SEC("xdp")
int swap_redirect(struct xdp_md *ctx)
{
    return readdress(ctx) == XDP_TX ? redirect_map(&port, 0, 0) : XDP_PASS;
}

char terms[] SEC("license") = "GPL";
