"""Completion for bash and zsh, made from the option table."""

from __future__ import annotations

from collections.abc import Iterator

from clsync.options import ctl, verify
from clsync.options.table import FIXED, OPTIONS, Option, Takes

_MADE = "# Made by `make docs` from src/clsync/options/table.py; changes here are lost."

_BASH = """\
# bash completion for clsync
{made}

_clsync() {{
    local cur=${{COMP_WORDS[COMP_CWORD]}} prev=${{COMP_WORDS[COMP_CWORD-1]}} word
    COMPREPLY=()
    # What follows -- belongs to the handler.
    for word in "${{COMP_WORDS[@]:1:COMP_CWORD-1}}"; do
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
        prev=${{COMP_WORDS[COMP_CWORD-2]}}
    fi
    if [[ ${{COMP_WORDS[1]}} == ctl && $COMP_CWORD -gt 1 ]]; then
        case $prev in
{ctl_cases}
        esac
        mapfile -t COMPREPLY < <(compgen -W '{ctl_words}' -- "$cur")
        return
    fi
    case $prev in
{cases}
    esac
    [[ $COMP_CWORD -eq 1 ]] && word='ctl doctor verify wait' || word=
    [[ ${{COMP_WORDS[1]}} == verify ]] && word='{verify_words}'
    mapfile -t COMPREPLY < <(compgen -W "{words} $word" -- "$cur")
    if [[ ${{#COMPREPLY[@]}} -eq 1 && ${{COMPREPLY[0]}} == *= ]]; then
        compopt -o nospace 2>/dev/null
    fi
}}
complete -F _clsync clsync
"""

_BASH_ACTIONS = {
    "dir": 'compgen -d -- "$cur"',
    "file": 'compgen -f -- "$cur"',
    "command": 'compgen -c -- "$cur"',
    "user": 'compgen -u -- "$cur"',
    "group": 'compgen -g -- "$cur"',
}
_ZSH_ACTIONS = {
    "dir": "_files -/",
    "file": "_files",
    "command": "_command_names -e",
    "user": "_users",
    "group": "_groups",
}


def bash() -> str:
    """Return completions/clsync.bash."""
    cases = "\n".join(_bash_case(option) for option in OPTIONS if option.takes is Takes.VALUE)
    words = " ".join(word for option in OPTIONS for word in _bash_words(option))
    return _BASH.format(
        made=_MADE,
        cases=cases,
        words=words,
        ctl_cases=_ctl_cases(),
        ctl_words=_ctl_words(),
        verify_words=" ".join(f"--{option.name}" for option in verify.OPTIONS),
    )


def _ctl_cases() -> str:
    """Return what is offered after words of `clsync ctl` that have to be followed by something."""
    rows = {f"--{o.name}" + (f"|-{o.short}" if o.short else ""): o.completes for o in ctl.OPTIONS if o.metavar}
    rows |= {command.name: "dir" if "DIR" in command.operands else "" for command in ctl.COMMANDS if command.operands}
    rows["set"] = " ".join(o.name for o in OPTIONS if o.takes is not Takes.NOTHING and o.name not in FIXED)
    return "\n".join(f"    {_bash_row(names, offered)}" for names, offered in rows.items())


def _ctl_words() -> str:
    return " ".join((*(c.name for c in ctl.COMMANDS), *(f"--{option.name}" for option in ctl.OPTIONS)))


def _bash_words(option: Option) -> Iterator[str]:
    yield f"--{option.name}" + ("=" if option.takes is Takes.VALUE else "")
    if option.short:
        yield f"-{option.short}"


def _bash_case(option: Option) -> str:
    """Return what is offered after an option that needs a value."""
    names = f"--{option.name}" + (f"|-{option.short}" if option.short else "")
    return _bash_row(names, option.completes)


def _bash_row(names: str, offered: str) -> str:
    if not offered:
        return f"        {names}) return ;;"
    action = _BASH_ACTIONS.get(offered, f"compgen -W '{offered}' -- \"$cur\"")
    paths = "compopt -o filenames 2>/dev/null; " if offered in ("dir", "file") else ""
    return f"        {names}) {paths}mapfile -t COMPREPLY < <({action}); return ;;"


def zsh() -> str:
    """Return completions/_clsync."""
    specs = "".join(f"    {_zsh_spec(option)} \\\n" for option in OPTIONS)
    ours = f"{_zsh_ctl()}\n{_zsh_verify()}\n_arguments -s -S \\\n    $own \\\n"
    return f"#compdef clsync\n{_MADE}\n\n{ours}{specs}    '*:handler argument:_files'\n"


def _zsh_ctl() -> str:
    """Return the part for `clsync ctl`."""
    options = "".join(f"        {_zsh_ctl_spec(option)} \\\n" for option in ctl.OPTIONS)
    commands = " ".join(command.name for command in ctl.COMMANDS)
    return (
        "if (( CURRENT > 2 )) && [[ $words[2] == ctl ]]; then\n"
        "    shift words; (( CURRENT-- ))\n"
        f"    _arguments -s \\\n{options}        '1:command:({commands})' '*:argument:_files'\n"
        "    return\n"
        "fi\n"
    )


def _zsh_verify() -> str:
    """Return the part for `clsync verify`: options of its own, beside those of the daemon."""
    own = " ".join(f"'--{option.name}[{option.help}]'" for option in verify.OPTIONS)
    return (
        "local -a own\n"
        "if (( CURRENT > 2 )) && [[ $words[2] == verify ]]; then\n"
        "    shift words; (( CURRENT-- ))\n"
        f"    own=({own})\n"
        "fi\n"
    )


def _zsh_ctl_spec(option: ctl.CtlOption) -> str:
    value = f":{option.metavar}:{_ZSH_ACTIONS.get(option.completes, ' ')}" if option.metavar else ""
    after = "=" if option.metavar else ""
    return f"'--{option.name}{after}[{option.help.replace('[', '(').replace(']', ')')}]{value}'"


def _zsh_spec(option: Option) -> str:
    """Return one specification of _arguments (zshcompsys(1))."""
    short = f"-{option.short}" if option.short else ""
    after = {Takes.VALUE: ("+", "="), Takes.OPTIONAL: ("-", "=-"), Takes.NOTHING: ("", "")}[option.takes]
    forms = [name + mark for name, mark in ((short, after[0]), (f"--{option.name}", after[1])) if name]
    names = "{" + ",".join(forms) + "}" if len(forms) > 1 else forms[0]
    repeated = option.takes is Takes.OPTIONAL or "repeated" in option.details
    before = "'*'" if repeated else f"'({short} --{option.name})'" if short else ""
    text = _zsh_quoted(f"[{option.help}]".replace(":", "\\:"))
    return f"{before}{names}{text[:-1]}{_zsh_value(option)}'"


def _zsh_value(option: Option) -> str:
    if option.takes is Takes.NOTHING:
        return ""
    colons = ":" if option.takes is Takes.VALUE else "::"
    offered = option.completes
    action = _ZSH_ACTIONS.get(offered, f"({offered})") if offered else " "
    name = option.metavar.replace("[", "").replace("]", "").replace(":", "\\:")
    return f"{colons}{_zsh_quoted(name)[1:-1]}:{action}"


def _zsh_quoted(text: str) -> str:
    return "'" + text.replace("'", "'\\''") + "'"
