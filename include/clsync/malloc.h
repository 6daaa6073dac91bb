/* Memory that is there: where none can be had, the handler's process ends with a message. */

#ifndef CLSYNC_MALLOC_H
#define CLSYNC_MALLOC_H

#include <stddef.h>

void *xmalloc(size_t size);
void *xcalloc(size_t count, size_t size);
void *xrealloc(void *old, size_t size);

/* strncpy(3) that ends in a NUL: `size` bytes of `to` are written. */
char *xstrncpy(char *to, const char *from, size_t size);

#endif
