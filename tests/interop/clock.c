/* Preloaded into the relay: its calendar is off by as many seconds as a file says, and a test may change that at
   any time. The monotonic clock stays what it is.

   CALENDAR_OFFSET  the file: eight bytes, signed, in the machine's order. Mapped before the relay gives up the
                    right to open files.  */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

static const volatile int64_t *offset_seconds;
static int (*real_clock_gettime)(clockid_t, struct timespec *);

/* A test whose calendar does not jump would pass for nothing: whatever is missing ends the process. */
__attribute__((constructor)) static void map_offset(void) {
    const char *path = getenv("CALENDAR_OFFSET");
    int file = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    void *mapped = MAP_FAILED;
    real_clock_gettime = dlsym(RTLD_NEXT, "clock_gettime");
    if (file >= 0)
        mapped = mmap(NULL, sizeof *offset_seconds, PROT_READ, MAP_SHARED, file, 0);
    if (mapped == MAP_FAILED || !real_clock_gettime)
        abort();
    close(file);
    offset_seconds = mapped;
}

int clock_gettime(clockid_t clock, struct timespec *time) {
    int result = real_clock_gettime(clock, time);
    if (result == 0 && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE))
        time->tv_sec += *offset_seconds;
    return result;
}
