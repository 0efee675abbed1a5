/* Answers as NVIDIA's libnvidia-ml.so.1 does, from the file that FAKE_NVML names; read anew by every question. Its lines:
   card|NAME|UUID|TOTAL|USED|LOAD|IS_CUT, slice|NAME|UUID|TOTAL|USED of the card above, process|PID|BYTES of the one above;
   BYTES of -1 are not told. As long as its first line is hang, no question is answered. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { OK = 0, UNINITIALIZED = 1, NO_SUCH = 2, NOT_SUPPORTED = 3, NOT_FOUND = 6, TOO_SMALL = 7, NO_DRIVER = 9, MOST = 64 };
typedef unsigned int u32;
typedef unsigned long long u64;
typedef struct { u32 pid; u64 bytes; u32 instance, part; } Process;
typedef struct { int of, is_cut, load, count; char name[96], uuid[96]; u64 total, used; Process processes[16]; } Device;
typedef struct { u32 version; u64 total, reserved, free, used; } Memory2;
typedef struct { u64 total, free, used; } Memory1;

static Device devices[MOST];
static int count, started;

static FILE *open_state(void) { return fopen(getenv("FAKE_NVML") ? getenv("FAKE_NVML") : "", "r"); }

static int look(void) {
    FILE *file = open_state();
    char line[512];
    count = 0;
    while (file && fgets(line, sizeof line, file) && !strcmp(line, "hang\n")) {
        fclose(file);
        usleep(100000);
        file = open_state();
    }
    if (!file) return NO_DRIVER;
    rewind(file);
    while (fgets(line, sizeof line, file)) {
        Device *last = count ? &devices[count - 1] : NULL;
        long long pid, bytes;
        if (sscanf(line, "process|%lld|%lld", &pid, &bytes) == 2 && last) {
            Process process = {(u32)pid, (u64)bytes, ~0u, ~0u};
            last->processes[last->count++] = process;
            continue;
        }
        Device next;
        memset(&next, 0, sizeof next);
        next.of = -1;
        if (sscanf(line, "card|%95[^|]|%95[^|]|%llu|%llu|%d|%d", next.name, next.uuid, &next.total, &next.used, &next.load,
                   &next.is_cut) >= 5)
            devices[count++] = next;
        else if (sscanf(line, "slice|%95[^|]|%95[^|]|%llu|%llu", next.name, next.uuid, &next.total, &next.used) == 4) {
            for (next.of = count - 1; devices[next.of].of >= 0;) next.of--;
            next.load = -1;
            devices[count++] = next;
        }
    }
    fclose(file);
    return OK;
}

static Device *nth(int of, u32 index) {
    for (int i = 0; i < count; i++)
        if ((of < 0) == (devices[i].of < 0) && (of < 0 || devices[i].of == of) && index-- == 0) return &devices[i];
    return NULL;
}

int nvmlInitWithFlags(u32 flags) { int code = look(); started += code == OK; return code; }
int nvmlShutdown(void) { return started-- > 0 ? OK : UNINITIALIZED; }
const char *nvmlErrorString(int code) { return "an error of the fake driver"; }

int nvmlDeviceGetCount_v2(u32 *cards) {
    if (!started) return UNINITIALIZED;
    look();
    for (*cards = 0; nth(-1, *cards);) ++*cards;
    return OK;
}

int nvmlDeviceGetHandleByIndex_v2(u32 index, void **device) { return (*device = nth(-1, index)) ? OK : NO_SUCH; }

int nvmlDeviceGetMigMode(Device *device, u32 *current, u32 *pending) {
    *current = *pending = (u32)device->is_cut;
    return device->of < 0 ? OK : NOT_SUPPORTED;
}

int nvmlDeviceGetMaxMigDeviceCount(Device *device, u32 *most) { *most = 7; return OK; }

int nvmlDeviceGetMigDeviceHandleByIndex(Device *device, u32 index, void **part) {
    return (*part = nth((int)(device - devices), index)) ? OK : NOT_FOUND;
}

static int text(char *to, u32 size, const char *from) { snprintf(to, size, "%s", from); return OK; }
int nvmlDeviceGetName(Device *device, char *name, u32 size) { return text(name, size, device->name); }
int nvmlDeviceGetUUID(Device *device, char *uuid, u32 size) { return text(uuid, size, device->uuid); }

int nvmlDeviceGetMemoryInfo_v2(Device *device, Memory2 *memory) {
    if (getenv("FAKE_NVML_IS_OLD") || memory->version != (sizeof *memory | 2u << 24)) return NOT_SUPPORTED;
    memory->total = device->total, memory->used = device->used, memory->free = device->total - device->used;
    memory->reserved = 0;
    return OK;
}

int nvmlDeviceGetMemoryInfo(Device *device, Memory1 *memory) {
    memory->total = device->total, memory->used = device->used, memory->free = device->total - device->used;
    return OK;
}

int nvmlDeviceGetUtilizationRates(Device *device, u32 *rates) {
    if (device->load < 0) return NOT_SUPPORTED;
    rates[0] = (u32)device->load, rates[1] = 0;
    return OK;
}

int nvmlDeviceGetComputeRunningProcesses_v3(Device *device, u32 *size, Process *processes) {
    u32 room = *size;
    *size = (u32)device->count;
    if (!device->count) return OK;
    if (!processes || room < *size) return TOO_SMALL;
    memcpy(processes, device->processes, *size * sizeof *processes);
    return OK;
}

int nvmlDeviceGetGraphicsRunningProcesses_v3(Device *device, u32 *size, Process *processes) { *size = 0; return OK; }
