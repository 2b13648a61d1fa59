/* The guest's workload: what a move must not disturb, and what shows that it did not.
 *
 *   workload PARTITION DATA_MIB WRITE_INTERVAL_MS DIRTY_MIB DIRTY_MIB_PER_S
 *
 * - A counter is written to the first MiB of PARTITION, record n into slot n mod 2048 (512 bytes), with O_DIRECT and
 *   O_DSYNC, every WRITE_INTERVAL_MS. The counter that is told to others is the last one known to be on disk.
 * - DIRTY_MIB of memory, which does not compress, are rewritten at DIRTY_MIB_PER_S.
 * - UDP port 7: a datagram that begins with 8 bytes is answered with those and the counter (8 bytes, big endian).
 * - TCP port 7000: the counter, one decimal line every 10 ms, for as long as the connection lives.
 * - TCP port 7001: a command a line, a line of JSON back. `status`; `checksum`: BLAKE2b-256 of the DATA_MIB after the
 *   first MiB, read from the disk itself; `verify`: whether the records on disk are whole and follow each other.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { SLOT = 512, SLOTS = 2048, MIB = 1 << 20, PAGE = 4096, STREAM_PERIOD_MS = 10 };

struct record {
    char magic[8];
    uint64_t counter;
    uint64_t check; /* of magic and counter */
    char rest[SLOT - 24];
};

static const char magic[8] = "LBRECORD";
static const char *partition;
static long data_mib, write_interval_ms, dirty_mib, dirty_rate;
static _Atomic uint64_t on_disk;
static _Atomic uint64_t write_errors;

static void fail(const char *what) {
    fprintf(stderr, "workload: %s: %s\n", what, strerror(errno));
    exit(1);
}

static void sleep_ms(long ms) {
    struct timespec pause = {ms / 1000, (ms % 1000) * 1000000};
    nanosleep(&pause, NULL);
}

static void spawn(void *(*run)(void *), void *argument) {
    pthread_t thread;
    if (pthread_create(&thread, NULL, run, argument) != 0) fail("thread");
    pthread_detach(thread);
}

/* ---------------------------------------------------------------- BLAKE2b (RFC 7693), 32 bytes, no key */

static const uint64_t blake_iv[8] = {
    0x6a09e667f3bcc908, 0xbb67ae8584caa73b, 0x3c6ef372fe94f82b, 0xa54ff53a5f1d36f1,
    0x510e527fade682d1, 0x9b05688c2b3e6c1f, 0x1f83d9abfb41bd6b, 0x5be0cd19137e2179};
static const uint8_t blake_sigma[10][16] = {
    {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15}, {14, 10, 4, 8, 9, 15, 13, 6, 1, 12, 0, 2, 11, 7, 5, 3},
    {11, 8, 12, 0, 5, 2, 15, 13, 10, 14, 3, 6, 7, 1, 9, 4}, {7, 9, 3, 1, 13, 12, 11, 14, 2, 6, 5, 10, 4, 0, 15, 8},
    {9, 0, 5, 7, 2, 4, 10, 15, 14, 1, 11, 12, 6, 8, 3, 13}, {2, 12, 6, 10, 0, 11, 8, 3, 4, 13, 7, 5, 15, 14, 1, 9},
    {12, 5, 1, 15, 14, 13, 4, 10, 0, 7, 6, 3, 9, 2, 8, 11}, {13, 11, 7, 14, 12, 1, 3, 9, 5, 0, 15, 4, 8, 6, 2, 10},
    {6, 15, 14, 9, 11, 3, 0, 8, 12, 2, 13, 7, 1, 4, 10, 5}, {10, 2, 8, 4, 7, 6, 1, 5, 15, 11, 9, 14, 3, 12, 13, 0}};

static inline uint64_t rotate(uint64_t x, int by) { return x >> by | x << (64 - by); }

#define MIX(a, b, c, d, x, y)                   \
    a += b + (x), d = rotate(d ^ a, 32);        \
    c += d, b = rotate(b ^ c, 24);              \
    a += b + (y), d = rotate(d ^ a, 16);        \
    c += d, b = rotate(b ^ c, 63)

static void blake_block(uint64_t h[8], const uint8_t block[128], uint64_t total, int last) {
    uint64_t v[16], m[16];
    memcpy(m, block, 128);
    memcpy(v, h, 64);
    memcpy(v + 8, blake_iv, 64);
    v[12] ^= total;
    if (last) v[14] = ~v[14];
    for (int round = 0; round < 12; round++) {
        const uint8_t *s = blake_sigma[round % 10];
        MIX(v[0], v[4], v[8], v[12], m[s[0]], m[s[1]]);
        MIX(v[1], v[5], v[9], v[13], m[s[2]], m[s[3]]);
        MIX(v[2], v[6], v[10], v[14], m[s[4]], m[s[5]]);
        MIX(v[3], v[7], v[11], v[15], m[s[6]], m[s[7]]);
        MIX(v[0], v[5], v[10], v[15], m[s[8]], m[s[9]]);
        MIX(v[1], v[6], v[11], v[12], m[s[10]], m[s[11]]);
        MIX(v[2], v[7], v[8], v[13], m[s[12]], m[s[13]]);
        MIX(v[3], v[4], v[9], v[14], m[s[14]], m[s[15]]);
    }
    for (int i = 0; i < 8; i++) h[i] ^= v[i] ^ v[i + 8];
}

/* The data's checksum as hexadecimal digits. The data is whole MiBs, so the last block is a full one. */
static int checksum(char out[65]) {
    uint64_t h[8], total = 0;
    memcpy(h, blake_iv, 64);
    h[0] ^= 0x01010000 ^ 32;
    int file = open(partition, O_RDONLY | O_DIRECT);
    uint8_t *buffer = aligned_alloc(PAGE, MIB);
    if (file < 0 || buffer == NULL) fail(partition);
    for (long mib = 1; mib <= data_mib; mib++) {
        if (pread(file, buffer, MIB, (off_t)mib * MIB) != MIB) {
            close(file);
            free(buffer);
            return -1;
        }
        for (int at = 0; at < MIB; at += 128) {
            total += 128;
            blake_block(h, buffer + at, total, mib == data_mib && at == MIB - 128);
        }
    }
    close(file);
    free(buffer);
    for (int i = 0; i < 4; i++) sprintf(out + 16 * i, "%016" PRIx64, htobe64(h[i]));
    return 0;
}

/* ---------------------------------------------------------------- the counter on disk */

static uint64_t check_of(const struct record *record) {
    const uint8_t *byte = (const uint8_t *)record;
    uint64_t hash = 0xcbf29ce484222325; /* FNV-1a */
    for (size_t i = 0; i < offsetof(struct record, check); i++) hash = (hash ^ byte[i]) * 0x100000001b3;
    return hash;
}

static int whole(const struct record *record) {
    return memcmp(record->magic, magic, sizeof magic) == 0 && record->check == check_of(record);
}

static struct record *read_records(void) {
    struct record *records = aligned_alloc(PAGE, MIB);
    int file = open(partition, O_RDONLY | O_DIRECT);
    if (records == NULL || file < 0 || pread(file, records, MIB, 0) != MIB) fail(partition);
    close(file);
    return records;
}

static uint64_t last_record(const struct record *records) {
    uint64_t last = 0;
    for (int slot = 0; slot < SLOTS; slot++)
        if (whole(&records[slot]) && records[slot].counter > last) last = records[slot].counter;
    return last;
}

static void *write_counter(void *unused) {
    (void)unused;
    struct record *record = aligned_alloc(PAGE, PAGE);
    int file = open(partition, O_WRONLY | O_DIRECT | O_DSYNC);
    if (record == NULL || file < 0) fail(partition);
    memset(record, 0, SLOT);
    memcpy(record->magic, magic, sizeof magic);
    for (;;) {
        record->counter = on_disk + 1;
        record->check = check_of(record);
        if (pwrite(file, record, SLOT, (off_t)(record->counter % SLOTS) * SLOT) == SLOT)
            on_disk = record->counter;
        else
            write_errors++;
        sleep_ms(write_interval_ms);
    }
}

/* Every record up to the newest must be there, back to where the ring begins. */
static void verify(char *out, size_t size) {
    struct record *records = read_records();
    uint64_t last = last_record(records), broken = 0;
    uint64_t first = last < SLOTS ? 1 : last - SLOTS + 2; /* the slot being written next may be half old */
    for (uint64_t counter = first; counter <= last; counter++) {
        const struct record *record = &records[counter % SLOTS];
        if (!whole(record) || record->counter < counter) broken++;
    }
    free(records);
    snprintf(out, size, "{\"first\": %" PRIu64 ", \"last\": %" PRIu64 ", \"broken\": %" PRIu64 "}\n", first, last, broken);
}

/* ---------------------------------------------------------------- memory */

static void *dirty_memory(void *unused) {
    (void)unused;
    size_t words = (size_t)dirty_mib * MIB / 8, at = 0;
    uint64_t *memory = malloc(words * 8), state = 0x9e3779b97f4a7c15;
    if (memory == NULL) fail("memory");
    for (size_t i = 0; i < words; i++) memory[i] = state = state * 6364136223846793005 + 1442695040888963407;
    long pages_a_tick = dirty_rate * (MIB / PAGE) / 100;
    for (;;) {
        for (long page = 0; page < pages_a_tick; page++) {
            for (int word = 0; word < 8; word++) memory[at + 64 * word] += state += at;
            at = (at + PAGE / 8) % words;
        }
        sleep_ms(10);
    }
}

/* ---------------------------------------------------------------- the network */

static int bound(int type, int port) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(port)};
    int one = 1, sock = socket(AF_INET, type, 0);
    setsockopt(sock, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (sock < 0 || bind(sock, (struct sockaddr *)&address, sizeof address) != 0) fail("bind");
    if (type == SOCK_STREAM && listen(sock, 16) != 0) fail("listen");
    return sock;
}

static void *answer_probes(void *unused) {
    (void)unused;
    int sock = bound(SOCK_DGRAM, 7);
    for (;;) {
        struct sockaddr_in from;
        socklen_t length = sizeof from;
        uint64_t message[2];
        ssize_t got = recvfrom(sock, message, sizeof message, 0, (struct sockaddr *)&from, &length);
        if (got < 8) continue;
        message[1] = htobe64(on_disk);
        sendto(sock, message, sizeof message, 0, (struct sockaddr *)&from, length);
    }
}

static void *stream(void *argument) {
    int sock = (int)(intptr_t)argument, one = 1;
    char line[32];
    setsockopt(sock, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    for (;;) {
        int length = snprintf(line, sizeof line, "%" PRIu64 "\n", on_disk);
        if (send(sock, line, length, MSG_NOSIGNAL) != length) break;
        sleep_ms(STREAM_PERIOD_MS);
    }
    close(sock);
    return NULL;
}

static void answer(const char *command, char *out, size_t size) {
    char digest[65];
    if (strcmp(command, "status") == 0)
        snprintf(out, size, "{\"counter\": %" PRIu64 ", \"write_errors\": %" PRIu64 ", \"data_mib\": %ld, \"dirty_mib\": %ld, "
                 "\"dirty_mib_per_s\": %ld}\n", on_disk, write_errors, data_mib, dirty_mib, dirty_rate);
    else if (strcmp(command, "verify") == 0)
        verify(out, size);
    else if (strcmp(command, "checksum") != 0)
        snprintf(out, size, "{\"error\": \"commands are status, checksum and verify\"}\n");
    else if (checksum(digest) == 0)
        snprintf(out, size, "{\"checksum\": \"%s\"}\n", digest);
    else
        snprintf(out, size, "{\"error\": \"the data can not be read\"}\n");
}

static void *obey(void *argument) {
    int sock = (int)(intptr_t)argument;
    FILE *file = fdopen(sock, "r+");
    char command[64], out[512];
    while (file != NULL && fgets(command, sizeof command, file) != NULL) {
        command[strcspn(command, "\r\n")] = 0;
        answer(command, out, sizeof out);
        if (send(sock, out, strlen(out), MSG_NOSIGNAL) < 0) break;
    }
    if (file != NULL) fclose(file);
    return NULL;
}

struct service {
    int port;
    void *(*serve)(void *);
};

static void *serve(void *argument) {
    const struct service *service = argument;
    int listener = bound(SOCK_STREAM, service->port);
    for (;;) {
        int sock = accept(listener, NULL, NULL);
        if (sock >= 0) spawn(service->serve, (void *)(intptr_t)sock);
    }
}

int main(int count, char **words) {
    if (count != 6) {
        fprintf(stderr, "usage: workload PARTITION DATA_MIB WRITE_INTERVAL_MS DIRTY_MIB DIRTY_MIB_PER_S\n");
        return 2;
    }
    partition = words[1];
    data_mib = atol(words[2]);
    write_interval_ms = atol(words[3]);
    dirty_mib = atol(words[4]);
    dirty_rate = atol(words[5]);
    static struct service streams = {7000, stream}, commands = {7001, obey};

    struct record *records = read_records();
    on_disk = last_record(records);
    free(records);
    spawn(write_counter, NULL);
    if (dirty_mib > 0) spawn(dirty_memory, NULL);
    spawn(answer_probes, NULL);
    spawn(serve, &streams);
    spawn(serve, &commands);
    printf("workload: counter goes on from %" PRIu64 "\n", on_disk);
    fflush(stdout);
    pause();
    return 0;
}
