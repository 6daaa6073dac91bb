"""docs/from-clsync-0.4.md: what a site that runs clsync 0.4 has to know. Lists of options are made from the table."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from clsync.options.help import spelled
from clsync.options.reference import default_cell, later_lines, old_default_cell, retired_lines
from clsync.options.table import OPTIONS

_INTRODUCTION: Final = """\
# From clsync 0.4

Made by `make docs` from `src/clsync/options/`; changes here are lost.

For a site that runs the C program today. Command lines, configuration files, rules, handlers, modules in C and clients
of the control socket are taken as they are. What is different is different on purpose, and stands here.

## How to switch

**Install it beside the old one** (see the [README](../README.md)); both can be there at once, under two names.

**Look before it writes.** With `echo` for a handler an instance says what it would run, and nothing is synced:

```sh
clsync -H /etc/clsync/clsync.conf -K www --compat=0.4 -S echo -M direct --only-initialsync
```

What it cannot use it names, with a hint, before anything is watched or copied.

**Start with the old defaults.** `--compat=0.4` on the command line, `compat = 0.4` in a block of the configuration, or
`CLSYNC_COMPAT=0.4` in the environment bring back the defaults below, and the arguments and list files that handlers were
given. Nothing else: no fault comes back with it. For the unit of Debian's package, `systemctl edit clsync@.service`:

```ini
[Service]
Environment=CLSYNC_COMPAT=0.4
ExecStart=
ExecStart=/usr/local/bin/clsync -K %i $CLSYNC_ARGS_SYSTEMD
```

A stop may interrupt a handler, which gives 3: `SuccessExitStatus=3` makes that no failure of the unit.

**Take the new defaults, instance by instance.** `compat = off` in a block goes before the environment. Without old lists
rsync is told exactly what has changed, rules or not, and needs none of its own; delays are shorter, and what fails is
tried again.
"""

_DEFAULTS: Final = """\
## Defaults that are different

| Option | Here | clsync 0.4 | Meaning |
|---|---|---|---|"""

_MORE_DEFAULTS: Final = """\

Besides, with `--compat=0.4` in brackets where that changes it:

- Mode rsyncdirect gives rsync arguments and a list of our own on standard input (include and exclude lists in files).
- Without `-M` the mode is chosen (rsyncdirect). Without `--retries` runs that are meant to end try three times (once).
- clsync stays who starts it (started as root it becomes `nobody`, its handlers do not).
- The control socket is for its owner alone (the same): clsync 0.4 left its mode to the umask.
"""

_DIFFERENT: Final = """\
## What behaves differently, and why

What is copied:

- **What rules reject does not exist for clsync**, at the start, in new directories and in deletions; it is not deleted
  at the destination. With old lists it is rsync that applies them: a file that rules reject and that is made in a new
  directory while rsync starts can still be copied, as before. `--rsync-prefer-include`, or the new defaults, leave no
  such gap.
- **Rules are read strictly.** A last line counts without a newline, an unknown letter is an error, a missing rules file
  ends the start, `W` and `m` mean the same at the start and later. HUP watches and compares by the new rules; rules that
  cannot be read change nothing.
- **Names are bytes.** `%`, `\\`, `]`, newlines and a leading `-` (handed over as `./-name`) stand for themselves. Lists of
  mode shell cannot hold a newline: such names are failures, and named.
- **What is gone is gone at the destination**, with all it held. A directory that was renamed is watched by its new name,
  one that was moved out no longer. Events that the kernel has lost are made good by comparing everything.
- **Destinations are checked.** `host:path` and `host::module` need no user name. Overlaps with the source are refused,
  and mode direct without `-D` is an error instead of a copy to `/`.

Failures and ends:

- **What failed stays dirty** and is tried again, also with `--ignore-failures`. A handler that was killed, or ended by
  `--timeout-sync`, has failed; with it ends all that it has started.
- **Exit codes mean one thing each** (`clsync(1)`, EXIT STATUS): 0 for `--help`, 22 for wrong options, 3 where a run left
  something behind or INT or TERM interrupted a handler. With `--background` the command answers with the outcome of the
  start, and the daemon lets go of the terminal.
- **INT and TERM start nothing more.** QUIT and ALRM let what has changed be synced, also while the initial sync runs.
- **Hooks** do not run where the initial sync was not completed; what the pre-exit hook changes is synced.

Counting:

- **The initial sync is iteration 1**, each batch is one more, in all modes; new directories are not counted. So
  `--max-iterations=N` is N batches.
- **A program whose arguments name no list** is run once a batch, not once for each object.
- **`--full-initialsync`** is a sync in all modes. `--threshold-bigfile=0`: no file is big.

Files and settings:

- **Relative paths** are relative to where clsync was started, not to the watched directory, where they were synced. The
  handler is looked for in PATH unless its name has a slash.
- **The order in a configuration does not matter** for macros. Arguments on the command line replace those of the file,
  blanks at the end of a value do not count, a block that is asked for has to be there, unknown keys are told of. What is
  no value is an error, with the line.
- **A block that a signal switches to** is laid over all that is set, arguments exchanged and expanded; one that cannot be
  used changes nothing.
- **List files** are readable by the user of clsync alone, and removed with their directory; the directory that
  `--lists-dir` names has to be closed to others, to belong to clsync or root, and to lie outside of what is watched.
- **pid file and status file** are regular files: a symlink or FIFO in their place is an error, and a file of somebody
  else is replaced. No symlink of another user is followed on the way to them, to the control socket, lists or dumps.
- **Programs and modules** block no signals. Modules run in a process of their own: one that crashes is loaded again.
- **The control socket** is not taken from another daemon, and its clients cannot end the daemon by leaving. `set` takes
  values, and says why where it cannot. Who may connect only because `--socket-mod` lets everybody may look, not change.

What handlers are given with `--compat=0.4` was compared with what clsync 0.4.5 gave them:
[tests/oracle/differences.toml](../tests/oracle/differences.toml) lists every difference with its reason, and
[tests/old_faults.toml](../tests/old_faults.toml) the faults of clsync 0.4 with the tests that show them gone.
"""

_IDENTITY: Final = """\
## Privileges

clsync runs, and starts its handlers, as the user who starts it; for root, a part of it is `nobody`. clsync 0.4
changed to `nobody` by itself and kept four capabilities; its handlers ran as root. `--compat=0.4` does the same,
`--uid` and `--preserve-capabilities` ask for it.
What is different then (`clsync(1)`, PRIVILEGES):

- **All ids change, in all threads**, supplementary groups included, and no thread keeps a capability that is not named.
  An empty `--uid` is an error, and so is an unknown capability; `CAP_` may be left out, and every capability can be kept.
- **`--uid` alone** takes the group of that user along, and so does `--sync-handler-uid`; with `--compat=0.4` the groups are
  those of clsync 0.4. Handlers have the groups of their user. `-u 0` does not give up capabilities, `-C` does.
- **`--inherit-capabilities`** works: handlers that are not root have what it says. `permitted` is spelled so.
- **pid file, status file and control socket** are removed at the end, wherever they are.
- **`--chroot`**: paths are looked for inside alone. What is missing there is an error. `/proc` and `/dev/null` are needed.
- **`--pivot-root`** needs no directory for the old root and leaves none behind, nor anything in `/dev/shm`. `auto` brings
  `/proc` and a small `/dev` where there are empty directories; `auto-ro` is read-only, with all that is mounted inside.
- **`--mountpoints` and `--pivot-root`** change nothing for the rest of the system. `/proc`, `/dev` and what holds a listed
  mount stay; a path at which nothing is mounted is an error.
- **`--detach-ipc`** is off, and means what it says; there it was on, and meant the name of the host.
- **`--forbid-devices`** works with both versions of cgroups, below the group that clsync is started in. Also zero can be
  read, full, and null.
- **`--detach-network=non-privileged` and `--seccomp-filter`** mean the part without rights, and are errors without
  `--splitting`. So do `--uid` and `--gid` with it; that part cannot be root.
- **rsync, ssh and the copier are in a sandbox** by default (`--sandbox`), programs and arguments of your own are not, and
  with `--compat=0.4` nothing is.
- **Two processes** are the default for root (`--splitting=auto`), unless options such as `--uid` speak against it; with
  `--compat=0.4` there is one, as there was.
- **`--secure-splitting`** stands for `--seccomp-filter` and `--forbid-devices`, too.
"""


def migration() -> str:
    """Return the text of docs/from-clsync-0.4.md."""
    parts = [_INTRODUCTION, _DEFAULTS, *_defaults(), _MORE_DEFAULTS, _DIFFERENT, *retired_lines(), *later_lines()]
    return "\n".join([*parts, "", _IDENTITY])


def _defaults() -> Iterator[str]:
    for option in OPTIONS:
        if old := old_default_cell(option):
            yield f"| `{spelled(option).strip()}` | {default_cell(option)} | {old} | {option.help} |"
