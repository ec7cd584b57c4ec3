"""The BPF program comes, changes and goes: who has to know does, and refused senders are told why where it can be."""

import contextlib
from collections.abc import Iterator
from unittest.mock import Mock, patch

import pytest

from smtpguard.daemon.bpf_lifecycle import BpfLifecycle
from smtpguard.errors import EnforceError
from smtpguard.model import NS
from smtpguard.settings import Settings
from smtpguard.sources.bpf.source import BpfSource


class World:
    """A program on fakes."""

    def __init__(self, telling: Mock, responder: Mock) -> None:
        self.telling, self.responder = telling, responder
        self.now_ns = 0
        self.enforcement, self.loop = Mock(), Mock()
        settings = Settings(block_verdict="tell")
        self.program = BpfLifecycle(
            settings, self.enforcement, Mock(), self.loop, lambda: self.now_ns, contextlib.ExitStack()
        )
        self.source = Mock(spec=BpfSource)


@pytest.fixture
def world() -> Iterator[World]:
    with (
        patch("smtpguard.daemon.bpf_lifecycle.TellHooks") as telling,
        patch("smtpguard.daemon.bpf_lifecycle.TellServer") as responder,
    ):
        yield World(telling.return_value, responder.return_value)


def test_refused_senders_are_told_while_the_configuration_says_so(world: World) -> None:
    world.program.source_opened(world.source)
    world.enforcement.attach.assert_called_once_with(world.source)
    world.telling.start.assert_called_once_with(world.responder.port)
    world.loop.add.assert_called_once_with(world.responder, "tell")
    world.program.refresh()
    assert world.telling.start.call_count == 1
    world.telling.find_owner.return_value = 1001
    assert world.program._find_told(5) == 1001
    world.program.reconfigure(Settings(block_verdict="reject"))
    world.telling.stop.assert_called_once()
    world.loop.remove.assert_called_once_with(world.responder)
    world.responder.close.assert_called_once()
    assert world.program._find_told(5) is None


def test_where_it_can_not_be_it_is_a_trouble_and_tried_again(world: World, caplog: pytest.LogCaptureFixture) -> None:
    world.telling.start.side_effect = EnforceError("no port is free", where="tell")
    world.program.source_opened(world.source)
    assert world.program.trouble == "tell: no port is free"
    world.program.on_time(3 * NS)
    assert len(caplog.records) == 1, "told once"
    world.telling.start.side_effect = None
    world.now_ns = 3 * NS
    world.program.on_time(3 * NS)
    assert world.program.trouble is None


def test_it_goes_with_its_source_and_others_do_not_matter(world: World) -> None:
    other = Mock()
    world.program.source_opened(other)
    world.program.source_closed(other)
    world.enforcement.attach.assert_not_called()
    world.program.refresh()
    world.telling.start.assert_not_called()
    world.program.source_opened(world.source)
    world.program.source_closed(world.source)
    world.enforcement.detach.assert_called_once()
    world.program.source_opened(world.source)
    assert world.telling.start.call_count == 2
