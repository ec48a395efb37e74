/*
 * The memory that the program and its loader share. In C because clang describes maps to the kernel (BTF); linked into the
 * Rust program, included by its twin. Sizes and places: `oneip.rs`, `platform/os/src/linux/xdp.rs`.
 */
#define SEC(name) __attribute__((section(name), used))
#define uint_(name, value) int (*name)[value]

typedef unsigned int u32;
typedef unsigned long long u64;

enum { ARRAY = 2 };

/* The loader writes the table that is not in use straight to its memory. */
enum { MMAPABLE = 1 << 10 };

/* A table: 64 bytes, two times 2^18 slots of two bytes, 4,096 servers of eight. */
#define TABLE_BYTES (64 + 4 * (1 << 18) + 8 * 4096)

/* The table in use, and the next one. Which is which, is part of what this node is. */
struct {
    uint_(type, ARRAY);
    uint_(key_size, 4);
    uint_(value_size, TABLE_BYTES);
    uint_(max_entries, 2);
    uint_(map_flags, MMAPABLE);
} oneip_table SEC(".maps");

/* What this node is: a version and a zero, then two records of eight words. The only variable of its section, which the kernel
 * takes for one value: the program reads it without asking where it is. */
u64 oneip_state[18] SEC(".data");

/* Frames by what became of them, 32 counters a processor; the last ones for all processors beyond 512. As above. */
u64 oneip_counters[513][32] SEC(".bss");

char oneip_license[] SEC("license") = "Dual MIT/GPL";
