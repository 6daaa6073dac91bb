#!/bin/sh
# A handler that writes down how it is called; the directory of this file holds the record.
# A record is words that end in NUL: the number of arguments, CLSYNC_STATUS, CLSYNC_ITERATION, the working directory,
# the arguments; for each argument that names a list file the argument and the file's content; "exit" and the code.
# The code is that in the file `code`, 0 where there is none.
here=${0%/*}
code=0
[ ! -e "$here/code" ] || read -r code <"$here/code"
{
    printf '%s\0' "$#" "${CLSYNC_STATUS-unset}" "${CLSYNC_ITERATION-unset}" "$(pwd -P)" "$@"
    for word; do
        case $word in
        */.clsync-list.* | */.clsync-exclist.*)
            printf '%s\0' "$word"
            cat -- "${word#*=}"
            printf '\0'
            ;;
        esac
    done
    printf '%s\0' exit "$code"
} >>"$here/record"
exit "$code"
