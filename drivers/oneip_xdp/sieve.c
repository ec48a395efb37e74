/*
 * For the AF_XDP plane: which frames user space gets. What is about the cluster's address and from no dispatcher, and, of what a
 * dispatcher sent, the segments of connections that have no socket here. All else goes to the system. It decides nothing more.
 */
#define SEC(name) __attribute__((section(name), used))
#define uint_(name, value) int (*name)[value]

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;

enum { XSKMAP = 17, PASS = 2, QUEUES = 64 };

/* The socket of each receive queue. */
struct {
    uint_(type, XSKMAP);
    uint_(key_size, 4);
    uint_(value_size, 4);
    uint_(max_entries, QUEUES);
} sieve_sockets SEC(".maps");

/* The cluster's addresses, zero if there is none: four bytes, four of nothing, sixteen. */
u8 sieve_address[24] SEC(".data");

char sieve_license[] SEC("license") = "Dual MIT/GPL";

struct context {
    u32 data, data_end, data_meta, ingress, queue, egress;
};

struct socket {
    u32 before[18], state;
};

static long (*const redirect_map)(void *map, u64 key, u64 flags) = (void *)51;
static long (*const release)(void *socket) = (void *)86;
static struct socket *(*const socket_of)(void *context, void *tuple, u32 size, u64 space, u64 flags) = (void *)99;
static long (*const load)(void *context, u32 at, void *into, u32 bytes) = (void *)189;

#define inline_ static inline __attribute__((always_inline))
#define same(a, b, bytes) (__builtin_memcmp(a, b, bytes) == 0)

inline_ u16 be16(const u8 *at)
{
    return (u16)(at[0] << 8 | at[1]);
}

/* Whether a segment goes on with a connection of which there is no socket; its addresses are at `addresses`. */
inline_ int stranger(struct context *context, u32 addresses, const u32 both, u32 l4)
{
    u8 tuple[40] = {0}, flags;
    if (load(context, addresses, tuple, both) || load(context, l4, tuple + both, 4) || load(context, l4 + 13, &flags, 1))
        return 0;
    if ((flags & 0x12) == 2)
        return 0;
    struct socket *socket = socket_of(context, tuple, both + 4, ~0ull, 0);
    if (!socket)
        return 1;
    u32 state = socket->state;
    release(socket);
    return state == 10;
}

SEC("xdp")
int sieve(struct context *context)
{
    const u8 *v4 = sieve_address, *v6 = sieve_address + 8;
    const u8 none[16] = {0};
    u8 ethernet[14], ip[40], about[16];
    u32 l3 = 14;
    if (load(context, 0, ethernet, 14))
        return PASS;
    u16 kind = be16(ethernet + 12);
    for (int i = 0; i < 2 && (kind == 0x8100 || kind == 0x88a8 || kind == 0x9100); i++) {
        if (load(context, l3 + 2, about, 2))
            return PASS;
        kind = be16(about);
        l3 += 4;
    }
    /* From a dispatcher, and not sent on by a server before. */
    int tagged = ethernet[6] == 0x52 && ethernet[7] == 0x41, first = ethernet[11] == 0, ours = 0;
    if (kind == 0x0800 && !same(v4, none, 4)) {
        if (load(context, l3, ip, 20) || !same(ip + 16, v4, 4))
            return PASS;
        int tcp = ip[9] == 6 && !(be16(ip + 6) & 0x3fff);
        ours = !tagged || (first && tcp && stranger(context, l3 + 12, 8, l3 + (ip[0] & 15) * 4));
    } else if (kind == 0x0806 && !same(v4, none, 4)) {
        if (load(context, l3, ip, 28))
            return PASS;
        ours = same(ip + 14, v4, 4) || same(ip + 24, v4, 4);
    } else if (kind == 0x86dd && !same(v6, none, 16)) {
        if (load(context, l3, ip, 40))
            return PASS;
        if (ip[6] == 58 && ip[7] == 255 && !load(context, l3 + 40, about, 1) && (about[0] == 135 || about[0] == 136))
            ours = !load(context, l3 + 48, about, 16) && same(about, v6, 16);
        else if (same(ip + 24, v6, 16))
            ours = !tagged || (first && ip[6] == 6 && stranger(context, l3 + 8, 32, l3 + 40));
    }
    return ours ? (int)redirect_map(&sieve_sockets, context->queue, PASS) : PASS;
}
