/* Limits and defaults of clsync 0.4; those of an array decide about the layout of <clsync/ctx.h>. */

#ifndef CLSYNC_CONFIGURATION_H
#define CLSYNC_CONFIGURATION_H

#define MAXRULES 256
#define MAXARGUMENTS 256
#define MAXCHILDREN 256
#define MAXSIGNALNUM 512
#define MAXPERMITTEDHOOKFILES 256
#define MAXMOUNTPOINTS 256

#define ALLOC_PORTION 1024
#define API_PREFIX "clsyncapi_"

#define DEFAULT_LABEL "nolabel"
#define DEFAULT_CONFIG_BLOCK "default"
#define DEFAULT_RSYNC_PATH "rsync"
#define DEFAULT_CP_PATH "cp"

#endif
