/* Lets two calls of rsync fail with EIO, once each, as a disk does that fails now and then: preloaded.
 *
 * The first one gives "bad" its name, and rsync says so. The second one sets the times of the directory "deep" for the
 * second time, when all that is in it has come: of that, rsync says nothing. FAILED names a file to which each appends
 * a byte. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

static int is(const char *path, const char *name)
{
    const char *slash = strrchr(path, '/');
    return !strcmp(slash ? slash + 1 : path, name);
}

static int fails(char what)
{
    char seen[8];
    int file = open(getenv("FAILED"), O_RDWR | O_CREAT | O_APPEND, 0600);
    ssize_t count = read(file, seen, sizeof seen);
    int before = count > 0 && memchr(seen, what, (size_t)count) != NULL;
    if (!before)
        before = write(file, &what, 1) != 1;
    close(file);
    errno = EIO;
    return !before;
}

int utimensat(int directory, const char *path, const struct timespec times[2], int flags)
{
    static int seen;
    int (*next)(int, const char *, const struct timespec *, int) = dlsym(RTLD_NEXT, "utimensat");
    return is(path, "deep") && seen++ && fails('t') ? -1 : next(directory, path, times, flags);
}

int rename(const char *from, const char *to)
{
    int (*next)(const char *, const char *) = dlsym(RTLD_NEXT, "rename");
    return is(to, "bad") && fails('n') ? -1 : next(from, to);
}

int renameat(int one, const char *from, int other, const char *to)
{
    int (*next)(int, const char *, int, const char *) = dlsym(RTLD_NEXT, "renameat");
    return is(to, "bad") && fails('n') ? -1 : next(one, from, other, to);
}
