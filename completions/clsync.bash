# bash completion for clsync
# Made by `make docs` from src/clsync/options/table.py; changes here are lost.

_clsync() {
    local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD-1]} word
    COMPREPLY=()
    # What follows -- belongs to the handler.
    for word in "${COMP_WORDS[@]:1:COMP_CWORD-1}"; do
        if [[ $word == -- ]]; then
            compopt -o filenames 2>/dev/null
            mapfile -t COMPREPLY < <(compgen -f -- "$cur")
            return
        fi
    done
    # --option=value comes as three words.
    if [[ $cur == = ]]; then
        cur=
    elif [[ $prev == = ]]; then
        prev=${COMP_WORDS[COMP_CWORD-2]}
    fi
    if [[ ${COMP_WORDS[1]} == ctl && $COMP_CWORD -gt 1 ]]; then
        case $prev in
            --socket|-s) compopt -o filenames 2>/dev/null; mapfile -t COMPREPLY < <(compgen -f -- "$cur"); return ;;
            --config-file|-H) compopt -o filenames 2>/dev/null; mapfile -t COMPREPLY < <(compgen -f -- "$cur"); return ;;
            --config-block|-K) return ;;
            --timeout) return ;;
            --target) compopt -o filenames 2>/dev/null; mapfile -t COMPREPLY < <(compgen -d -- "$cur"); return ;;
            dump) compopt -o filenames 2>/dev/null; mapfile -t COMPREPLY < <(compgen -d -- "$cur"); return ;;
            set) mapfile -t COMPREPLY < <(compgen -W 'destination-dir mode sync-handler rules-file acls xattrs delay-collect delay-sync delay-collect-bigfile threshold-bigfile modification-signature cancel-syscalls timeout-sync max-delete accept-target bwlimit nice io-class retries ignore-failures ignore-exitcode lists-dir dont-unlink-lists rsync-inclimit rsync-prefer-include synclist-simplify have-recursive-sync full-initialsync exit-on-no-events max-iterations sync-on-quit pre-exit-hook exit-hook standby-file sync-hours label verbose debug quiet dump-dir config-block config-block-inherits' -- "$cur"); return ;;
        esac
        mapfile -t COMPREPLY < <(compgen -W 'status info version dump set wait pause resume accept stop die --socket --config-file --config-block --json --timeout --target --until-synced --help' -- "$cur")
        return
    fi
    case $prev in
        --watch-dir|-W) compopt -o filenames 2>/dev/null; mapfile -t COMPREPLY < <(compgen -d -- "$cur"); return ;;
        --destination-dir|-D) compopt -o filenames 2>/dev/null; mapfile -t COMPREPLY < <(compgen -d -- "$cur"); return ;;
        --mode|-M) mapfile -t COMPREPLY < <(compgen -W 'rsyncdirect copy direct simple shell rsyncshell rsyncso so python' -- "$cur"); return ;;
        --sync-handler|-S) mapfile -t COMPREPLY < <(compgen -c -- "$cur"); return ;;
        --rules-file|-R) compopt -o filenames 2>/dev/null; mapfile -t COMPREPLY < <(compgen -f -- "$cur"); return ;;
        --delay-collect|-t) return ;;
        --delay-sync|-w) return ;;
        --delay-collect-bigfile|-T) return ;;
        --threshold-bigfile|-B) return ;;
        --poll-interval) return ;;
        --monitor) mapfile -t COMPREPLY < <(compgen -W 'auto fanotify inotify poll' -- "$cur"); return ;;
        --modification-signature) mapfile -t COMPREPLY < <(compgen -W 'dev ino mode nlink uid gid rdev size blksize blocks atime mtime ctime' -- "$cur"); return ;;
        --cancel-syscalls) mapfile -t COMPREPLY < <(compgen -W 'mon_stat' -- "$cur"); return ;;
        --timeout-sync|-k) return ;;
        --threading|-p) mapfile -t COMPREPLY < <(compgen -W 'off safe full' -- "$cur"); return ;;
        --max-parallel) return ;;
        --max-delete) return ;;
        --scrub-rate) return ;;
        --bwlimit) return ;;
        --nice) return ;;
        --io-class) mapfile -t COMPREPLY < <(compgen -W 'idle best-effort realtime' -- "$cur"); return ;;
        --retries|-r) return ;;
        --ignore-exitcode|-x) return ;;
        --lists-dir|-L) compopt -o filenames 2>/dev/null; mapfile -t COMPREPLY < <(compgen -d -- "$cur"); return ;;
        --rsync-inclimit) return ;;
        --max-iterations) return ;;
        --pre-exit-hook) mapfile -t COMPREPLY < <(compgen -c -- "$cur"); return ;;
        --exit-hook) mapfile -t COMPREPLY < <(compgen -c -- "$cur"); return ;;
        --standby-file) compopt -o filenames 2>/dev/null; mapfile -t COMPREPLY < <(compgen -f -- "$cur"); return ;;
        --sync-hours) return ;;
        --uid|-u) mapfile -t COMPREPLY < <(compgen -u -- "$cur"); return ;;
        --gid|-g) mapfile -t COMPREPLY < <(compgen -g -- "$cur"); return ;;
        --preserve-capabilities|-C) mapfile -t COMPREPLY < <(compgen -W 'CAP_CHOWN CAP_DAC_OVERRIDE CAP_DAC_READ_SEARCH CAP_FOWNER CAP_FSETID CAP_KILL CAP_SETGID CAP_SETUID CAP_SETPCAP CAP_LINUX_IMMUTABLE CAP_NET_BIND_SERVICE CAP_NET_BROADCAST CAP_NET_ADMIN CAP_NET_RAW CAP_IPC_LOCK CAP_IPC_OWNER CAP_SYS_MODULE CAP_SYS_RAWIO CAP_SYS_CHROOT CAP_SYS_PTRACE CAP_SYS_PACCT CAP_SYS_ADMIN CAP_SYS_BOOT CAP_SYS_NICE CAP_SYS_RESOURCE CAP_SYS_TIME CAP_SYS_TTY_CONFIG CAP_MKNOD CAP_LEASE CAP_AUDIT_WRITE CAP_AUDIT_CONTROL CAP_SETFCAP CAP_MAC_OVERRIDE CAP_MAC_ADMIN CAP_SYSLOG CAP_WAKE_ALARM CAP_BLOCK_SUSPEND CAP_AUDIT_READ CAP_PERFMON CAP_BPF CAP_CHECKPOINT_RESTORE' -- "$cur"); return ;;
        --privileged-uid) mapfile -t COMPREPLY < <(compgen -u -- "$cur"); return ;;
        --privileged-gid) mapfile -t COMPREPLY < <(compgen -g -- "$cur"); return ;;
        --sync-handler-uid) mapfile -t COMPREPLY < <(compgen -u -- "$cur"); return ;;
        --sync-handler-gid) mapfile -t COMPREPLY < <(compgen -g -- "$cur"); return ;;
        --sandbox) mapfile -t COMPREPLY < <(compgen -W 'auto on off landlock seccomp mounts processes capabilities' -- "$cur"); return ;;
        --chroot) compopt -o filenames 2>/dev/null; mapfile -t COMPREPLY < <(compgen -d -- "$cur"); return ;;
        --pivot-root) mapfile -t COMPREPLY < <(compgen -W 'off direct auto auto-ro' -- "$cur"); return ;;
        --mountpoints) return ;;
        --detach-network) mapfile -t COMPREPLY < <(compgen -W 'off non-privileged everywhere' -- "$cur"); return ;;
        --detach-ipc) return ;;
        --cgroup-group-name) return ;;
        --cgroup-memory) return ;;
        --cgroup-pids) return ;;
        --cgroup-cpu) return ;;
        --splitting) mapfile -t COMPREPLY < <(compgen -W 'auto off thread process' -- "$cur"); return ;;
        --add-permitted-hook-files) compopt -o filenames 2>/dev/null; mapfile -t COMPREPLY < <(compgen -f -- "$cur"); return ;;
        --label|-l) return ;;
        --output|-Y) mapfile -t COMPREPLY < <(compgen -W 'stderr stdout syslog' -- "$cur"); return ;;
        --pid-file|-z) compopt -o filenames 2>/dev/null; mapfile -t COMPREPLY < <(compgen -f -- "$cur"); return ;;
        --status-file) compopt -o filenames 2>/dev/null; mapfile -t COMPREPLY < <(compgen -f -- "$cur"); return ;;
        --socket|-s) compopt -o filenames 2>/dev/null; mapfile -t COMPREPLY < <(compgen -f -- "$cur"); return ;;
        --socket-mod) return ;;
        --socket-own) return ;;
        --socket-auth) mapfile -t COMPREPLY < <(compgen -W 'null' -- "$cur"); return ;;
        --dump-dir) compopt -o filenames 2>/dev/null; mapfile -t COMPREPLY < <(compgen -d -- "$cur"); return ;;
        --state-dir) compopt -o filenames 2>/dev/null; mapfile -t COMPREPLY < <(compgen -d -- "$cur"); return ;;
        --config-file|-H) compopt -o filenames 2>/dev/null; mapfile -t COMPREPLY < <(compgen -f -- "$cur"); return ;;
        --config-block|-K) return ;;
        --custom-signals) return ;;
        --config-block-inherits) return ;;
        --compat) mapfile -t COMPREPLY < <(compgen -W '0.4 off' -- "$cur"); return ;;
    esac
    [[ $COMP_CWORD -eq 1 ]] && word='ctl doctor verify wait' || word=
    [[ ${COMP_WORDS[1]} == verify ]] && word='--checksum --repair --json'
    mapfile -t COMPREPLY < <(compgen -W "--watch-dir= -W --destination-dir= -D --mode= -M --sync-handler= -S --rules-file= -R --one-file-system --exclude-mount-points -X --acls --xattrs --delay-collect= -t --delay-sync= -w --delay-collect-bigfile= -T --threshold-bigfile= -B --poll-interval= --monitor= --modification-signature= --cancel-syscalls= --timeout-sync= -k --threading= -p --max-parallel= --max-delete= --accept-target --scrub-rate= --scrub-checksum --bwlimit= --nice= --io-class= --retries= -r --ignore-failures --ignore-exitcode= -x --lists-dir= -L --dont-unlink-lists -U --rsync-inclimit= --rsync-prefer-include --synclist-simplify --have-recursive-sync --skip-initialsync --only-initialsync --full-initialsync -F --exit-on-no-events --max-iterations= --sync-on-quit --pre-exit-hook= --exit-hook= --standby-file= --sync-hours= --background -b --uid= -u --gid= -g --preserve-capabilities= -C --inherit-capabilities --privileged-uid= --privileged-gid= --sync-handler-uid= --sync-handler-gid= --sandbox= --chroot= --pivot-root= --mountpoints= --detach-network= --detach-ipc= --detach-miscellanea --seccomp-filter --forbid-devices --cgroup-group-name= --cgroup-memory= --cgroup-pids= --cgroup-cpu= --splitting= --secure-splitting --check-execvp-arguments --add-permitted-hook-files= --label= -l --output= -Y --verbose -v --debug -d --quiet -q --pid-file= -z --status-file= --socket= -s --socket-mod= --socket-own= --socket-auth= --dump-dir= --state-dir= --config-file= -H --config-block= -K --custom-signals= --config-block-inherits= --compat= --dry-run --help -h --version -V $word" -- "$cur")
    if [[ ${#COMPREPLY[@]} -eq 1 && ${COMPREPLY[0]} == *= ]]; then
        compopt -o nospace 2>/dev/null
    fi
}
complete -F _clsync clsync
