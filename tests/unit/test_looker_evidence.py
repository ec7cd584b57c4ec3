"""The evidence bundle: what it says, how it travels, and how little a tenant's tree can do to it."""

import hashlib
import itertools
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smtpguard.enrich.looker import code_files
from smtpguard.enrich.looker.code_files import read_file, site_roots, walk_code
from smtpguard.enrich.looker.collect_evidence import judge_origin
from smtpguard.enrich.looker.evidence import (
    MAX_NAMED,
    MAX_NEWEST,
    Evidence,
    NamedFile,
    parse_packet,
    render_evidence,
    render_packet,
)
from smtpguard.enrich.looker.procfs import Process
from smtpguard.enrich.looker.protocol import MAX_CHAIN, MAX_PACKET, MAX_STACK, Ancestor, Attribution
from smtpguard.errors import DecodeError

NUMBER = st.integers(0, 2**63 - 1)
FILES = st.builds(
    NamedFile,
    path=st.binary(max_size=40),
    owner=NUMBER,
    mode=NUMBER,
    size=NUMBER,
    ctime_ns=NUMBER,
    mtime_ns=NUMBER,
    sha256=st.none() | st.binary(min_size=32, max_size=32).map(bytes.hex),
)
BUNDLES = st.builds(
    Evidence,
    found=st.builds(Attribution, proc=st.none() | st.binary(max_size=9), cmdline=st.none() | st.binary(max_size=30)),
    origin=st.sampled_from([None, "web", "cron", "at", "ssh", "detached"]),
    login_uid=st.none() | NUMBER,
    login_session=st.none() | NUMBER,
    cgroup=st.none() | st.binary(max_size=30),
    titles=st.lists(st.binary(max_size=20), max_size=MAX_CHAIN).map(tuple),
    files=st.lists(FILES, max_size=4).map(tuple),
    root=st.none() | st.binary(max_size=20),
    newest=st.lists(FILES, max_size=4).map(tuple),
    looked=NUMBER,
    complete=st.booleans(),
)
ME = {os.getuid()}


def stand_still() -> float:
    """A clock, for walks that are to end by themselves."""
    return 0


@pytest.fixture
def process() -> Iterator[Process]:
    with Process(os.getpid()) as process:
        yield process


@given(BUNDLES, st.booleans())
def test_a_bundle_comes_through_as_it_was(bundle: Evidence, final: bool) -> None:
    assert parse_packet(render_packet(bundle, final=final)) == (bundle, final)


@given(BUNDLES)
def test_what_people_see_is_plain_text(bundle: Evidence) -> None:
    rendered = json.dumps(render_evidence(bundle), ensure_ascii=False)
    assert rendered.isascii()
    assert rendered.isprintable()


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=8),
    max_leaves=20,
)


@given(BUNDLES, st.integers(0, 11), JSON)
def test_one_forged_field_gives_an_error_or_a_bundle(bundle: Evidence, place: int, value: object) -> None:
    fields = json.loads(render_packet(bundle, final=True).decode("latin-1"))
    fields[place] = value
    try:
        forged, _ = parse_packet(json.dumps(fields).encode("latin-1"))
    except DecodeError:
        return
    render_evidence(forged)


def worst(path: bytes) -> NamedFile:
    return NamedFile(path=path, owner=1, mode=0o100644, size=1, ctime_ns=1, mtime_ns=1, sha256="a" * 64)


def test_the_largest_bundle_is_cut_to_a_packet_and_says_so() -> None:
    long = b"/" + b"\x01" * 4000
    bundle = Evidence(
        found=Attribution(cmdline=long, stack=(long,) * MAX_STACK, script=b"/a.php"),
        files=(worst(long),) * MAX_NAMED,
        newest=(worst(long),) * MAX_NEWEST,
        complete=True,
    )
    packet = render_packet(bundle, final=True)
    assert len(packet) <= MAX_PACKET
    kept, _ = parse_packet(packet)
    assert kept.found.script == b"/a.php"
    assert not kept.complete


def test_the_rendering_keeps_the_newest_that_fit() -> None:
    newest = tuple(worst(b"/home/a/public_html/wp-content/plugins/x/%d.php" % n) for n in range(50))
    rendered = render_evidence(Evidence(found=Attribution(), newest=newest, complete=True), max_bytes=4000)
    assert len(json.dumps(rendered)) < 4400
    assert rendered["newest"][0]["path"].endswith("/0.php")
    assert 5 < len(rendered["newest"]) < 50
    assert rendered["complete"] is False


def test_the_rendering_shows_arguments_and_parents() -> None:
    parent = Ancestor(pid=7, uid=0, start_ns=1, comm=b"cron", exe=b"/usr/sbin/cron")
    found = Attribution(cmdline=b"php\0a b\0", chain=(parent,), start_ns=1_500_000_000)
    rendered = render_evidence(Evidence(found=found, titles=(b"/usr/sbin/CRON\0-f\0",)))
    assert rendered["cmdline"] == ["php", "a\\x20b"]
    assert rendered["parents"] == [
        {"pid": 7, "uid": 0, "proc": "cron", "exe": "/usr/sbin/cron", "cmdline": ["/usr/sbin/CRON", "-f"]}
    ]
    assert rendered["started"] == 1.5


def chain(*above: tuple[bytes, int]) -> Attribution:
    return Attribution(
        chain=tuple(Ancestor(pid=100 - n, uid=uid, start_ns=0, comm=b"", exe=exe) for n, (exe, uid) in enumerate(above))
    )


CLOCK_REALTIME_COARSE = 5
"""As <linux/time.h> has it."""
INIT = Attribution(chain=(Ancestor(pid=1, uid=0, start_ns=0, comm=b"systemd", exe=b"/usr/lib/systemd/systemd"),))
SH, TENANT = (b"/bin/sh", 1001), 1001


@pytest.mark.parametrize(
    ("bundle", "web", "origin"),
    [
        (Evidence(found=chain(SH)), True, "web"),
        (Evidence(found=chain(SH, (b"/usr/sbin/cron", 0)), login_uid=1001, login_session=4), False, "cron"),
        (Evidence(found=chain(SH, (b"/usr/sbin/atd", 0))), False, "at"),
        (Evidence(found=chain(SH, (b"/usr/sbin/sshd", 1001), (b"/usr/sbin/sshd", 0))), False, "ssh"),
        (Evidence(found=chain(SH, (b"/home/a/cron", TENANT))), False, None),
        (Evidence(found=INIT, login_uid=1001, login_session=4, cgroup=b"/system.slice/cron.service"), False, "cron"),
        (Evidence(found=INIT, login_uid=1001, login_session=4), False, "ssh"),
        (Evidence(found=INIT), False, "detached"),
        (Evidence(found=Attribution()), False, "detached"),
    ],
)
def test_where_it_came_from(bundle: Evidence, web: bool, origin: str | None) -> None:
    assert judge_origin(bundle, web=web) == origin


@pytest.mark.parametrize(
    ("script", "roots"),
    [
        (b"/home/a/public_html/blog/x.php", [b"/home/a/public_html", b"/home/a/public_html/blog"]),
        (b"/var/www/a/public/x.php", [b"/var/www", b"/var/www/a/public"]),
        (b"/var/www/a/web/lib/x.php", [b"/var/www", b"/var/www/a/web", b"/var/www/a/web/lib"]),
        (b"/home/a/cron.php", [b"/home/a"]),
        (b"/x.php", []),
    ],
)
def test_where_a_site_begins(script: bytes, roots: list[bytes]) -> None:
    assert site_roots(script) == roots


def test_the_newest_by_ctime_whatever_mtime_says(process: Process, tmp_path: Path) -> None:
    for number, name in enumerate(["old.php", "img.png", "sub/.htaccess", "sub/new.PHP", "data.txt"]):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text("x")
        os.utime(path, (0, 10**9 - number))
        while time.clock_gettime_ns(CLOCK_REALTIME_COARSE) <= path.stat().st_ctime_ns:
            time.sleep(0.001)  # until the next tick of the kernel's coarse clock, which stamps files
    walk = walk_code(process, bytes(tmp_path), ME, clock=stand_still)
    assert walk is not None
    assert [Path(os.fsdecode(file.path)).name for file in walk.newest] == ["new.PHP", ".htaccess", "old.php"]
    assert walk.complete
    assert walk.looked == 6
    assert walk.newest[0].path == bytes(tmp_path / "sub" / "new.PHP")


def test_only_fifty_are_told(process: Process, tmp_path: Path) -> None:
    for number in range(80):
        (tmp_path / f"{number}.php").touch()
    walk = walk_code(process, bytes(tmp_path), ME, clock=stand_still)
    assert walk is not None
    assert len(walk.newest) == MAX_NEWEST
    oldest_told = min(file.ctime_ns for file in walk.newest)
    assert sum(path.stat().st_ctime_ns > oldest_told for path in tmp_path.iterdir()) < MAX_NEWEST


def test_links_and_fifos_are_not_followed(process: Process, tmp_path: Path) -> None:
    (tmp_path / "site").mkdir()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "secret.php").touch()
    (tmp_path / "site" / "a").symlink_to(tmp_path / "other")
    (tmp_path / "site" / "b.php").symlink_to(tmp_path / "other" / "secret.php")
    os.mkfifo(tmp_path / "site" / "c.php")
    walk = walk_code(process, bytes(tmp_path / "site"), ME)
    assert walk is not None
    assert walk.newest == ()
    (tmp_path / "link").symlink_to(tmp_path / "other")
    found = walk_code(process, bytes(tmp_path / "link"), ME)
    assert found is not None
    assert (found.newest, found.complete) == ((), False)


def test_anothers_folder_is_not_walked(process: Process, tmp_path: Path) -> None:
    (tmp_path / "a.php").touch()
    assert walk_code(process, bytes(tmp_path), {61099}) is None


def test_a_walk_ends_by_count_by_depth_and_by_time(
    process: Process, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    deep = tmp_path
    for _ in range(30):
        deep /= "d"
        deep.mkdir()
    (deep / "a.php").touch()
    walk = walk_code(process, bytes(tmp_path), ME)
    assert walk is not None
    assert (walk.newest, walk.complete) == ((), False)

    ticks = itertools.count(0, 0.1)
    walk = walk_code(process, bytes(tmp_path), ME, clock=lambda: next(ticks))
    assert walk is not None
    assert not walk.complete
    assert walk.looked < 10

    monkeypatch.setattr(code_files, "MAX_ENTRIES", 3)
    walk = walk_code(process, bytes(tmp_path), ME, clock=stand_still)
    assert walk is not None
    assert (walk.looked, walk.complete) == (4, False)


def test_a_named_file_is_hashed_if_it_is_the_users(process: Process, tmp_path: Path) -> None:
    script = tmp_path / "a.php"
    script.write_bytes(b"<?php mail();")
    found = read_file(process, bytes(script), ME)
    assert found is not None
    assert (found.owner, found.size) == (os.getuid(), 13)
    assert found.sha256 == hashlib.sha256(b"<?php mail();").hexdigest()
    others = read_file(process, bytes(script), {61099})
    assert others is not None
    assert others.sha256 is None


def test_what_is_no_file_is_not_opened(process: Process, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "link").symlink_to("/etc/passwd")
    for name in ("fifo", "link", "none", "."):
        assert read_file(process, bytes(tmp_path / name), ME) is None


def test_a_large_file_is_not_hashed(process: Process, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(code_files, "MAX_HASHED", 10)
    (tmp_path / "a").write_bytes(b"x" * 11)
    found = read_file(process, bytes(tmp_path / "a"), ME)
    assert found is not None
    assert found.sha256 is None
