"""PHP's memory as a hostile process may forge it: every chain ends, every length is bounded, every text is sane."""

import struct
from itertools import pairwise

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from smtpguard.enrich.looker.php_binary import MAX_FILE, MAX_SECTIONS, PhpBinary, parse_binary
from smtpguard.enrich.looker.php_fpm import Slot, find_slot, is_fpm, is_of_request, parse_slot
from smtpguard.enrich.looker.php_memory import MAX_REGIONS, Region, UnreadableError, parse_maps
from smtpguard.enrich.looker.php_stack import LAYOUTS, MAX_FRAMES, Frame, Running, read_running
from smtpguard.enrich.looker.rooted_files import is_path
from smtpguard.errors import DecodeError

LAYOUT = LAYOUTS[8, 2]
SG, EG = 0x1000, 0x2000


class FakeMemory:
    """Bytes at addresses; counts what it is asked."""

    def __init__(self) -> None:
        self.blocks: dict[int, bytes] = {}
        self.reads = 0
        self._next = 0x10_0000

    def read(self, address: int, size: int) -> bytes:
        self.reads += 1
        for start, block in self.blocks.items():
            if start <= address < start + len(block):
                return block[address - start : address - start + size]
        raise UnreadableError("nothing there")

    def put(self, data: bytes) -> int:
        address = self._next
        self._next += len(data) + 0x1000
        self.blocks[address] = data
        return address

    def string(self, text: bytes, *, length: int | None = None) -> int:
        return self.put(struct.pack("<16xQ", len(text) if length is None else length) + text + b"\0")

    def function(self, name: int, path: int, *, kind: int = 2, scope: int = 0) -> int:
        return self.put(
            struct.pack("<B7xQQ", kind, name, scope).ljust(LAYOUT.filename, b"\0") + struct.pack("<Q", path)
        )

    def frame(self, function: int, line: int, previous: int = 0) -> int:
        opline = self.put(struct.pack("<24xI", line))
        return self.put(struct.pack("<QQQQ16xQ", opline, 0, 0, function, previous))

    def run(self, current: int, *, entry: bytes | None = None, context: int = 0) -> None:
        translated = self.put(entry + b"\0") if entry is not None else 0
        self.blocks[SG] = struct.pack("<Q32xQ", context, translated)
        self.blocks[EG] = struct.pack("<488xQ", current)

    def look(self) -> Running:
        return read_running(self, LAYOUT, SG, EG)


@pytest.fixture
def memory() -> FakeMemory:
    return FakeMemory()


def test_a_stack_with_a_method_eval_an_internal_function_and_the_main_script(memory: FakeMemory) -> None:
    scope = memory.put(struct.pack("<8xQ", memory.string(b"class@anonymous\0/a.php:1$0")))
    main = memory.frame(memory.function(0, memory.string(b"/a.php")), 7)
    evaluated = memory.frame(memory.function(0, memory.string(b"/b.php(3) : eval()'d code"), kind=4), 1, main)
    method = memory.frame(memory.function(memory.string(b"send"), memory.string(b"/b.php"), scope=scope), 3, evaluated)
    memory.run(memory.frame(memory.function(memory.string(b"fsockopen"), 0, kind=1), 0, method), entry=b"/a.php")
    found = memory.look()
    assert found.frames == (
        Frame(function=b"class@anonymous::send", path=b"/b.php", line=3),
        Frame(function=b"{main}", path=b"/b.php", line=3),
        Frame(function=b"{main}", path=b"/a.php", line=7),
    )
    assert found.entry == b"/a.php"


def test_nothing_running(memory: FakeMemory) -> None:
    memory.run(0)
    assert memory.look() == Running(entry=None, frames=(), request=None, client=None)


def test_a_stack_that_goes_round_ends(memory: FakeMemory) -> None:
    function = memory.function(0, memory.string(b"/a.php"))
    frames = [memory.frame(function, line) for line in (1, 2, 3)]
    for this, previous in pairwise([*frames, frames[0]]):
        memory.blocks[this] = memory.blocks[this][:48] + struct.pack("<Q", previous)
    memory.run(frames[0])
    assert [frame.line for frame in memory.look().frames] == [1, 2, 3]


def test_a_stack_without_end_is_cut(memory: FakeMemory) -> None:
    function = memory.function(0, memory.string(b"/a.php"))
    current = 0
    for _ in range(500):
        current = memory.frame(function, 5, current)
    memory.run(current)
    assert len(memory.look().frames) == MAX_FRAMES


@pytest.mark.parametrize("length", [0, 4097, 2**31, 2**63, 2**64 - 1, 50])
def test_absurd_lengths_end_the_stack(memory: FakeMemory, length: int) -> None:
    outer = memory.frame(memory.function(0, memory.string(b"/outer.php")), 1)
    memory.run(memory.frame(memory.function(0, memory.string(b"/a.php", length=length)), 1, outer))
    assert memory.look().frames == ()


@pytest.mark.parametrize(
    "path", [b"a.php", b"/a\n.php", b"/a\x1b[2J", b"/\x00", b"phar:///a.phar/x.php", b"Standard input code"]
)
def test_paths_that_are_none_are_passed_over(memory: FakeMemory, path: bytes) -> None:
    outer = memory.frame(memory.function(0, memory.string(b"/outer.php")), 9)
    memory.run(memory.frame(memory.function(0, memory.string(path)), 1, outer), entry=path)
    found = memory.look()
    assert [frame.path for frame in found.frames] == [b"/outer.php"]
    assert found.entry is None


@pytest.mark.parametrize(
    ("path", "shown"),
    [
        (b"/a.php(12) : eval()'d code", (b"/a.php", 12)),
        (b"/a.php(12) : eval()'d code(1) : eval()'d code", (b"/a.php", 12)),
        (b"/a.php(3) : runtime-created function", (b"/a.php", 3)),
        (b"/a (copy).php", (b"/a (copy).php", 99)),
        (b"/a.php(123456789012) : eval()'d code", (b"/a.php(123456789012) : eval()'d code", 99)),
    ],
)
def test_evaluated_code(memory: FakeMemory, path: bytes, shown: tuple[bytes, int]) -> None:
    memory.run(memory.frame(memory.function(0, memory.string(path)), 99))
    (frame,) = memory.look().frames
    assert (frame.path, frame.line) == shown


@pytest.mark.parametrize("line", [0, 2**32 - 1])
def test_absurd_lines(memory: FakeMemory, line: int) -> None:
    memory.run(memory.frame(memory.function(0, memory.string(b"/a.php")), line))
    assert memory.look().frames == ()


def test_a_name_that_cannot_be_read_costs_only_the_name(memory: FakeMemory) -> None:
    memory.run(memory.frame(memory.function(0xDEAD, memory.string(b"/a.php"), scope=0xBEEF), 4))
    assert memory.look().frames == (Frame(function=b"?", path=b"/a.php", line=4),)


def variables(memory: FakeMemory, pairs: list[tuple[bytes, bytes]], *, offset: int, loop: bool = False) -> int:
    following = 0
    first = 0
    for name, value in reversed(pairs):
        following = memory.put(
            struct.pack(
                "<IIQI4xQ8xQ",
                0,
                len(name),
                memory.put(name or b"\0"),
                len(value),
                memory.put(value or b"\0"),
                following,
            )
        )
        first = first or following
    if loop:
        memory.blocks[first] = memory.blocks[first][:40] + struct.pack("<Q", following)
    return memory.put(bytes(offset) + struct.pack("<Q", following))


@pytest.mark.parametrize("offset", LAYOUT.variables)
def test_the_request_without_its_query(memory: FakeMemory, offset: int) -> None:
    pairs = [
        (b"REQUEST_URI", b"/pay?card=4111"),
        (b"HTTP_HOST", b"shop.example"),
        (b"REQUEST_METHOD", b"POST"),
        (b"REMOTE_ADDR", b"192.0.2.9"),
        (b"HTTP_COOKIE", b"secret"),
    ]
    memory.run(0, context=variables(memory, pairs, offset=offset))
    found = memory.look()
    assert (found.request, found.client) == (b"POST shop.example/pay", b"192.0.2.9")


def test_variables_that_go_round_or_lie_about_lengths(memory: FakeMemory) -> None:
    pairs = [(b"REQUEST_URI", b"/a\n UID=0"), (b"X" * 200, b""), (b"REMOTE_ADDR", b"x" * 5000)]
    memory.run(0, context=variables(memory, pairs, offset=LAYOUT.variables[0], loop=True))
    assert memory.look() == Running(entry=None, frames=(), request=None, client=None)
    assert memory.reads < 2000


@given(st.data())
def test_any_memory_gives_sane_answers_or_none(data: st.DataObject) -> None:
    """Every read returns whatever it likes; pointers lead anywhere."""

    class Noise:
        reads = 0

        def read(self, _address: int, size: int) -> bytes:
            self.reads += 1
            if self.reads > 5000:
                pytest.fail("no end")
            kind = data.draw(st.sampled_from(["short", "zero", "function", "string", "noise", "error"]))
            if kind == "error":
                raise UnreadableError("no")
            if kind == "function":
                return (b"\x02" + bytes(7) + b"\x10" * 200)[:size]
            if kind == "string":
                return (struct.pack("<16xQ", 6) + b"/a.php" + bytes(300))[:size]
            if kind == "noise":
                return data.draw(st.binary(min_size=1, max_size=64)).ljust(min(size, 512), b"\x41")[:size]
            return b"\0" * (size if kind == "zero" else 1)

    try:
        found = read_running(Noise(), LAYOUT, SG, EG)
    except UnreadableError:
        return
    assert found.entry is None or is_path(found.entry)
    assert len(found.frames) <= MAX_FRAMES
    for frame in found.frames:
        assert is_path(frame.path)
        assert not any(byte < 0x21 or byte == 0x7F for byte in frame.function)
        assert 0 < frame.line < 10**8
    for text in (found.request, found.client):
        assert text is None or (text.isascii() or max(text) > 0x7F)
        assert text is None or not any(byte < 0x20 or byte == 0x7F for byte in text)


# --- mappings

MAPS = b"""\
410ba000-490ba000 rw-s 00000000 00:01 1140                               /dev/zero (deleted)
55bbf8a31000-55bbf8b0e000 r--p 00000000 fe:00 5548058                    /usr/sbin/php-fpm8.2
55bbf8b0e000-55bbf8e24000 r-xp 000dd000 fe:00 5548058                    /usr/sbin/php-fpm8.2
55bbf8f9c000-55bbf8fbb000 rw-p 00000000 00:00 0\x20
55bc109a1000-55bc10b34000 rw-p 00000000 00:00 0                          [heap]
7f1636600000-7f1636800000 ---p 00000000 00:00 0\x20
7f1636800000-7f1636899000 r--p 00000000 fe:00 339903                     /usr/lib/libstdc++.so.6.0.30
7f1639ad6000-7f1639ad7000 rw-s 00000000 00:27 2                          /dev/zero (deleted)
7f1639ad7000-7f1639ad8000 rw-p 00000000 00:27 2                          /home/a/page
7f1639ad8000-7f1639ad9000 rw-p 00000000 00:00 0                          [anon:malloc]
7f1639ae0000-7f1639ae4000 r--p 00000000 00:00 0                          [vvar]
ffffffffff600000-ffffffffff601000 --xp 00000000 00:00 0                  [vsyscall]
"""


def test_only_mappings_without_a_tenants_file_behind_them() -> None:
    regions = parse_maps(MAPS, b"/usr/sbin/php-fpm8.2", b"00:01")
    assert [(region.start, region.kind) for region in regions] == [
        (0x410BA000, "shared"),
        (0x55BBF8A31000, "program"),
        (0x55BBF8B0E000, "program"),
        (0x55BBF8F9C000, "anonymous"),
        (0x55BC109A1000, "anonymous"),
        (0x7F1639AD8000, "anonymous"),
    ]


def test_without_the_devices_number_nothing_shared_is_read() -> None:
    assert all(region.kind != "shared" for region in parse_maps(MAPS, b"", b""))


def test_mappings_are_bounded() -> None:
    raw = b"".join(b"%x-%x rw-p 00000000 00:00 0 \n" % (n * 4096, n * 4096 + 4096) for n in range(MAX_REGIONS + 50))
    assert len(parse_maps(raw, b"", b"00:01")) == MAX_REGIONS


@given(st.binary(max_size=400))
@example(b"0-1 rw-p 0 0:0 0 \n" * 3)
def test_any_bytes_as_maps(raw: bytes) -> None:
    for region in parse_maps(raw, b"/x", b"00:01"):
        assert region.kind in {"anonymous", "shared", "program"}


# --- the scoreboard


def slot(**change: object) -> bytes:
    values: dict[str, object] = {
        "used": 1, "pid": 77, "requests": 5, "stage": 4, "accepted": (100, 500_000), "duration": (0, 250_000),
        "script": b"/www/a.php",
    }  # fmt: skip
    values |= change
    head = struct.pack(
        "<16xi12xi4xQi4xqqqq",
        values["used"],
        values["pid"],
        values["requests"],
        values["stage"],
        *values["accepted"],  # type: ignore[misc]  # a pair of numbers
        *values["duration"],
    )
    script = values["script"]
    assert isinstance(script, bytes)
    return (head.ljust(776, b"\0") + script).ljust(1168, b"\0")


def test_a_slot() -> None:
    assert parse_slot(slot()) == Slot(
        requests=5, running=True, accepted_ns=100_500_000_000, ended_ns=100_750_000_000, script=b"/www/a.php"
    )


@pytest.mark.parametrize(("stage", "running"), [(1, False), (2, True), (3, True), (4, True), (5, True), (6, False)])
def test_stages(stage: int, running: bool) -> None:
    found = parse_slot(slot(stage=stage))
    assert found is not None
    assert found.running is running


@pytest.mark.parametrize(
    "change",
    [
        {"used": 0}, {"used": 2}, {"stage": 0}, {"stage": 7}, {"stage": -1}, {"accepted": (-1, 0)},
        {"accepted": (1, 1_000_000)}, {"accepted": (1 << 40, 0)}, {"duration": (0, -1)}, {"duration": (-1, 0)},
    ],
)  # fmt: skip
def test_what_no_slot_holds(change: dict[str, object]) -> None:
    assert parse_slot(slot(**change)) is None


@pytest.mark.parametrize("script", [b"", b"a.php", b"/a\nb", b"/" + b"a" * 391])
def test_scripts_that_are_none(script: bytes) -> None:
    found = parse_slot(slot(script=script))
    assert found is not None
    assert found.script is None


REGION = Region(start=0x5000, end=0x5000 + 128 + 4 * 1168, offset=0, kind="shared")


def board(*slots: bytes) -> FakeMemory:
    memory = FakeMemory()
    memory.blocks[REGION.start] = bytes(128) + b"".join(slots).ljust(4 * 1168, b"\0")
    return memory


def test_the_slot_of_a_pid() -> None:
    found = find_slot(board(slot(pid=1), slot(pid=2)), [REGION], 2)
    assert found is not None
    assert found[0] == REGION.start + 128 + 1168


@pytest.mark.parametrize(
    "memory", [board(slot(pid=2), slot(pid=2)), board(slot(pid=3)), board(slot(pid=2, stage=9)), FakeMemory()]
)
def test_no_slot_or_no_single_one(memory: FakeMemory) -> None:
    assert find_slot(memory, [REGION], 2) is None


def test_a_pid_elsewhere_in_the_board_is_no_slot() -> None:
    shifted = bytes(8) + slot(pid=2)[:-8]
    assert find_slot(board(shifted), [REGION], 2) is None


def test_only_shared_memory_of_a_scoreboards_size_is_searched() -> None:
    memory = board(slot(pid=2))
    large = Region(start=REGION.start, end=REGION.start + (128 << 20), offset=0, kind="shared")
    private = Region(start=REGION.start, end=REGION.end, offset=0, kind="anonymous")
    assert find_slot(memory, [large, private], 2) is None
    assert memory.reads == 0


@pytest.mark.parametrize(
    ("event_ns", "running", "mine"),
    [
        (99, True, False), (100, True, True), (10**9, True, True), (99, False, False), (200, False, True),
        (201, False, False),
    ],
)  # fmt: skip
def test_both_sides_of_a_request_count(event_ns: int, running: bool, mine: bool) -> None:
    entry = Slot(requests=1, running=running, accepted_ns=100, ended_ns=200, script=None)
    assert is_of_request(entry, event_ns) is mine


@given(st.binary(min_size=1000, max_size=1200))
def test_any_bytes_as_a_slot(raw: bytes) -> None:
    found = parse_slot(raw)
    assert found is None or found.script is None or is_path(found.script)


@pytest.mark.parametrize(
    ("exe", "fpm"),
    [
        (b"/usr/sbin/php-fpm8.2", True), (b"/opt/cpanel/ea-php81/root/usr/sbin/php-fpm", True),
        (b"/usr/local/php82/sbin/php-fpm82", True), (b"/usr/sbin/php-fpm8.2 (deleted)", True),
        (b"/usr/bin/php8.2", False), (b"/home/php-fpm/x", False), (None, False),
    ],
)  # fmt: skip
def test_what_is_called_like_fpm(exe: bytes | None, fpm: bool) -> None:
    assert is_fpm(exe) is fpm


# --- the binary


def elf(
    *, names: tuple[bytes, ...] = (b"x", b"sapi_globals", b"executor_globals"), machine: int = 62, count: int = 2,
    size: int | None = None, version: bytes = b"8.2.36", link: int = 1,
) -> bytes:  # fmt: skip
    strings = b"\0" + b"\0".join(names) + b"\0"
    symbols = bytes(24)
    for place, name in enumerate(names, 1):
        symbols += struct.pack("<IBBHQQ", strings.find(b"\0" + name + b"\0") + 1, 0x11, 0, 1, place * 0x100, 8)
    at = 64 + 2 * 64
    sections = struct.pack("<IIQQQQIIQQ", 0, 11, 0, 0, at, size or len(symbols), link, 0, 8, 24)
    sections += struct.pack("<IIQQQQIIQQ", 0, 3, 0, 0, at + len(symbols), len(strings), 0, 0, 1, 0)
    head = b"\x7fELF\x02\x01".ljust(16, b"\0") + struct.pack("<HH20xQ10xHH", 3, machine, 64, 64, count)
    return head.ljust(64, b"\0") + sections + symbols + strings + b"X-Powered-By: PHP/" + version + b"\0"


def parse(data: bytes, size: int | None = None) -> PhpBinary:
    return parse_binary(lambda offset, length: data[offset : offset + length], len(data) if size is None else size)


def test_a_binary() -> None:
    assert parse(elf()) == PhpBinary(version=(8, 2), sapi_globals=0x200, executor_globals=0x300)


def test_a_version_across_the_border_of_two_reads() -> None:
    data = elf(version=b"")[:-20]
    for cut in range(0, 40, 3):
        padded = data.ljust((1 << 20) - cut, b"\0") + b"\0X-Powered-By: PHP/7.4.33\0" + bytes(100)
        assert parse(padded).version == (7, 4)


@pytest.mark.parametrize(
    "data",
    [
        b"", b"\x7fELF", bytes(500), elf()[:100], elf(machine=183), elf(names=(b"sapi_globals",)),
        elf(names=(b"sapi_globals_offset", b"executor_globals_offset")), elf(count=MAX_SECTIONS + 1), elf(count=0),
        elf(size=1 << 60), elf(version=b"x.y"), elf(version=b""), elf(link=9), elf(link=0),
    ],
)  # fmt: skip
def test_what_is_no_php_binary(data: bytes) -> None:
    with pytest.raises(DecodeError):
        parse(data)


def test_a_binary_that_is_too_large() -> None:
    with pytest.raises(DecodeError):
        parse(elf(), MAX_FILE + 1)


@given(st.integers(0, len(elf()) - 1), st.binary(min_size=1, max_size=16))
def test_a_damaged_binary_is_read_or_refused(place: int, damage: bytes) -> None:
    data = elf()
    data = data[:place] + damage + data[place + len(damage) :]
    try:
        found = parse(data)
    except DecodeError:
        return
    assert 0 < found.sapi_globals < 1 << 40
