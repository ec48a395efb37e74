// Real connections, one after the other: what a proxy needs, and what every way to dispatch can carry.
//
//     tcp serve PORT                              answers each request, 100 bytes, with 1,000, until it is killed
//     tcp ask ADDRESS PORT CONNECTIONS REQUESTS   opens, asks so often, closes; prints both numbers, the nanoseconds of all, how
//                                                 many answers came whole, and how much of the time, in nanoseconds, the
//                                                 machine had nothing to do
//
// With `-icount shift=0` a nanosecond of work is an instruction, of client, server and whoever is between them together; one of idling is not.

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { ASKED = 100, ANSWERED = 1000, PATIENCE_S = 5 };

static void die(const char *what)
{
    fprintf(stderr, "tcp: %s: %s\n", what, strerror(errno));
    exit(1);
}

static uint64_t now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000 + (uint64_t)t.tv_nsec;
}

// So far, in nanoseconds, by hundredths of a second.
static uint64_t idle(void)
{
    unsigned long long user, nice, system, idle;
    FILE *file = fopen("/proc/stat", "r");
    if (!file || fscanf(file, "cpu %llu %llu %llu %llu", &user, &nice, &system, &idle) != 4)
        die("/proc/stat");
    fclose(file);
    return idle * 10000000;
}

static struct sockaddr_in address(const char *text, const char *port)
{
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons((uint16_t)atoi(port))};
    if (!inet_aton(text, &to.sin_addr))
        die(text);
    return to;
}

// All of it, or 0.
static int receive(int fd, char *into, size_t many)
{
    for (size_t has = 0; has < many;) {
        ssize_t got = read(fd, into + has, many - has);
        if (got <= 0)
            return 0;
        has += (size_t)got;
    }
    return 1;
}

static _Noreturn void serve(const char *port)
{
    int yes = 1, listener = socket(AF_INET, SOCK_STREAM, 0), poll = epoll_create1(0);
    struct sockaddr_in at = address("0.0.0.0", port);
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes);
    if (poll < 0 || bind(listener, (struct sockaddr *)&at, sizeof at) || listen(listener, 128))
        die("listen");
    struct epoll_event event = {.events = EPOLLIN, .data.fd = listener};
    epoll_ctl(poll, EPOLL_CTL_ADD, listener, &event);
    static char asked[ASKED], answer[ANSWERED];
    memset(answer, 'a', sizeof answer);
    for (;;) {
        if (epoll_wait(poll, &event, 1, -1) != 1)
            continue;
        if (event.data.fd == listener) {
            int fd = accept(listener, NULL, NULL);
            if (fd < 0)
                continue;
            setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes);
            event = (struct epoll_event){.events = EPOLLIN, .data.fd = fd};
            epoll_ctl(poll, EPOLL_CTL_ADD, fd, &event);
        } else if (!receive(event.data.fd, asked, sizeof asked) || write(event.data.fd, answer, sizeof answer) != ANSWERED) {
            close(event.data.fd);
        }
    }
}

static int ask(char **arg)
{
    struct sockaddr_in to = address(arg[0], arg[1]);
    int connections = atoi(arg[2]), requests = atoi(arg[3]), yes = 1, answers = 0;
    static char asked[ASKED], answer[ANSWERED];
    uint64_t idled = idle(), began = now();
    for (int i = 0; i < connections; i++) {
        struct timeval patience = {.tv_sec = PATIENCE_S};
        int fd = socket(AF_INET, SOCK_STREAM, 0);
        setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
        setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof patience);
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes);
        if (connect(fd, (struct sockaddr *)&to, sizeof to)) {
            fprintf(stderr, "tcp: connection %d: %s\n", i, strerror(errno));
            break;
        }
        for (int j = 0; j < requests; j++)
            answers += write(fd, asked, sizeof asked) == ASKED && receive(fd, answer, sizeof answer);
        close(fd);
    }
    uint64_t took = now() - began;
    printf("tcp %d %d %llu %d %llu\n", connections, requests, (unsigned long long)took, answers, (unsigned long long)(idle() - idled));
    return 0;
}

int main(int count, char **arg)
{
    if (count == 3 && !strcmp(arg[1], "serve"))
        serve(arg[2]);
    if (count == 6 && !strcmp(arg[1], "ask"))
        return ask(arg + 2);
    fprintf(stderr, "tcp serve PORT | ask ADDRESS PORT CONNECTIONS REQUESTS\n");
    return 64;
}
