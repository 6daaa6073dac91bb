"""What the machine lacks or does: kernel features, mounts that come and go, users without rights, other file systems."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path

import pytest

from clsync.kernel.features import FEATURES
from clsync.options.manual import manual
from tests.support.daemon import Daemon, installed
from tests.support.recorder import Recorder
from tests.system.world import AT_ONCE, MODES, QUICK, ROOT, SYNCED, World, mount, mounted, states, unmount

FOUND_OUT_BY_COPY = ("copy_file_range", "openat2", "reflink")


def change(top: Path, turn: str) -> None:
    """Make, change, link, move and delete: each turn finds what the one before has left."""
    for depth in ("", "d", "d/e"):
        here = top / depth / turn
        here.mkdir(parents=True)
        (here / "file").write_text(turn)
        (here / "large").write_bytes(os.urandom(100_000))
        os.link(here / "file", top / depth / f"{turn} linked")
        (here / "symlink").symlink_to("file")
    (top / "d" / turn).rename(top / "d/moved")
    shutil.rmtree(top / "d/e" / turn)
    with open(top / turn / "large", "r+b") as file:
        file.seek(50_000)
        file.write(b"changed")
    if (top / "d/old").exists():
        shutil.rmtree(top / "d/old")
    (top / "d/moved").rename(top / "d/old")


def follow(world: World, daemon: Daemon, where: str = "") -> None:
    """Demand that changes are followed, in a directory of the source."""
    for turn in ("one", "two"):
        change(world.source / where, turn)
        world.wait_for_equal(daemon)


# -- probes ----------------------------------------------------------------------------------------------------

MONITORS = {
    "fanotify": "inotify (no fanotify: the kernel does not have it)",
    "inotify": "poll every 0.2 s (inotify: ",
    "open_tree": "fanotify",
}
"""What watches in the end."""


@pytest.mark.parametrize("feature", FEATURES)
def test_without(world: World, feature: str) -> None:
    """The tree is mirrored all the same, exactly."""
    change(world.source, "before")
    mode = "copy" if feature in FOUND_OUT_BY_COPY else "rsyncdirect"
    monitor = ["--monitor=inotify"] if feature == "inotify" and os.geteuid() else []
    without = {"CLSYNC_WITHOUT": "fanotify,inotify" if feature == "inotify" else feature}
    with world.daemon(f"-M{mode}", "--poll-interval=0.2", *monitor, env=without) as daemon:
        world.wait_for_equal(daemon)
        follow(world, daemon)
        if feature in MONITORS and os.geteuid() == 0:
            assert f"Info: watching {world.source}: {MONITORS[feature]}" in daemon.output
        assert "Error" not in daemon.output, daemon.output


@pytest.mark.parametrize("mode", MODES)
def test_without_anything(world: World, mode: str) -> None:
    change(world.source, "before")
    without = {"CLSYNC_WITHOUT": ",".join(FEATURES)}
    with world.daemon(f"-M{mode}", "--poll-interval=0.2", env=without) as daemon:
        world.wait_for_equal(daemon)
        follow(world, daemon)
        assert ": poll every" in daemon.output


def test_the_manual_names_what_can_be_forced() -> None:
    text = manual()
    assert [feature for feature in FEATURES if feature not in text.replace("\\", "")] == []


# -- mounts ----------------------------------------------------------------------------------------------------


@contextmanager
def disk(world: World, place: Path, kind: str = "ext4", size: str = "32M", options: str = "") -> Iterator[Path]:
    """Mount a new file system of a file; yield the file. Skips where that cannot be had. `options`: for mkfs."""
    program = shutil.which(f"mkfs.{kind}")
    if program is None:
        pytest.skip(f"mkfs.{kind} is not installed")
    image = world.top / f"{kind}.image"
    subprocess.run(["truncate", "-s", size, image], check=True)
    subprocess.run([program, *options.split(), image], check=True, capture_output=True)
    place.mkdir(exist_ok=True)
    done = subprocess.run(["mount", "-o", "loop", image, place], check=False, capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"{kind} cannot be mounted here: {done.stderr.strip()}")
    try:
        yield image
    finally:
        subprocess.run(["umount", "-l", place], check=False, capture_output=True)


def loop_devices(image: Path) -> str:
    """Return what still uses a disk image: nothing once its file system is really gone."""
    return subprocess.run(["losetup", "-j", image], check=True, capture_output=True, text=True).stdout


@ROOT
@pytest.mark.root
@pytest.mark.parametrize("monitor", ["fanotify", "inotify"])
@pytest.mark.parametrize("where", ["", "below"])
def test_umount(world: World, monitor: str, where: str) -> None:
    """It is not refused, and within a second (more on a busy machine) nothing holds the file system any more."""
    place = world.source / where
    with disk(world, place) as image:
        shutil.rmtree(place / "lost+found")
        with world.daemon(f"--monitor={monitor}") as daemon:
            world.wait_for_equal(daemon)
            follow(world, daemon, where)
            daemon.wait_for_log(SYNCED)
            daemon.wait_until(lambda: not daemon.at_work(), what="rest")
            assert loop_devices(image)
            unmount(place)
            daemon.wait_until(lambda: not loop_devices(image), 5, "the release of the file system")
            if where:
                world.wait_for_equal(daemon)
                assert os.listdir(world.destination / where) == []
            else:
                assert (world.destination / "one").is_dir()


@contextmanager
def attached(image: Path) -> Iterator[str]:
    """Let a file be a disk; yield the loop device."""
    done = subprocess.run(["losetup", "--find", "--show", image], check=False, capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"no loop device: {done.stderr.strip()}")
    try:
        yield done.stdout.strip()
    finally:
        subprocess.run(["losetup", "-d", done.stdout.strip()], check=False)


@pytest.fixture
def disks(world: World) -> Iterator[list[str]]:
    """Two disks of a kind whose roots all look alike, with other files of the same names, sizes and times."""
    if shutil.which("mkfs.xfs") is None:
        pytest.skip("needs mkfs.xfs")
    with ExitStack() as stack:
        devices = []
        for number in range(2):
            image = world.top / f"disk {number}"
            subprocess.run(["truncate", "-s", "320M", image], check=True)
            subprocess.run(["mkfs.xfs", "-q", image], check=True)
            devices.append(stack.enter_context(attached(image)))
            with mounted("xfs", world.top / "filled", device=devices[-1]) as place:
                for name in ("d/file", "d/other", f"only {number}"):
                    (place / name).parent.mkdir(exist_ok=True)
                    (place / name).write_text(f"{number}")
                    os.utime(place / name, ns=(10**18, 10**18))
                unmount(place)
        yield devices


def exchange(daemon: Daemon, place: Path, device: str, kind: str = "xfs") -> None:
    """Mount something else there while nobody can look."""

    def done() -> bool:
        with daemon.held():
            if subprocess.run(["umount", place], check=False, capture_output=True).returncode:
                return False  # something at work there was stopped
            mount(kind, place, device=device)
        return True

    daemon.wait_until(done, what=f"a moment at which nothing is open below {place}")


@ROOT
@pytest.mark.root
@pytest.mark.parametrize("monitor", ["fanotify", "inotify"])
@pytest.mark.parametrize("mode", MODES)
def test_a_disk_below_that_is_exchanged_before_anybody_looks(
    world: World, disks: list[str], mode: str, monitor: str
) -> None:
    """The kernel gives the new mount the number of the old one."""
    place = world.source / "m"
    with mounted("xfs", place, device=disks[0]):
        with world.daemon(f"-M{mode}", f"--monitor={monitor}", f"--state-dir={states(world)}") as daemon:
            daemon.wait_for_log(SYNCED)
            for number in (1, 0, 1):
                world.wait_for_equal(daemon)
                exchange(daemon, place, disks[number])
                world.wait_for_equal(daemon)
                world.write("m/d/other", f"later {number}")
        unmount(place)


@ROOT
@pytest.mark.root
@pytest.mark.parametrize("monitor", ["fanotify", "inotify"])
def test_the_disk_of_the_source_is_exchanged_before_anybody_looks(
    world: World, disks: list[str], monitor: str
) -> None:
    """Another one is not mirrored; what happened on the one that is back is found."""
    place = world.source
    with mounted("xfs", place, device=disks[0]):
        with world.daemon(f"--monitor={monitor}", f"--state-dir={states(world)}") as daemon:
            daemon.wait_for_log(SYNCED)
            world.wait_for_equal(daemon)
            for number in (1, 0):
                exchange(daemon, place, disks[number])
                if number:
                    daemon.wait_for_log("another directory stands there now")
            assert world.copied("only 1") is None
            world.wait_for_equal(daemon)
            world.write("d/other", "later")
            world.wait_for_equal(daemon)
        unmount(place)


@ROOT
@pytest.mark.root
@pytest.mark.parametrize("monitor", ["fanotify", "inotify"])
def test_another_directory_of_the_same_disk_is_mounted_before_anybody_looks(world: World, monitor: str) -> None:
    disk, place = world.top / "disk", world.source / "m"
    with mounted("tmpfs", disk):
        for name in ("one", "two"):
            (disk / name / "d").mkdir(parents=True)
            (disk / name / "d/file").write_text(name)
        with mounted("bind", place, device=str(disk / "one")), world.daemon(f"--monitor={monitor}") as daemon:
            daemon.wait_for_log(SYNCED)
            world.wait_for_equal(daemon)
            exchange(daemon, place, str(disk / "two"), "bind")
            world.wait_for_equal(daemon)
            world.write("m/d/file", "later")
            world.wait_for_equal(daemon)


@ROOT
@pytest.mark.root
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("monitor", ["auto", "inotify"])
def test_a_mount_that_appears_later_is_followed(world: World, mode: str, monitor: str) -> None:
    """Also one on top of it, and what was hidden below comes to light again."""
    world.write("d/hidden")
    with world.daemon(f"-M{mode}", f"--monitor={monitor}") as daemon:
        world.wait_for_equal(daemon)
        with mounted("tmpfs", world.source / "d") as first:
            world.wait_for_equal(daemon)
            follow(world, daemon, "d")
            with mounted("tmpfs", first / "d") as second:
                follow(world, daemon, "d/d")
                unmount(second)
            world.wait_for_equal(daemon)
            unmount(first)
        world.wait_for_equal(daemon)
        assert world.copied("d/hidden") == "d/hidden"


@ROOT
@pytest.mark.root
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("option", ["--one-file-system", "--exclude-mount-points"])
def test_mounts_are_left_out(world: World, mode: str, option: str) -> None:
    """Those of before and those of later, at the start and when everything is compared."""
    there = world.destination / "early"
    with mounted("tmpfs", world.source / "early"):
        world.write("early/file")
        with world.daemon(f"-M{mode}", option) as daemon:
            daemon.wait_for_log(SYNCED)
            assert there.exists() == (option == "--one-file-system")
            (world.source / "late").mkdir()
            daemon.wait_until(lambda: (world.destination / "late").is_dir(), what="the directory")
            with mounted("tmpfs", world.source / "late"):
                world.write("late/file")
                world.write("early/d/file")
                os.kill(daemon.pid, signal.SIGUSR2)
                world.write("after")
                world.wait_for_copy(daemon, "after")
                daemon.stop(signal.SIGQUIT)
                for name in ("early", "late"):
                    assert not any((world.destination / name).glob("*"))


@ROOT
@pytest.mark.root
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    "option",
    [
        "--one-file-system",
        "--exclude-mount-points",
    ],
)
def test_what_mounts_cover_is_left_alone(world: World, mode: str, option: str) -> None:
    """What the destination holds below a mount point is not deleted."""
    (world.destination / "early").mkdir()
    (world.destination / "early/own").touch()
    with mounted("tmpfs", world.source / "early"):
        done = world.run(*world.trees, f"-M{mode}", option, "--only-initialsync")
    assert done.code == 0, done.err
    assert (world.destination / "early/own").exists()


# -- users without rights --------------------------------------------------------------------------------------


AS_NOBODY = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups")


@pytest.fixture
def nobodys() -> Iterator[World]:
    """A world that belongs to nobody, in a place they can come to."""
    if os.geteuid() == 0 and subprocess.run([*AS_NOBODY, installed(), "-V"], capture_output=True, cwd="/").returncode:
        pytest.skip("nobody may not run the program where it is installed")
    with tempfile.TemporaryDirectory(prefix="clsync-nobody-") as name:
        top = Path(name)
        world = World(top)
        for path in (top, world.source, world.destination):
            path.chmod(0o755)
            os.chown(path, 65534, 65534)
        yield world


@ROOT
@pytest.mark.root
@pytest.mark.parametrize("mode", MODES)
def test_without_privileges(nobodys: World, mode: str) -> None:
    """What needs root is left out by itself, and said."""
    program = [*AS_NOBODY, installed()]
    writer = [*AS_NOBODY, "sh", "-c"]
    world = nobodys
    with Daemon(*world.trees, *QUICK, f"-M{mode}", program=program, env=world.environment, cwd=world.top) as daemon:
        daemon.wait_for_log(SYNCED)
        for number in range(3):
            script = f"mkdir -p d{number}/e && echo {number} >d{number}/e/file && ln d{number}/e/file linked{number}"
            subprocess.run([*writer, script], cwd=world.source, check=True)
            world.wait_for_equal(daemon)
        subprocess.run([*writer, "rm -r d1; mv d2 d1"], cwd=world.source, check=True)
        world.wait_for_equal(daemon)
        assert f"watching {world.source}: inotify (no fanotify: it needs root (CAP_SYS_ADMIN))" in daemon.output
        assert "Warning: the destination cannot hold owners" in daemon.output
        assert "Error" not in daemon.output, daemon.output


@ROOT
@pytest.mark.root
def test_without_privileges_others_owners_are_no_failure(nobodys: World) -> None:
    """A file of somebody else is copied, its owner is not."""
    nobodys.write("roots")
    head = list(AS_NOBODY)
    for mode in MODES:
        done = nobodys.run(*nobodys.trees, f"-M{mode}", "--only-initialsync", head=head)
        assert done.code == 0, done.err
        assert nobodys.copied("roots") == "roots"
        assert (nobodys.destination / "roots").stat().st_uid == 65534


@ROOT
@pytest.mark.root
@pytest.mark.parametrize("monitor", ["inotify", "poll"])
@pytest.mark.parametrize("mode", MODES)
def test_a_directory_that_cannot_be_read_hides_nothing_else(nobodys: World, mode: str, monitor: str) -> None:
    """Named alone; what lies beside it is watched, synced and deleted, with rules too."""
    world = nobodys
    for name in ("a/file", "closed/file", "z/file", "z/gone"):
        os.chown(world.write(name, "early").parent, 65534, 65534)
    os.chown(world.source / "closed", 0, 0)
    (world.source / "closed").chmod(0o700)
    (world.top / "rules").write_text("-f\\.tmp$\n")
    program = [*AS_NOBODY, installed()]
    options = (*QUICK, f"-M{mode}", f"--monitor={monitor}", "--poll-interval=0.2", "-R", str(world.top / "rules"))
    with Daemon(*world.trees, *options, program=program, env=world.environment, cwd=world.top) as daemon:
        world.wait_for_copy(daemon, "z/gone", "early")
        for name in ("a/file", "z/file"):
            world.write(name, "late")
            world.wait_for_copy(daemon, name, "late")
        (world.source / "z/gone").unlink()
        (world.source / "z").rename(world.source / "y")
        world.wait_for_copy(daemon, "y/file", "late")
        daemon.wait_until(lambda: not (world.destination / "z").exists(), what="the deletion")
        blamed = [line for line in daemon.output.splitlines() if line.startswith("Error")]
        assert blamed
        assert all("closed" in line for line in blamed), daemon.output


@ROOT
@pytest.mark.root
@pytest.mark.parametrize("mode", MODES)
def test_a_directory_that_cannot_be_read_appears_beside_others(nobodys: World, mode: str) -> None:
    """In one window with good files, with directories whose attributes change, and with one that becomes closed."""
    world = nobodys
    for name in ("open/file", "closing/file"):
        os.chown(world.write(name).parent, 65534, 65534)
    program = [*AS_NOBODY, installed()]
    options = ("-t0.3", "-w0", f"-M{mode}")
    with Daemon(*world.trees, *options, program=program, env=world.environment, cwd=world.top) as daemon:
        daemon.wait_for_log(SYNCED)
        good = [f"good{number}" for number in range(9)] + ["open/new", "open/file"]
        for name in good[:5]:
            world.write(name, "new")
        (world.source / "closed").mkdir(0o700)
        (world.source / "open").chmod(0o750)
        os.chown(world.source / "closing", 0, 0)
        (world.source / "closing").chmod(0o700)
        for name in good[5:]:
            world.write(name, "new")
        for name in good:
            world.wait_for_copy(daemon, name, "new")
        daemon.wait_until(lambda: "closed" in blamed(daemon), what="its name")
        assert blamed(daemon).keys() <= {"closed", "closing"}, daemon.output
        assert ".clsync-absent-" not in daemon.output, daemon.output


def blamed(daemon: Daemon) -> dict[str, str]:
    """Return what was told about paths that stay dirty: name -> reason."""
    errors = [line.removeprefix("Error: ") for line in daemon.output.splitlines() if line.startswith("Error: ")]
    return {name: reason for name, _, reason in (error.partition(": ") for error in errors)}


@ROOT
@pytest.mark.root
def test_files_that_cannot_be_read_are_tried_again_together(nobodys: World) -> None:
    """What failed in one run takes one run to be tried again, not one each."""
    world = nobodys
    names = [f"d{number % 3}/secret{number}" for number in range(40)]
    for name in names:
        os.chown(world.write(name).parent, 65534, 65534)
        (world.source / name).chmod(0o600)
    recorder = Recorder(world.top, 'exec rsync "$@"')
    program = [*AS_NOBODY, installed()]
    options = (*AT_ONCE, "-Mrsyncdirect", recorder.option, "--monitor=poll", "--poll-interval=600")
    with Daemon(*world.trees, *options, program=program, env=world.environment, cwd=world.top) as daemon:
        daemon.wait_for_log("20 more paths failed")
        with daemon.held():  # no try finds half of them
            first = len(recorder.calls)
            for name in names:
                (world.source / name).chmod(0o644)  # it is not asked for: nothing looks there for minutes
        daemon.wait_until(lambda: all(world.copied(name) == name for name in names), what="all files")
        assert first <= 2, recorder.calls
        assert len(recorder.calls) - first == 1, recorder.calls


# -- other file systems ----------------------------------------------------------------------------------------


@contextmanager
def btrfs_subvolume(world: World) -> Iterator[None]:
    place = world.top / "btrfs"
    if shutil.which("btrfs") is None:
        pytest.skip("btrfs is not installed")
    with disk(world, place, "btrfs", "128M"):
        subprocess.run(["btrfs", "subvolume", "create", place / "volume"], check=True, capture_output=True)
        with mounted("bind", world.source, "", os.fspath(place / "volume")):
            yield


@contextmanager
def overlay(world: World) -> Iterator[None]:
    with mounted("tmpfs", world.top / "layers") as layers:
        for name in ("lower", "upper", "work"):
            (layers / name).mkdir()
        (layers / "lower/d").mkdir()
        (layers / "lower/d/lower").write_text("lower")
        options = f"lowerdir={layers}/lower,upperdir={layers}/upper,workdir={layers}/work"
        try:
            mount("overlay", world.source, options)
        except subprocess.CalledProcessError:
            pytest.skip("no overlayfs here")
        try:
            yield
        finally:
            unmount(world.source)


@contextmanager
def fuse(world: World) -> Iterator[None]:
    if shutil.which("bindfs") is None:
        pytest.skip("bindfs is not installed")
    behind = world.top / "behind"
    behind.mkdir()
    if subprocess.run(["bindfs", behind, world.source], check=False).returncode:
        pytest.skip("no FUSE here")
    try:
        yield
    finally:
        unmount(world.source)


@ROOT
@pytest.mark.root
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("place", [btrfs_subvolume, overlay, fuse])
def test_file_systems_that_fanotify_cannot_mark(
    world: World, mode: str, place: Callable[[World], AbstractContextManager[None]]
) -> None:
    with place(world), world.daemon(f"-M{mode}") as daemon:
        world.wait_for_equal(daemon)
        follow(world, daemon)
        assert f"watching {world.source}: inotify (no fanotify: " in daemon.output
        daemon.stop()


@ROOT
@pytest.mark.root
@pytest.mark.parametrize("mode", MODES)
def test_a_destination_that_counts_whole_seconds(world: World, mode: str) -> None:
    """A file is rewritten, soon after it was sent, with something else of the same size."""
    with disk(world, world.destination, size="2M", options="-I 128"):
        shutil.rmtree(world.destination / "lost+found")
        with world.daemon(f"-M{mode}") as daemon:
            daemon.wait_for_log(SYNCED)
            for text in ("first", "other", "third"):
                world.write("file", text)
                world.wait_for_copy(daemon, "file", text)
                # Only what is written after the run has ended may be taken for what was sent.
                time.sleep(0.2)
            daemon.stop()
