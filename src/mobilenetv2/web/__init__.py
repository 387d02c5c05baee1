"""A static page that runs models in the browser: its files, and the JavaScript package that it uses."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from ..arguments import check_kind, check_list, check_path
from ..errors import UserError
from ..files import staging_folder
from ..int8 import AnyCheckpoint, Int8Checkpoint
from ..runtime.program import write_program

HERE = Path(__file__).parent
PACKAGE = "mobilenetv2"  # the folder of the JavaScript package in the site
LIST = "models.json"
# what a site consists of; a folder with anything else is not replaced
OURS = re.compile(
    r"models\.json|model-\d+\.mnv2|index\.html|page\.css|(page|texts|offline)\.js"
    rf"|{PACKAGE}(/(src|wasm)(/[a-z0-9-]+\.(d\.ts|js|json|wasm))?)?"
)


def write_page(
    models: Sequence[AnyCheckpoint],
    folder: str | os.PathLike[str],
    title: str = "MobileNetV2",
    names: Sequence[str] | None = None,
) -> None:
    """Writes a folder that classifies, detects or segments photos in the browser, without a server of
    its own and without any other host.

    Args:
        models: One or more models; the page lets its user choose, the first one to begin with.
        folder: The folder to write; an earlier page there is replaced.
        title: Of the page.
        names: What the page calls each model, beside its numbers and size; of equal ones all but
            the first are numbered.

    Raises:
        UserError: There is no model, a model ends in features, there are more or fewer names than
            models, or the folder has other files.
        ModelFileError: The folder cannot be written.
    """
    if not models:
        raise UserError("a page needs a model")
    for model in models:
        if model.architecture.head.task == "features":
            raise UserError("the model ends in features: a page has nothing to show of them")
    labels = _labels(models, names)
    target = Path(os.path.realpath(check_path("folder", folder)))
    _check_target(target)
    with staging_folder(target) as staged:
        site = staged / target.name
        _write_site(models, labels, site, title)
        before = staged / "before"
        if target.is_dir():
            os.replace(target, before)
        try:
            os.replace(site, target)
        except OSError:
            if before.is_dir():
                os.replace(before, target)
            raise


def _check_target(target: Path) -> None:
    if not target.parent.is_dir():
        raise UserError(f"{target}: the folder {target.parent} does not exist")
    if target.exists() and not target.is_dir():
        raise UserError(f"{target}: a page is a folder, and a file has this name")
    if Path.cwd().is_relative_to(target):
        raise UserError(f"{target}: is the folder that this runs in: give another name")
    names = [path.relative_to(target).as_posix() for path in target.rglob("*")]
    if not all(OURS.fullmatch(name) for name in names):
        raise UserError(f"{target}: a folder with other files: give a new name")


def _write_site(
    models: Sequence[AnyCheckpoint], labels: Sequence[str], site: Path, title: str
) -> None:
    shutil.copytree(HERE / "page", site)
    for part in ("src", "wasm"):
        shutil.copytree(HERE / "js" / part, site / PACKAGE / part)
    entries = []
    for index, (model, label) in enumerate(zip(models, labels, strict=True)):
        file = f"model-{index}.mnv2"
        segments = model.architecture.head.task == "segmentation"
        facts = {"classes": model.architecture.classes}  # there may be no labels to count
        write_program(model, site / file, mask=segments, facts=facts)
        entries.append({"name": label, "file": file})
    listed = {"title": title, "models": entries}
    (site / LIST).write_text(json.dumps(listed, ensure_ascii=False), encoding="utf-8")
    contents = {
        path.relative_to(site).as_posix(): path.read_bytes()
        for path in sorted(site.rglob("*"))
        if path.is_file()
    }
    offline = contents.pop("offline.js").decode("utf-8")
    kept = json.dumps({"version": _version(contents), "files": ["./", *contents]})
    placeholder = '/*SITE*/ { version: "", files: [] }'
    assert placeholder in offline
    (site / "offline.js").write_text(offline.replace(placeholder, kept), encoding="utf-8")


def _labels(models: Sequence[AnyCheckpoint], names: Sequence[str] | None) -> list[str]:
    """What the page shows of each model in its list; no two are equal."""
    if names is not None:
        check_list("names", names)
        for name in names:
            check_kind("a name", name, str)
        if len(names) != len(models):
            raise UserError(f"{len(names)} names for {len(models)} models")
    labels: list[str] = []
    for index, model in enumerate(models):
        numbers = "int8" if isinstance(model, Int8Checkpoint) else "float32"
        height, width = model.preprocessing.size
        kind = f"{numbers}, {height} x {width}"
        label = f"{names[index]} ({kind})" if names is not None else kind
        unused = (label, *(f"{label}, {number}" for number in range(2, len(models) + 1)))
        labels.append(next(candidate for candidate in unused if candidate not in labels))
    return labels


def _version(contents: Mapping[str, bytes]) -> str:
    """A name that changes with the files of a site."""
    digest = hashlib.sha256()
    for name, content in contents.items():
        digest.update(f"{name} {len(content)} ".encode() + content)
    return f"mobilenetv2-{digest.hexdigest()[:16]}"
