/* Messages to clsync's log: printf(3) formats. Errors get the text of errno, where it is set. */

#ifndef CLSYNC_ERROR_H
#define CLSYNC_ERROR_H

void _critical(const char *function, const char *format, ...);
void _error(const char *function, const char *format, ...);
void _warning(const char *function, const char *format, ...);
void _info(const char *function, const char *format, ...);
void _debug(int level, const char *function, const char *format, ...);

/* Ends the handler's process. */
#define critical(...) _critical(__func__, __VA_ARGS__)
#define error(...) _error(__func__, __VA_ARGS__)
#define warning(...) _warning(__func__, __VA_ARGS__)
#define info(...) _info(__func__, __VA_ARGS__)
#define debug(level, ...) _debug(level, __func__, __VA_ARGS__)

#define critical_on(condition) \
    do { \
        if (condition) \
            critical("%s", "it must not be: " #condition); \
    } while (0)
#define error_on(condition) \
    do { \
        if (condition) \
            error("%s", "it must not be: " #condition); \
    } while (0)

#endif
