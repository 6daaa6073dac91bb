/* What handlers may ask for about the program they were written for; nothing in these headers depends on it. */

#ifndef CLSYNC_COMPILERFLAGS_H
#define CLSYNC_COMPILERFLAGS_H

#ifndef _DEBUG_SUPPORT
#define _DEBUG_SUPPORT
#endif
#ifndef CAPABILITIES_SUPPORT
#define CAPABILITIES_SUPPORT
#endif

#endif
