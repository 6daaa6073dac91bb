/* A module that writes down how it is called, and then does once what a file says.
 *
 * $PROBE is the file it writes, $PROBE.act the one it obeys. Texts are written in hexadecimal digits.
 */

#define _GNU_SOURCE

#include <clsync/compilerflags.h>
#include <clsync/clsync.h>
#include <clsync/configuration.h>
#include <clsync/ctx.h>
#include <clsync/error.h>
#include <clsync/malloc.h>

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>

static struct ctx *ctx_p;

static FILE *opened(void)
{
    FILE *file = fopen(getenv("PROBE"), "a");
    if (file == NULL)
        abort();
    return file;
}

static void write_bytes(FILE *file, const char *text, size_t length)
{
    fputs(" x", file);
    for (size_t i = 0; i < length; i++)
        fprintf(file, "%02x", (unsigned char)text[i]);
}

static void write_text(FILE *file, const char *text)
{
    if (text == NULL)
        fputs(" -", file);
    else
        write_bytes(file, text, strlen(text));
}

static void write_file(FILE *file, const char *path)
{
    static char text[1 << 20];
    FILE *list = path != NULL ? fopen(path, "r") : NULL;
    write_text(file, path);
    if (list != NULL) {
        write_bytes(file, text, fread(text, 1, sizeof(text), list));
        fclose(list);
    }
}

/* Every line begins with: what is called, $CLSYNC_STATUS, $CLSYNC_ITERATION, state, iteration_num, cwd, own pid. */
static FILE *begun(const char *what)
{
    FILE *file = opened();
    char *cwd = getcwd(NULL, 0);
    fputs(what, file);
    write_text(file, getenv("CLSYNC_STATUS"));
    write_text(file, getenv("CLSYNC_ITERATION"));
    fprintf(file, " %d %u", ctx_p->state, ctx_p->iteration_num);
    write_text(file, cwd);
    fprintf(file, " %d", getpid());
    free(cwd);
    return file;
}

static int act(void)
{
    char name[4096], word[64] = "";
    snprintf(name, sizeof(name), "%s.act", getenv("PROBE"));
    FILE *file = fopen(name, "r");
    if (file == NULL)
        return atoi(getenv("PROBE_ANSWER") ? getenv("PROBE_ANSWER") : "0");
    if (fscanf(file, "%63s", word) != 1)
        word[0] = 0;
    fclose(file);
    unlink(name);
    if (!strcmp(word, "abort"))
        abort();
    if (!strcmp(word, "segv"))
        raise(SIGSEGV);
    if (!strcmp(word, "exit"))
        exit(0);
    if (!strcmp(word, "critical")) {
        errno = EIO;
        critical("it cannot go on");
    }
    while (!strcmp(word, "hang"))
        pause();
    if (!strcmp(word, "wait") || !strcmp(word, "badexec") || !strcmp(word, "orphan")) {
        char *const argv[] = {word[0] == 'b' ? "/nowhere/program" : "/bin/sleep", "600", NULL};
        int status;
        pid_t pid = clsyncapi_fork(ctx_p);
        if (!pid) {
            execv(argv[0], argv);
            return errno;
        }
        if (word[0] == 'o')
            abort();
        if (waitpid(pid, &status, 0) != pid)
            return 99;
        file = begun("waited");
        fputs("\n", file);
        fclose(file);
        return WEXITSTATUS(status);
    }
    if (!strcmp(word, "list")) {
        api_eventinfo_t elements[] = {
            {0x100, EVIF_NONE, 0, "", EOT_DOESNTEXIST, EOT_DIR},
            {0x100, EVIF_NONE, 5, "a/b/c", EOT_DOESNTEXIST, EOT_FILE},
            {0x100, EVIF_RECURSIVELY, 5, "a/b/d", EOT_DOESNTEXIST, EOT_DIR},
            {0x200, EVIF_NONE, 4, "gone", EOT_UNKNOWN, EOT_DOESNTEXIST},
            {0x100, EVIF_NONE, 5, "s*a\\r", EOT_DOESNTEXIST, EOT_FILE},
            {0x100, EVIF_NONE, 3, "b\\s", EOT_DOESNTEXIST, EOT_FILE},
        };
        snprintf(name, sizeof(name), "%s.list", getenv("PROBE"));
        file = fopen(name, "w");
        int code = apievinfo2rsynclist(NULL, file, 6, elements);
        fclose(file);
        return code;
    }
    if (!strcmp(word, "fork")) {
        int most = 0;
        pid_t pids[MAXCHILDREN + 1];
        while (most <= MAXCHILDREN && (pids[most] = clsyncapi_fork(ctx_p)) > 0)
            most++;
        if (!pids[most])
            pause();
        int refused = errno;
        for (int i = 0; i < most; i++) {
            kill(pids[i], SIGKILL);
            waitpid(pids[i], NULL, 0);
        }
        return most == MAXCHILDREN && refused == ECANCELED ? 0 : 98;
    }
    return atoi(word);
}

int clsyncapi_init(struct ctx *ctx, struct indexes *indexes)
{
    const char *answer = getenv("PROBE_INIT");
    char *text = xstrncpy(xmalloc(4), "abcdef", 4);
    ctx_p = ctx;
    FILE *file = begun("init");
    fputs("\n", file);
    fclose(file);
    if (answer != NULL && !strcmp(answer, "crash"))
        abort();
    text = xrealloc(text, 8);
    errno = ENOSPC;
    error("an error, %s", text);
    warning("a warning, %d", 2);
    info("information, %c", 'i');
    debug(1, "something for the curious, %d", 1);
    debug(3, "something for the very curious, %d", 3);
    free(text);
    (void)indexes;
    return answer != NULL ? atoi(answer) : 0;
}

int clsyncapi_sync(int n, api_eventinfo_t *elements)
{
    FILE *file = begun("sync");
    for (int i = 0; i < n; i++) {
        api_eventinfo_t *one = &elements[i];
        fprintf(file, " %u,%u,%d,%d,%d", one->evmask, one->flags, one->objtype_old, one->objtype_new,
                one->path_len == strlen(one->path));
        write_text(file, one->path);
    }
    fputs("\n", file);
    fclose(file);
    return act();
}

int clsyncapi_rsync(const char *include, const char *exclude)
{
    FILE *file = begun("rsync");
    write_file(file, include);
    write_file(file, exclude);
    fputs("\n", file);
    fclose(file);
    return act();
}

int clsyncapi_deinit(void)
{
    FILE *file = begun("deinit");
    fputs("\n", file);
    fclose(file);
    return atoi(getenv("PROBE_DEINIT") ? getenv("PROBE_DEINIT") : "0");
}
