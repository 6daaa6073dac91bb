/* A handler that writes down how it is called: recorder.sh as a module.
 *
 * The directory of this file holds the record and the code. In place of arguments there are the name of the function,
 * and for each object a word with its mask, flags, types before and after, length of the path, and path, or the paths
 * of the lists.
 */

#define _GNU_SOURCE

#include <clsync/clsync.h>

#include <dlfcn.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static FILE *opened(const char *name, const char *mode)
{
    static const char here;
    char path[PATH_MAX];
    Dl_info module;
    if (!dladdr(&here, &module))
        abort();
    const char *slash = strrchr(module.dli_fname, '/');
    snprintf(path, sizeof(path), "%.*s/%s", (int)(slash - module.dli_fname), module.dli_fname, name);
    return fopen(path, mode);
}

static void write_word(FILE *record, const char *word)
{
    fputs(word != NULL ? word : "unset", record);
    fputc(0, record);
}

static FILE *begun(const char *function, int arguments)
{
    FILE *record = opened("record", "a");
    char directory[PATH_MAX];
    if (record == NULL || getcwd(directory, sizeof(directory)) == NULL)
        abort();
    fprintf(record, "%d%c", arguments + 1, 0);
    write_word(record, getenv("CLSYNC_STATUS"));
    write_word(record, getenv("CLSYNC_ITERATION"));
    write_word(record, directory);
    write_word(record, function);
    return record;
}

static int ended(FILE *record, int code)
{
    write_word(record, "exit");
    fprintf(record, "%d%c", code, 0);
    if (fclose(record))
        abort();
    return code;
}

static int code(void)
{
    FILE *file = opened("code", "r");
    int number = 0;
    if (file == NULL)
        return 0;
    if (fscanf(file, "%d", &number) != 1)
        abort();
    fclose(file);
    return number;
}

static void write_list(FILE *record, const char *path)
{
    FILE *list;
    int byte;
    if (path == NULL)
        return;
    list = fopen(path, "r");
    if (list == NULL)
        abort();
    write_word(record, path);
    while ((byte = getc(list)) != EOF)
        fputc(byte, record);
    fputc(0, record);
    fclose(list);
}

int clsyncapi_init(struct ctx *ctx, struct indexes *indexes)
{
    (void)ctx, (void)indexes;
    return ended(begun("clsyncapi_init", 0), 0);
}

int clsyncapi_sync(int n, api_eventinfo_t *objects)
{
    FILE *record = begun("clsyncapi_sync", n);
    for (int i = 0; i < n; i++) {
        api_eventinfo_t *one = &objects[i];
        fprintf(record, "%u %u %d %d %zu ", one->evmask, one->flags, one->objtype_old, one->objtype_new, one->path_len);
        write_word(record, one->path);
    }
    return ended(record, code());
}

int clsyncapi_rsync(const char *include, const char *exclude)
{
    FILE *record = begun("clsyncapi_rsync", 2);
    write_word(record, include);
    write_word(record, exclude);
    write_list(record, include);
    write_list(record, exclude);
    return ended(record, code());
}

int clsyncapi_deinit(void)
{
    return ended(begun("clsyncapi_deinit", 0), 0);
}
