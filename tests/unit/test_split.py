"""The two ends of a daemon that is split, where the start goes wrong."""

from __future__ import annotations

import subprocess
import sys
from threading import Thread
from typing import NoReturn

import pytest

from clsync.privilege.port import Caller, socket_pair
from clsync.privilege.wire import SIGNATURES, Frames, Kind, Op, framed, pack

_THREAD = """
from types import SimpleNamespace
from clsync.daemon.log import Log
from clsync.daemon.split import Worker, run_as_thread
from clsync.errors import OperatorError

class Confinement:
    def become_broker(self):
        raise OperatorError("no rights", "be root", 10)

    def become_worker(self, *, alone, room, last):
        pass

def mirror(handlers, parts, access, preparation, ready):
    access.write_status("running")

plan = SimpleNamespace(log=Log())
worker = Worker(SimpleNamespace(custom_signals={}), [plan], mirror, None, Confinement())
import clsync.daemon.split as split
split.make_parts = lambda plans, access: None
split.RemoteAccess.first_handlers = lambda self: []
run_as_thread(worker, lambda: None, lambda: print("cleaned up", flush=True))
"""


def test_a_thread_that_cannot_get_its_rights_is_not_waited_for() -> None:
    done = subprocess.run([sys.executable, "-c", _THREAD], capture_output=True, text=True, timeout=20, check=False)
    assert (done.returncode, done.stdout) == (10, "cleaned up\n")
    assert done.stderr == "Error: no rights; be root\n"


def test_what_a_signal_has_cut_short_is_asked_in_vain() -> None:
    """The signal ends the worker, which has one thing more to say: the answer before is not taken for that to it."""

    def gone() -> NoReturn:
        raise AssertionError("nobody answers")

    asking, answering = socket_pair()
    caller = Caller(asking, gone)

    def answer() -> None:
        frames = Frames()
        for op in (Op.STANDBY, Op.ENDED):
            while (frame := frames.next()) is None:
                frames.feed(answering.recv(65536))
            values = (True,) if op is Op.STANDBY else ()
            if op is Op.STANDBY:
                late.append(framed(op, Kind.END, frame.number, pack(SIGNATURES[op].end, *values)))
            else:
                answering.sendall(late[0] + framed(op, Kind.END, frame.number, b""))

    late: list[bytes] = []
    thread = Thread(target=answer)
    thread.start()
    asking.settimeout(0.2)
    with pytest.raises(TimeoutError):
        caller.call(Op.STANDBY)
    asking.settimeout(None)
    assert caller.call(Op.ENDED, 143) == []
    thread.join()
    asking.close()
    answering.close()
