/* The DCMI stand-in: exports symbols of libdcmi.so with its struct layouts and answers from a scenario file.
 *
 * The file has lines `key = value` and is read anew in every call, so that a change is seen at once:
 *     init = -8005                               dcmi_init fails
 *     driver_version = 24.1.rc3
 *     chip.0.card = 0, chip.0.device = 0         place of the chip; default: its number in the file, 0
 *     chip.0.<reading> = 45                      absent: NOT_SUPPORTED; "error -8006": fails with that code
 *     chip.0.faults = 0x80e01801:3:words|0x81078603::link     code, severity, text
 *     chip.3.absent = 1                          not listed any more
 *     hang.<function>[.chip.<n>] = 1             blocks until the line is gone
 *     error.<function>[.chip.<n>] = -8012        fails; `*` is every function
 *     event.7 = chip=3 code=0x81078603 severity=2 assertion=1 text=link   told once to subscribers
 * Where the real library's answer was not known for certain, README.md says so.
 */
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define EXPORT __attribute__((visibility("default"))) int
enum { MAX_CHIPS = 32, KEY = 128, FILE_BYTES = 1 << 16, NOT_SUPPORTED = -8255, NOT_EXIST = -8008, INNER = -8005, INVALID = -8001 };

struct chip_info { unsigned char type[32], name[32], version[32]; unsigned aicores; unsigned char npu[32]; };
struct pcie_info { unsigned vendor, subvendor, device, subdevice; int domain; unsigned bus, slot, function; unsigned char reserve[32]; };
struct hbm_info { unsigned long long size; unsigned freq; unsigned long long usage; int temp; unsigned bandwidth; };
struct memory_info { unsigned long long size, available; unsigned freq; unsigned long page, total, free; unsigned used; unsigned char reserve[60]; };
struct ecc_info { int enabled; unsigned single, twice, single_life, twice_life, single_pages, twice_pages, single_next, twice_next; };
struct fault_event {
    unsigned id; unsigned short device; unsigned char node_type, node, sub_type, sub_node, severity, assertion;
    int event_serial, notify_serial; unsigned long long raised; char name[256], info[32]; unsigned char reserve[32];
};
struct event { int type; union { struct fault_event fault; } u; };
struct filter { unsigned long long flag; unsigned id; unsigned char severity, node_type, reserve[32]; };
typedef void (*handler)(struct event *);
_Static_assert(sizeof(struct pcie_info) == 64, "the header says so");

static char *load(void) {
    const char *path = getenv("FLEETMEDIC_DCMI_SCENARIO");
    FILE *file = path ? fopen(path, "r") : NULL;
    if (!file) return NULL;
    char *text = calloc(FILE_BYTES + 1, 1);
    size_t got = fread(text, 1, FILE_BYTES, file);
    text[got] = '\0';
    fclose(file);
    return text;
}

/* The value of a key, in a buffer of the caller's. */
static bool find(const char *text, const char *key, char *value, size_t length) {
    size_t size = strlen(key);
    for (const char *line = text; line && *line; line = strchr(line, '\n'), line += line ? 1 : 0) {
        if (strncmp(line, key, size) != 0 || strncmp(line + size, " = ", 3) != 0) continue;
        const char *start = line + size + 3;
        size_t end = strcspn(start, "\n");
        snprintf(value, length, "%.*s", (int)(end < length ? end : length - 1), start);
        return true;
    }
    return false;
}

static bool scripted(const char *text, const char *kind, const char *function, int n, char *value) {
    const char *names[] = {function, "*"};
    char key[KEY];
    for (int i = 0; i < 2; i++) {
        snprintf(key, sizeof key, "%s.%s.chip.%d", kind, names[i], n);
        if (n >= 0 && find(text, key, value, KEY)) return true;
        snprintf(key, sizeof key, "%s.%s", kind, names[i]);
        if (find(text, key, value, KEY)) return true;
    }
    return false;
}

static bool reading_text(const char *text, int n, const char *name, char *value, size_t length) {
    char key[KEY];
    snprintf(key, sizeof key, "chip.%d.%s", n, name);
    return find(text, key, value, length);
}

static int reading(const char *text, int n, const char *name, long long *out) {
    char value[KEY];
    if (!reading_text(text, n, name, value, sizeof value)) return NOT_SUPPORTED;
    if (strncmp(value, "error ", 6) == 0) return atoi(value + 6);
    *out = strtoll(value, NULL, 0);
    return 0;
}

static long long number(const char *text, int n, const char *name, long long fallback) {
    long long value;
    return reading(text, n, name, &value) == 0 ? value : fallback;
}

static bool exists(const char *text, int n) {
    char value[KEY];
    return reading_text(text, n, "health", value, sizeof value) && !number(text, n, "absent", 0);
}

static int at(const char *text, int card, int device) {
    for (int n = 0; n < MAX_CHIPS; n++)
        if (exists(text, n) && number(text, n, "card", n) == card && number(text, n, "device", 0) == device) return n;
    return -1;
}

/* What happens before any answer: a hang, then a failure. Returns the scenario, or NULL and the code. */
static char *begin_for(const char *function, int n, int *code) {
    char value[KEY];
    for (;;) {
        char *text = load();
        *code = text ? 0 : INNER;
        if (!text || !scripted(text, "hang", function, n, value)) {
            if (text && scripted(text, "error", function, n, value)) *code = atoi(value);
            if (!*code) return text;
            free(text);
            return NULL;
        }
        free(text);
        nanosleep(&(struct timespec){.tv_nsec = 5000000}, NULL);
    }
}

static char *begin(const char *function, int card, int device, int *n, int *code) {
    char *text = load();
    *n = text ? at(text, card, device) : -1;
    free(text);
    if (*n < 0) {
        *code = NOT_EXIST;
        return NULL;
    }
    return begin_for(function, *n, code);
}

static int answer_number(const char *function, const char *name, int card, int device, int *out) {
    int n, code;
    long long value;
    char *text = begin(function, card, device, &n, &code);
    if (!text) return code;
    if (!(code = out ? reading(text, n, name, &value) : INVALID)) *out = (int)value;
    free(text);
    return code;
}
#define NUMBER(function, name) \
    EXPORT function(int card, int device, int *out) { return answer_number(#function, name, card, device, out); }
#define CHOSEN_NUMBER(function, name) \
    EXPORT function(int card, int device, int kind, int *out) { (void)kind; return answer_number(#function, name, card, device, out); }

NUMBER(dcmi_get_device_health, "health")
NUMBER(dcmi_get_device_temperature, "temperature_celsius")
NUMBER(dcmi_get_device_power_info, "power_deciwatts")
NUMBER(dcmi_get_device_voltage, "voltage_centivolts")
NUMBER(dcmi_get_device_network_health, "network_health")
CHOSEN_NUMBER(dcmi_get_device_utilization_rate, "utilization_percent")
CHOSEN_NUMBER(dcmi_get_device_frequency, "clock_megahertz")

EXPORT dcmi_init(void) {
    int code;
    char value[KEY], *text = begin_for("dcmi_init", -1, &code);
    if (!text) return code;
    code = find(text, "init", value, sizeof value) ? atoi(value) : 0;
    free(text);
    return code;
}

EXPORT dcmi_get_driver_version(char *out, unsigned length) {
    int code;
    char value[KEY], *text = begin_for("dcmi_get_driver_version", -1, &code);
    if (!text) return code;
    code = find(text, "driver_version", value, sizeof value) ? 0 : NOT_SUPPORTED;
    if (!code) snprintf(out, length, "%s", value);
    free(text);
    return code;
}

EXPORT dcmi_get_card_list(int *count, int *cards, int length) {
    int code, found = 0;
    char *text = begin_for("dcmi_get_card_list", -1, &code);
    if (!text) return code;
    for (int n = 0; n < MAX_CHIPS; n++) {
        if (!exists(text, n)) continue;
        int card = (int)number(text, n, "card", n), known = 0;
        for (int i = 0; i < found; i++) known |= cards[i] == card;
        if (!known && found < length) cards[found++] = card;
    }
    *count = found;
    free(text);
    return found ? 0 : NOT_EXIST;
}

EXPORT dcmi_get_device_num_in_card(int card, int *count) {
    int n, code;
    char *text = begin("dcmi_get_device_num_in_card", card, 0, &n, &code);
    if (!text) return code;
    for (*count = 0, n = 0; n < MAX_CHIPS; n++) *count += exists(text, n) && number(text, n, "card", n) == card;
    free(text);
    return 0;
}

EXPORT dcmi_get_device_logic_id(int *out, int card, int device) {
    int n, code;
    char *text = begin("dcmi_get_device_logic_id", card, device, &n, &code);
    if (!text) return code;
    *out = (int)number(text, n, "logic_id", n);
    free(text);
    return 0;
}

EXPORT dcmi_get_device_phyid_from_logicid(unsigned logic, unsigned *out) {
    int code;
    char *text = begin_for("dcmi_get_device_phyid_from_logicid", -1, &code);
    if (!text) return code;
    code = NOT_EXIST;
    for (int n = 0; n < MAX_CHIPS; n++)
        if (exists(text, n) && number(text, n, "logic_id", n) == logic) *out = (unsigned)number(text, n, "physical_id", n), code = 0;
    free(text);
    return code;
}

EXPORT dcmi_get_device_chip_info(int card, int device, struct chip_info *out) {
    int n, code;
    char *text = begin("dcmi_get_device_chip_info", card, device, &n, &code);
    if (!text) return code;
    strcpy((char *)out->type, "Ascend");
    if (!reading_text(text, n, "model", (char *)out->name, sizeof out->name)) code = NOT_SUPPORTED;
    free(text);
    return code;
}

EXPORT dcmi_get_device_pcie_info_v2(int card, int device, struct pcie_info *out) {
    int n, code;
    char value[KEY], *text = begin("dcmi_get_device_pcie_info_v2", card, device, &n, &code);
    if (!text) return code;
    memset(out, 0, sizeof *out);
    out->vendor = 0x19e5;
    code = reading_text(text, n, "bus", value, sizeof value) &&
                   sscanf(value, "%x:%x:%x.%x", (unsigned *)&out->domain, &out->bus, &out->slot, &out->function) == 4
               ? 0
               : NOT_SUPPORTED;
    free(text);
    return code;
}

EXPORT dcmi_get_device_hbm_info(int card, int device, struct hbm_info *out) {
    int n, code;
    long long size;
    char *text = begin("dcmi_get_device_hbm_info", card, device, &n, &code);
    if (!text) return code;
    if (!(code = reading(text, n, "hbm_size_mebibytes", &size))) {
        out->size = (unsigned long long)size;
        out->usage = (unsigned long long)number(text, n, "hbm_used_mebibytes", 0);
        out->temp = (int)number(text, n, "hbm_temperature_celsius", 0);
    }
    free(text);
    return code;
}

EXPORT dcmi_get_device_memory_info_v3(int card, int device, struct memory_info *out) {
    int n, code;
    long long size;
    char *text = begin("dcmi_get_device_memory_info_v3", card, device, &n, &code);
    if (!text) return code;
    if (!(code = reading(text, n, "ddr_size_mebibytes", &size))) {
        out->size = (unsigned long long)size;
        out->available = (unsigned long long)number(text, n, "ddr_available_mebibytes", 0);
    }
    free(text);
    return code;
}

EXPORT dcmi_get_device_ecc_info(int card, int device, int kind, struct ecc_info *out) {
    int n, code;
    long long single;
    char *text = begin("dcmi_get_device_ecc_info", card, device, &n, &code);
    if (!text) return code;
    code = kind == 2 ? reading(text, n, "ecc_single_bit", &single) : NOT_SUPPORTED;
    if (!code) {
        *out = (struct ecc_info){.enabled = 1, .single = (unsigned)single};
        out->twice = (unsigned)number(text, n, "ecc_double_bit", 0);
        out->single_life = (unsigned)number(text, n, "ecc_single_bit_life", single);
        out->twice_life = (unsigned)number(text, n, "ecc_double_bit_life", out->twice);
        out->single_pages = (unsigned)number(text, n, "isolated_pages_single_bit", 0);
        out->twice_pages = (unsigned)number(text, n, "isolated_pages_double_bit", 0);
    }
    free(text);
    return code;
}

/* The faults of a chip, one per turn: code, severity or -1, words. */
static bool next_fault(char **rest, unsigned *id, int *severity, const char **words) {
    char *fault = strsep(rest, "|"), *part;
    if (!fault || !*fault) return false;
    part = strsep(&fault, ":");
    *id = (unsigned)strtoul(part, NULL, 0);
    part = fault ? strsep(&fault, ":") : NULL;
    *severity = part && *part ? atoi(part) : -1;
    *words = fault ? fault : "";
    return true;
}

EXPORT dcmi_get_device_errorcode_v2(int card, int device, int *count, unsigned *codes, unsigned length) {
    int n, code, severity;
    const char *words;
    char value[4096], *rest = value, *text = begin("dcmi_get_device_errorcode_v2", card, device, &n, &code);
    if (!text) return code;
    *count = 0;
    if (reading_text(text, n, "faults", value, sizeof value))
        while ((unsigned)*count < length && next_fault(&rest, &codes[*count], &severity, &words)) ++*count;
    free(text);
    return 0;
}

EXPORT dcmi_get_device_errorcode_string(int card, int device, unsigned wanted, unsigned char *out, int length) {
    int n, code, severity;
    unsigned id;
    const char *words;
    char value[4096], *rest = value, *text = begin("dcmi_get_device_errorcode_string", card, device, &n, &code);
    if (!text) return code;
    code = length < 48 ? INVALID : NOT_SUPPORTED;
    if (code != INVALID && reading_text(text, n, "faults", value, sizeof value))
        while (code && next_fault(&rest, &id, &severity, &words))
            if (id == wanted) snprintf((char *)out, (size_t)length, "%s", words), code = 0;
    free(text);
    return code;
}

EXPORT dcmi_get_device_current_fault_event(int card, int device, struct event *events, int length, int *count) {
    int n, code, severity;
    unsigned id;
    const char *words;
    char value[4096], *rest = value, *text = begin("dcmi_get_device_current_fault_event", card, device, &n, &code);
    if (!text) return code;
    *count = 0;
    if (reading_text(text, n, "faults", value, sizeof value))
        while (*count < length && next_fault(&rest, &id, &severity, &words))
            if (severity >= 0) events[(*count)++].u.fault = (struct fault_event){.id = id, .severity = (unsigned char)severity, .assertion = 1};
    free(text);
    return 0;
}

static long told;
static handler tell;

static void *watch(void *unused) {
    (void)unused;
    for (;; nanosleep(&(struct timespec){.tv_nsec = 10000000}, NULL)) {
        char *text = load();
        for (char *line = text, *next; line && *line; line = next) {
            if ((next = strchr(line, '\n'))) *next++ = '\0';
            long sequence;
            unsigned chip, id, severity, assertion;
            int words = 0;
            if (sscanf(line, "event.%ld = chip=%u code=%x severity=%u assertion=%u text=%n", &sequence, &chip, &id,
                       &severity, &assertion, &words) != 5 || sequence <= told)
                continue;
            told = sequence;
            struct event event = {0};
            event.u.fault = (struct fault_event){.id = id, .device = (unsigned short)chip, .severity = (unsigned char)severity,
                .assertion = (unsigned char)assertion, .event_serial = (int)sequence, .notify_serial = (int)sequence,
                .raised = (unsigned long long)time(NULL)};
            snprintf(event.u.fault.name, sizeof event.u.fault.name, "%s", words ? line + words : "");
            tell(&event);
        }
        free(text);
    }
    return NULL;
}

EXPORT dcmi_subscribe_fault_event(int card, int device, struct filter filter, handler handle) {
    int code;
    pthread_t thread;
    char *text = begin_for("dcmi_subscribe_fault_event", -1, &code);
    if (!text) return code;
    free(text);
    if (card != -1 || device != -1 || filter.flag) return INVALID;
    tell = handle;
    return pthread_create(&thread, NULL, watch, NULL) ? INNER : 0;
}
