"""Which script a command line names: options are not scripts, and code is none."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smtpguard.enrich.looker.command_line import is_cgi, parse_environment, parse_script
from smtpguard.enrich.looker.rooted_files import is_path, join_path


@pytest.mark.parametrize(
    ("exe", "arguments", "script"),
    [
        ("/usr/bin/php8.2", "php /home/a/cron.php", "/home/a/cron.php"),
        ("/usr/bin/php8.2", "php -q -d memory_limit=1G -dx=1 cron.php -f other", "cron.php"),
        ("/usr/bin/php8.2", "php -c /etc/php -f run.php", "run.php"),
        ("/usr/bin/php8.2", "php -frun.php", "run.php"),
        ("/usr/bin/php8.2", "php --define a=b --no-php-ini -- run.php", "run.php"),
        ("/usr/bin/php8.2", "php -r phpinfo();", None),
        ("/usr/bin/php8.2", "php -S 127.0.0.1:80 router.php", None),
        ("/usr/bin/php8.2", "php", None),
        ("/usr/bin/php8.2", "php -", None),
        ("/opt/cpanel/ea-php81/root/usr/bin/php", "php a.php", "a.php"),
        ("/usr/bin/php-cli", "php-cli a.php", "a.php"),
        ("/usr/bin/python3.11 (deleted)", "python3 -Bu -W ignore -Xdev a.py -c x", "a.py"),
        ("/usr/bin/python3.11", "python3 -m http.server", None),
        ("/usr/bin/python3.11", "python3 -Ic import_socket", None),
        ("/usr/bin/perl", "perl -w -Mstrict -I lib -Ilib2 a.pl", "a.pl"),
        ("/usr/bin/perl", "perl -Mefoo a.pl", "a.pl"),
        ("/usr/bin/perl5.36.0", "perl -we print", None),
        ("/usr/bin/perl", "/usr/bin/perl ./a.pl -e", "./a.pl"),
        ("/usr/bin/node", "node --require x --max-old-space-size=10 a.js", "a.js"),
        ("/usr/bin/node", "node -r x -e 1", None),
        ("/usr/bin/ruby3.1", "ruby -w -I lib a.rb", "a.rb"),
        ("/usr/bin/bash", "bash -x -o pipefail a.sh", "a.sh"),
        ("/usr/bin/bash", "bash -c sendmail", None),
        ("/usr/local/lsws/lsphp74/bin/lsphp", "lsphp:/home/a/public_html/index.php", "/home/a/public_html/index.php"),
        ("/usr/local/lsws/lsphp74/bin/lsphp", "lsphp", None),
        ("/usr/bin/curl", "curl a.php", None),
        ("/home/a/phpx", "php a.php", None),
        ("", "php a.php", None),
    ],
)
def test_command_lines(exe: str, arguments: str, script: str | None) -> None:
    cmdline = arguments.replace(" ", "\0").encode() + b"\0"
    assert parse_script(exe.encode(), cmdline) == (None if script is None else script.encode())


@given(st.sampled_from([b"/php", b"/python3", b"/perl", b"/node", b"/bash", b"/lsphp"]), st.binary(max_size=300))
def test_any_bytes_give_one_of_the_arguments_or_nothing(exe: bytes, cmdline: bytes) -> None:
    script = parse_script(exe, cmdline)
    assert script is None or script in cmdline


@pytest.mark.parametrize(
    ("folder", "name", "path"),
    [
        (b"/home/a", b"x/../b.php", b"/home/a/b.php"),
        (None, b"/b.php", b"/b.php"),
        (None, b"b.php", None),
        (b"/gone (deleted)", b"b.php", None),
        (b"/home/a", b"b\nc", None),
        (b"/home/a", b"", b"/home/a"),
        (b"/home/a", b"x" * 5000, None),
        (b"/home/a", "größe.php".encode(), "/home/a/größe.php".encode()),
    ],
)
def test_names_become_paths(folder: bytes | None, name: bytes, path: bytes | None) -> None:
    assert join_path(folder, name) == path


@pytest.mark.parametrize("text", [b"", b"/", b"relative", b"/a\x00b", b"/a\x1b[0m", b"/a\x7f", b"/" + b"a" * 4096])
def test_what_is_no_path(text: bytes) -> None:
    assert not is_path(text)


@pytest.mark.parametrize(
    ("environ", "scripts"),
    [
        (b"GATEWAY_INTERFACE=CGI/1.1\0SCRIPT_FILENAME=/a.php\0", [b"/a.php"]),
        (b"PATH_TRANSLATED=/b.php\0SCRIPT_FILENAME=/cgi/php\0GATEWAY_INTERFACE=CGI/1.1", [b"/cgi/php", b"/b.php"]),
        (b"SCRIPT_FILENAME=/a.php\0", []),
        (b"GATEWAY_INTERFACE=CGI/1.1\0SCRIPT_FILENAME=\0", []),
        (b"", []),
        (b"A=1\0" * 600 + b"GATEWAY_INTERFACE=CGI/1.1\0SCRIPT_FILENAME=/late.php\0", []),
    ],
)
def test_environments_of_cgi_programs(environ: bytes, scripts: list[bytes]) -> None:
    assert parse_environment(environ) == scripts


@pytest.mark.parametrize(
    ("exe", "cgi"),
    [
        (b"/usr/bin/php-cgi8.2", True), (b"/usr/bin/php8.2-cgi", True), (b"/opt/x/php-cgi", True),
        (b"/usr/bin/php8.2", False), (b"/home/a/php-cgi/x", False), (b"", False),
    ],
)  # fmt: skip
def test_what_is_called_like_phps_cgi_program(exe: bytes, cgi: bool) -> None:
    assert is_cgi(exe) is cgi
