/* What clsync tells a handler about itself. The layout is that of clsync 0.4 as Debian builds it, so that handlers
 * which were compiled for that can be loaded: fields that mean nothing any more keep their place, and are zero.
 */

#ifndef CLSYNC_CTX_H
#define CLSYNC_CTX_H

#include <clsync/clsync.h>
#include <clsync/configuration.h>

#include <pthread.h>
#include <regex.h>
#include <signal.h>
#include <stdint.h>
#include <sys/time.h>
#include <sys/types.h>
#include <time.h>

#define OPTION_FLAGS 1024
#define OPTION_LONGOPTONLY 512

/* Where an option stands in `flags`, `flags_set` and `flags_values_raw`: its letter, or a number above 512. */
typedef enum flags_enum {
    WATCHDIR = 'W',
    SYNCHANDLER = 'S',
    RULESFILE = 'R',
    DESTDIR = 'D',
    MODE = 'M',
    SOCKETPATH = 's',
    BACKGROUND = 'b',
    CONFIGFILE = 'H',
    CONFIGBLOCK = 'K',
    PIDFILE = 'z',
    UID = 'u',
    GID = 'g',
    CAP_PRESERVE = 'C',
    THREADING = 'p',
    RETRIES = 'r',
    OUTPUT_METHOD = 'Y',
    EXCLUDEMOUNTPOINTS = 'X',
    CLUSTERIFACE = 'c',
    CLUSTERMCASTIPADDR = 'm',
    CLUSTERMCASTIPPORT = 'P',
    CLUSTERTIMEOUT = 'G',
    CLUSTERNODENAME = 'n',
    CLUSTERHDLMIN = 'o',
    CLUSTERHDLMAX = 'O',
    SYNCTIMEOUT = 'k',
    SYNCDELAY = 'w',
    DELAY = 't',
    BFILEDELAY = 'T',
    BFILETHRESHOLD = 'B',
    OUTLISTSDIR = 'L',
    AUTORULESW = 'A',
    IGNOREEXITCODE = 'x',
    DONTUNLINK = 'U',
    INITFULL = 'F',
    VERBOSE = 'v',
    DEBUG = 'd',
    QUIET = 'q',
    LABEL = 'l',
    HELP = 'h',
    SHOW_VERSION = 'V',

    HAVERECURSIVESYNC = 512,
    RSYNCINCLIMIT,
    RSYNCPREFERINCLUDE,
    SYNCLISTSIMPLIFY,
    ONEFILESYSTEM,
    STATUSFILE,
    SKIPINITSYNC,
    ONLYINITSYNC,
    EXITONNOEVENTS,
    STANDBYFILE,
    EXITHOOK,
    CLUSTERSDLMAX,
    PREEXITHOOK,
    SOCKETAUTH,
    SOCKETMOD,
    SOCKETOWN,
    MAXITERATIONS,
    IGNOREFAILURES,
    DUMPDIR,
    CONFIGBLOCKINHERITS,
    MONITOR,
    SYNCHANDLERARGS0,
    SYNCHANDLERARGS1,
    CUSTOMSIGNALS,
    CHROOT,
    MOUNTPOINTS,
    SPLITTING,
    SYNCHANDLERUID,
    SYNCHANDLERGID,
    CAPS_INHERIT,
    CHECK_EXECVP_ARGS,
    PIVOT_ROOT,
    DETACH_NETWORK,
    DETACH_MISCELLANEA,
    ADDPERMITTEDHOOKFILES,
    SECCOMP_FILTER,
    FORGET_PRIVTHREAD_INFO,
    SECURESPLITTING,
    FTS_EXPERIMENTAL_OPTIMIZATION,
    FORBIDDEVICES,
    CG_GROUPNAME,
    PERMIT_MPROTECT,
    SHM_MPROTECT,
    MODSIGN,
    CANCEL_SYSCALLS,
    EXITONSYNCSKIP,
    DETACH_IPC,
    PRIVILEGEDUID,
    PRIVILEGEDGID,
    SOFTEXITSYNC
} flags_t;

/* flags[MODE] */
typedef enum mode_id {
    MODE_UNSET,
    MODE_SIMPLE,
    MODE_DIRECT,
    MODE_SHELL,
    MODE_RSYNCSHELL,
    MODE_RSYNCDIRECT,
    MODE_RSYNCSO,
    MODE_SO
} mode_id_t;

typedef enum state_enum {
    STATE_EXIT,
    STATE_STARTING,
    STATE_RUNNING,
    STATE_SYNCHANDLER_ERR,
    STATE_REHASH,
    STATE_PREEXIT,
    STATE_LASTSYNC,
    STATE_TERM,
    STATE_THREAD_GC,
    STATE_INITSYNC,
    STATE_HOLDON,
    STATE_UNKNOWN
} state_t;

typedef enum queue_id { QUEUE_NORMAL, QUEUE_BIGFILE, QUEUE_INSTANT, QUEUE_LOCKWAIT, QUEUE_MAX, QUEUE_AUTO } queue_id_t;

typedef enum ruleaction_enum {
    RA_NONE = 0x00,
    RA_MONITOR = 0x01,
    RA_SYNC = 0x02,
    RA_WALK = 0x04,
    RA_ALL = 0x0f
} ruleaction_t;

typedef struct rule {
    int num;
    regex_t expr;
    mode_t objtype;
    ruleaction_t perm;
    ruleaction_t mask;
} rule_t;

typedef struct queueinfo {
    unsigned int collectdelay; /* seconds */
    time_t stime;
} queueinfo_t;

typedef struct api_functs {
    api_funct_init init;
    api_funct_sync sync;
    api_funct_rsync rsync;
    api_funct_deinit deinit;
} api_functs_t;

struct notifyenginefuncts {
    int (*wait)(struct ctx *, struct indexes *, struct timeval *);
    int (*handle)(struct ctx *, struct indexes *);
    int (*add_watch_dir)(struct ctx *, struct indexes *, const char *);
};

enum shargsid { SHARGS_PRIMARY, SHARGS_INITIAL, SHARGS_MAX };

/* Arguments of the handler: those that were given, and those of recursive runs. */
typedef struct synchandler_args {
    char *v[MAXARGUMENTS];
    int c;
    char isexpanded[MAXARGUMENTS];
} synchandler_args_t;

typedef struct ctx {
    volatile state_t state;
    pid_t pid; /* of clsync itself; the handler's process is its child */
    char pid_str[65];
    size_t pid_str_len;
    uid_t uid;
    gid_t gid;
    uid_t privileged_uid;
    gid_t privileged_gid;
    uid_t synchandler_uid;
    gid_t synchandler_gid;
    uint32_t caps;                /* zero */
    pid_t child_pid[MAXCHILDREN]; /* made by clsyncapi_fork, and not waited for yet */
    int children;
    uint32_t iteration_num;
    rule_t rules[MAXRULES]; /* zero: clsync keeps its rules to itself */
    size_t rules_count;
    dev_t st_dev; /* of the watched directory */
    char *flags_values_raw[OPTION_FLAGS];
    int flags[OPTION_FLAGS];
    int flags_set[OPTION_FLAGS];
    char *config_path;
    const char *config_block;
    char *customsignal[MAXSIGNALNUM + 1];
    char *label;
    char *watchdir;
    char *pidfile;
    char *standbyfile;
    char *exithookfile;
    char *preexithookfile;
    char *destdir;
    char *destproto;
    char *watchdirwslash;
    char *destdirwslash; /* of a remote destination: the destination itself */
    char *statusfile;
    char *socketpath;
    char *dump_path;
    int socket; /* -1 */
    mode_t socketmod;
    uid_t socketuid;
    gid_t socketgid;
    size_t watchdirlen;
    size_t destdirlen;
    size_t watchdirsize;
    size_t destdirsize;
    size_t watchdirwslashsize;
    size_t destdirwslashsize;
    short int watchdir_dirlevel;
    char *handlerfpath;
    void *handler_handle;
    api_functs_t handler_funct;
    char *rulfpath;
    size_t rulfpathsize;
    char *listoutdir;
    struct notifyenginefuncts notifyenginefunct;
    int retries;
    size_t bfilethreshold;
    unsigned int syncdelay;
    queueinfo_t _queues[QUEUE_MAX];
    unsigned int rsyncinclimit;
    time_t synctime; /* when the batch at work was begun */
    unsigned int synctimeout;
    sigset_t *sigset;
    char isignoredexitcode[256];
    pthread_t blockthread[16];
    size_t blockthread_count;
    char *chroot_dir;
    char *permitted_hookfile[MAXPERMITTEDHOOKFILES + 1];
    int permitted_hookfiles;
    char *mountpoint[MAXMOUNTPOINTS + 1];
    int mountpoints;
    synchandler_args_t synchandler_args[SHARGS_MAX];
    int synchandler_argf; /* zero */
    void *indexes_p;
    void *fsmondata;
} ctx_t;

#endif
