from smtpguard.decode.audit.line_buffer import LineBuffer


def put(buffer: LineBuffer, data: bytes) -> list[bytes]:
    """Write in pieces as large as the buffer takes; the regions it hands out."""
    regions = []
    while data:
        room = buffer.room()
        count = min(len(room), len(data))
        room[:count] = data[:count]
        del room
        data = data[count:]
        start, stop = buffer.commit(count)
        if start < stop:
            regions.append(bytes(buffer.data[start:stop]))
    return regions


def test_regions_are_whole_lines_and_everything_comes_once() -> None:
    buffer = LineBuffer(chunk_bytes=64)
    data = b"".join(b"line %d %s\n" % (number, b"x" * (number % 90)) for number in range(3000))
    regions = put(buffer, data + b"rest")
    assert all(region.endswith(b"\n") for region in regions)
    assert b"".join(regions) == data
    start, stop = buffer.finish()
    assert bytes(buffer.data[start:stop]) == b"rest\n"
    assert buffer.finish() == (stop, stop)


def test_history_stays_within_reach_and_memory_bounded() -> None:
    buffer = LineBuffer(chunk_bytes=4096, history_lines=1000, max_bytes=1 << 24, max_line_bytes=4096)
    lines = [b"%06d %s\n" % (number, b"y" * 1000) for number in range(20_000)]
    for number, line in enumerate(lines):
        put(buffer, line)
        if number > 4096 and number % 997 == 0:
            assert buffer.data.find(b"%06d y" % (number - 1000)) >= 0, number
    assert len(buffer.data) < 1 << 23


def test_names_of_bytes_are_kept_when_the_buffer_moves() -> None:
    buffer = LineBuffer(chunk_bytes=1024, max_line_bytes=1024)
    total = 0
    for number in range(3000):
        line = b"%06d\n" % number
        put(buffer, line)
        total += len(line)
        place = buffer.base + buffer.data.rfind(line, 0, buffer._end)
        assert place == total - len(line)


def test_a_line_that_is_too_long_is_dropped_and_the_next_is_kept() -> None:
    for chunk in (1, 7, 1000):
        buffer = LineBuffer(chunk_bytes=chunk, max_line_bytes=100)
        regions = put(buffer, b"a\n" + b"b" * 1500 + b"\nc\n" + b"d" * 90 + b"\n")
        assert b"".join(regions) == b"a\nc\n" + b"d" * 90 + b"\n"
        assert buffer.overlong == 1


def test_nul_bytes_part_lines_where_one_gets_too_long() -> None:
    buffer = LineBuffer(chunk_bytes=50, max_line_bytes=100)
    regions = put(buffer, b"a\n" + bytes(5000) + b"b\n" + b"c" * 150 + bytes(300) + b"d\n" + bytes(3) + b"e\n")
    assert b"".join(regions).replace(b"\0", b"") == b"a\nb\nd\ne\n"
    assert buffer.overlong == 1


def test_a_dropped_line_at_the_end_leaves_nothing() -> None:
    buffer = LineBuffer(chunk_bytes=50, max_line_bytes=100)
    put(buffer, b"x" * 5000)
    assert buffer.finish()[0] == buffer.finish()[1]
