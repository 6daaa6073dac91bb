"""What can happen to a tree: a table of weighted operations, and writers that do them in bursts.

An operation is a function of a `Playground`. It picks what stands there, so it may find nothing to do, and with
several writers at work the tree may change under it: both are fine, and an OSError ends the operation only.
"""

from __future__ import annotations

import errno
import os
import signal
import stat
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from tests.support.playground import EXCHANGE, FIXED_NS, Playground, lines
from tests.support.rulesets import Suffixes

Operation = Callable[[Playground], None]

OPERATIONS: dict[Operation, int] = {}
"""Every operation and its weight."""
MOST = 400
"""Above this many entries a writer removes more than it makes."""

_EXPECTED = {
    None,  # shutil.rmtree met a symlink
    errno.ENOENT,
    errno.EEXIST,
    errno.ENOTDIR,
    errno.EISDIR,
    errno.ENOTEMPTY,
    errno.EINVAL,
    errno.ENAMETOOLONG,
    errno.ELOOP,
    errno.EACCES,
    errno.EPERM,
    errno.ENXIO,
    errno.EMLINK,
    errno.EBUSY,
    errno.EOPNOTSUPP,
}
_MODES: tuple[int, ...] = (0o644, 0o600, 0o755, 0o444, 0o640, 0o4755, 0o2750, 0o1777)
_OWNERS = (0, 1, 1000, 12345, 65534)


def operation(weight: int) -> Callable[[Operation], Operation]:
    """Put a function into the table."""

    def enter(function: Operation) -> Operation:
        OPERATIONS[function] = weight
        return function

    return enter


# Content


@operation(10)
def create(p: Playground) -> None:
    p.write(p.free(), p.data(), os.O_CREAT | os.O_EXCL)


@operation(5)
def append(p: Playground) -> None:
    if (path := p.file()) is not None:
        p.write(path, p.data(p.random.randrange(1, 200)), os.O_APPEND)


@operation(4)
def truncate(p: Playground) -> None:
    if (path := p.file()) is not None:
        p.truncate(path, p.random.randrange(os.lstat(path).st_size * 3 // 2 + 1))


@operation(5)
def overwrite_a_part(p: Playground) -> None:
    if (path := p.file()) is not None:
        p.write(path, p.data(p.random.randrange(1, 50)), 0, p.random.randrange(os.lstat(path).st_size + 1))


@operation(8)
def rewrite_at_the_same_size(p: Playground) -> None:
    """Several times within a second, in place or emptied first."""
    if (path := p.file()) is not None:
        size = os.lstat(path).st_size
        for _ in range(p.random.randrange(1, 4)):
            p.write(path, p.data(size), p.random.choice((0, os.O_TRUNC)))
            p.pause(p.random.choice((0, 0, 0.001, 0.01)))


@operation(8)
def rewrite_at_the_same_size_and_mtime(p: Playground) -> None:
    if (path := p.file()) is not None:
        before = os.lstat(path)
        p.write(path, p.data(before.st_size), p.random.choice((0, os.O_TRUNC)))
        p.utime(path, before.st_mtime_ns)


@operation(3)
def write_through_a_mapping(p: Playground) -> None:
    if (path := p.file()) is not None and (size := os.lstat(path).st_size):
        at = p.random.randrange(size)
        p.map(path, p.data(p.random.randrange(1, size - at + 1)), at)


@operation(3)
def make_a_sparse_file(p: Playground) -> None:
    path = p.free()
    p.write(path, p.data(100), os.O_CREAT, p.random.randrange(1 << 21))
    if p.random.random() < 0.5:
        p.truncate(path, p.random.randrange(1 << 22))


@operation(2)
def punch_a_hole(p: Playground) -> None:
    if (path := p.file()) is not None and (size := os.lstat(path).st_size):
        p.punch(path, p.random.randrange(size), p.random.randrange(1, size + 1))


@operation(4)
def save_atomically(p: Playground) -> None:
    """As editors and package managers do: temporary file beside it, then rename over the name."""
    path = p.file() or p.free()
    draft = os.path.dirname(path) + b"/" + p.random.choice((b".draft", b".tmp%d" % p.random.randrange(5)))
    p.write(draft, p.data())
    if p.random.random() < 0.3:
        p.chmod(draft, p.random.choice(_MODES))
    p.rename(draft, path)


@operation(2)
def save_with_a_backup(p: Playground) -> None:
    if (path := p.file()) is not None:
        p.rename(path, path[:3000] + b"~")
        p.write(path, p.data())


@operation(3)
def write_a_nameless_file_and_link_it(p: Playground) -> None:
    path = p.free()
    p.nameless(os.path.dirname(path), p.data(), path)


@operation(3)
def hold_a_file_open(p: Playground) -> None:
    if (path := p.file()) is not None and len(p.held) < 4:
        p.hold(path)


@operation(6)
def write_to_a_held_file(p: Playground) -> None:
    if p.held and not (held := p.random.choice(p.held)).has_lost_its_name(p.root):
        p.append(held, p.data(p.random.randrange(1, 100)))


@operation(1)
def close_what_is_held(p: Playground) -> None:
    p.release()


# The same size and the same mtime, another inode


@operation(6)
def move_a_stamped_copy_over_a_file(p: Playground) -> None:
    """As `cp -p` and `mv` can: new content under the old name, size and mtime."""
    if (path := p.file()) is None:
        return
    before = os.lstat(path)
    draft = p.random.choice((os.path.dirname(path), p.directory(), p.outside)) + b"/.stamped%d" % p.random.randrange(
        9
    )
    p.write(draft, p.data(before.st_size), os.O_CREAT | os.O_EXCL)
    p.chmod(draft, stat.S_IMODE(before.st_mode))
    p.utime(draft, before.st_mtime_ns)
    p.rename(draft, path)


@operation(5)
def exchange_files_of_one_mtime(p: Playground) -> None:
    """Two files of the releases, or two made for it."""
    first, second = p.fixed(stat.S_ISREG), p.fixed(stat.S_ISREG)
    for path in (first, second):
        if path is None or first == second:
            path = p.free()
            p.write(path, p.data(64))
            p.utime(path, FIXED_NS)
    if first is not None and second is not None:
        p.rename(first, second, EXCHANGE)


@operation(4)
def exchange_releases(p: Playground) -> None:
    """Two trees with the same names, sizes and mtimes."""
    first, second = p.fixed(stat.S_ISDIR), p.fixed(stat.S_ISDIR)
    if first is None or second is None or first == second:
        make_a_release(p)
    else:
        p.rename(first, second, EXCHANGE)


@operation(2)
def make_a_release(p: Playground) -> None:
    p.tree(p.free(is_dir=True), p.random.randrange(1, 3), 3, FIXED_NS)


# Names


@operation(8)
def move(p: Playground) -> None:
    if (path := p.entry()) is not None:
        p.rename(path, p.target(path))


@operation(4)
def move_a_directory(p: Playground) -> None:
    if (path := p.inner_directory()) is not None:
        p.rename(path, p.target(path))


@operation(4)
def exchange(p: Playground) -> None:
    first, second = p.entry(), p.entry()
    if first is not None and second is not None and first != second:
        p.rename(first, second, EXCHANGE)


@operation(3)
def swap_by_three_moves(p: Playground) -> None:
    first, second = p.entry(), p.entry()
    if first is not None and second is not None and first != second:
        aside = p.free(like=first)
        p.rename(first, aside)
        p.rename(second, first)
        p.rename(aside, second)


@operation(4)
def move_in_a_chain(p: Playground) -> None:
    """A -> b -> c for one entry, or b -> c and then a -> b for two."""
    if (path := p.entry()) is None:
        return
    if p.random.random() < 0.5:
        for _ in range(p.random.randrange(2, 4)):
            step = p.free(like=path)
            p.rename(path, step)
            path = step
    elif (second := p.entry()) is not None:
        p.rename(second, p.free(like=second))
        p.rename(path, second)


@operation(4)
def move_out(p: Playground) -> None:
    if (path := p.entry()) is not None:
        p.rename(path, p.outside + b"/out%d" % p.random.randrange(20))


@operation(5)
def move_in(p: Playground) -> None:
    if (path := p.outside_entry()) is not None:
        p.rename(path, p.target(path))


@operation(3)
def move_out_change_and_move_back(p: Playground) -> None:
    if (path := p.inner_directory()) is None:
        return
    away = p.outside + b"/away%d" % p.random.getrandbits(20)
    p.rename(path, away)
    p.pause(p.random.choice((0, 0, 0.02, 0.15)))
    for name in sorted(os.listdir(away)):
        inner = away + b"/" + name
        before = os.lstat(inner)
        if stat.S_ISREG(before.st_mode) and before.st_nlink == 1 and p.random.random() < 0.5:
            p.write(inner, p.data(before.st_size), 0)
            p.utime(inner, before.st_mtime_ns)
    p.rename(away, path)


@operation(6)
def change_below_then_move_the_ancestor(p: Playground) -> None:
    if (top := p.inner_directory()) is None:
        return
    below = p.directory(top)
    for _ in range(p.random.randrange(1, 4)):
        p.write(p.free(below), p.data())
    for name, mode in p.listing(below)[:3]:
        if stat.S_ISREG(mode):
            p.write(below + b"/" + name, p.data(), os.O_APPEND)
    p.rename(top, p.free(like=top))


@operation(3)
def move_a_directory_and_make_another_at_its_name(p: Playground) -> None:
    if (path := p.inner_directory()) is not None:
        p.rename(path, p.free(like=path))
        p.mkdir(path)
        for _ in range(p.random.randrange(3)):
            p.write(p.free(path), p.data())


# Types


@operation(6)
def put_another_type_in_its_place(p: Playground) -> None:
    if (path := p.entry()) is not None:
        _clear(p, path)
        p.random.choice((_directory, _file, _symlink, _fifo))(p, path)


@operation(3)
def put_another_type_in_its_place_and_back(p: Playground) -> None:
    if (path := p.inner_directory()) is not None:
        away = p.free(like=path)
        p.rename(path, away)
        p.random.choice((_file, _symlink, _fifo))(p, path)
        p.pause(p.random.choice((0, 0.01, 0.1)))
        p.remove(path)
        p.rename(away, path)


@operation(2)
def put_a_symlink_to_it_in_its_place(p: Playground) -> None:
    """As when data move to a larger disk: what is written below the old name lands elsewhere."""
    if (path := p.inner_directory()) is not None:
        p.write(p.free(path), p.data())
        away = p.random.choice((p.free(like=path), p.outside + b"/disk%d" % p.random.getrandbits(20)))
        p.rename(path, away)
        p.symlink(away if p.random.random() < 0.5 else os.path.relpath(away, os.path.dirname(path)), path)


@operation(2)
def put_another_directory_in_its_place(p: Playground) -> None:
    if (path := p.inner_directory()) is not None:
        _clear(p, path)
        p.tree(path, 2, 2, p.random.choice((None, FIXED_NS)))


@operation(3)
def make_and_remove_and_make(p: Playground) -> None:
    path = p.free(is_dir=True)
    for _ in range(p.random.randrange(1, 4)):
        p.mkdir(path)
        p.write(p.free(path), p.data())
        p.remove(path)
    p.random.choice((_directory, _file, lambda *_: None))(p, path)


def _clear(p: Playground, path: bytes) -> None:
    if p.random.random() < 0.5:
        p.remove(path)
    else:
        p.rename(path, p.random.choice((p.free(like=path), p.outside + b"/cleared%d" % p.random.randrange(20))))


def _directory(p: Playground, path: bytes) -> None:
    p.mkdir(path)
    for _ in range(p.random.randrange(4)):
        p.write(p.free(path), p.data())


def _file(p: Playground, path: bytes) -> None:
    p.write(path, p.data())


def _symlink(p: Playground, path: bytes) -> None:
    targets = (b"dangling", b"..", b".", b"a", p.outside, p.outside + b"/secret", p.root, p.directory(), p.name())
    p.symlink(p.random.choice(targets), path)


def _fifo(p: Playground, path: bytes) -> None:
    p.mknod(path, p.random.choice((stat.S_IFIFO, stat.S_IFSOCK)) | 0o644)


@operation(4)
def symlink(p: Playground) -> None:
    _symlink(p, p.free())


@operation(3)
def point_a_symlink_elsewhere(p: Playground) -> None:
    if (path := p.symlink_path()) is not None:
        if p.random.random() < 0.5:
            p.remove(path)
            _symlink(p, path)
        else:
            draft = p.free(os.path.dirname(path))
            _symlink(p, draft)
            p.rename(draft, path)


@operation(2)
def fifo(p: Playground) -> None:
    _fifo(p, p.free())


@operation(2)
def device(p: Playground) -> None:
    if p.privileged:
        kind, number = p.random.choice(((stat.S_IFCHR, os.makedev(1, 3)), (stat.S_IFBLK, os.makedev(250, 7))))
        p.mknod(p.free(), kind | 0o600, number)


# Hard links


@operation(6)
def link(p: Playground) -> None:
    if (path := p.entry()) is not None:
        p.link(path, p.free())


@operation(3)
def link_a_file_never_seen(p: Playground) -> None:
    path = p.free()
    p.write(path, p.data())
    for _ in range(p.random.randrange(1, 3)):
        p.link(path, p.free())


@operation(6)
def write_through_one_of_several_names(p: Playground) -> None:
    if (path := p.linked_file()) is not None:
        before = os.lstat(path)
        p.write(path, p.data(before.st_size), p.random.choice((0, os.O_APPEND, os.O_TRUNC)))
        if p.random.random() < 0.3:
            p.utime(path, before.st_mtime_ns)


@operation(3)
def change_attributes_through_one_of_several_names(p: Playground) -> None:
    if (path := p.linked_file()) is not None:
        p.chmod(path, p.random.choice(_MODES))


@operation(3)
def remove_one_of_several_names(p: Playground) -> None:
    if (path := p.linked_file()) is not None:
        p.remove(path)


@operation(2)
def link_to_the_outside(p: Playground) -> None:
    if (path := p.file()) is not None:
        p.link(path, p.outside + b"/name%d" % p.random.randrange(20))


@operation(2)
def link_from_the_outside(p: Playground) -> None:
    if (path := p.outside_entry()) is not None:
        p.link(path, p.free())


# Trees


@operation(4)
def make_a_directory(p: Playground) -> None:
    p.mkdir(p.free(is_dir=True))


@operation(4)
def make_a_tree(p: Playground) -> None:
    p.tree(p.free(is_dir=True), p.random.randrange(1, 4), p.random.randrange(3))


@operation(3)
def make_a_deep_tree(p: Playground) -> None:
    """Faster than it can be watched; most of the way down nothing but directories."""
    path = p.free(is_dir=True)
    p.mkdir(path)
    for _ in range(p.random.randrange(4, 14)):
        path = path + b"/" + p.random.choice((b"x", b"deep", p.name(is_dir=True)))
        p.mkdir(path)
        if p.random.random() < 0.3:
            p.write(path + b"/leaf", p.data())
    p.write(path + b"/end", p.data())


@operation(2)
def copy_a_tree(p: Playground) -> None:
    """As `cp -rp`: the old mtimes on new inodes."""
    if (top := p.inner_directory()) is not None and len(top) < 1000:
        copy = p.free(like=top)
        p.mkdir(copy)
        for name, mode in p.listing(top)[:10]:
            if stat.S_ISREG(mode):
                old = os.lstat(top + b"/" + name)
                p.write(copy + b"/" + name, p.data(old.st_size))
                p.utime(copy + b"/" + name, old.st_mtime_ns)
        p.utime(copy, os.lstat(top).st_mtime_ns)


@operation(7)
def remove(p: Playground) -> None:
    if (path := p.entry()) is not None:
        p.remove(path)


@operation(2)
def remove_a_tree(p: Playground) -> None:
    if (path := p.inner_directory()) is not None:
        p.remove(path)


# Attributes


@operation(4)
def change_mode(p: Playground) -> None:
    path = p.random.choice((p.file, p.directory))()
    if path is not None:
        modes = _MODES
        if p.privileged:
            modes += (0, 0o500)
        elif stat.S_ISDIR(os.lstat(path).st_mode):
            modes = (0o755, 0o700, 0o750, 0o1777)
        p.chmod(path, p.random.choice(modes))


@operation(3)
def change_owner(p: Playground) -> None:
    if p.privileged and (path := p.random.choice((p.entry, p.directory))()) is not None:
        p.chown(path, p.random.choice(_OWNERS), p.random.choice(_OWNERS))


@operation(5)
def change_mtime(p: Playground) -> None:
    if (path := p.random.choice((p.entry, p.file, p.directory))()) is not None:
        moments = (0, 1, FIXED_NS, FIXED_NS + 1, 4_000_000_000_000_000_000, time.time_ns())
        p.utime(path, p.random.choice(moments))


@operation(2)
def change_an_attribute(p: Playground) -> None:
    if (path := p.random.choice((p.file, p.directory))()) is not None:
        p.setxattr(path, p.data(10))


REMOVALS = (remove, remove_a_tree, move_out, remove_one_of_several_names)


# Who does it


@dataclass(frozen=True)
class Plan:
    """What one writer does."""

    seed: str
    seconds: float
    """At most as long (s)."""
    operations: int
    """At most as many."""
    without: frozenset[Operation] = frozenset()
    """Left out, because the monitor cannot see them."""
    suffixes: Suffixes = field(default_factory=Suffixes)


def build(p: Playground, files: int) -> None:
    """Make the tree that stands before the program starts: of everything something, and `files` more."""
    p.tree(p.root + b"/alpha", 3, 3)
    p.tree(p.root + b"/release-1", 2, 3, FIXED_NS)
    p.tree(p.root + b"/release-2", 2, 3, FIXED_NS)
    makers = (
        create,
        symlink,
        fifo,
        device,
        link,
        link_to_the_outside,
        make_a_directory,
        make_a_tree,
        make_a_sparse_file,
    )
    for _ in range(60):
        attempt(p, p.random.choice(makers))
    for _ in range(5):
        attempt(p, move_out)
    for index in range(files):
        path = p.root + b"/many%d" % (index % 7)
        if not index // 7:
            p.mkdir(path)
        p.write(path + b"/%d" % index, p.data(p.random.randrange(200)))
    for _ in range(20):
        attempt(p, p.random.choice((change_mode, change_owner, change_mtime)))


def attempt(p: Playground, chosen: Operation) -> None:
    """Do an operation as far as the tree permits. Raises OSError for what no racing writer can cause."""
    try:
        chosen(p)
    except OSError as error:
        if error.errno not in _EXPECTED:
            raise
        p.note("   ", chosen.__name__, "ended by", error.strerror)


def play(p: Playground, plan: Plan) -> None:
    """Do operations in bursts until the plan is fulfilled, then close what is open."""
    table = {chosen: weight for chosen, weight in OPERATIONS.items() if chosen not in plan.without}
    operations, weights = list(table), list(table.values())
    end = time.monotonic() + plan.seconds
    left = plan.operations
    while left > 0 and time.monotonic() < end:
        crowded = p.count() > MOST
        for _ in range(min(left, p.random.choice((1, 1, 3, 10, 30, 60)))):
            if crowded and p.random.random() < 0.4:
                attempt(p, p.random.choice(REMOVALS))
            else:
                attempt(p, p.random.choices(operations, weights)[0])
            left -= 1
        p.pause(p.random.choice((0, 0.001, 0.01, 0.05, 0.1, p.random.random() * 0.3)))
    p.release()


class Writer:
    """A process that plays one or several plans, each in a thread of its own, and leaves its journals in a file."""

    def __init__(self, root: bytes, outside: bytes, plans: list[Plan], journal: Path) -> None:
        """Start it."""
        self.journal = journal
        self.failed = False
        self._running = True
        self._pid = os.fork()
        if not self._pid:
            _play_and_exit(root, outside, plans, journal)

    def running(self) -> bool:
        """Tell whether it still plays; afterwards `failed` says whether it could not."""
        if self._running:
            pid, status = os.waitpid(self._pid, os.WNOHANG)
            if pid:
                # SIGBUS: it stored into a mapping of a file that another one was cutting at that moment.
                cut = os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGBUS
                self._running, self.failed = False, status != 0 and not cut
        return self._running

    def trouble(self) -> str:
        """Return the end of what a writer that failed has left behind."""
        if not self.journal.exists():
            return "it left nothing behind"
        return "\n".join(self.journal.read_text(errors="replace").splitlines()[-30:])

    def kill(self) -> None:
        """End it at once."""
        if self._running:
            os.kill(self._pid, 9)
            os.waitpid(self._pid, 0)
            self._running = False


def _play_and_exit(root: bytes, outside: bytes, plans: list[Plan], journal: Path) -> None:
    """Play in a forked process. Never returns."""
    trouble: list[str] = []
    grounds = [Playground(root, outside, plan.seed, plan.suffixes) for plan in plans]

    def run(p: Playground, plan: Plan) -> None:
        try:
            play(p, plan)
        except BaseException:  # noqa: BLE001  the parent reads it in the journal
            trouble.append(traceback.format_exc())

    try:
        threads = [threading.Thread(target=run, args=pair) for pair in zip(grounds, plans, strict=True)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        with journal.open("w") as file:
            file.writelines(lines(sorted(step for p in grounds for step in p.journal)))
            file.writelines(trouble)
    finally:
        os._exit(1 if trouble else 0)
