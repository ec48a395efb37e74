// Sends a plan's frames and says what that took and what arrived.
//
//     pace run DIR PORT TO CLIENTS FRAMES TIMES [quiet]   hands TIMES times FRAMES frames to PORT, whose far end has the address
//                                                 TO, through DIR/prog/blast; with `quiet` the result is not printed;
//                                             KIND in the environment may be `fragments` or `v6`
//     pace alone PROGRAM TO                       the least that one frame costs in the program alone, over a thousand
//     pace port DIR PORT                          makes PORT the first of DIR/map/port
//     pace oneip DIR BLOCK MAC PORT               puts the table in the file BLOCK into use in DIR/map, at a dispatcher with the
//                                                 address MAC and a lease of an hour; frames leave by PORT, or by the one
//                                                 they came by if it is `-`; TABLE_BYTES in the environment is
//                                                 the size of the program's map
//     pace counters DIR                           frames by what became of them
//
// Times are in nanoseconds of the guest's clock, which with `-icount shift=0` is one an instruction.

#include <errno.h>
#include <fcntl.h>
#include <linux/bpf.h>
#include <net/if.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define SERVERS 16

struct plan {
    uint32_t port, clients, next;
    uint64_t began;
    uint8_t to[6];
    uint16_t kind;
};

struct seen {
    uint64_t server[SERVERS], unaddressed, wrong, all, expected, ended;
};

static void die(const char *what)
{
    fprintf(stderr, "pace: %s: %s\n", what, strerror(errno));
    exit(1);
}

static int bpf(int command, union bpf_attr *attr)
{
    return (int)syscall(SYS_bpf, command, attr, sizeof *attr);
}

static int pinned(const char *dir, const char *name)
{
    char path[256];
    snprintf(path, sizeof path, "%s%s%s", dir, *name ? "/" : "", name);
    union bpf_attr attr = {.pathname = (uintptr_t)path};
    int fd = bpf(BPF_OBJ_GET, &attr);
    if (fd < 0)
        die(path);
    return fd;
}

static void set(int map, const void *value)
{
    uint32_t zero = 0;
    union bpf_attr attr = {.map_fd = (uint32_t)map, .key = (uintptr_t)&zero, .value = (uintptr_t)value};
    if (bpf(BPF_MAP_UPDATE_ELEM, &attr))
        die("map update");
}

static void get(int map, void *value)
{
    uint32_t zero = 0;
    union bpf_attr attr = {.map_fd = (uint32_t)map, .key = (uintptr_t)&zero, .value = (uintptr_t)value};
    if (bpf(BPF_MAP_LOOKUP_ELEM, &attr))
        die("map lookup");
}

static uint64_t now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000 + (uint64_t)t.tv_nsec;
}

static uint32_t port(const char *name)
{
    uint32_t number = if_nametoindex(name);
    if (!number)
        die(name);
    return number;
}

static void address(const char *text, uint8_t to[6])
{
    if (sscanf(text, "%hhx:%hhx:%hhx:%hhx:%hhx:%hhx", to, to + 1, to + 2, to + 3, to + 4, to + 5) != 6)
        die(text);
}

static int run(char **arg, int quiet)
{
    const char *dir = arg[0];
    int blast = pinned(dir, "prog/blast"), plans = pinned(dir, "map/plan"), counts = pinned(dir, "map/seen");
    struct plan plan = {.port = port(arg[1]), .clients = (uint32_t)atoi(arg[3]) - 1};
    const char *kind = getenv("KIND") ? getenv("KIND") : "";
    plan.kind = !strcmp(kind, "fragments") ? 1 : !strcmp(kind, "v6") ? 2 : 0;
    address(arg[2], plan.to);
    uint32_t frames = (uint32_t)atoi(arg[4]);
    // Room for the headers.
    uint8_t frame[84] = {0};
    uint32_t length = plan.kind == 2 ? 84 : 60;
    for (int times = atoi(arg[5]); times > 0; times--) {
        struct seen seen = {.expected = frames};
        struct plan done;
        set(counts, &seen);
        set(plans, &plan);
        union bpf_attr attr = {.test = {.prog_fd = (uint32_t)blast, .data_in = (uintptr_t)frame, .data_size_in = length,
                                        .repeat = frames, .flags = BPF_F_TEST_XDP_LIVE_FRAMES}};
        if (bpf(BPF_PROG_TEST_RUN, &attr))
            die("live frames");
        // Some may still be on their way. Nothing for 20 ms: nothing will come.
        uint64_t moved = now(), had = 0;
        do {
            get(counts, &seen);
            if (seen.all != had) {
                had = seen.all;
                moved = now();
            }
        } while (had < frames && now() - moved < 20000000);
        get(plans, &done);
        if (quiet)
            continue;
        // From the making of the first frame to the counting of the last; 0 if not all have come.
        printf("ran %u %llu", frames, (unsigned long long)(seen.ended > done.began ? seen.ended - done.began : 0));
        for (int i = 0; i < SERVERS; i++)
            printf(" %llu", (unsigned long long)seen.server[i]);
        printf(" %llu %llu\n", (unsigned long long)seen.unaddressed, (unsigned long long)seen.wrong);
    }
    return 0;
}

static int alone(char **arg)
{
    int program = pinned(arg[0], "");
    // A frame as `blast` makes them, of client 10.1.0.7.
    uint8_t frame[60] = {0}, to[6], out[256];
    static const uint8_t rest[] = {2,    0,    0, 0, 2,  1, 8, 0,   0x45, 0, 0, 46, 0,  0, 0x40, 0, 64, 17, 0x26, 0x54, 10,
                                   1,    0,    7, 10, 0, 0, 100, 16, 0,    0, 53, 0, 26, 0, 0};
    address(arg[1], to);
    memcpy(frame, to, 6);
    memcpy(frame + 6, rest, sizeof rest);
    uint32_t least = UINT32_MAX, verdict = 0;
    for (int i = 0; i < 1000; i++) {
        union bpf_attr attr = {.test = {.prog_fd = (uint32_t)program, .data_in = (uintptr_t)frame, .data_size_in = sizeof frame,
                                        .data_out = (uintptr_t)out, .data_size_out = sizeof out, .repeat = 1}};
        if (bpf(BPF_PROG_TEST_RUN, &attr))
            die("one frame");
        if (attr.test.duration < least)
            least = attr.test.duration;
        verdict = attr.test.retval;
    }
    printf("alone %u verdict %u to %02x:%02x:%02x:%02x:%02x:%02x\n", least, verdict, out[0], out[1], out[2], out[3], out[4], out[5]);
    return 0;
}

/// The layout is that of the program's `maps.c`; the maps have the names of its sections.
enum { STATE_WORDS = 18, COUNTERS = 32, COPIES = 513 };

static int publish(char **arg)
{
    FILE *file = fopen(arg[1], "rb");
    if (!file)
        die(arg[1]);
    // The kernel takes whole values only, so the rest stays zero.
    static uint8_t block[1 << 21];
    size_t length = fread(block, 1, sizeof block, file);
    int tables = pinned(arg[0], "map/oneip_table"), state = pinned(arg[0], "map/oneip_data");
    uint32_t bytes = (uint32_t)atoi(getenv("TABLE_BYTES") ? getenv("TABLE_BYTES") : "0");
    if (length == 0 || length > bytes) {
        fprintf(stderr, "pace: %s has %zu bytes, the program takes at most %u\n", arg[1], length, bytes);
        return 1;
    }
    // The first of two; the state below names it, by a zero.
    set(tables, block);
    uint64_t words[STATE_WORDS] = {0};
    uint8_t mac[8] = {0};
    struct timespec t;
    clock_gettime(CLOCK_BOOTTIME, &t);
    address(arg[2], mac);
    words[2] = ((uint64_t)t.tv_sec + 3600) * 1000000000;
    // Epoch and fence, as in the table; no place among the servers.
    words[3] = 1;
    words[4] = 1;
    words[5] = 0xffff;
    memcpy(&words[6], mac, sizeof mac);
    words[7] = strcmp(arg[3], "-") ? port(arg[3]) : 0;
    set(state, words);
    return 0;
}

static int counters(char **arg)
{
    static uint64_t copies[COPIES][COUNTERS];
    get(pinned(arg[0], "map/oneip_bss"), copies);
    uint64_t counts[COUNTERS] = {0};
    for (int cpu = 0; cpu < COPIES; cpu++)
        for (int i = 0; i < COUNTERS; i++)
            counts[i] += copies[cpu][i];
    printf("counters");
    for (int i = 0; i < COUNTERS; i++)
        printf(" %llu", (unsigned long long)counts[i]);
    printf("\n");
    return 0;
}

int main(int count, char **arg)
{
    if (count >= 8 && !strcmp(arg[1], "run"))
        return run(arg + 2, count > 8 && !strcmp(arg[8], "quiet"));
    if (count == 4 && !strcmp(arg[1], "alone"))
        return alone(arg + 2);
    if (count == 4 && !strcmp(arg[1], "port")) {
        uint32_t number = port(arg[3]);
        set(pinned(arg[2], "map/port"), &number);
        return 0;
    }
    if (count == 6 && !strcmp(arg[1], "oneip"))
        return publish(arg + 2);
    if (count == 3 && !strcmp(arg[1], "counters"))
        return counters(arg + 2);
    fprintf(stderr, "pace run DIR PORT TO CLIENTS FRAMES TIMES [quiet] | alone PROGRAM TO | port DIR PORT | oneip DIR BLOCK MAC PORT | counters DIR\n");
    return 64;
}
