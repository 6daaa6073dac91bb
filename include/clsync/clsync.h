/* Sync handlers in C, as of clsync 0.4 (API version 2).
 *
 * A handler is a shared object with some of these functions:
 *
 *   int clsyncapi_init(struct ctx *, struct indexes *);     once; not 0: clsync ends with this code
 *   int clsyncapi_sync(int n, api_eventinfo_t *);           mode so: for each batch; 0: all of it is synced
 *   int clsyncapi_rsync(const char *include_list, const char *exclude_list);
 *                                                           mode rsyncso: the same; no exclude list: NULL
 *   int clsyncapi_deinit(void);                             once, at the end; not 0: clsync ends with this code
 *
 * It runs in a process of its own, in the watched directory. What it is given belongs to clsync.
 */

#ifndef CLSYNC_CLSYNC_H
#define CLSYNC_CLSYNC_H

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/types.h>
#include <sys/wait.h>
#include <unistd.h>

#define CLSYNC_API_VERSION 2

struct ctx;
struct indexes;

/* What stands at a path. */
typedef enum eventobjtype {
    EOT_UNKNOWN = 0,
    EOT_DOESNTEXIST = 1,
    EOT_FILE = 2, /* anything but a directory */
    EOT_DIR = 3
} eventobjtype_t;

typedef enum eventinfo_flags {
    EVIF_NONE = 0,
    EVIF_RECURSIVELY = 1,       /* with all that is below; the path is absolute then */
    EVIF_CONTENTRECURSIVELY = 2 /* not used any more */
} eventinfo_flags_t;

/* One object of a batch. */
typedef struct api_eventinfo {
    uint32_t evmask; /* bits of inotify(7) */
    uint32_t flags;  /* eventinfo_flags_t */
    size_t path_len;
    const char *path; /* relative to the watched directory, which is itself the empty path */
    eventobjtype_t objtype_old;
    eventobjtype_t objtype_new;
} api_eventinfo_t;

typedef int (*api_funct_init)(struct ctx *, struct indexes *);
typedef int (*api_funct_sync)(int, api_eventinfo_t *);
typedef int (*api_funct_rsync)(const char *, const char *);
typedef int (*api_funct_deinit)();

/* Returns the version of this interface that the program has. */
int clsyncapi_getapiversion();

/* fork(2); -1 with ECANCELED where MAXCHILDREN such children are still to be waited for. */
pid_t clsyncapi_fork(struct ctx *);

/* Writes lines for rsync's --include-from into a file; returns 0, else an errno. */
int apievinfo2rsynclist(struct indexes *, FILE *, int n, api_eventinfo_t *);

#endif
