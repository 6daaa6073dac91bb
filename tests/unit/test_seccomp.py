"""The filter of system calls: what an event loop needs goes on, what it never asks for ends it."""

from __future__ import annotations

import platform
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from clsync.kernel import seccomp
from clsync.privilege.seccomp import ALLOWED, CONDITIONS, NEVER

HEADERS = {
    "x86_64": "/usr/include/x86_64-linux-gnu/asm/unistd_64.h",
    "aarch64": "/usr/include/asm-generic/unistd.h",
}
WORK = """
import asyncio, ctypes, gc, logging, logging.handlers, os, signal, socket, sys, tempfile, threading
from clsync.kernel import inotify
from clsync.privilege import seccomp

place = tempfile.mkdtemp()
threading.Thread(target=lambda: None).start()
seccomp.confine()

async def serve(reader, writer):
    writer.write(await reader.readline())
    await writer.drain()
    writer.close()

async def main():
    loop = asyncio.get_running_loop()
    server = await asyncio.start_unix_server(serve, place + "/socket")
    log = logging.handlers.RotatingFileHandler(place + "/log", maxBytes=10, backupCount=2)
    woken = asyncio.Event()
    loop.add_signal_handler(signal.SIGUSR1, woken.set)
    queue = inotify.open_instance()
    inotify.add_watch(queue, place.encode())
    for number in range(20):
        reader, writer = await asyncio.open_unix_connection(place + "/socket")
        writer.write(b"text\\n")
        assert await reader.readline() == b"text\\n"
        writer.close()
        assert await asyncio.to_thread(lambda: sum(1 for _ in os.scandir("/proc/self")))
        gc.collect()
        log.emit(logging.makeLogRecord({"msg": "long enough to begin a new file"}))
        descriptor, name = tempfile.mkstemp(dir=place)
        os.write(descriptor, b"text")
        os.fsync(descriptor)
        os.close(descriptor)
        os.rename(name, place + "/state")
        os.lstat(place + "/state")
        assert os.read(queue, 65536)
        woken.clear()
        os.kill(os.getpid(), signal.SIGUSR1)
        await woken.wait()
        await asyncio.sleep(0.001)
    server.close()

asyncio.run(main())
for name in os.listdir(place):
    os.unlink(place + "/" + name)
os.rmdir(place)
for what, refused in (
    ("internet", lambda: socket.socket(socket.AF_INET)),
    ("fork", os.fork),
    ("owner", lambda: os.chown("/tmp", 0, 0)),
    ("terminal", lambda: __import__("fcntl").ioctl(0, 0x5412, b"x")),
):
    try:
        refused()
    except PermissionError:
        print(what)
    except OSError as error:
        print(what, "otherwise", error)
sys.stdout.flush()
"""
"""What a worker does, in a process that has confined itself; then what it must not do."""


def confined(more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", WORK + more], capture_output=True, text=True, timeout=60, check=False
    )


needs_numbers = pytest.mark.skipif(platform.machine() not in HEADERS, reason="its system calls are not known here")


@needs_numbers
@pytest.mark.parametrize(
    "never",
    [
        "os.execv('/bin/true', ['true'])",
        "os.setresuid(0, 0, 0)",
        "os.chroot('/')",
        "ctypes.CDLL(None).ptrace(0, 0, 0, 0)",
        "ctypes.CDLL(None).unshare(0x10000000)",
        "ctypes.CDLL(None).mount(b'none', b'/mnt', b'tmpfs', 0, None)",
    ],
)
def test_an_event_loop_works_and_nothing_else(never: str) -> None:
    """What is refused is an error; what is never asked for ends the process."""
    done = confined(f"{never}\nprint('still here')\n")
    assert done.stdout.splitlines()[:4] == ["internet", "fork", "owner", "terminal"], done.stderr
    assert "still here" not in done.stdout
    assert done.returncode == -signal.SIGSYS, done.stderr


@needs_numbers
def test_threads_that_run_already_are_confined_too() -> None:
    script = """
import os, socket, threading
from clsync.privilege import seccomp
begin, found = threading.Event(), []
def attempt():
    begin.wait()
    try:
        socket.socket(socket.AF_INET)
    except PermissionError:
        found.append("refused")
other = threading.Thread(target=attempt)
other.start()
seccomp.confine()
begin.set()
other.join()
print(*found, open("/proc/self/status").read())
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.startswith("refused")
    assert re.search(r"^NoNewPrivs:\t1$", done.stdout, re.M)
    assert re.search(r"^Seccomp:\t2$", done.stdout, re.M)


def test_names_are_known_and_no_call_is_both() -> None:
    assert seccomp.unknown({*ALLOWED, *NEVER, *CONDITIONS, "clone3"}) == set()
    assert not {*ALLOWED, *CONDITIONS} & set(NEVER)
    assert not set(ALLOWED) & CONDITIONS.keys()


@pytest.mark.parametrize(("machine", "header"), HEADERS.items())
def test_numbers_are_those_of_the_kernel(machine: str, header: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if not Path(header).exists():
        pytest.skip("needs the headers of the C library")
    monkeypatch.setattr(platform, "machine", lambda: machine)
    text = Path(header).read_text()
    defined = {name: int(number) for name, number in re.findall(r"#define __NR(?:3264)?_(\w+)\s+(\d+)", text)}
    defined.setdefault("newfstatat", defined.get("fstatat", -1))
    newest = max(defined.values())  # headers may be older than a call
    numbers = {name: number for name, number in seccomp.numbers().items() if number <= newest}
    assert len(numbers) > len(seccomp.numbers()) - 5
    assert {name: defined.get(name) for name in numbers} == numbers
