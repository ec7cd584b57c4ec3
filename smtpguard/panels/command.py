"""A program that says whose accounts are: run without a shell, by an end of time, from a file that is root's alone."""

import json
import os
import selectors
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from smtpguard.errors import ConfigError, DecodeError, SourceError
from smtpguard.model import Customer
from smtpguard.panels.customer_table import MAX_BYTES, name_package
from smtpguard.safe_files import check_directory, find_distrust
from smtpguard.text import render_words

TIMEOUT_S = 20.0
_ENVIRONMENT = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8"}
_MAX_COMPLAINT = 4096


def run_program(argv: Sequence[str], *, timeout_s: float = TIMEOUT_S) -> bytes:
    """What a program prints.

    Args:
        argv: Its absolute path, and its arguments.
        timeout_s: When it and what it has started are ended.

    Raises:
        ConfigError: Somebody beside root could have written it.
        SourceError: It can't be run, failed, took too long or printed too much.
    """
    name = argv[0]
    check_directory(os.path.realpath(Path(name).parent), error=ConfigError)
    try:
        distrust = find_distrust(Path(name).stat())
        if distrust is not None:
            raise ConfigError(distrust, where=name, fix=f"chown root {name}; chmod go-w {name}")
        process = subprocess.Popen(
            list(argv),
            cwd="/",
            env=_ENVIRONMENT,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
    except OSError as error:
        raise SourceError(f"can't be run: {error.strerror}", where=name) from error
    with process:
        try:
            output, complaint = _collect(process, name, timeout_s)
        finally:
            # What it has left behind, too. It is not reaped yet, so its number is nobody else's.
            os.killpg(process.pid, signal.SIGKILL)
    if process.returncode != 0:
        lines = complaint.decode("utf-8", "replace").strip().splitlines()
        told = f": {render_words(lines[-1], max_bytes=200)}" if lines else ""
        raise SourceError(f"exit code {process.returncode}{told}", where=name)
    return output


def _collect(process: "subprocess.Popen[bytes]", name: str, timeout_s: float) -> tuple[bytes, bytes]:
    """What it prints and complains of until it has ended, which it is not reaped for."""
    deadline = time.monotonic() + timeout_s
    printed: dict[int, bytearray] = {}
    end = os.pidfd_open(process.pid)
    with selectors.DefaultSelector() as selector:
        try:
            selector.register(end, selectors.EVENT_READ)
            for pipe in filter(None, (process.stdout, process.stderr)):
                printed[pipe.fileno()] = bytearray()
                selector.register(pipe, selectors.EVENT_READ)
            while selector.get_map():
                ready = selector.select(max(0.0, deadline - time.monotonic()))
                if not ready:
                    raise SourceError(f"no answer within {timeout_s:g} s", where=name)
                for key, _ in ready:
                    piece = b"" if key.fd == end else os.read(key.fd, 65_536)
                    if not piece:
                        selector.unregister(key.fileobj)
                    elif len(printed[key.fd]) <= MAX_BYTES:
                        printed[key.fd] += piece
                if any(len(said) > MAX_BYTES for said in printed.values()):
                    raise SourceError(f"printed more than {MAX_BYTES >> 20} MB", where=name)
        finally:
            os.close(end)
    output, complaint = printed.values()
    return bytes(output), bytes(complaint[-_MAX_COMPLAINT:])


def parse_accounts(text: bytes) -> Iterator[tuple[str, Customer]]:
    """All accounts of a JSON document: `{"accounts": [{"user": ..., "domain": ..., ...}]}`; null is not known.

    Args:
        text: What a command has printed.

    Raises:
        DecodeError: It is no such document; says where it is not.
    """
    try:
        document = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DecodeError(f"printed no JSON: {error}") from error
    rows = document.get("accounts") if isinstance(document, dict) else None
    if not isinstance(rows, list):
        raise DecodeError('printed JSON without a list "accounts"')
    for index, row in enumerate(rows):
        try:
            yield _take(row)
        except DecodeError as error:
            raise DecodeError(f"accounts[{index}]: {error}") from error


def _take(row: object) -> tuple[str, Customer]:
    if not isinstance(row, dict):
        raise DecodeError("is no object")
    domains = row.get("domains") or []
    if not isinstance(domains, list) or not all(isinstance(domain, str) for domain in domains):
        raise DecodeError("domains is no list of texts")
    texts: dict[str, Any] = {
        key: row.get(key) for key in ("user", "domain", "reseller", "package", "contact", "language")
    }
    for key, value in texts.items():
        if value is not None and not isinstance(value, str):
            raise DecodeError(f"{key} is no text")
    user = texts.pop("user")
    if not user:
        raise DecodeError("user is missing")
    texts["package"] = name_package(texts["package"], texts["reseller"])
    return user, Customer(domains=tuple(domains), **texts)
