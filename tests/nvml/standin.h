/* What the stand-in's source files share: scenario snapshots, device handles, and the gate every call passes. */
#ifndef FLEETMEDIC_NVML_STANDIN_H
#define FLEETMEDIC_NVML_STANDIN_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { MAX_GPUS = 64, MAX_MIG = 8, MAX_LINKS = 36, KEY_LENGTH = 160 };

typedef int Return;
#define PUBLIC __attribute__((visibility("default")))
#define EXPORT PUBLIC Return /* a symbol of libnvidia-ml.so.1 */
enum {
    NVML_SUCCESS = 0,
    NVML_ERROR_UNINITIALIZED = 1,
    NVML_ERROR_INVALID_ARGUMENT = 2,
    NVML_ERROR_NOT_SUPPORTED = 3,
    NVML_ERROR_NOT_FOUND = 6,
    NVML_ERROR_INSUFFICIENT_SIZE = 7,
    NVML_ERROR_TIMEOUT = 10,
    NVML_ERROR_GPU_IS_LOST = 15,
    NVML_ERROR_INSUFFICIENT_RESOURCES = 23,
    NVML_ERROR_ARGUMENT_VERSION_MISMATCH = 25,
    NVML_ERROR_UNKNOWN = 999,
};

typedef struct {
    int code;
    const char *name; /* as scenario files spell it */
    const char *text; /* as nvmlErrorString answers */
} ErrorName;
extern const ErrorName error_names[];

/* ---- scenario.c: the file, parsed once per change, read without locks ---- */

typedef enum { VALUE_TEXT, VALUE_NUMBER, VALUE_ERROR } ValueKind;

typedef struct {
    uint64_t hash;
    const char *key; /* without the leading "gpu.<n>." */
    const char *text;
    uint64_t number; /* the error code when kind is VALUE_ERROR */
    double rate;     /* added per second since the library was loaded */
    int gpu;         /* -1: a line that belongs to no GPU */
    ValueKind kind;
} Entry;

typedef struct {
    uint64_t sequence, type, data;
    uint32_t gpu_instance, compute_instance;
    int gpu;
} ScriptedEvent;

typedef struct {
    atomic_int references;
    char *buffer;
    Entry *table;
    size_t mask;
    ScriptedEvent *events; /* in order of their sequence number */
    size_t event_count;
    bool scripted;               /* any hang.* or error.* line */
    bool present[MAX_GPUS];      /* the file has lines for this GPU, and no absent = true */
    bool unreachable[MAX_GPUS];  /* not present, or lost */
} Snapshot;

Snapshot *snapshot_parse(char *buffer, const char *path); /* takes the buffer; NULL after saying why */
const Snapshot *snapshot_get(void);                       /* NULL: no readable scenario */
void snapshot_put(const Snapshot *snapshot);
void snapshot_expire(void); /* the next snapshot_get looks at the file, whatever the check interval */
const char *scenario_path(void);
const Entry *snapshot_find(const Snapshot *snapshot, int gpu, const char *key);
uint64_t entry_number(const Entry *entry);
bool error_code(const char *text, uint64_t *code); /* a name or a number */
double seconds_now(void);                          /* monotonic */

/* ---- gate.c: initialised? handle valid? scripted to hang or fail? lost? ---- */

typedef struct {
    int slot; /* which gpu.<n> of the scenario; an index is a place in the enumeration made at init */
    int mig;  /* -1: the whole GPU */
} Device;

typedef struct {
    const Snapshot *snapshot;
    int gpu, mig;
} Call;

Device *device_of(int slot, int mig);
bool device_valid(const Device *device);
int enumeration_count(void);
int enumeration_slot(unsigned index); /* -1: no such index */
int enumeration_index(int slot);

Return gate(const char *function, int gpu, const Snapshot **snapshot); /* the caller puts the snapshot */
Return call_begin(Call *call, const char *function, const Device *device);
void call_end(const Call *call);
const Entry *call_find(const Call *call, const char *key);
Return call_number(const Call *call, const char *key, uint64_t *out);
Return call_text(const Call *call, const char *key, const char **out);

/* ---- shared by device.c, links.c and fields.c ---- */

Return copy_text(const char *text, char *out, unsigned length);
Return ecc_count(const Call *call, unsigned error, unsigned counter, const char *location, uint64_t *out);
Return link_value(const Call *call, unsigned link, const char *key, uint64_t fallback, uint64_t *out);
Return word_count(const Call *call, const char *key, uint64_t *out); /* of a list */
Return link_total(const Call *call, const char *key, uint64_t *out);

#endif
