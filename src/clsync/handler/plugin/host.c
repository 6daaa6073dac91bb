/* The functions of clsync that a C sync handler may call (include/clsync/).
 *
 * This library is loaded into the process of the handler (child.py), before the handler. Messages go to the daemon,
 * one packet each: a letter for the level (of debug messages, D and a digit), and the text.
 */

#define _GNU_SOURCE

#include <clsync/compilerflags.h>
#include <clsync/clsync.h>
#include <clsync/ctx.h>
#include <clsync/error.h>
#include <clsync/malloc.h>

#include <errno.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#if defined(__x86_64__) && defined(__GLIBC__) && defined(__LP64__)
_Static_assert(sizeof(struct ctx) == 53768, "the layout of clsync 0.4 on amd64");
_Static_assert(sizeof(api_eventinfo_t) == 32, "the layout of clsync 0.4 on amd64");
#endif

#define MOST_TEXT 8000
#define MOST_DEBUG 9

static int daemon_socket = -1;
static const struct ctx *context;

/* -- for child.py ------------------------------------------------------------------------------------------------ */

void clsync_host_begin(int socket, const struct ctx *ctx)
{
    daemon_socket = socket;
    context = ctx;
}

/* A handler may return in a process it has forked, where exec(2) has failed: that one must not go on as if it were us. */
static int returned(pid_t self, int value)
{
    if (getpid() != self)
        _exit(value);
    return value;
}

int clsync_host_init(api_funct_init init, struct ctx *ctx)
{
    pid_t self = getpid();
    errno = 0;
    return returned(self, init(ctx, NULL));
}

int clsync_host_sync(api_funct_sync sync, int n, api_eventinfo_t *elements)
{
    pid_t self = getpid();
    errno = 0;
    return returned(self, sync(n, elements));
}

int clsync_host_rsync(api_funct_rsync rsync, const char *include, const char *exclude)
{
    pid_t self = getpid();
    errno = 0;
    return returned(self, rsync(include, exclude));
}

int clsync_host_deinit(api_funct_deinit deinit)
{
    pid_t self = getpid();
    errno = 0;
    return returned(self, deinit());
}

/* -- messages ---------------------------------------------------------------------------------------------------- */

static bool debugs(int level)
{
    return context != NULL && level <= context->flags[DEBUG];
}

static size_t added(char *text, size_t at, const char *format, va_list values)
{
    int length = vsnprintf(text + at, MOST_TEXT - at, format, values);
    if (length < 0)
        return at;
    return at + (size_t)length < MOST_TEXT ? at + (size_t)length : MOST_TEXT - 1;
}

static size_t added_text(char *text, size_t at, const char *format, ...)
{
    va_list values;
    va_start(values, format);
    at = added(text, at, format, values);
    va_end(values);
    return at;
}

static void say(const char *level, const char *function, int number, const char *format, va_list values)
{
    char text[MOST_TEXT];
    size_t length = added_text(text, 0, "%s", level);
    if (debugs(1))
        length = added_text(text, length, "%s(): ", function);
    length = added(text, length, format, values);
    if (number)
        length = added_text(text, length, " (%d: %s)", number, strerror(number));
    if (daemon_socket >= 0)
        send(daemon_socket, text, length, MSG_NOSIGNAL);
}

#define SAY(level, number)                              \
    do {                                                \
        int before = errno;                             \
        va_list values;                                 \
        va_start(values, format);                       \
        say(level, function, number, format, values);   \
        va_end(values);                                 \
        errno = before;                                 \
    } while (0)

void _critical(const char *function, const char *format, ...)
{
    SAY("C", before);
    fflush(NULL);
    _exit(errno > 0 && errno < 256 ? errno : EXIT_FAILURE);
}

void _error(const char *function, const char *format, ...)
{
    SAY("E", before);
}

void _warning(const char *function, const char *format, ...)
{
    SAY("W", 0);
}

void _info(const char *function, const char *format, ...)
{
    SAY("I", 0);
}

void _debug(int level, const char *function, const char *format, ...)
{
    if (!debugs(level))
        return;
    char letters[3] = {'D', (char)('0' + (level < 0 ? 0 : level > MOST_DEBUG ? MOST_DEBUG : level)), 0};
    SAY(letters, 0);
}

/* -- memory ------------------------------------------------------------------------------------------------------ */

static void *there(void *memory, size_t size)
{
    if (memory == NULL && size) {
        errno = ENOMEM;
        critical("%zu bytes cannot be had", size);
    }
    return memory;
}

/* Zeros, and one byte more than asked for, as in clsync 0.4: handlers have texts that end with it alone. */
void *xmalloc(size_t size)
{
    return there(calloc(size + 1, 1), size);
}

void *xcalloc(size_t count, size_t size)
{
    return there(calloc(count, size), count && size);
}

void *xrealloc(void *old, size_t size)
{
    return there(realloc(old, size), size);
}

char *xstrncpy(char *to, const char *from, size_t size)
{
    if (size) {
        strncpy(to, from, size - 1);
        to[size - 1] = 0;
    }
    return to;
}

/* -- the rest ---------------------------------------------------------------------------------------------------- */

int clsyncapi_getapiversion()
{
    return CLSYNC_API_VERSION;
}

/* Forgets children that were waited for. */
static void tidy_up(struct ctx *ctx)
{
    for (int i = 0; i < ctx->children;) {
        siginfo_t found;
        bool gone = waitid(P_PID, (id_t)ctx->child_pid[i], &found, WEXITED | WNOHANG | WNOWAIT) < 0 && errno == ECHILD;
        if (gone)
            ctx->child_pid[i] = ctx->child_pid[--ctx->children];
        else
            i++;
    }
}

pid_t clsyncapi_fork(struct ctx *ctx)
{
    tidy_up(ctx);
    if (ctx->children >= MAXCHILDREN) {
        errno = ECANCELED;
        return -1;
    }
    /* SIGTERM for all of us ends the child, but not our own process. It must not come in between. */
    sigset_t end, before;
    sigemptyset(&end);
    sigaddset(&end, SIGTERM);
    pthread_sigmask(SIG_BLOCK, &end, &before);
    errno = 0;
    pid_t pid = fork();
    int number = errno;
    if (pid > 0)
        ctx->child_pid[ctx->children++] = pid;
    else if (!pid)
        signal(SIGTERM, SIG_DFL);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    errno = number;
    return pid;
}

/* Writes a filter pattern of rsync(1). A backslash is literal there unless the pattern has a wildcard, so names are
 * escaped only where it has one. What ends a line (a carriage return as well) cannot stand in a list of lines: a question
 * mark stands for it. */
static void write_pattern(FILE *file, const char *path, size_t length, const char *suffix)
{
    bool wild = *suffix;
    for (size_t i = 0; i < length; i++)
        wild = wild || strchr("*?[\n\r", path[i]) != NULL;
    if (length)
        putc('/', file);
    for (size_t i = 0; i < length; i++) {
        bool ends_line = path[i] == '\n' || path[i] == '\r';
        if (wild && !ends_line && strchr("[]*?\\", path[i]) != NULL)
            putc('\\', file);
        putc(ends_line ? '?' : path[i], file);
    }
    fputs(suffix, file);
    putc('\n', file);
}

static bool is_above(const char *directory, size_t length, const api_eventinfo_t *element)
{
    return element != NULL && element->path_len > length && element->path[length] == '/' &&
           !memcmp(directory, element->path, length);
}

int apievinfo2rsynclist(struct indexes *indexes, FILE *file, int n, api_eventinfo_t *elements)
{
    const api_eventinfo_t *last = NULL;
    (void)indexes;
    for (int i = 0; i < n; i++) {
        const api_eventinfo_t *element = &elements[i];
        bool recursive = element->flags & (EVIF_RECURSIVELY | EVIF_CONTENTRECURSIVELY);
        for (size_t at = 1; at < element->path_len; at++) {
            if (element->path[at] == '/' && !is_above(element->path, at, last))
                write_pattern(file, element->path, at, "");
        }
        /* What is gone may have been a directory: without its content rsync would keep it. */
        if (recursive || element->objtype_new == EOT_DOESNTEXIST)
            write_pattern(file, element->path, element->path_len, "/***");
        if (!recursive)
            write_pattern(file, element->path, element->path_len, "");
        last = element;
    }
    return ferror(file) ? EIO : 0;
}
