"""The page of a service, on which an image is dropped."""

from __future__ import annotations

from configparser import ConfigParser
from functools import cache
from pathlib import Path

FOLDER = Path(__file__).parent
LANGUAGES = ("en", "ko")


@cache
def texts(language: str) -> dict[str, str]:
    """The words of the page in a language, by key."""
    parser = ConfigParser(interpolation=None)
    parser.read_string((FOLDER / f"{language}.ini").read_text(encoding="utf-8"))
    return dict(parser["page"])


def page(model: str, task: str, language: str) -> str:
    """The page as HTML, which loads nothing else.

    Args:
        model: Its name.
        task: What it does.
        language: As the header Accept-Language has it.
    """
    return _rendered(model, task, chosen_language(language))


@cache
def _rendered(model: str, task: str, language: str) -> str:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(FOLDER), autoescape=True, undefined=StrictUndefined
    )
    return environment.get_template("page.html").render(
        language=language, text=texts(language), model=model, task=task
    )


def chosen_language(accepted: str) -> str:
    """The first language of a list such as "ko-KR,ko;q=0.9,en;q=0.8" that the page has, else English."""
    for part in accepted.lower().split(","):
        language = part.strip()[:2]
        if language in LANGUAGES:
            return language
    return "en"
