/* A TCG plugin for QEMU: every store into a range of physical memory, with the instruction count.
 *
 * One shared object for QEMU 7.2 (plugin API 1) and 10 (API 2 and later): when it is loaded it asks
 * which functions QEMU exports, and names the API version that fits. QEMU ships no qemu-plugin.h;
 * the declarations below are of include/qemu/qemu-plugin.h, only what is used.
 *
 * Arguments: lo=, hi= the physical range; ram= QEMU's RAM file and at= where in it `lo` lies; out=
 * the file of records. The range's content is kept, so that of each store the word before and after
 * it is known, and what was changed in between by something that is no store.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

typedef uint64_t qemu_plugin_id_t;
typedef uint32_t qemu_plugin_meminfo_t;
typedef struct qemu_info qemu_info_t;
struct qemu_plugin_tb;
struct qemu_plugin_insn;
struct qemu_plugin_hwaddr;
typedef struct { void *score; size_t offset; } plugin_u64;
enum { NO_REGISTERS = 0 };
enum { WRITES = 2 };
enum { ADD = 0 };

void qemu_plugin_register_vcpu_tb_trans_cb(
    qemu_plugin_id_t, void (*)(qemu_plugin_id_t, struct qemu_plugin_tb *));
void qemu_plugin_register_atexit_cb(qemu_plugin_id_t, void (*)(qemu_plugin_id_t, void *), void *);
size_t qemu_plugin_tb_n_insns(const struct qemu_plugin_tb *);
struct qemu_plugin_insn *qemu_plugin_tb_get_insn(const struct qemu_plugin_tb *, size_t);
uint64_t qemu_plugin_insn_vaddr(const struct qemu_plugin_insn *);
void qemu_plugin_register_vcpu_mem_cb(
    struct qemu_plugin_insn *, void (*)(unsigned, qemu_plugin_meminfo_t, uint64_t, void *),
    int flags, int rw, void *);
struct qemu_plugin_hwaddr *qemu_plugin_get_hwaddr(qemu_plugin_meminfo_t, uint64_t);
bool qemu_plugin_hwaddr_is_io(const struct qemu_plugin_hwaddr *);
uint64_t qemu_plugin_hwaddr_phys_addr(const struct qemu_plugin_hwaddr *);
unsigned qemu_plugin_mem_size_shift(qemu_plugin_meminfo_t);
bool qemu_plugin_mem_is_store(qemu_plugin_meminfo_t);

enum { PAGE = 4096, WIDEST = 64 };

int qemu_plugin_version = 1;

static void *(*scoreboard_new)(size_t);
static void *(*scoreboard_find)(void *, unsigned);
static void (*count_in_board)(struct qemu_plugin_insn *, int, plugin_u64, uint64_t);
static void (*count_in_word)(struct qemu_plugin_insn *, int, void *, uint64_t);

__attribute__((constructor)) static void choose(void)
{
    count_in_board =
        dlsym(RTLD_DEFAULT, "qemu_plugin_register_vcpu_insn_exec_inline_per_vcpu");
    count_in_word = dlsym(RTLD_DEFAULT, "qemu_plugin_register_vcpu_insn_exec_inline");
    scoreboard_new = dlsym(RTLD_DEFAULT, "qemu_plugin_scoreboard_new");
    scoreboard_find = dlsym(RTLD_DEFAULT, "qemu_plugin_scoreboard_find");
    qemu_plugin_version = count_in_board ? 2 : 1;
}

/* One word of the range that a store wrote; with size 0 (and no rip) one that had changed otherwise
 * since the last record, found at `count`. */
struct record {
    uint64_t count, rip, va, pa;
    uint64_t before, after;
    uint64_t size;
};

static uint64_t lo, hi, executed;
static plugin_u64 board;
static FILE *out;
static const unsigned char *ram;
static unsigned char *kept;
static bool begun;

static uint64_t count(unsigned cpu)
{
    return board.score ? *(uint64_t *)scoreboard_find(board.score, cpu) : executed;
}

static uint64_t word(const unsigned char *at)
{
    uint64_t value;
    memcpy(&value, at, sizeof value);
    return value;
}

static void write_one(uint64_t n, uint64_t rip, uint64_t va, uint64_t at, uint64_t size)
{
    struct record one = { n, rip, va, lo + at, word(kept + at), word(ram + at), size };
    fwrite(&one, sizeof one, 1, out);
    memcpy(kept + at, ram + at, 8);
}

static void store(unsigned cpu, qemu_plugin_meminfo_t info, uint64_t va, void *rip)
{
    /* A page keeps the offset of what lies in it: most stores are told apart by that alone. */
    if (hi - lo < PAGE - WIDEST && ((va - lo + WIDEST) & (PAGE - 1)) >= hi - lo + WIDEST)
        return;
    /* QEMU 7.2 calls this for loads too, though only writes were asked for. */
    if (!qemu_plugin_mem_is_store(info))
        return;
    struct qemu_plugin_hwaddr *place = qemu_plugin_get_hwaddr(info, va);
    if (!place || qemu_plugin_hwaddr_is_io(place))
        return;
    uint64_t pa = qemu_plugin_hwaddr_phys_addr(place);
    uint64_t size = 1u << qemu_plugin_mem_size_shift(info);
    if (pa >= hi || pa + size <= lo)
        return;
    uint64_t n = count(cpu);
    uint64_t first = pa < lo ? 0 : (pa - lo) & ~7ull;
    uint64_t last = (pa + size > hi ? hi : pa + size) - lo;
    for (uint64_t at = 0; at < hi - lo; at += 8)
        if ((at < first || at >= last) && memcmp(kept + at, ram + at, 8))
            write_one(n, 0, 0, at, 0);
    for (uint64_t at = first; at < last; at += 8)
        write_one(n, (uint64_t)rip, va, at, size);
}

static void translated(qemu_plugin_id_t id, struct qemu_plugin_tb *block)
{
    /* What RAM is before the first instruction comes by a snapshot, after this is installed. */
    if (!begun)
        memcpy(kept, ram, hi - lo);
    begun = true;
    size_t n = qemu_plugin_tb_n_insns(block);
    for (size_t k = 0; k < n; k++) {
        struct qemu_plugin_insn *one = qemu_plugin_tb_get_insn(block, k);
        if (count_in_board)
            count_in_board(one, ADD, board, 1);
        else
            count_in_word(one, ADD, &executed, 1);
        qemu_plugin_register_vcpu_mem_cb(
            one, store, NO_REGISTERS, WRITES, (void *)qemu_plugin_insn_vaddr(one));
    }
}

static void ended(qemu_plugin_id_t id, void *nothing)
{
    for (uint64_t at = 0; begun && at < hi - lo; at += 8)
        if (memcmp(kept + at, ram + at, 8))
            write_one(count(0), 0, 0, at, 0);
    fclose(out);
}

static const char *value(const char *argument, const char *name)
{
    size_t n = strlen(name);
    return strncmp(argument, name, n) ? NULL : argument + n;
}

int qemu_plugin_install(qemu_plugin_id_t id, const qemu_info_t *info, int argc, char **argv)
{
    const char *file = NULL, *records = NULL, *text;
    uint64_t begin = 0;
    for (int k = 0; k < argc; k++) {
        if ((text = value(argv[k], "lo="))) lo = strtoull(text, NULL, 0);
        if ((text = value(argv[k], "hi="))) hi = strtoull(text, NULL, 0);
        if ((text = value(argv[k], "at="))) begin = strtoull(text, NULL, 0);
        if ((text = value(argv[k], "ram="))) file = text;
        if ((text = value(argv[k], "out="))) records = text;
    }
    if (!file || !records || hi <= lo || (lo | hi) & 7)
        return 1;
    int fd = open(file, O_RDONLY);
    uint64_t page = begin & ~4095ull;
    void *mapped = fd < 0 ? MAP_FAILED
        : mmap(NULL, begin - page + hi - lo, PROT_READ, MAP_SHARED, fd, (off_t)page);
    out = fopen(records, "wb");
    kept = malloc(hi - lo);
    if (mapped == MAP_FAILED || !out || !kept)
        return 1;
    ram = (const unsigned char *)mapped + (begin - page);
    if (count_in_board)
        board.score = scoreboard_new(sizeof(uint64_t));
    qemu_plugin_register_vcpu_tb_trans_cb(id, translated);
    qemu_plugin_register_atexit_cb(id, ended, NULL);
    return 0;
}
