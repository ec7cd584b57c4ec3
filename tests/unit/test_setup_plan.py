"""The plan of setup: a table of what is wanted, what is there and what we wrote."""

import pytest

from smtpguard.setup.plan import (
    Found,
    Manifest,
    Step,
    WantedFile,
    compute_digest,
    merge_manifest,
    plan_install,
    plan_remove,
    render_diff,
)

NEW, OLD, ODD = b"new\n", b"old\n", b"odd\n"


@pytest.mark.parametrize(
    ("seed", "now", "ours", "act"),
    [
        (False, Found(), None, "create"),
        (False, Found(), OLD, "create"),
        (False, Found(content=NEW), None, "keep"),
        (False, Found(content=NEW), NEW, "keep"),
        (False, Found(content=OLD), OLD, "update"),
        (False, Found(content=ODD), OLD, "replace"),
        (False, Found(content=ODD), None, "replace"),
        (False, Found(obstacle="is a symbolic link"), OLD, "leave"),
        (True, Found(), None, "create"),
        (True, Found(content=NEW), NEW, "keep"),
        (True, Found(content=OLD), OLD, "keep"),
        (True, Found(content=ODD), None, "keep"),
    ],
)
def test_what_happens_to_a_file(seed: bool, now: Found, ours: bytes | None, act: str) -> None:
    manifest = Manifest(files={} if ours is None else {"/f": compute_digest(ours)})
    (step,) = plan_install([WantedFile(path="/f", content=NEW, mode=0o640, seed=seed)], {"/f": now}, manifest)
    assert step.act == act
    if act in ("create", "update", "replace"):
        assert (step.before, step.after, step.mode) == (now.content, NEW, 0o640)
    else:
        assert step.after is None


@pytest.mark.parametrize(
    ("now", "act"),
    [
        (Found(content=OLD), "remove"),
        (Found(content=ODD), "leave"),
        (Found(), "keep"),
        (Found(obstacle="is no file"), "leave"),
    ],
)
def test_what_happens_at_removal(now: Found, act: str) -> None:
    (step,) = plan_remove({"/f": now}, Manifest(files={"/f": compute_digest(OLD)}))
    assert (step.act, step.after) == (act, None)


def test_only_what_is_written_becomes_ours() -> None:
    steps = [
        Step(path="/a", act="create", after=NEW),
        Step(path="/b", act="replace", before=ODD, after=NEW),
        Step(path="/c", act="keep", before=NEW),
        Step(path="/d", act="leave"),
    ]
    before = Manifest(files={"/b": compute_digest(OLD), "/old": "00"}, folders=("/x",))
    after = merge_manifest(before, steps, ["/x", "/a-folder"])
    digest = compute_digest(NEW)
    assert after == Manifest(files={"/a": digest, "/b": digest, "/old": "00"}, folders=("/a-folder", "/x"))


@pytest.mark.parametrize(
    ("step", "diff"),
    [
        (Step(path="/f", act="create", after=b"a\nb\n"), "--- /dev/null\n+++ /f\n@@ -0,0 +1,2 @@\n+a\n+b"),
        (Step(path="/f", act="update", before=b"a\n", after=b"b\n"), "--- /f\n+++ /f\n@@ -1 +1 @@\n-a\n+b"),
        (Step(path="/f", act="remove", before=b"a\n"), "--- /f\n+++ /dev/null\n@@ -1 +0,0 @@\n-a"),
        (Step(path="/f", act="create", after=b""), ""),
        (Step(path="/f", act="keep", before=b"a\n"), ""),
        (Step(path="/f", act="leave", before=b"a\n"), ""),
        (
            Step(path="/f", act="replace", before=b"a", after=b"a\n"),
            "--- /f\n+++ /f\n@@ -1 +1 @@\n-a\n\\ No newline at end of file\n+a",
        ),
        (
            Step(path="/f", act="remove", before=b"\x1b[31m\tx\r\xff\xe2\x80\xa8\n"),
            "--- /f\n+++ /dev/null\n@@ -1 +0,0 @@\n-\\x1b[31m\tx\\r\\xff\\u2028",
        ),
    ],
)
def test_diff_is_unified_and_safe_on_a_terminal(step: Step, diff: str) -> None:
    assert render_diff(step) == diff
