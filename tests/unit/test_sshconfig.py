"""What ssh looks at, by what it says of its configuration: files under other names than they are written with."""

from __future__ import annotations

import pytest

from clsync.privilege.sshconfig import Caller, SshConfig

CALLER = Caller(b"me", 12, b"/home/me", b"here.example", {b"KEYS": b"/keys", b"KRB5CCNAME": b"FILE:/tickets"})


def config(text: str, host: bytes = b"he@there") -> SshConfig:
    return SshConfig(host, f"user he\nhostname there.example\nport 2222\n{text}\n".encode(), CALLER)


@pytest.mark.parametrize(
    ("line", "path"),
    [
        ("identityfile /a b/%n_%h_%p_%r", b"/a b/there_there.example_2222_he"),
        ("identityfile %d/%u%%%i", b"/home/me/me%12"),
        ("identityfile ${KEYS}/%L", b"/keys/here"),
        ("identityfile ~/key", b"/home/me/key.pub"),
        ("identityfile ~root/key", b"/root/key"),
        ("certificatefile %l", b"here.example"),
        ("hostkeyalias alias\nuserknownhostsfile ~/one /two/%k", b"/two/alias"),
        ("gssapiauthentication yes", b"/tickets"),
    ],
)
def test_files_under_the_names_that_they_have(line: str, path: bytes) -> None:
    found = config(line)
    assert found.obstacle(on_the_way=False) == ""
    assert path in [allowed.path for allowed in found.files()]


@pytest.mark.parametrize(
    ("line", "on_the_way", "option"),
    [
        ("proxycommand nc %h 22", False, "proxycommand"),
        ("proxycommand none", False, ""),
        ("identityfile /x/%C", False, "identityfile"),
        ("certificatefile ${NOWHERE}/x", False, "certificatefile"),
        ("controlmaster auto\ncontrolpath /x", False, ""),
        ("controlmaster auto\ncontrolpath /x", True, "controlmaster"),
        ("controlmaster false\ncontrolpath /x", True, ""),
        ("controlmaster auto", True, ""),
    ],
)
def test_what_does_not_go_with_a_sandbox(line: str, on_the_way: bool, option: str) -> None:
    assert config(line).obstacle(on_the_way).rpartition(": ")[2] == option


def test_hosts_on_the_way() -> None:
    assert config("proxyjump a,me@b:22,ssh://c").jumps() == [b"ssh://a", b"ssh://me@b:22", b"ssh://c"]
    assert config("proxyjump none").jumps() == []
