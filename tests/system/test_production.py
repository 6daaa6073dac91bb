"""The configuration, rules, handlers and scripts that Debian's package of clsync 0.4 ships, run as they are, as root."""

from __future__ import annotations

import os
import platform
import re
import shutil
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from tests.support.daemon import Daemon
from tests.support.modules import example, our_flags
from tests.support.site import Site, site
from tests.support.trees import Snapshot, snapshot
from tests.support.waiting import wait_until
from tests.system.world import ROOT, SYNCED, WATCHING

pytestmark = [ROOT, pytest.mark.root]

SOON = ("-t0.1", "-w0.1", "-T0.1")
"""In place of the delays of the files, of 1 s to 12 hours; on the command line, all else is as it is written."""
LABEL = "web"
SOURCE = f"/srv/lxc/{LABEL}"
UNKNOWN = {
    "hpc": ["auto-add-rules-w"],
    "hpc-backup": [],
    "lxc": ["syslog", "rules-path"],
}
"""Keys of the blocks that no version of clsync has had, or none for long. They are named in a warning."""
SITE_COMMANDS = {
    "brothername": "echo localhost",
    "backuphost": "echo localhost",
    "clustername": "echo cluster",
    "ping": '[ "$*" = "-w 1 -qc 5 -i 0.1 localhost" ]',
    "brotherssh": 'echo "$*" >>/run/brotherssh; rm -f "/mnt/brother$3"',
    # pdcp -a FILE... DIRECTORY copies to all nodes.
    "pdcp": """[ "$1" = -a ] || exit 1; shift
for place; do :; done
echo "$PWD: $*" >>/run/pdcp
for node in /mnt/node1 /mnt/node2; do
    for file; do [ "$file" = "$place" ] || cp -p "$file" "$node$place" || exit 1; done
done""",
    "sudo": 'exec "$@"',
}
"""Programs of the sites these files come from, and what is not installed everywhere."""
RSYNCD = """
uid = 0
gid = 0
use chroot = no
munge symlinks = no
read only = no
auth users = cluster
secrets file = /etc/rsyncd.secrets
pid file = /run/rsyncd.pid
log file = /run/rsyncd.log
[lxc]
path = /mnt/brother/srv/lxc
[{host}]
path = /mnt/store
"""


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Site]:
    """Return a machine with these files in `/etc/clsync`, and the commands of its site."""
    files = example("production/etc/clsync")
    with site(tmp_path) as made:
        shutil.copytree(files, made.path("/etc/clsync"))
        for name, script in SITE_COMMANDS.items():
            made.command(name, script)
        yield made


@contextmanager
def rsync_daemon(place: Site) -> Iterator[None]:
    """Run the rsync daemon of the brother, who keeps copies in /mnt/brother, and of the host of backups, in /mnt/store."""
    for name in ("/mnt/brother/srv/lxc", f"/mnt/store/mirror/{LABEL}"):
        place.path(name).mkdir(parents=True)
    place.write("/etc/rsyncd.conf", RSYNCD.format(host=platform.node()))
    place.write("/etc/rsyncd.secrets", "cluster:secret\n", 0o600)
    for name in ("/etc/rsyncd.pass", "/etc/backup.pass"):
        place.write(name, "secret\n", 0o600)
    with place.program("rsync", "--daemon", "--no-detach", "--config=/etc/rsyncd.conf") as server:
        server.wait_until(lambda: place.listens(873), what="the rsync daemon")
        yield
        server.kill()  # its exit code means nothing here


def troubles(output: str) -> list[str]:
    """Return what clsync has to complain about; the handlers in bash tell each step (`-x`)."""
    lines = [line for line in output.splitlines() if line.startswith(("Error", "Warning", "clsync", "Critical"))]
    return [line for line in lines if not line.startswith("Warning: interrupted: ")]  # by TERM


def demand_no_troubles(output: str, block: str) -> None:
    """Fail if clsync complains of something else than the keys that it does not know."""
    unknown = re.compile(r"Warning: /etc/clsync/clsync\.conf, line \d+: (\S+): there is no such option\b.*")
    assert [match and match[1] for match in map(unknown.fullmatch, troubles(output))] == UNKNOWN[block], output


def plant(place: Site, top: str) -> Path:
    """Make a small tree with names of all kinds; return its path."""
    for name in ("file", "deep/er/file", "odd name [x]*?", "back\\slash", "tmp/kept"):
        place.write(f"{top}/{name}", name)
    path = place.path(top)
    (path / "link").symlink_to("file")
    (path / "hard").hardlink_to(path / "file")
    (path / "empty").mkdir(mode=0o750)
    os.chown(path / "file", 1000, 1001)
    return path


def content(top: Path, left_out: Sequence[str] = ()) -> Snapshot:
    """Return what a tree holds, but for times: the rsync of these handlers compares them by the second."""
    ignored = tuple(map(os.fsencode, left_out))
    found = snapshot(bytes(top), lambda path: path in ignored)
    return {path: entry._replace(mtime_ns=0) for path, entry in found.items()}


def wait_for_content(daemon: Daemon, source: Path, destination: Path, left_out: Sequence[str] = ()) -> None:
    """Wait until two trees hold the same, but for some paths; a directory that is to be made counts as empty."""
    daemon.wait_until(
        lambda: destination.exists() and content(source, left_out) == content(destination, left_out),
        what="equal content",
    )


# -- the blocks of the cluster: handlers in C ------------------------------------------------------------------


def make_handlers(place: Site) -> None:
    """Compile the handlers as they are, by the Makefile that is shipped with them, with our headers."""
    if shutil.which("make") is None or shutil.which("strip") is None:
        pytest.skip("no make, or no binutils")
    headers = [flag.removeprefix("-I") for flag in our_flags() if flag.startswith("-I")]
    done = place.run("make", "-C", "/etc/clsync/synchandler/hpc", env={"CPATH": ":".join(headers)})
    assert done.code == 0, done.text
    assert "warning" not in done.text, done.text


NODES = ("/mnt/node1", "/mnt/node2")


@pytest.fixture
def nodes(place: Site) -> Site:
    """Return the machine with handlers in C, and nodes to copy to."""
    make_handlers(place)
    place.path("/usr/bin/pdcp").symlink_to("/usr/local/bin/pdcp")
    for node in NODES:
        place.path(f"{node}/etc").mkdir(parents=True)
    return place


def on_node(place: Site, node: str) -> dict[str, str]:
    """Return what a node was given: name -> text."""
    return {path.name: path.read_text() for path in place.path(f"{node}/etc").iterdir()}


def test_hpc(nodes: Site) -> None:
    """Its rules reject the watched directory itself: nothing is synced, by clsync 0.4.5 neither. A warning says so.

    A rule that lets the directory be walked is what the files of the cluster need, from elsewhere.
    """
    with nodes.program("clsync", "-Khpc", *SOON) as daemon:
        daemon.wait_for_log(SYNCED)
        nodes.write("/etc/machines", "node1 node2\n")
        daemon.stop(signal.SIGQUIT)
        *others, warning = troubles(daemon.output)
        assert "-*.*: rejects the watched directory itself: nothing in it is ever synced" in warning
        demand_no_troubles("\n".join(others), "hpc")
    assert nodes.read("/run/pdcp") is None
    rules = nodes.read("/etc/clsync/rules/hpc")
    nodes.write("/etc/clsync/rules/hpc-walked", f"+w^$\n{rules}")
    nodes.write("/etc/shadow", "not for them")
    with nodes.program("clsync", "-Khpc", "-R/etc/clsync/rules/hpc-walked", *SOON) as daemon:
        wanted = {name: nodes.read(f"/etc/{name}") for name in ("passwd", "group", "hosts", "machines")}
        daemon.wait_until(lambda: all(on_node(nodes, node) == wanted for node in NODES), what="files on the nodes")
        changed = {"machines": "node1 node2 node3\n", "passwd-": "an older one"}
        wanted |= changed
        nodes.write("/etc/machines", changed["machines"])
        nodes.write("/etc/shadow", "still not for them")
        nodes.write("/etc/passwd-", changed["passwd-"])
        daemon.wait_until(lambda: all(on_node(nodes, node) == wanted for node in NODES), what="changes on the nodes")
        daemon.stop()
        demand_no_troubles(daemon.output, "hpc")
    calls = (nodes.read("/run/pdcp") or "").splitlines()
    assert all(call.startswith("/etc: ") and call.endswith(" /etc") for call in calls), calls


def test_hpc_backup(nodes: Site) -> None:
    """All of the machine but what rules reject and what is mounted; replaced files are kept beside the mirror."""
    mirror = nodes.path("/mnt/backup/mirror")
    mirror.mkdir(parents=True)
    plant(nodes, "/srv/data")
    for name in ("/home/one/file", "/usr/mounted", "/srv/.ccache/x", "/srv/data/x.swp", "/var/cache/x", "/var/kept"):
        nodes.write(name, "as it was")
    with nodes.program("clsync", "-Khpc-backup", *SOON) as daemon:
        daemon.wait_for_log(SYNCED)
        assert {path.name for path in mirror.iterdir()} == {path.name for path in nodes.path("/").iterdir()} - {
            "dev",
            "home",
            "mnt",
            "proc",
            "run",
            "tmp",
        }
        assert list((mirror / "usr").iterdir()) == []
        assert {path.name for path in (mirror / "var").iterdir()} == {"kept", "run"}
        left_out: tuple[str, ...] = ("data/x.swp", ".ccache")
        wait_for_content(daemon, nodes.path("/srv"), mirror / "srv", left_out)
        assert not any((mirror / "srv" / name).exists() for name in left_out)
        assert oct(nodes.path("/dev/shm/clsync").stat().st_mode & 0o777) == "0o700"
        nodes.write("/srv/data/file", "changed")
        shutil.rmtree(nodes.path("/srv/data/deep"))
        nodes.write("/srv/new/x.lock", "locked")
        nodes.write("/srv/new/file", "new")
        left_out = (*left_out, "new/x.lock")
        wait_for_content(daemon, nodes.path("/srv"), mirror / "srv", left_out)
        assert not (mirror / "srv/new/x.lock").exists()
        assert nodes.read("/mnt/backup/decrement/srv/data/deep/er/file") == "deep/er/file"
        daemon.stop(signal.SIGQUIT)
        demand_no_troubles(daemon.output, "hpc-backup")
    assert not nodes.path("/dev/shm/clsync").exists()


# -- the blocks of the containers: handlers in bash, rsync daemons at the other end ----------------------------


def lxc(place: Site, block: str, *options: str) -> Daemon:
    """Return the program as it is called for a block, not started."""
    return place.program("clsync", "-l", LABEL, "-K", block, *options)


def demand_clean_end(place: Site, daemon: Daemon, name: str) -> None:
    """Fail if the hook did not run as it is to, or something is left."""
    demand_no_troubles(daemon.output, "lxc")
    status = f"{SOURCE}/clsync-{name}.status"
    assert place.read("/run/brotherssh") == f"rm -f {status}\n"
    assert place.read(status) is None
    assert place.read(f"/var/run/clsync-{LABEL}-{name}.pid") is None
    assert not place.path(f"/dev/shm/clsync-{LABEL}-{name}").exists()


def test_lxc_brother(place: Site) -> None:
    """In the background, batches overlapping; the status goes along with the tree, and the hook takes it away."""
    source, brother = plant(place, SOURCE), place.path(f"/mnt/brother{SOURCE}")
    status = f"{SOURCE}/clsync-brother.status"
    with rsync_daemon(place), lxc(place, "lxc-brother", *SOON) as daemon:
        assert daemon.process is not None
        assert daemon.process.wait(30) == 0, daemon.output
        pid = int(place.read(f"/var/run/clsync-{LABEL}-brother.pid") or 0)
        assert pid in daemon.family()
        wait_until(lambda: place.read(status) == "running" == place.read(f"/mnt/brother{status}"), "the status")
        wait_until(lambda: content(source) == content(brother), "equal content")
        place.write(f"{SOURCE}/deep/er/file", "changed")
        place.write(f"{SOURCE}/new/deep/file", "new")
        place.write(f"{SOURCE}/dmesg", "excluded by the handler, but in the initial sync")
        (source / "hard").unlink()
        shutil.rmtree(source / "empty")
        wait_until(lambda: content(source, ["dmesg"]) == content(brother, ["dmesg"]), "the changes")
        assert place.read(f"/mnt/brother{SOURCE}/dmesg") is None
        os.kill(pid, signal.SIGIO)
        dump = f"/tmp/clsyncdump-{LABEL}-brother"
        wait_until(lambda: (place.read(f"{dump}/instance") or "").startswith("status == running\n"), "the dump")
        os.kill(pid, signal.SIGQUIT)
        wait_until(lambda: not daemon.family(), "the end")
        demand_clean_end(place, daemon, "brother")
    assert place.read(f"/mnt/brother{status}") is None
    assert content(source, ["dmesg"]) == content(brother, ["dmesg"])


def test_lxc_brother_atomic_sync(place: Site) -> None:
    """Once, until nothing is left to do."""
    source, brother = plant(place, SOURCE), place.path(f"/mnt/brother{SOURCE}")
    with rsync_daemon(place), lxc(place, "lxc-brother-atomic-sync", *SOON) as daemon:
        daemon.wait()
        demand_clean_end(place, daemon, "brother")
    assert content(source) == content(brother)


def test_lxc_brother_initialsync(place: Site) -> None:
    """Once, with its own delays; what is only at the brother's goes."""
    source, brother = plant(place, SOURCE), place.path(f"/mnt/brother{SOURCE}")
    with rsync_daemon(place), lxc(place, "lxc-brother-initialsync") as daemon:
        daemon.wait()
        demand_clean_end(place, daemon, "brother")
        assert WATCHING not in daemon.output
    # The status that was written meanwhile has no later batch to be deleted by: the hook does that.
    assert content(source) == content(brother)


def test_lxc_backup(place: Site) -> None:
    """What is replaced is kept by the other end; TERM ends it."""
    source, mirror = plant(place, SOURCE), place.path(f"/mnt/store/mirror/{LABEL}")
    with rsync_daemon(place), lxc(place, "lxc-backup", *SOON, "-b0") as daemon:
        wait_for_content(daemon, source, mirror)
        place.write(f"{SOURCE}/file", "changed")
        (source / "link").unlink()
        wait_for_content(daemon, source, mirror)
        assert place.read(f"/mnt/store/decrement/{LABEL}/file") == "file"
        assert place.read(f"/var/run/clsync-{LABEL}-backup.pid") == str(daemon.pid)
        assert place.read(f"{SOURCE}/clsync-backup.status") == "running"
        daemon.stop()
        demand_clean_end(place, daemon, "backup")


def test_a_brother_who_is_away(place: Site) -> None:
    """The handler says so by its exit code; after the tries of the block it is the program's."""
    plant(place, SOURCE)
    place.command("brothername", "echo nowhere")
    place.command("sleep", "exit 0")  # for an hour and more
    with lxc(place, "lxc-brother-initialsync", "-w0.1") as daemon:
        assert daemon.wait(code=None) == 128
        assert daemon.output.count("\n+ ACTION=rsynclist\n") >= 3  # retries = 3


# -- the scripts that start it ---------------------------------------------------------------------------------

RULES = "-d^[Dd]ont[Ss]ync$\n+*.*\n"
"""What the scripts write to a file."""


def processes_named(daemon: Daemon, name: str) -> list[int]:
    """Return the processes of a run that have a name (proc_pid_comm(5))."""
    found = []
    for pid in daemon.family():
        with suppress(FileNotFoundError, ProcessLookupError):
            if Path(f"/proc/{pid}/comm").read_text() == f"{name}\n":
                found.append(pid)
    return found


def process_named(daemon: Daemon, name: str) -> int:
    """Return the id of the only process of a run that has a name; one that is to become another has it for a moment."""
    found: list[int] = []

    def alone() -> bool:
        found[:] = processes_named(daemon, name)
        return len(found) == 1

    daemon.wait_until(alone, what=f"only one {name}")
    return found[0]


@pytest.mark.parametrize("name", ["rsyncdirect", "rsyncshell", "so", "rsyncso"])
def test_start_script(place: Site, name: str) -> None:
    """Run with nothing but delays added; the block it names is nowhere to be found."""
    place.path("/etc/clsync/clsync.conf").unlink()
    for file in (f"clsync-start-{name}.sh", "clsync-synchandler-rsyncshell.sh", f"clsync-synchandler-{name}.c"):
        if (example("clsync-start-so.sh").parent / file).exists():
            place.path("/srv/start").mkdir(exist_ok=True)
            shutil.copy2(example(file), place.path(f"/srv/start/{file}"))
    source, destination = place.path("/srv/start/testdir/from"), place.path("/srv/start/testdir/to")
    place.write("/srv/start/testdir/from/dontSync/file", "not synced")
    if name != "so":  # its handler copies files with cp(1), and nothing else
        plant(place, "/srv/start/testdir/from")
    environment = {"CPATH": ":".join(flag.removeprefix("-I") for flag in our_flags())} if name.endswith("so") else {}
    with place.program(f"./clsync-start-{name}.sh", *SOON, cwd="/srv/start", env=environment) as daemon:
        daemon.wait_for_log(SYNCED)
        place.write("/srv/start/testdir/from/later", "later")
        daemon.wait_until(lambda: place.read("/srv/start/testdir/to/later") == "later", what="a later file")
        if name != "so":
            shutil.rmtree(source / "deep")
            wait_for_content(daemon, source, destination, ["dontSync"])
        assert not (destination / "dontSync").exists()
        os.kill(process_named(daemon, "clsync"), signal.SIGQUIT)
        daemon.wait()
        (said,) = troubles(daemon.output)
        assert said == "Warning: --config-block without a configuration file: the command line alone counts"
    assert place.read("/srv/start/rules") == RULES


# -- the service -----------------------------------------------------------------------------------------------

UNIT = "/etc/systemd/system/clsync@.service"


@pytest.fixture
def unit(place: Site) -> str:
    """Return the text of the unit as it is installed; the machine has it, too."""
    installed = Path(sys.prefix) / "lib/systemd/system/clsync@.service"
    text = installed.read_text()
    place.write(UNIT, text)
    return text


def test_the_unit_is_accepted(place: Site, unit: str) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not installed")
    place.command("man", "exit 0")  # it looks for the manual pages that are named
    done = place.run("systemd-analyze", "verify", UNIT)
    assert (done.code, done.text) == (0, "")
    place.path("/usr/local/bin/clsync").unlink()
    place.path("/usr/bin/clsync").unlink(missing_ok=True)
    assert "clsync is not executable" in place.run("systemd-analyze", "verify", UNIT).text


def test_the_unit_runs_a_block(place: Site, unit: str) -> None:
    """As the script that sets one up; the options of the service go before those of the block."""
    place.command("systemctl", 'echo "$*" >>/run/systemctl')
    shutil.copy2(example("clsync-systemd.sh"), place.path("/srv/clsync-systemd.sh"))
    assert place.run("/srv/clsync-systemd.sh").code == 0
    instance = "clsync@SomeConfig"
    assert place.read("/run/systemctl") == f"enable {instance}\nstart {instance}\nstatus {instance}\n"
    with open(place.path("/etc/clsync/clsync.conf"), "a") as file:
        file.write("background = 1\n")
    options = dict(line.split("=", 1) for line in unit.splitlines() if "=" in line and not line.startswith("#"))
    name, _, arguments = options["Environment"].strip('"').partition("=")
    words = options["ExecStart"].replace("%i", "SomeConfig").replace(f"${name}", arguments).split()
    # The installation may be mounted below /tmp.
    with place.program(*words, "-t0.1", "--one-file-system") as daemon:
        daemon.wait_for_log(SYNCED)
        place.write("/tmp/new", "")
        daemon.wait_for_log(" /tmp/new\n")
        daemon.stop()


def test_the_unit_says_what_debians_says(unit: str) -> None:
    """The same instances, the same files of arguments."""
    theirs = Path("/lib/systemd/system/clsync@.service")
    if not theirs.exists():
        pytest.skip("Debian's package clsync is not installed")
    for line in theirs.read_text().splitlines():
        if line.startswith(("EnvironmentFile=", "Type=", "IOSchedulingClass=", "WantedBy=")):
            assert line in unit.splitlines()
    assert "ExecStart=clsync -K %i $CLSYNC_ARGS_SYSTEMD" in unit.splitlines()
