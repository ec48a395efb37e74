// One workload of the comparison: prints nanoseconds per operation.
#define _GNU_SOURCE
#include <fcntl.h>
#include <sqlite3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static double now(void) {
    struct timespec at;
    clock_gettime(CLOCK_MONOTONIC, &at);
    return at.tv_sec * 1e9 + at.tv_nsec;
}

static void check(int ok, const char *what) {
    if (!ok) {
        perror(what);
        exit(1);
    }
}

static void sql(sqlite3 *db, const char *text) {
    char *why = 0;
    if (sqlite3_exec(db, text, 0, 0, &why) != SQLITE_OK) {
        fprintf(stderr, "%s: %s\n", text, why);
        exit(1);
    }
}

int main(int argc, char **argv) {
    check(argc == 4, "work KIND COUNT DIR");
    const char *kind = argv[1];
    long count = atol(argv[2]);
    check(chdir(argv[3]) == 0, argv[3]);
    static char block[1 << 20];
    memset(block, 'x', sizeof block);
    double from = 0;
    if (!strncmp(kind, "sql", 3)) {
        sqlite3 *db;
        check(sqlite3_open("bench.db", &db) == SQLITE_OK, "open");
        sql(db, "PRAGMA journal_mode=WAL");
        sql(db, kind[3] == 'F' ? "PRAGMA synchronous=FULL" : "PRAGMA synchronous=NORMAL");
        sql(db, "CREATE TABLE t(id INTEGER PRIMARY KEY, v TEXT)");
        sqlite3_stmt *insert;
        check(sqlite3_prepare_v2(db, "INSERT INTO t(v) VALUES(?)", -1, &insert, 0) == SQLITE_OK, "prepare");
        sqlite3_bind_text(insert, 1, block, 100, SQLITE_STATIC);
        from = now();
        for (long at = 0; at < count; at++) {
            check(sqlite3_step(insert) == SQLITE_DONE, "insert");
            sqlite3_reset(insert);
        }
        printf("%.0f\n", (now() - from) / count);
        sqlite3_finalize(insert);
        sqlite3_close(db);
        return 0;
    }
    int fd = open("bench.db", O_RDWR | O_CREAT | (strcmp(kind, "app") ? 0 : O_APPEND), 0644);
    check(fd >= 0, "open");
    if (!strcmp(kind, "rnd") || !strcmp(kind, "seq"))
        for (int at = 0; at < 64; at++)
            check(pwrite(fd, block, 1 << 20, (off_t)at << 20) == 1 << 20, "fill");
    fsync(fd);
    unsigned long drawn = 12345;
    from = now();
    for (long at = 0; at < count; at++) {
        drawn = drawn * 6364136223846793005UL + 1442695040888963407UL;
        if (!strcmp(kind, "app"))
            check(write(fd, block, 4096) == 4096, "write");
        else if (!strcmp(kind, "rnd")) {
            check(pwrite(fd, block, 4096, (off_t)((drawn >> 33) % 16384) << 12) == 4096, "pwrite");
            check(fsync(fd) == 0, "fsync");
        } else if (!strcmp(kind, "seq"))
            check(pwrite(fd, block, 1 << 20, (off_t)(at % 64) << 20) == 1 << 20, "pwrite");
        else if (!strcmp(kind, "ren")) {
            int next = open("next.db", O_WRONLY | O_CREAT | O_TRUNC, 0644);
            check(next >= 0 && write(next, block, 1024) == 1024 && close(next) == 0, "next");
            check(rename("next.db", "current.db") == 0, "rename");
        } else
            check(0, kind);
    }
    printf("%.0f\n", (now() - from) / count);
    return 0;
}
