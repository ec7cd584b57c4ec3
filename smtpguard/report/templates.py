"""Texts from templates: jinja2, loaded by the command that writes such a text alone, and never by the daemon.

A template is a file of templates/LANGUAGE; an administrator's of the same name below /etc/smtpguard/templates wins,
where nobody but root may write it. What a template is given is as hostile as any tenant: the environment for html
escapes it, the one for text makes visible what drives a terminal or misleads a reader. See jinja2's sandbox.
"""

import difflib
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from jinja2 import FunctionLoader, StrictUndefined, Template, TemplateError, TemplateSyntaxError, nodes
from jinja2.sandbox import ImmutableSandboxedEnvironment

from smtpguard.errors import ConfigError
from smtpguard.resources import OWN_FILES, read_resource, shipped
from smtpguard.text import render_duration, render_minute, render_visible

DEFAULT_LANGUAGE = "en"
_LANGUAGE = re.compile(r"[a-z]{2,3}(_[A-Z]{2})?")
_FILE = re.compile(r"[a-z][a-z_]{0,31}\.(txt|html)")

Names = Mapping[str, "Names | None"]
"""What a template may use: each name, and the names within it; None for a plain value."""


def make_environment(language: str, *, is_html: bool, own_files: Path = OWN_FILES) -> ImmutableSandboxedEnvironment:
    """An environment whose templates are those of one language; an unknown name is an error, never nothing.

    Args:
        language: Folder of the templates.
        is_html: Whether values are escaped for html; else they are made visible as text.
        own_files: Where an administrator's files are; tests give another.

    Raises:
        ConfigError: There is no such language.
    """

    def load(name: str) -> str:
        if not _FILE.fullmatch(name):
            raise ConfigError(f"{name!a} is no name of a template", fix="such as ticket.txt")
        return read_resource("templates", f"{language}/{name}", administrator=own_files)

    if language not in list_languages(own_files):
        there = ", ".join(list_languages(own_files))
        raise ConfigError(
            f"there are no templates for the language {language!a}", fix=f"{there}; own ones: {own_files}/templates"
        )
    environment = ImmutableSandboxedEnvironment(
        loader=FunctionLoader(load),
        undefined=StrictUndefined,
        autoescape=is_html,
        finalize=_finalize_html if is_html else _finalize_text,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        cache_size=16,
    )
    environment.filters |= {"when": _render_when, "duration": render_duration}
    return environment


def render_template(
    name: str, values: Mapping[str, Any], *, language: str = DEFAULT_LANGUAGE, own_files: Path = OWN_FILES
) -> str:
    """A text; names that end in .html are escaped for html.

    Args:
        name: File name of the template.
        values: What it may use.
        language: In which language.
        own_files: As in `make_environment`.

    Raises:
        ConfigError: There is no such template, it can't be trusted, or it is wrong.
    """
    try:
        environment = make_environment(language, is_html=name.endswith(".html"), own_files=own_files)
        template: Template = environment.get_template(name)
        return template.render(values)
    except (TemplateError, TypeError, ValueError, LookupError, ArithmeticError) as error:
        line = f":{error.lineno}" if isinstance(error, TemplateSyntaxError) else ""
        raise ConfigError(f"the template is wrong: {error}", where=f"{language}/{name}{line}") from error


def list_languages(own_files: Path = OWN_FILES) -> list[str]:
    """Languages of which there are templates."""
    found = {DEFAULT_LANGUAGE}
    for folder in (shipped("templates"), own_files / "templates"):
        try:
            found.update(entry.name for entry in os.scandir(folder) if _LANGUAGE.fullmatch(entry.name))
        except OSError:
            continue
    return sorted(found)


def find_mistakes(templates: Mapping[str, Names], *, own_files: Path = OWN_FILES) -> Iterator[str]:
    """What is wrong with an administrator's own templates, one a line with file and line.

    Args:
        templates: Every template there is, and what it may use.
        own_files: Where they are.
    """
    folder = own_files / "templates"
    for language in list_languages(own_files):
        for name in sorted(_list_files(folder / language)):
            where = folder / language / name
            if name not in templates:
                yield f"{where}: no template is called so; there are {', '.join(sorted(templates))}"
                continue
            environment = make_environment(language, is_html=name.endswith(".html"), own_files=own_files)
            try:
                source = read_resource("templates", f"{language}/{name}", administrator=own_files)
                environment.compile(source)  # finds filters that are not there, too
                tree = environment.parse(source)
            except TemplateSyntaxError as error:
                yield f"{where}:{error.lineno}: {error.message}"
            except ConfigError as error:
                yield str(error)
            else:
                yield from (f"{where}:{line}: {text}" for line, text in find_unknown(tree, templates[name]))


def find_unknown(tree: nodes.Template, names: Names) -> Iterator[tuple[int, str]]:
    """Line and text for each name that a template uses and never gets, in whatever branch it stands."""
    own = {node.name for node in tree.find_all(nodes.Name) if node.ctx in ("store", "param")}
    own |= {node.name for node in tree.find_all(nodes.Macro)}
    tops = {*names, *own, "loop", "range"}
    fields = {*_list_fields(names), *_LOOP}
    for node in tree.find_all(nodes.Name):
        if node.ctx == "load" and node.name not in tops:
            yield node.lineno, _describe(node.name, sorted(names))
    for attribute in tree.find_all(nodes.Getattr):
        if attribute.attr not in fields:
            yield attribute.lineno, _describe(attribute.attr, sorted(fields))
    for item in tree.find_all(nodes.Getitem):
        if isinstance(item.arg, nodes.Const) and isinstance(item.arg.value, str) and item.arg.value not in fields:
            yield item.lineno, _describe(item.arg.value, sorted(fields))


_LOOP = ("index", "index0", "revindex", "first", "last", "length", "previtem", "nextitem")


def _list_fields(names: Names) -> Iterator[str]:
    for below in names.values():
        if below is not None:
            yield from below
            yield from _list_fields(below)


def _describe(name: str, known: list[str]) -> str:
    near = difflib.get_close_matches(name, known, 1)
    return f"unknown name {name!a}" + (f"; did you mean {near[0]!r}?" if near else f"; there are {', '.join(known)}")


def _list_files(folder: Path) -> list[str]:
    try:
        return [entry.name for entry in os.scandir(folder) if not entry.name.startswith(".")]
    except OSError:
        return []


def _finalize_text(value: object) -> str:
    """What is not known is a dash, as in the log."""
    return "-" if value is None else render_visible(str(value))


def _finalize_html(value: object) -> object:
    """The same, before jinja2 escapes it; what a template marked as html itself stays."""
    return value if hasattr(value, "__html__") else _finalize_text(value)


def _render_when(time: str | None) -> str:
    """A time of the JSON, without its seconds: 2026-11-29 08:15."""
    return "" if time is None else render_minute(time)
