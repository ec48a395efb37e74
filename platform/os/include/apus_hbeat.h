/*
 * What a supervised program says to its keeper, from C and C++: one header, no library.
 *
 *     #include "apus_hbeat.h"
 *     apus_ready();                      // ready = "notify"
 *     while (work())
 *         apus_hbeat(0, 2000000);        // thread 0 beats again within 2 s, or it hangs
 *     apus_hbeat(0, 0);                  // ends its promise
 *
 * Each call is one datagram to the socket that NOTIFY_SOCKET names, and never blocks: a keeper that does not read loses words, not time.
 * 0: said; -1: not, with errno; ENOENT without NOTIFY_SOCKET, so that a program runs unsupervised too. Any thread may call.
 * Not to be called from a signal handler.
 */
#ifndef APUS_HBEAT_H
#define APUS_HBEAT_H

#include <errno.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Says lines such as "STATUS=loading"; a path that begins with @ is an abstract socket. */
static inline int apus_say(const char *lines) {
    const char *path = getenv("NOTIFY_SOCKET");
    struct sockaddr_un to;
    size_t length = path ? strlen(path) : 0;
    ssize_t said;
    int fd, why;
    if (length == 0 || length >= sizeof to.sun_path) {
        errno = length ? ENAMETOOLONG : ENOENT;
        return -1;
    }
    memset(&to, 0, sizeof to);
    to.sun_family = AF_UNIX;
    memcpy(to.sun_path, path, length);
    if (path[0] == '@')
        to.sun_path[0] = 0;
    fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return -1;
    said = sendto(fd, lines, strlen(lines), MSG_DONTWAIT | MSG_NOSIGNAL, (const struct sockaddr *)&to,
                  (socklen_t)(offsetof(struct sockaddr_un, sun_path) + length + (path[0] != '@')));
    why = errno;
    close(fd);
    errno = why;
    return said < 0 ? -1 : 0;
}

/* The program serves. */
static inline int apus_ready(void) {
    return apus_say("READY=1");
}

/* hbeat(thread, timeout): this thread of the program beats again within so many microseconds; 0 ends its promise. */
static inline int apus_hbeat(uint32_t thread, uint64_t timeout_us) {
    char lines[80];
    snprintf(lines, sizeof lines, "HBEAT=%lu\nTIMEOUT_USEC=%llu", (unsigned long)thread, (unsigned long long)timeout_us);
    return apus_say(lines);
}

#ifdef __cplusplus
}
#endif

#endif
