"""Templates: hostile values stay on their line and drive nothing, an unknown name is named, and who may write them."""

import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from smtpguard import resources
from smtpguard.cli import main
from smtpguard.errors import ConfigError
from smtpguard.report.templates import find_mistakes, list_languages, make_environment, render_template
from smtpguard.report.why_texts import CUSTOMER, TEMPLATES
from smtpguard.text import render_visible

HOSTILE = "a\x1b[2J\r\n\u202eb\u200b\uff21\u0430\u0301\t\x00\udcff\u2028<script>\"'&{{ 7 * 7 }}"


def own(folder: Path, text: str, name: str = "customer.txt", language: str = "en") -> Path:
    file = folder / "templates" / language / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text, "utf-8")
    return file


def values() -> dict[str, object]:
    return dict.fromkeys(CUSTOMER) | {"state": "free", "user": "web01", "attempts": 3, "failed": 0}


def test_what_drives_a_terminal_or_misleads_is_made_visible_and_accents_stay() -> None:
    shown = render_visible(HOSTILE)
    assert shown.isascii()
    assert shown.isprintable()
    assert r"\x1b[2J\x0d\x0a\xe2\x80\xae" in shown
    assert r"\xef\xbc\xa1\xd0\xb0\xcc\x81" in shown, "wide, Cyrillic, combining"
    assert render_visible("Größe, ça va, Łódź") == "Größe, ça va, Łódź"
    assert render_visible("\u00a0\u00ad\u0660") == r"\xc2\xa0\xc2\xad\xd9\xa0"


def test_no_value_leaves_its_place_whatever_the_template_does_with_it(tmp_path: Path) -> None:
    own(tmp_path, "[{{ user }}] [{{ user|safe }}] [{{ user|upper }}] [{{ [user]|join(',') }}] {{ host }}\n")
    text = render_template("customer.txt", values() | {"user": HOSTILE}, own_files=tmp_path)
    assert text.count("\n") == 1
    assert text[:-1].isprintable()
    assert text[:-1].isascii()
    assert "{{ 7 * 7 }}" in text, "a value is no template"
    assert text.endswith(" -\n"), "what is not known is a dash"


def test_html_is_escaped_and_made_visible(tmp_path: Path) -> None:
    own(tmp_path, '<b title="{{ user }}">{{ user }}</b>', "page.html")
    environment = make_environment("en", is_html=True, own_files=tmp_path)
    page = environment.get_template("page.html").render(user=HOSTILE)
    assert "<script>" not in page
    assert page.count("&lt;script&gt;&#34;&#39;&amp;") == 2
    assert page.isprintable()


def test_a_template_reaches_nothing_but_its_values(tmp_path: Path) -> None:
    for text in (
        "{{ user.__class__.__mro__ }}",
        "{{ ''.__class__ }}",
        "{% include '../../../etc/passwd' %}",
        "{{ nothing }}",
        "{% if %}",
        "{{ user.nothing }}",
    ):
        own(tmp_path, text)
        with pytest.raises(ConfigError):
            render_template("customer.txt", values(), own_files=tmp_path)


def test_languages_are_those_shipped_and_an_administrator_s(tmp_path: Path) -> None:
    assert list_languages(tmp_path) == ["de", "en"]
    assert "aufgehalten" in render_template("customer.txt", values(), language="de", own_files=tmp_path)
    with pytest.raises(ConfigError, match=r"no templates for the language 'fr'.*de, en"):
        render_template("customer.txt", values(), language="fr", own_files=tmp_path)
    with pytest.raises(ConfigError, match="no templates for the language"):
        render_template("customer.txt", values(), language="../en", own_files=tmp_path)
    own(tmp_path, "Bonjour {{ user }}\n", language="fr")
    assert render_template("customer.txt", values(), language="fr", own_files=tmp_path) == "Bonjour web01\n"
    assert list_languages(tmp_path) == ["de", "en", "fr"]


def test_a_file_that_others_may_write_is_no_template(tmp_path: Path) -> None:
    file = own(tmp_path, "all your base")
    file.chmod(0o666)
    with pytest.raises(ConfigError, match="can be written by others"):
        render_template("customer.txt", values(), own_files=tmp_path)
    assert [line for line in find_mistakes(TEMPLATES, own_files=tmp_path) if "can be written by others" in line]
    file.chmod(0o644)
    link = file.with_name("ticket.txt")
    link.symlink_to(file)
    with pytest.raises(ConfigError, match="symbolic link"):
        render_template("ticket.txt", values(), own_files=tmp_path)


@pytest.mark.parametrize(
    ("text", "line", "what"),
    [
        ("a\n{{ usr }}", 2, "unknown name 'usr'; did you mean 'user'?"),
        ("{% if state == 'never' %}\n{{ scripts }}{% endif %}", 2, "unknown name 'scripts'"),
        ("{{ user.script }}", 1, "unknown name 'script'"),
        ("{{ user['shadow'] }}", 1, "unknown name 'shadow'"),
        ("\n{% if %}", 2, "Expected an expression, got 'end of statement block'"),
        ("{{ user|nofilter }}", 1, "No filter named 'nofilter'."),
    ],
)
def test_check_names_what_a_template_can_t_have_in_whatever_branch(
    text: str, line: int, what: str, tmp_path: Path
) -> None:
    file = own(tmp_path, text)
    (found,) = find_mistakes(TEMPLATES, own_files=tmp_path)
    assert found.startswith(f"{file}:{line}: {what}"), found


def test_check_finds_nothing_wrong_with_what_is_shipped_and_with_loops(tmp_path: Path) -> None:
    from smtpguard.resources import shipped

    for file in shipped("templates").glob("*/*"):
        own(tmp_path, file.read_text("utf-8"), file.name, file.parent.name)
    own(tmp_path, "{% set a = user %}{% macro m(x) %}{{ x }}{{ a }}{% endmacro %}{{ m(host) }}", language="fr")
    assert list(find_mistakes(TEMPLATES, own_files=tmp_path)) == []
    own(tmp_path, "", "letter.txt")
    (found,) = find_mistakes(TEMPLATES, own_files=tmp_path)
    assert found.endswith(
        "no template is called so; there are customer.txt, customer_subject.txt, report.html, ticket.txt"
    )


def test_check_says_so_and_ends_with_78(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = own(tmp_path, "{{ usr }}")
    monkeypatch.setattr(resources, "OWN_FILES", tmp_path)
    config = tmp_path / "c.yaml"
    config.write_text("version: 1\n")
    done = CliRunner().invoke(main, ["check", "--config", str(config)])
    assert done.exit_code == 78
    assert f"{file}:1: unknown name 'usr'; did you mean 'user'?" in done.output
    file.write_text("{{ user }}")
    assert CliRunner().invoke(main, ["check", "--config", str(config)]).exit_code == 0


def test_only_a_text_loads_jinja2() -> None:
    code = "import sys, smtpguard.cli.why, smtpguard.cli.check, smtpguard.report.why_card, smtpguard.daemon.service; "
    code += "print('jinja2' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout == "False\n"


def test_a_language_without_templates_is_wrong_usage_and_not_a_wrong_configuration(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resources, "OWN_FILES", tmp_path)
    result = CliRunner().invoke(main, ["why", "web01", "--ticket", "--language", "fr", "--socket", "/nonexistent"])
    assert result.exit_code == 2
    assert "there are no templates for the language 'fr': there are de, en" in result.stderr
