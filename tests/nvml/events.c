/* Event sets: an event line is delivered once to every set that had registered its GPU and type when the line came.
 *
 * A wait sleeps in poll(2) on an inotify watch of the scenario's folder, so that it costs nothing while nothing
 * happens and a new event wakes it at once; without inotify it looks every ten milliseconds.
 */
#include "standin.h"

#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/inotify.h>
#include <time.h>
#include <unistd.h>

enum { MAX_SETS = 32 };

typedef struct {
    bool used;
    int watch;                     /* inotify descriptor, or -1 */
    uint64_t types[MAX_GPUS];      /* registered types per GPU */
    uint64_t since[MAX_GPUS];      /* the newest event at the time of registration: older ones are not delivered */
    uint64_t delivered;            /* the last event this set has passed */
} EventSet;

typedef struct {
    Device *device;
    unsigned long long type, data;
    unsigned gpu_instance, compute_instance;
} EventData;
_Static_assert(sizeof(EventData) == 32, "as pynvml declares it");

static EventSet sets[MAX_SETS];
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER; /* guards sets; never held over a wait or a hang */

static bool valid(const EventSet *set) {
    uintptr_t first = (uintptr_t)sets, at = (uintptr_t)set;
    return at >= first && at < first + sizeof sets && (at - first) % sizeof(EventSet) == 0 && set->used;
}

static int watch_folder(void) {
    char folder[4096];
    if ((size_t)snprintf(folder, sizeof folder, "%s", scenario_path()) >= sizeof folder) return -1;
    char *slash = strrchr(folder, '/');
    if (!slash) strcpy(folder, ".");
    else slash[slash == folder] = '\0';
    int watch = inotify_init1(IN_CLOEXEC | IN_NONBLOCK);
    if (watch >= 0 && inotify_add_watch(watch, folder, IN_MOVED_TO | IN_CLOSE_WRITE) < 0) {
        close(watch);
        return -1;
    }
    return watch;
}

EXPORT nvmlEventSetCreate(EventSet **out) {
    Call call;
    if (!out) return NVML_ERROR_INVALID_ARGUMENT;
    Return code = call_begin(&call, __func__, NULL);
    if (code) return code;
    call_end(&call);
    code = NVML_ERROR_INSUFFICIENT_RESOURCES;
    pthread_mutex_lock(&lock);
    for (EventSet *set = sets; set < sets + MAX_SETS && code; set++) {
        if (set->used) continue;
        *set = (EventSet){.used = true, .watch = watch_folder()};
        *out = set;
        code = NVML_SUCCESS;
    }
    pthread_mutex_unlock(&lock);
    return code;
}

EXPORT nvmlEventSetFree(EventSet *set) {
    Call call;
    Return code = call_begin(&call, __func__, NULL);
    if (code) return code;
    call_end(&call);
    pthread_mutex_lock(&lock);
    if (!valid(set)) code = NVML_ERROR_INVALID_ARGUMENT;
    else {
        set->used = false;
        if (set->watch >= 0) close(set->watch);
    }
    pthread_mutex_unlock(&lock);
    return code;
}

static Return supported_types(const Call *call, uint64_t *out) {
    return call->mig >= 0 ? NVML_ERROR_NOT_SUPPORTED : call_number(call, "supported_event_types", out);
}

EXPORT nvmlDeviceGetSupportedEventTypes(const Device *device, unsigned long long *out) {
    Call call;
    uint64_t got;
    if (!device || !out) return NVML_ERROR_INVALID_ARGUMENT;
    Return code = call_begin(&call, __func__, device);
    if (code) return code;
    if (!(code = supported_types(&call, &got))) *out = got;
    call_end(&call);
    return code;
}

EXPORT nvmlDeviceRegisterEvents(const Device *device, unsigned long long types, EventSet *set) {
    Call call;
    uint64_t supported;
    if (!device) return NVML_ERROR_INVALID_ARGUMENT;
    Return code = call_begin(&call, __func__, device);
    if (code) return code;
    const Snapshot *snapshot = call.snapshot;
    code = supported_types(&call, &supported);
    if (!code && (types & ~supported)) code = NVML_ERROR_NOT_SUPPORTED;
    pthread_mutex_lock(&lock);
    if (!code && !valid(set)) code = NVML_ERROR_INVALID_ARGUMENT;
    if (!code) {
        set->types[device->slot] |= types;
        set->since[device->slot] =
            snapshot->event_count ? snapshot->events[snapshot->event_count - 1].sequence : 0;
    }
    pthread_mutex_unlock(&lock);
    call_end(&call);
    return code;
}

/* The oldest event the set has not passed and wants. */
static bool next_event(EventSet *set, const Snapshot *snapshot, EventData *out) {
    for (size_t i = 0; i < snapshot->event_count; i++) {
        const ScriptedEvent *event = &snapshot->events[i];
        if (event->sequence <= set->delivered) continue;
        set->delivered = event->sequence;
        if (event->sequence <= set->since[event->gpu] || !(event->type & set->types[event->gpu])) continue;
        *out = (EventData){device_of(event->gpu, -1), event->type, event->data, event->gpu_instance,
                           event->compute_instance};
        return true;
    }
    return false;
}

static void sleep_until_change(int watch, double seconds) {
    char events[4096];
    struct pollfd descriptor = {.fd = watch, .events = POLLIN};
    if (watch < 0) {
        if (seconds > 0.01) seconds = 0.01;
    } else if (seconds > 1000.0) {
        seconds = 1000.0;
    }
    if (poll(&descriptor, watch >= 0, (int)(seconds * 1000.0) + 1) > 0)
        while (read(watch, events, sizeof events) > 0) {}
}

EXPORT nvmlEventSetWait_v2(EventSet *set, EventData *out, unsigned timeout_milliseconds) {
    Call call;
    double deadline = seconds_now() + timeout_milliseconds / 1000.0;
    if (!out) return NVML_ERROR_INVALID_ARGUMENT;
    for (;;) {
        snapshot_expire(); /* a wake-up that reads an old snapshot would lose the event it woke for */
        Return code = call_begin(&call, __func__, NULL);
        if (code) return code;
        pthread_mutex_lock(&lock);
        bool known = valid(set), found = known && next_event(set, call.snapshot, out);
        int watch = known ? set->watch : -1;
        pthread_mutex_unlock(&lock);
        call_end(&call);
        if (!known) return NVML_ERROR_INVALID_ARGUMENT;
        if (found) return NVML_SUCCESS;
        double left = deadline - seconds_now();
        if (left <= 0) return NVML_ERROR_TIMEOUT;
        sleep_until_change(watch, left);
    }
}
