/*
 * The same verdicts by another hand: ONE-IP's rules (docs/oneip.md) in C, over the same maps. Nobody runs it for clients: the
 * differential test runs both programs and the core on the host on the same frames, and a bug that is in one of them alone
 * shows. So it is written for being read: every byte comes and goes by a kernel function, whatever that costs.
 */
#include "maps.c"

typedef unsigned char u8;
typedef unsigned short u16;
typedef signed short s16;

struct context {
    u32 data, data_end, data_meta, ingress, queue, egress;
};

static void *(*const map_lookup)(void *map, const void *key) = (void *)1;
static u64 (*const processor)(void) = (void *)8;
static long (*const redirect)(u32 port, u64 flags) = (void *)23;
static long (*const release)(void *socket) = (void *)86;
static void *(*const socket_of)(void *context, void *tuple, u32 size, u64 space, u64 flags) = (void *)99;
static u64 (*const boot_clock)(void) = (void *)125;
static u64 (*const frame_size)(void *context) = (void *)188;
static long (*const load)(void *context, u32 at, void *into, u32 bytes) = (void *)189;
static long (*const store)(void *context, u32 at, const void *from, u32 bytes) = (void *)190;

#define inline_ static inline __attribute__((always_inline))
#define apart static __attribute__((noinline))
#define copy __builtin_memcpy
#define same(a, b, bytes) (__builtin_memcmp(a, b, bytes) == 0)

enum { DROP = 1, PASS = 2, TX = 3 };

/* Numbers of counters: what becomes of a frame. */
enum {
    PASSED,
    LOCAL,
    TRANSMIT,
    RUNT,
    TRUNCATED,
    TOO_MANY_TAGS,
    BAD_HEADER,
    TOO_MANY_HEADERS,
    GROUP,
    NOT_DISPATCHER,
    LEASE_EXPIRED,
    STALE_EPOCH,
    NO_SERVER,
    NOT_FOR_US,
    BAD_NEIGHBOUR,
    FOREIGN_CLAIM,
    UNSETTLED,
    NO_TABLE = 30,
    NO_STATE = 31,
};

enum { NOBODY = 0xffff, SOURCE = 0, QUIC = 2, ICMP = 1, TCP = 6, UDP = 17, ICMPV6 = 58, NOTHING = 59 };

/* What this node is, and the head of the table in use. */
struct node {
    struct context *context;
    const u8 *table;
    u64 now, lease, epoch, fence, seed;
    u32 out, size;
    u16 server, count;
    u8 id, fresh, log2, key;
    u8 mac[6], claim[6], v4[4], v6[16];
};

struct ethernet {
    u8 to[6], from[6];
    u16 kind;
    u32 l3;
};

struct packet {
    u8 client[16];
    u32 l4;
    u8 protocol, fragment, v6, reverse;
};

/* For the check of the check: a first fragment counts as a whole packet. */
#ifdef PLANTED
#define FRAGMENT 0x1fff
#else
#define FRAGMENT 0x3fff
#endif

inline_ u16 be16(const u8 *at)
{
    return (u16)(at[0] << 8 | at[1]);
}

inline_ u32 be32(const u8 *at)
{
    return (u32)be16(at) << 16 | be16(at + 2);
}

inline_ u64 be64(const u8 *at)
{
    return (u64)be32(at) << 32 | be32(at + 4);
}

inline_ u64 spread(u64 x)
{
    x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9ull;
    return (x ^ x >> 27) * 0x94d049bb133111ebull;
}

/* Bytes of the table, at any place. */
inline_ int table_bytes(const struct node *node, u32 at, void *into, const u32 bytes)
{
    if (at > TABLE_BYTES - bytes)
        return 0;
    copy(into, node->table + at, bytes);
    return 1;
}

inline_ u16 slot_of(const struct node *node, u64 hash, u16 *former)
{
    u32 slots = 1u << (node->log2 & 31), number = (u32)(hash >> ((64 - node->log2) & 63)) & (slots - 1);
    u16 server = NOBODY;
    *former = NOBODY;
    table_bytes(node, 64 + 2 * number, &server, 2);
    table_bytes(node, 64 + 2 * slots + 2 * number, former, 2);
    return server;
}

inline_ int server_mac(const struct node *node, u16 place, u8 *mac)
{
    return place < node->count && table_bytes(node, 64 + (4u << (node->log2 & 31)) + 8u * place, mac, 6);
}

inline_ const u8 *own(const struct node *node)
{
    const u8 none[6] = {0};
    return same(node->claim, none, 6) ? node->mac : node->claim;
}

inline_ int may(const struct node *node)
{
    return node->lease == 0 ? NOT_DISPATCHER : node->now >= node->lease ? LEASE_EXPIRED : 0;
}

inline_ void tag(u8 *mac, u8 sender, u16 epoch, u8 hop)
{
    mac[0] = 0x52;
    mac[1] = 0x41;
    mac[2] = sender;
    mac[3] = (u8)(epoch >> 8);
    mac[4] = (u8)epoch;
    mac[5] = hop;
}

inline_ int is_tag(const u8 *mac)
{
    return mac[0] == 0x52 && mac[1] == 0x41;
}

apart int send(struct node *node, u16 server, u8 sender, u16 epoch, u8 hop)
{
    u8 both[12];
    if (!server_mac(node, server, both))
        return NO_SERVER;
    tag(both + 6, sender, epoch, hop);
    return store(node->context, 0, both, 12) ? RUNT : TRANSMIT;
}

/* From the first extension header to what is behind the last. */
apart int extensions(struct context *context, u8 first, u32 at, struct packet *packet)
{
    packet->protocol = first;
    packet->l4 = at;
    for (int i = 0; i < 7; i++) {
        u8 kind = packet->protocol, head[4];
        if (kind != 0 && kind != 43 && kind != 60 && kind != 51 && kind != 44)
            return 0;
        if (load(context, packet->l4, head, 4))
            return TRUNCATED;
        packet->protocol = head[0];
        if (kind == 44) {
            u16 field = be16(head + 2);
            if (field & 0xfff9)
                packet->fragment = 1;
            if (field & 0xfff8)
                packet->protocol = NOTHING;
            packet->l4 += 8;
        } else {
            packet->l4 += kind == 51 ? (head[1] + 2u) * 4 : (head[1] + 1u) * 8;
        }
    }
    return TOO_MANY_HEADERS;
}

apart int ports(struct context *context, const struct packet *packet, u16 *client, u16 *cluster)
{
    u8 both[4];
    if (load(context, packet->l4, both, 4))
        return 0;
    *client = be16(both + (packet->reverse ? 2 : 0));
    *cluster = be16(both + (packet->reverse ? 0 : 2));
    return 1;
}

struct socket {
    u32 before[18], state;
};

apart int has_socket(struct node *node, const struct packet *packet, u16 client, u16 cluster)
{
    u8 tuple[40] = {0};
    u32 bytes = packet->v6 ? 36 : 12;
    u16 pair[2] = {(u16)__builtin_bswap16(client), (u16)__builtin_bswap16(cluster)};
    if (packet->v6) {
        copy(tuple, packet->client, 16);
        copy(tuple + 16, node->v6, 16);
        copy(tuple + 32, pair, 4);
    } else {
        copy(tuple, packet->client + 12, 4);
        copy(tuple + 4, node->v4, 4);
        copy(tuple + 8, pair, 4);
    }
    struct socket *socket = socket_of(node->context, tuple, bytes, ~0ull, 0);
    if (!socket)
        return 0;
    u32 state = socket->state;
    release(socket);
    return state != 10;
}

/*
 * Sends a segment, or an error about a connection, on if the connection is not here and another server may have it. `asked` is
 * who sent it and how often.
 */
apart int elsewhere(struct node *node, const struct packet *packet, u32 slot, u16 epoch, u16 asked)
{
    u16 client = 0, cluster = 0, server = slot >> 16, former = slot, other;
    u8 flags = 0, sender = asked >> 8, hop = asked;
    if (packet->protocol != TCP || packet->fragment || !ports(node->context, packet, &client, &cluster))
        return 0;
    if (!packet->reverse && load(node->context, packet->l4 + 13, &flags, 1))
        return 0;
    int begins = (flags & 0x12) == 2, own = server == node->server;
    if (former == node->server)
        former = NOBODY;
    if (!begins)
        other = hop > 1 ? NOBODY : former == NOBODY ? server : former;
    else if (hop == 0)
        other = own && node->fresh ? former : NOBODY;
    else if (hop == 1 && !own && server != NOBODY)
        other = server;
    else if (hop == 2 && own && sender == node->id)
        other = NOBODY;
    else
        return has_socket(node, packet, client, cluster) ? 0 : UNSETTLED;
    if (other == node->server || other == NOBODY || has_socket(node, packet, client, cluster))
        return 0;
    return send(node, other, begins && hop ? sender : node->id, epoch, hop + 1);
}

/* The server that a connection id names; NOBODY for none. */
apart u16 quic(struct node *node, const struct packet *packet)
{
    u8 first, length, id[8], mac[6];
    u32 at = packet->l4 + 8;
    if (packet->protocol != UDP || packet->fragment || packet->reverse || load(node->context, at, &first, 1))
        return NOBODY;
    if (first & 0x80) {
        if (load(node->context, at + 5, &length, 1) || length < 8)
            return NOBODY;
        at += 6;
    } else {
        at += 1;
    }
    if (load(node->context, at, id, 8) || id[0] >> 5 == 7)
        return NOBODY;
    u16 server = be16(id + 1);
    return server_mac(node, server, mac) ? server : NOBODY;
}

apart int route(struct node *node, const struct ethernet *ethernet, const struct packet *packet)
{
    if (!same(ethernet->to, node->mac, 6) && !same(ethernet->to, node->claim, 6))
        return ethernet->to[0] & 1 ? GROUP : PASSED;
    int tagged = is_tag(ethernet->from);
    u16 epoch = be16(ethernet->from + 3);
    if (tagged) {
        if ((s16)(u16)(epoch - (u16)node->fence) < 0)
            return STALE_EPOCH;
    } else {
        int refused = may(node);
        if (refused)
            return refused;
    }
    u16 server = NOBODY, former = NOBODY;
    if (node->key == QUIC)
        server = quic(node, packet);
    if (server == NOBODY) {
        u64 hash;
        if (packet->v6)
            hash = spread(spread(node->seed ^ be64(packet->client)) + be64(packet->client + 8));
        else
            hash = spread(node->seed ^ (u32)__builtin_bswap32(be32(packet->client + 12)));
        if (node->key != SOURCE && !packet->fragment && (packet->protocol == TCP || packet->protocol == UDP)) {
            u16 client = 0, cluster = 0;
            if (!ports(node->context, packet, &client, &cluster))
                return TRUNCATED;
            hash = spread(hash ^ ((u64)client << 16 | cluster));
        }
        server = slot_of(node, hash, &former);
    }
    if (!tagged && (server != node->server || server == NOBODY))
        return send(node, server, node->id, (u16)node->epoch, 0);
    u8 hop = tagged ? ethernet->from[5] : 0;
    int sent = elsewhere(node, packet, (u32)server << 16 | former, tagged ? epoch : (u16)node->epoch,
                         (u16)(ethernet->from[2] << 8 | hop));
    if (sent)
        return sent;
    if (!tagged) {
        u8 mac[6];
        tag(mac, node->id, (u16)node->epoch, 0);
        store(node->context, 6, mac, 6);
    }
    return LOCAL;
}

apart int v4(struct node *node, const struct ethernet *ethernet)
{
    const u8 none[4] = {0};
    struct packet packet = {0};
    u8 ip[20], kind;
    if (load(node->context, ethernet->l3, ip, 20))
        return TRUNCATED;
    if (!same(ip + 16, node->v4, 4) || same(node->v4, none, 4))
        return PASSED;
    u32 header = (ip[0] & 15) * 4u, length = be16(ip + 2);
    if (ip[0] >> 4 != 4 || header < 20 || length < header)
        return BAD_HEADER;
    if (ethernet->l3 + length > node->size)
        return TRUNCATED;
    packet.protocol = ip[9];
    packet.l4 = ethernet->l3 + header;
    packet.fragment = (be16(ip + 6) & FRAGMENT) != 0;
    copy(packet.client + 12, ip + 12, 4);
    if (packet.protocol == ICMP && !packet.fragment && !load(node->context, packet.l4, &kind, 1)
        && (kind == 3 || kind == 4 || kind == 5 || kind == 11 || kind == 12)
        && !load(node->context, packet.l4 + 8, ip, 20) && ip[0] >> 4 == 4 && same(ip + 12, node->v4, 4)) {
        /* An error: whose it is, is in the packet that it tells about. */
        packet.protocol = ip[9];
        packet.l4 += 8 + (ip[0] & 15) * 4u;
        packet.fragment = (be16(ip + 6) & FRAGMENT) != 0;
        copy(packet.client + 12, ip + 16, 4);
        packet.reverse = 1;
    }
    return route(node, ethernet, &packet);
}

/* Sixteen-bit words, summed in pairs. */
inline_ u64 words(const u8 *bytes, const u32 many)
{
    u64 sum = 0;
    for (u32 i = 0; i < many; i += 4)
        sum += be32(bytes + i);
    return sum;
}

/* Somebody claims the address with `mac`. */
apart int claimed(struct node *node, const u8 *mac, u32 trailer)
{
    const u8 mark[5] = {'A', 'P', 'U', 'S', 1};
    u8 bytes[18];
    if (!load(node->context, trailer, bytes, 18) && same(bytes, mark, 5)) {
        u64 epoch = be64(bytes + 6);
        u64 sum = (epoch ^ (u64)bytes[5] << 56) * 0x9e3779b97f4a7c15ull;
        if (be32(bytes + 14) == (u32)(sum >> 32))
            return epoch < node->fence ? FOREIGN_CLAIM : NOT_FOR_US;
    }
    return same(mac, own(node), 6) ? NOT_FOR_US : FOREIGN_CLAIM;
}

apart int arp(struct node *node, const struct ethernet *ethernet)
{
    const u8 kind[6] = {0, 1, 8, 0, 6, 4}, none[6] = {0};
    u8 packet[28], answer[22], both[12];
    if (load(node->context, ethernet->l3, packet, 28))
        return TRUNCATED;
    if (!same(packet, kind, 6) || same(node->v4, none, 4))
        return PASSED;
    if (same(packet + 14, node->v4, 4))
        return claimed(node, packet + 8, ethernet->l3 + 28);
    if (!same(packet + 24, node->v4, 4) || be16(packet + 6) != 1)
        return PASSED;
    if (may(node))
        return NOT_FOR_US;
    if (packet[8] & 1 || same(packet + 8, none, 6))
        return BAD_NEIGHBOUR;
    answer[0] = 0;
    answer[1] = 2;
    copy(answer + 2, own(node), 6);
    copy(answer + 8, packet + 24, 4);
    copy(answer + 12, packet + 8, 10);
    copy(both, packet + 8, 6);
    copy(both + 6, own(node), 6);
    store(node->context, ethernet->l3 + 6, answer, 22);
    store(node->context, 0, both, 12);
    return TRANSMIT;
}

apart int solicited(struct node *node, const struct ethernet *ethernet, u32 length)
{
    u32 l3 = ethernet->l3, l4 = l3 + 40;
    u8 source[16], option[8] = {0}, asker[6], both[12], head[8] = {136, 0, 0, 0, 0x60, 0, 0, 0};
    const u8 none[16] = {0};
    if (load(node->context, l3 + 8, source, 16))
        return TRUNCATED;
    if (same(source, none, 16))
        return FOREIGN_CLAIM;
    if (may(node))
        return NOT_FOR_US;
    if (length >= 32 && !load(node->context, l4 + 24, option, 8) && option[0] == 1 && option[1] == 1)
        copy(asker, option + 2, 6);
    else if (!(ethernet->to[0] & 1))
        copy(asker, ethernet->from, 6);
    else
        return BAD_NEIGHBOUR;
    if (asker[0] & 1 || source[0] == 0xff)
        return BAD_NEIGHBOUR;
    option[0] = 2;
    option[1] = 1;
    copy(option + 2, own(node), 6);
    u64 sum = 2 * words(node->v6, 16) + words(source, 16) + words(head, 8) + ICMPV6;
    sum += length >= 32 ? 32 + words(option, 8) : 24;
    for (int i = 0; i < 5; i++)
        sum = (sum & 0xffff) + (sum >> 16);
    head[2] = (u8)(~sum >> 8);
    head[3] = (u8)~sum;
    u8 bytes[2] = {0, length >= 32 ? 32 : 24};
    store(node->context, l3 + 4, bytes, 2);
    store(node->context, l3 + 8, node->v6, 16);
    store(node->context, l3 + 24, source, 16);
    store(node->context, l4, head, 8);
    if (length >= 32)
        store(node->context, l4 + 24, option, 8);
    copy(both, asker, 6);
    copy(both + 6, own(node), 6);
    store(node->context, 0, both, 12);
    return TRANSMIT;
}

/* A question or claim about the address; -1 if it is neither. */
apart int discovery(struct node *node, const struct ethernet *ethernet, u32 length)
{
    u32 l4 = ethernet->l3 + 40;
    u8 kind[2], about[16], option[8], mac[6];
    if (load(node->context, l4, kind, 2) || (kind[0] != 135 && kind[0] != 136))
        return -1;
    if (load(node->context, l4 + 8, about, 16) || !same(about, node->v6, 16))
        return -1;
    if (kind[1] != 0 || length < 24)
        return BAD_NEIGHBOUR;
    if (l4 + length > node->size)
        return TRUNCATED;
    if (kind[0] == 135)
        return solicited(node, ethernet, length);
    copy(mac, ethernet->from, 6);
    if (length >= 32 && !load(node->context, l4 + 24, option, 8) && option[0] == 2 && option[1] == 1)
        copy(mac, option + 2, 6);
    return claimed(node, mac, l4 + length);
}

apart int v6(struct node *node, const struct ethernet *ethernet)
{
    const u8 none[16] = {0};
    struct packet packet = {.v6 = 1};
    u8 ip[40], kind;
    /* Parts of the header: what is cut off behind them is found later. */
    if (load(node->context, ethernet->l3, ip, 40))
        return TRUNCATED;
    u32 length = be16(ip + 4);
    if (same(node->v6, none, 16))
        return PASSED;
    if (ip[6] == ICMPV6 && ip[7] == 255) {
        int known = discovery(node, ethernet, length);
        if (known >= 0)
            return known;
    }
    if (!same(ip + 24, node->v6, 16))
        return PASSED;
    if (ip[0] >> 4 != 6)
        return BAD_HEADER;
    if (ethernet->l3 + 40 + length > node->size)
        return TRUNCATED;
    copy(packet.client, ip + 8, 16);
    int wrong = extensions(node->context, ip[6], ethernet->l3 + 40, &packet);
    if (wrong)
        return wrong;
    if (packet.protocol == ICMPV6 && !packet.fragment && !load(node->context, packet.l4, &kind, 1) && kind >= 1
        && kind <= 4 && !load(node->context, packet.l4 + 8, ip, 40) && ip[0] >> 4 == 6 && same(ip + 8, node->v6, 16)) {
        if (extensions(node->context, ip[6], packet.l4 + 48, &packet)) {
            packet.protocol = NOTHING;
            packet.l4 = 0;
            packet.fragment = 0;
        }
        copy(packet.client, ip + 24, 16);
        packet.reverse = 1;
    }
    return route(node, ethernet, &packet);
}

inline_ int is_vlan(u16 kind)
{
    return kind == 0x8100 || kind == 0x88a8 || kind == 0x9100;
}

apart int verdict(struct node *node)
{
    struct ethernet ethernet;
    u8 head[14], kind[2];
    if (load(node->context, 0, head, 14))
        return RUNT;
    copy(ethernet.to, head, 6);
    copy(ethernet.from, head + 6, 6);
    ethernet.kind = be16(head + 12);
    ethernet.l3 = 14;
    for (int i = 0; i < 2 && is_vlan(ethernet.kind); i++) {
        if (load(node->context, ethernet.l3 + 2, kind, 2))
            return TRUNCATED;
        ethernet.kind = be16(kind);
        ethernet.l3 += 4;
    }
    if (is_vlan(ethernet.kind))
        return TOO_MANY_TAGS;
    switch (ethernet.kind) {
    case 0x0800:
        return v4(node, &ethernet);
    case 0x86dd:
        return v6(node, &ethernet);
    case 0x0806:
        return arp(node, &ethernet);
    default:
        return PASSED;
    }
}

inline_ void count(u32 which)
{
    u64 at = processor();
    which &= 31;
    if (at < 512)
        oneip_counters[at][which]++;
    else
        __sync_fetch_and_add(&oneip_counters[512][which], 1);
}

SEC("xdp")
int oneip(struct context *context)
{
    struct node node = {.context = context, .now = boot_clock(), .size = (u32)frame_size(context)};
    const volatile u64 *state = oneip_state;
    const u8 *head = 0;
    int whole = 0;
    for (int i = 0; i < 2 && !whole; i++) {
        u64 version = state[0];
        u32 at = 2 + 8 * (version & 1);
        u32 number = (u32)state[at + 6];
        head = map_lookup(&oneip_table, &number);
        u64 place = state[at + 3], mac = state[at + 4];
        node.lease = state[at];
        node.epoch = state[at + 1];
        node.fence = state[at + 2];
        node.out = (u32)state[at + 5];
        node.server = (u16)place;
        node.id = (u8)(place >> 16);
        node.fresh = place >> 24 & 1;
        copy(node.mac, &mac, 6);
        whole = state[0] == version;
    }
    if (!whole) {
        count(NO_STATE);
        return DROP;
    }
    if (!head) {
        count(NO_TABLE);
        return PASS;
    }
    node.table = head;
    copy(&node.seed, head + 24, 8);
    node.log2 = head[32];
    node.key = head[33];
    copy(&node.count, head + 34, 2);
    copy(node.v4, head + 36, 4);
    copy(node.v6, head + 40, 16);
    copy(node.claim, head + 56, 6);
    int what = verdict(&node);
    count((u32)what);
    if (what == TRANSMIT)
        return node.out ? (int)redirect(node.out, 0) : TX;
    return what == PASSED || what == LOCAL ? PASS : DROP;
}
