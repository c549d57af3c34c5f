/* The scenario file: lines `key = value`, parsed into an immutable, counted snapshot when the file changes.
 *
 * Format (README.md has the table of keys):
 *     # a comment
 *     driver_version = 570.124.06
 *     init = driver_not_loaded              nvmlInit* fails with this code
 *     gpu.0.temperature_celsius = 45        a reading; a reading that is absent answers NOT_SUPPORTED
 *     gpu.0.energy_millijoules = 9000 + 350000/s   rises by itself
 *     gpu.0.power_milliwatts = error no_permission a reading that fails, by name or by number
 *     gpu.3.lost = true                     every call on it answers GPU_IS_LOST
 *     gpu.3.absent = true                   the same, and the next nvmlInit does not enumerate it
 *     hang.nvmlDeviceGetTemperature.gpu.0 = 30     seconds, or until the line is gone
 *     error.*.gpu.2 = reset_required
 *     event.17 = gpu=3 type=xid data=79
 *
 * A reader takes a counted reference under a short lock and then reads without one, so that a call that hangs
 * holds nothing another thread needs. A file that is unreadable or malformed is reported once on stderr and the
 * last good snapshot stays.
 */
#include "standin.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static Snapshot *current;
static struct stat seen;
static double checked = -1e9;

double seconds_now(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + (double)now.tv_nsec * 1e-9;
}

static double loaded_at(void) {
    static _Atomic double first;
    double unset = 0.0;
    atomic_compare_exchange_strong(&first, &unset, seconds_now());
    return first;
}

const char *scenario_path(void) { return getenv("FLEETMEDIC_NVML_SCENARIO"); }

/* How stale an answer may be: 0 (look at the file in every call) unless the environment allows more. */
static double check_interval(void) {
    static _Atomic double seconds = -1.0;
    if (seconds < 0) {
        const char *text = getenv("FLEETMEDIC_NVML_CHECK_MILLISECONDS");
        seconds = text ? atof(text) / 1000.0 : 0.0;
    }
    return seconds;
}

static uint64_t hash_of(int gpu, const char *key) {
    uint64_t hash = 1469598103934665603ULL ^ (uint64_t)(gpu + 1) * 0x9E3779B97F4A7C15ULL;
    for (; *key; key++) hash = (hash ^ (unsigned char)*key) * 1099511628211ULL;
    return hash;
}

const Entry *snapshot_find(const Snapshot *snapshot, int gpu, const char *key) {
    uint64_t hash = hash_of(gpu, key);
    for (size_t at = hash & snapshot->mask; snapshot->table[at].key; at = (at + 1) & snapshot->mask) {
        const Entry *entry = &snapshot->table[at];
        if (entry->hash == hash && entry->gpu == gpu && strcmp(entry->key, key) == 0) return entry;
    }
    return NULL;
}

uint64_t entry_number(const Entry *entry) {
    if (entry->rate == 0.0) return entry->number;
    return entry->number + (uint64_t)(int64_t)(entry->rate * (seconds_now() - loaded_at()));
}

bool error_code(const char *text, uint64_t *code) {
    char *end;
    *code = strtoull(text, &end, 0);
    if (end != text && *end == '\0') return true;
    for (const ErrorName *error = error_names; error->name; error++) {
        if (strcmp(error->name, text) == 0) {
            *code = (uint64_t)error->code;
            return true;
        }
    }
    return false;
}

/* Numbers as C writes them, true and false, `base + rate/s`, `error <code>`; anything else is text. */
static bool parse_value(Entry *entry) {
    const char *text = entry->text;
    entry->kind = VALUE_NUMBER;
    if (strncmp(text, "error ", 6) == 0) {
        entry->kind = VALUE_ERROR;
        return error_code(text + 6, &entry->number);
    }
    if (strcmp(text, "true") == 0 || strcmp(text, "false") == 0) {
        entry->number = text[0] == 't';
        return true;
    }
    char *end, *rest;
    entry->number = text[0] == '-' ? (uint64_t)strtoll(text, &end, 0) : strtoull(text, &end, 0);
    if (end != text && *end == '\0') return true;
    if (end != text && strncmp(end, " + ", 3) == 0) {
        entry->rate = strtod(end + 3, &rest);
        if (rest != end + 3 && strcmp(rest, "/s") == 0) return true;
        entry->rate = 0.0;
    }
    entry->kind = VALUE_TEXT;
    return true;
}

static const struct {
    const char *name;
    uint64_t bit;
} event_types[] = {
    {"single_bit_ecc", 0x1},        {"double_bit_ecc", 0x2},           {"pstate", 0x4},
    {"xid", 0x8},                   {"clock", 0x10},                   {"power_source", 0x80},
    {"single_bit_ecc_storm", 0x200}, {"dram_retirement", 0x400},       {"dram_retirement_failure", 0x800},
    {"non_fatal_poison", 0x1000},   {"fatal_poison", 0x2000},          {"gpu_unavailable", 0x4000},
    {"gpu_recovery_action", 0x8000},
};

static uint64_t event_type(const char *name) {
    for (size_t i = 0; i < sizeof event_types / sizeof *event_types; i++)
        if (strcmp(event_types[i].name, name) == 0) return event_types[i].bit;
    return strtoull(name, NULL, 0);
}

static bool parse_event(const char *sequence, const char *text, ScriptedEvent *event) {
    char *end;
    *event = (ScriptedEvent){.gpu = -1, .gpu_instance = UINT32_MAX, .compute_instance = UINT32_MAX};
    event->sequence = strtoull(sequence, &end, 10);
    if (end == sequence || *end || event->sequence == 0) return false;
    char word[64];
    int length;
    for (; sscanf(text, " %63s%n", word, &length) == 1; text += length) {
        char *value = strchr(word, '=');
        if (!value) return false;
        *value++ = '\0';
        if (strcmp(word, "gpu") == 0) event->gpu = atoi(value);
        else if (strcmp(word, "type") == 0) event->type = event_type(value);
        else if (strcmp(word, "data") == 0) event->data = strtoull(value, NULL, 0);
        else if (strcmp(word, "gi") == 0) event->gpu_instance = (uint32_t)strtoul(value, NULL, 0);
        else if (strcmp(word, "ci") == 0) event->compute_instance = (uint32_t)strtoul(value, NULL, 0);
        else return false;
    }
    return event->gpu >= 0 && event->gpu < MAX_GPUS && event->type != 0;
}

static int by_sequence(const void *left, const void *right) {
    uint64_t a = ((const ScriptedEvent *)left)->sequence, b = ((const ScriptedEvent *)right)->sequence;
    return (a > b) - (a < b);
}

static void insert(Snapshot *snapshot, Entry entry) {
    entry.hash = hash_of(entry.gpu, entry.key);
    size_t at = entry.hash & snapshot->mask;
    while (snapshot->table[at].key &&
           !(snapshot->table[at].gpu == entry.gpu && strcmp(snapshot->table[at].key, entry.key) == 0))
        at = (at + 1) & snapshot->mask;
    snapshot->table[at] = entry;
}

static char *trim(char *text) {
    while (*text == ' ' || *text == '\t') text++;
    size_t length = strlen(text);
    while (length && strchr(" \t\r", text[length - 1])) text[--length] = '\0';
    return text;
}

static bool parse_line(Snapshot *snapshot, char *line) {
    line = trim(line);
    if (*line == '\0' || *line == '#') return true;
    char *equals = strchr(line, '=');
    if (!equals) return false;
    *equals = '\0';
    char *key = trim(line), *text = trim(equals + 1), *end;
    if (strncmp(key, "event.", 6) == 0)
        return parse_event(key + 6, text, &snapshot->events[snapshot->event_count++]);
    Entry entry = {.key = key, .text = text, .gpu = -1};
    if (!parse_value(&entry)) return false;
    if (strncmp(key, "gpu.", 4) == 0) {
        long gpu = strtol(key + 4, &end, 10);
        if (end == key + 4 || *end != '.' || gpu < 0 || gpu >= MAX_GPUS) return false;
        entry.gpu = (int)gpu;
        entry.key = end + 1;
        snapshot->present[gpu] = true;
    } else if (strncmp(key, "hang.", 5) == 0 || strncmp(key, "error.", 6) == 0) {
        snapshot->scripted = true;
    }
    insert(snapshot, entry);
    return true;
}

static void snapshot_free(Snapshot *snapshot) {
    free(snapshot->table);
    free(snapshot->events);
    free(snapshot->buffer);
    free(snapshot);
}

static bool flag(const Snapshot *snapshot, int gpu, const char *key) {
    const Entry *entry = snapshot_find(snapshot, gpu, key);
    return entry && entry->kind == VALUE_NUMBER && entry->number;
}

Snapshot *snapshot_parse(char *buffer, const char *path) {
    size_t lines = 1, capacity = 16, number = 0;
    for (const char *at = buffer; *at; at++) lines += *at == '\n';
    while (capacity < lines * 2) capacity *= 2;
    Snapshot *snapshot = calloc(1, sizeof *snapshot);
    atomic_init(&snapshot->references, 1);
    snapshot->buffer = buffer;
    snapshot->table = calloc(capacity, sizeof *snapshot->table);
    snapshot->mask = capacity - 1;
    snapshot->events = calloc(lines, sizeof *snapshot->events);
    for (char *line = buffer, *next; line; line = next) {
        if ((next = strchr(line, '\n'))) *next++ = '\0';
        number++;
        if (!parse_line(snapshot, line)) {
            fprintf(stderr, "nvml stand-in: %s:%zu: cannot read this line\n", path, number);
            snapshot_free(snapshot);
            return NULL;
        }
    }
    qsort(snapshot->events, snapshot->event_count, sizeof *snapshot->events, by_sequence);
    for (int gpu = 0; gpu < MAX_GPUS; gpu++) {
        if (flag(snapshot, gpu, "absent")) snapshot->present[gpu] = false;
        snapshot->unreachable[gpu] = !snapshot->present[gpu] || flag(snapshot, gpu, "lost");
    }
    return snapshot;
}

static bool same_file(const struct stat *a, const struct stat *b) {
    return a->st_ino == b->st_ino && a->st_dev == b->st_dev && a->st_size == b->st_size &&
           a->st_mtim.tv_sec == b->st_mtim.tv_sec && a->st_mtim.tv_nsec == b->st_mtim.tv_nsec;
}

static char *read_file(const char *path, struct stat *status) {
    int file = open(path, O_RDONLY | O_CLOEXEC);
    if (file < 0 || fstat(file, status) != 0) {
        fprintf(stderr, "nvml stand-in: %s: %s\n", path, strerror(errno));
        if (file >= 0) close(file);
        return NULL;
    }
    size_t size = (size_t)status->st_size, got = 0;
    char *buffer = calloc(size + 1, 1);
    for (ssize_t n = 1; got < size && n > 0; got += n > 0 ? (size_t)n : 0) n = read(file, buffer + got, size - got);
    close(file);
    return buffer;
}

static void reload(const char *path) {
    static bool complained;
    struct stat status;
    bool there = stat(path, &status) == 0;
    if (current && (there ? same_file(&status, &seen) : complained)) return;
    complained = !there;
    char *buffer = read_file(path, &status);
    if (!buffer) return;
    seen = status;
    Snapshot *fresh = snapshot_parse(buffer, path);
    if (!fresh) return;
    if (current) snapshot_put(current);
    current = fresh;
}

const Snapshot *snapshot_get(void) {
    const char *path = scenario_path();
    if (!path) {
        fprintf(stderr, "nvml stand-in: FLEETMEDIC_NVML_SCENARIO names no scenario file\n");
        return NULL;
    }
    pthread_mutex_lock(&lock);
    double interval = check_interval(), now = interval > 0 ? seconds_now() : 0;
    if (interval <= 0 || now - checked >= interval) {
        checked = now;
        loaded_at();
        reload(path);
    }
    Snapshot *snapshot = current;
    if (snapshot) atomic_fetch_add(&snapshot->references, 1);
    pthread_mutex_unlock(&lock);
    return snapshot;
}

void snapshot_expire(void) {
    pthread_mutex_lock(&lock);
    checked = -1e9;
    pthread_mutex_unlock(&lock);
}

void snapshot_put(const Snapshot *snapshot) {
    Snapshot *held = (Snapshot *)(uintptr_t)snapshot;
    if (atomic_fetch_sub(&held->references, 1) == 1) snapshot_free(held);
}
