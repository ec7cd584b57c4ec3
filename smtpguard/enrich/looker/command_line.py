"""Which script a program was started for, from its binary's name, its arguments or its environment. Pure.

A process can write what it likes over its own arguments, so that is a guess, labelled as one, and must name a file
that is there. Options follow php(1), python(1), perlrun(1), node(1), ruby(1), bash(1); LiteSpeed's PHP writes the
script into its own title (lsapi).
"""

import re
from dataclasses import dataclass

MAX_ARGUMENTS = 256
MAX_VARIABLES = 512
_NAME = re.compile(rb"(php|python|perl|node|nodejs|ruby|bash|dash|sh)(?:-cli)?[0-9.]*")
_CGI = re.compile(rb"php[0-9.]*-cgi[0-9.]*|cgi-php[0-9.]*")
_LSPHP = re.compile(rb"lsphp[0-9.]*")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Options:
    """How an interpreter reads its options.

    Attributes:
        code: Those after which there is no script: code or a module comes instead.
        value: Those that take the next argument if nothing follows in the same one.
        script: Those whose value is the script.
    """

    code: bytes
    value: bytes = b""
    script: bytes = b""
    long_code: frozenset[bytes] = frozenset()
    long_value: frozenset[bytes] = frozenset()


_SHELL = _Options(code=b"cs", value=b"oO", long_value=frozenset({b"--rcfile", b"--init-file"}))
_NODE = _Options(
    code=b"ep",
    value=b"rC",
    long_code=frozenset({b"--eval", b"--print"}),
    long_value=frozenset({b"--require", b"--import", b"--loader", b"--conditions", b"--env-file"}),
)
_INTERPRETERS = {
    b"php": _Options(
        code=b"rRBESamiv",
        value=b"cdtz",
        script=b"fF",
        long_code=frozenset({b"--run", b"--server", b"--process-code"}),
        long_value=frozenset({b"--php-ini", b"--define", b"--docroot", b"--zend-extension"}),
    ),
    b"python": _Options(code=b"cm", value=b"WXQ", long_value=frozenset({b"--check-hash-based-pycs"})),
    b"perl": _Options(code=b"eE", value=b"I"),
    b"ruby": _Options(code=b"e", value=b"IrCE"),
    b"node": _NODE,
    b"nodejs": _NODE,
    b"bash": _SHELL,
    b"dash": _SHELL,
    b"sh": _SHELL,
}
_ATTACHED = {b"perl": b"MmFixVDCl0", b"ruby": b"FixTKW0"}
"""Options whose value, if any, always stands in the same argument."""


def parse_script(exe: bytes, cmdline: bytes) -> bytes | None:
    """The script as it was named, absolute or relative to the directory; None if there is none.

    Args:
        exe: Path of the binary, as the kernel names it.
        cmdline: /proc/PID/cmdline.
    """
    name = _base(exe)
    if _LSPHP.fullmatch(name):
        title = cmdline.partition(b"\0")[0].rstrip()
        return title[6:] if title.startswith(b"lsphp:") else None
    found = _NAME.fullmatch(name)
    if found is None:
        return None
    interpreter = found[1]
    return _parse_arguments(
        _INTERPRETERS[interpreter],
        _ATTACHED.get(interpreter, b""),
        cmdline.removesuffix(b"\0").split(b"\0")[1:MAX_ARGUMENTS],
    )


def is_cgi(exe: bytes) -> bool:
    """Whether a binary is called like PHP's CGI program."""
    return _CGI.fullmatch(_base(exe)) is not None


def parse_environment(environ: bytes) -> list[bytes]:
    """The scripts that a web server may have named to a CGI program, best first.

    Where an Action handler starts PHP, SCRIPT_FILENAME is PHP itself and PATH_TRANSLATED the script.

    Args:
        environ: /proc/PID/environ.
    """
    variables = dict(entry.partition(b"=")[::2] for entry in environ.split(b"\0")[:MAX_VARIABLES])
    if not variables.get(b"GATEWAY_INTERFACE", b"").startswith(b"CGI/"):
        return []
    return [variables[key] for key in (b"SCRIPT_FILENAME", b"PATH_TRANSLATED") if variables.get(key)]


def _base(exe: bytes) -> bytes:
    return exe.removesuffix(b" (deleted)").rpartition(b"/")[2]


def _parse_arguments(options: _Options, attached: bytes, arguments: list[bytes]) -> bytes | None:
    rest = iter(arguments)
    for argument in rest:
        if argument == b"--":
            return next(rest, None)
        if argument.startswith(b"--"):
            word = argument.partition(b"=")[0]
            if word in options.long_code:
                return None
            if word in options.long_value and b"=" not in argument:
                next(rest, None)
        elif argument.startswith(b"-"):
            if argument == b"-":
                return None  # the program comes from standard input
            kind, value = _parse_cluster(options, attached, argument[1:])
            if kind == "code":
                return None
            if kind == "value" and not value:
                next(rest, None)
            if kind == "script":
                return value or next(rest, None)
        else:
            return argument or None
    return None


def _parse_cluster(options: _Options, attached: bytes, letters: bytes) -> tuple[str, bytes]:
    """What a word of one-letter options means: "code", "value" or "script" with what follows, or "" for flags."""
    for place, letter in enumerate(letters):
        if letter in options.code:
            return "code", b""
        if letter in options.script:
            return "script", letters[place + 1 :]
        if letter in options.value:
            return "value", letters[place + 1 :]
        if letter in attached:
            return "", b""
    return "", b""
