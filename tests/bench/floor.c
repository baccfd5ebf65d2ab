/* The floor: address spaces by the plainest means there are. RAM is mapped, every table is read
 * once however many entries name it, and neighbours of one effective permission are joined.
 *
 *     floor RAM_FILE ROUNDS < ROOTS    prints: nanoseconds a round of all roots, ranges of the last
 */
#include <fcntl.h>
#include <inttypes.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>

#define ADDRESS 0x000ffffffffff000ull
#define P 1
#define W 2
#define U 4
#define LARGE 0x80
#define NX (1ull << 63)
#define TABLES 65536
#define RUNS (1 << 20)
#define ROOTS 4096

struct run { uint64_t start, end; unsigned rights; };
struct seen { uint64_t frame; uint32_t round, first, count; };

static const uint8_t *ram;
static uint64_t size, root[ROOTS];
static struct run below[RUNS], out[RUNS], scratch[4][RUNS];
static struct seen memo[5][TABLES];
static uint32_t used, made, round_;

static void add(struct run *to, uint32_t *count, uint64_t start, uint64_t end, unsigned rights) {
    struct run *last = *count ? &to[*count - 1] : 0;
    if (last && last->end == start && last->rights == rights) last->end = end;
    else to[(*count)++] = (struct run){start, end, rights};
}

static struct seen *table(uint64_t frame, int level);

/* The entries of one table, as runs relative to its first byte. */
static void entries(uint64_t frame, int level, struct run *to, uint32_t *count) {
    const uint64_t *entry = (const uint64_t *)(ram + frame);
    int shift = 12 + 9 * (level - 1);
    for (uint64_t i = 0; i < 512; i++) {
        uint64_t raw = entry[i], base = i << shift;
        if (!(raw & P)) continue;
        unsigned rights = (raw & (W | U)) | (raw & NX ? 0 : 1);
        if (level == 1 || raw & LARGE) {
            add(to, count, base, base + (1ull << shift), rights);
            continue;
        }
        struct seen *one = table(raw & ADDRESS, level - 1);
        for (uint32_t n = 0; one && n < one->count; n++) {
            struct run *run = &below[one->first + n];
            add(to, count, base + run->start, base + run->end, run->rights & rights);
        }
    }
}

static struct seen *table(uint64_t frame, int level) {
    if (frame + 4096 > size) return 0;
    struct seen *slot = &memo[level][frame >> 12 & (TABLES - 1)];
    if (slot->frame == frame && slot->round == round_) return slot;
    struct run *to = scratch[level];
    uint32_t count = 0;
    entries(frame, level, to, &count);
    slot->frame = frame, slot->round = round_, slot->first = used, slot->count = count;
    memcpy(&below[used], to, count * sizeof *to);
    used += count;
    return slot;
}

int main(int argc, char **argv) {
    struct stat status;
    int file = argc == 3 ? open(argv[1], O_RDONLY) : -1;
    if (file < 0 || fstat(file, &status)) return 2;
    size = status.st_size;
    ram = mmap(0, size, PROT_READ, MAP_SHARED, file, 0);
    int rounds = atoi(argv[2]), roots = 0;
    while (roots < ROOTS && scanf("%" SCNx64, &root[roots]) == 1) roots++;
    struct timespec from, to;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &from);
    for (round_ = 1; round_ <= (uint32_t)rounds; round_++) {
        used = 0;
        for (int i = 0; i < roots; i++) {
            made = 0;
            entries(root[i], 4, out, &made);
        }
    }
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &to);
    double took = (to.tv_sec - from.tv_sec) * 1e9 + (to.tv_nsec - from.tv_nsec);
    printf("%.0f %u\n", took / rounds, made);
    return 0;
}
