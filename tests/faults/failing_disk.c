/* Makes the calls of a FUSE file system fail: preloaded into bindfs(1).
 *
 * The file that FAILING_DISK names is shared memory of two 32-bit numbers that may change at any time: how many calls
 * of a thousand fail, and with which errno; a third one counts the failures. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <time.h>
#include <unistd.h>

struct fault {
    volatile uint32_t thousandths, error, count;
};

static struct fault *fault;
static unsigned seed = 1;

static int real_open(const char *path, int flags, mode_t mode)
{
    static int (*next)(const char *, int, ...);
    if (!next)
        next = (int (*)(const char *, int, ...))dlsym(RTLD_NEXT, "open64");
    return next(path, flags, mode);
}

__attribute__((constructor)) static void begin(void)
{
    const char *name = getenv("FAILING_DISK");
    int file = name ? real_open(name, O_RDWR | O_CLOEXEC, 0) : -1;
    if (file < 0)
        return;
    fault = mmap(NULL, sizeof *fault, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    if (fault == MAP_FAILED)
        fault = NULL;
    close(file);
}

static int fails(void)
{
    if (!fault || (uint32_t)(rand_r(&seed) % 1000) >= fault->thousandths)
        return 0;
    fault->count++;
    errno = (int)fault->error;
    return 1;
}

#define FAILING(type, name, parameters, arguments)                                  \
    type name parameters                                                            \
    {                                                                               \
        static type(*next) parameters;                                              \
        if (!next)                                                                  \
            next = (type(*) parameters)dlsym(RTLD_NEXT, #name);                     \
        return fails() ? (type)-1 : next arguments;                                 \
    }

FAILING(int, __lxstat64, (int v, const char *p, struct stat64 *s), (v, p, s))
FAILING(ssize_t, pread64, (int f, void *b, size_t n, off64_t o), (f, b, n, o))
FAILING(ssize_t, pwrite64, (int f, const void *b, size_t n, off64_t o), (f, b, n, o))
FAILING(int, mkdir, (const char *p, mode_t m), (p, m))
FAILING(int, mkfifo, (const char *p, mode_t m), (p, m))
FAILING(int, __xmknod, (int v, const char *p, mode_t m, dev_t *d), (v, p, m, d))
FAILING(int, unlink, (const char *p), (p))
FAILING(int, rmdir, (const char *p), (p))
FAILING(int, rename, (const char *a, const char *b), (a, b))
FAILING(int, link, (const char *a, const char *b), (a, b))
FAILING(int, symlink, (const char *a, const char *b), (a, b))
FAILING(int, chmod, (const char *p, mode_t m), (p, m))
FAILING(int, lchown, (const char *p, uid_t u, gid_t g), (p, u, g))
FAILING(int, truncate64, (const char *p, off64_t n), (p, n))
FAILING(int, ftruncate64, (int f, off64_t n), (f, n))
FAILING(int, utimensat, (int d, const char *p, const struct timespec t[2], int f), (d, p, t, f))
FAILING(int, fsync, (int f), (f))

int open64(const char *path, int flags, ...)
{
    mode_t mode = 0;
    if (flags & (O_CREAT | O_TMPFILE)) {
        va_list more;
        va_start(more, flags);
        mode = va_arg(more, mode_t);
        va_end(more);
    }
    return fails() ? -1 : real_open(path, flags, mode);
}
