/* Kills the process before its Nth change of a file below KILL_DIR; how many there were stands in the file KILL_AT
   names, whose second number is N (0: never). Databases are left out. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

static struct { _Atomic long done; long at; } *counter;
static const char *below;
static size_t below_length;
static _Atomic char watched[4096];

__attribute__((constructor)) static void begin(void) {
    const char *path = getenv("KILL_AT");
    below = getenv("KILL_DIR");
    int file = path && below ? open(path, O_RDWR | O_CLOEXEC) : -1;
    if (file < 0)
        return;
    void *mapped = mmap(NULL, sizeof *counter, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    below = strdup(below);
    below_length = strlen(below);
    if (mapped != MAP_FAILED)
        counter = mapped;
    syscall(SYS_close, file);
    /* Not in the processes that it starts. */
    unsetenv("LD_PRELOAD");
}

static void step(void) {
    if (counter && ++counter->done == counter->at)
        syscall(SYS_kill, getpid(), SIGKILL);
}

static int is_watched(int file) { return file >= 0 && file < (int)sizeof watched && watched[file]; }

static int is_below(const char *path) {
    return counter && path && (path[0] != '/' || !strncmp(path, below, below_length)) && !strstr(path, "wfhost.db");
}

int open64(const char *path, int flags, ...) {
    va_list arguments;
    va_start(arguments, flags);
    mode_t mode = va_arg(arguments, mode_t);
    va_end(arguments);
    int is = is_below(path) && (flags & (O_WRONLY | O_RDWR | O_CREAT) || flags & O_DIRECTORY);
    if (is)
        step();
    int file = (int)syscall(SYS_openat, AT_FDCWD, path, flags | O_LARGEFILE, mode);
    if (file >= 0 && file < (int)sizeof watched)
        watched[file] = (char)is;
    return file;
}

/* Before the call, if it is about a file that is watched. */
#define BEFORE(type, name, declared, given, watches)              \
    type name declared {                                          \
        static type(*next) declared;                              \
        if (!next)                                                \
            *(void **)&next = dlsym(RTLD_NEXT, #name);            \
        if (watches)                                              \
            step();                                               \
        return next given;                                        \
    }

BEFORE(ssize_t, write, (int file, const void *bytes, size_t count), (file, bytes, count), is_watched(file))
BEFORE(int, fsync, (int file), (file), is_watched(file))
BEFORE(int, fdatasync, (int file), (file), is_watched(file))
BEFORE(int, flock, (int file, int operation), (file, operation), is_watched(file))
BEFORE(int, fchmod, (int file, mode_t mode), (file, mode), is_watched(file))
BEFORE(int, rename, (const char *from, const char *to), (from, to), is_below(to))
BEFORE(int, unlink, (const char *path), (path), is_below(path))
BEFORE(int, mkdir, (const char *path, mode_t mode), (path, mode), is_below(path))

int close(int file) {
    if (is_watched(file)) {
        step();
        watched[file] = 0;
    }
    return (int)syscall(SYS_close, file);
}
