"""`collect_images`: an argument means the same images to every command, and none is dropped."""

from __future__ import annotations

import io
import os
import warnings
import zipfile
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mobilenetv2.cli import run
from mobilenetv2.datasets import Inputs, collect_images
from mobilenetv2.decoding import NarrowRangeWarning
from mobilenetv2.errors import ImageError
from mobilenetv2.images import decode


def build(root: Path, *names: str) -> Path:
    """Writes images of 8 x 8, each of its own grey, as PNG whatever their names."""
    for number, name in enumerate(names):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8), (10 * number,) * 3).save(root / name, "PNG")
    return root


def names(inputs: Inputs, root: Path) -> list[str]:
    return [Path(sample.name).relative_to(root).as_posix() for sample in inputs.samples]


def give_stdin(monkeypatch: pytest.MonkeyPatch, content: bytes) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(content)))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    build(tmp_path, "a.png", "b/c.png", "b/d/e.JPG", ".hidden/f.png")
    (tmp_path / "b/notes.txt").write_text("no image")
    return tmp_path


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["."], ["a.png", "b/c.png", "b/d/e.JPG"]),
        (["b", "a.png", "b/c.png"], ["b/c.png", "b/d/e.JPG", "a.png"]),
        (["*"], ["a.png", "b/c.png", "b/d/e.JPG"]),
        (["**/*.png"], ["a.png", "b/c.png"]),
        (["**"], ["a.png", "b/c.png", "b/d/e.JPG", "b/notes.txt"]),
        (["**/d"], ["b/d/e.JPG"]),
        (["b/**/[de]*"], ["b/d/e.JPG"]),
        (["b/notes.txt"], ["b/notes.txt"]),
    ],
)
def test_files_folders_and_patterns(
    root: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], expected: list[str]
) -> None:
    monkeypatch.chdir(root)
    inputs = collect_images(arguments)
    assert [Path(sample.name).as_posix() for sample in inputs.samples] == expected
    assert inputs.problems == ()
    assert {sample.target for sample in inputs.samples} == {-1}
    if len(arguments) == 1:
        assert collect_images(arguments[0]) == inputs


def test_what_is_left_out_of_a_folder_is_told(root: Path) -> None:
    assert collect_images([root]).left_out == (
        "ignored 1 files that are not images by name: .txt (1)",
        f"hidden files and folders left out: {root / '.hidden'}",
    )


def test_the_containers_of_evaluate(root: Path) -> None:
    with zipfile.ZipFile(root / "x.zip", "w") as archive:
        archive.write(root / "a.png", "a.png")
        archive.write(root / "b/c.png", "deep/er/c.png")
    (root / "list.csv").write_text("file,note\nb/c.png,x\na.png,y\na.png,z\n")
    (root / "labels.csv").write_text("file,label,split\nb/d/e.JPG,x,train\n")
    inputs = collect_images([root / "x.zip", root / "list.csv", root / "labels.csv"])
    assert inputs.problems == ()
    assert names(inputs, root) == [
        "x.zip/a.png",
        "x.zip/deep/er/c.png",
        "b/c.png",
        "a.png",
        "b/d/e.JPG",
    ]
    greys = [int(np.asarray(decode(sample.open()))[0, 0, 0]) for sample in inputs.samples]
    assert greys == [0, 10, 10, 0, 20]


def test_folders_that_a_pattern_may_not_search_are_named(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build(root, "x/a/1.png", "x/b/1.png", "x/b/.2.png")
    (root / "x/c.txt").write_text("no folder")
    monkeypatch.chdir(root)

    def refusing(function):  # type: ignore[no-untyped-def]
        def refuse(path):  # type: ignore[no-untyped-def]
            if "a" in Path(path).parts:
                raise PermissionError(13, "Permission denied", path)
            return function(path)

        return refuse

    monkeypatch.setattr(os, "scandir", refusing(os.scandir))
    monkeypatch.setattr(os, "lstat", refusing(os.lstat))
    for pattern in ("x/*/*.png", "./x/*/1.png", "x/*/**", "x/**/*.png", f"{root}/[x]/?/1.p*"):
        inputs = collect_images([pattern])
        assert names(inputs, Path(root if pattern.startswith("/") else "")) == ["x/b/1.png"]
        [problem] = inputs.problems
        assert problem.removeprefix(f"{root}/") == "x/a: may not be searched: Permission denied"


def test_no_argument_is_dropped(root: Path) -> None:
    (root / "empty").mkdir()
    (root / "b.zip").write_bytes(b"no archive")
    (root / "b.csv").write_text("name\nx.png\n")
    (root / "link.jpg").symlink_to("/nonexistent/x.jpg")
    arguments = ["gone.jpg", "no*.jpg", "empty", "b.zip", "b.csv", "link.jpg", "n" * 300, "a\0b"]
    inputs = collect_images([*(str(root / name) for name in arguments), "https://x.org/a.jpg"])
    assert inputs.samples == ()
    told = [problem.replace(f"{root}/", "") for problem in inputs.problems]
    assert told == [
        "gone.jpg: no such file or folder",
        "no*.jpg: no such file or folder",
        "empty: no images in this folder",
        "b.zip: a damaged archive: File is not a zip file",
        "b.csv: needs the column file, not name",
        "link.jpg: a link to /nonexistent/x.jpg, which does not exist",
        f"{'n' * 300}: cannot be read: File name too long",
        "a\0b: cannot be read: embedded null byte",
        "https://x.org/a.jpg: a web address: download the image first, or pipe it: "
        "curl -L ADDRESS | mobilenetv2 classify -",
    ]


@pytest.mark.parametrize("separator", ["\n", "\r\n", "\0"])
def test_names_on_stdin(root: Path, monkeypatch: pytest.MonkeyPatch, separator: str) -> None:
    lines = [str(root / name) for name in ("b", "", "a.png", "*.png")]
    give_stdin(monkeypatch, separator.join(lines).encode())
    inputs = collect_images(["-", "-"])
    assert names(inputs, root) == ["b/c.png", "b/d/e.JPG", "a.png"]
    assert inputs.problems == (f"{root / '*.png'}: no such file or folder",)


@pytest.mark.parametrize(
    "encoding", ["utf-8-sig", "utf-16", "utf-16-be", "utf-32", "utf-16-le without a mark"]
)
def test_names_on_stdin_in_other_encodings(
    root: Path, monkeypatch: pytest.MonkeyPatch, encoding: str
) -> None:
    build(root, "고양이.png", "c.png")
    encoding, without, _ = encoding.partition(" without")
    mark = "\ufeff" if encoding == "utf-16-be" else ""
    listed = f"{mark}{root / '고양이.png'}\r\n{root / 'c.png'}\r\n".encode(encoding)
    for content in (listed, listed[: listed.index(b"\r") - (encoding == "utf-16-be")]):
        give_stdin(monkeypatch, content)
        inputs = collect_images(["-"])
        if without:
            assert not inputs.samples
            [problem] = inputs.problems
            assert "NUL characters between letters, as UTF-16 has them" in problem
        else:
            assert names(inputs, root)[0] == "고양이.png"
            assert not inputs.problems


def test_one_letter_names_on_stdin(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(build(root, "1/a.png", "2/b.png"))
    give_stdin(monkeypatch, b"1\x002\0")
    assert [sample.name for sample in collect_images(["-"]).samples] == ["1/a.png", "2/b.png"]


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "BMP", "TIFF", "PPM", "WEBP"])
def test_an_image_on_stdin(monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    file = io.BytesIO()
    Image.new("RGB", (8, 6), (0, 90, 200)).save(file, kind)
    give_stdin(monkeypatch, file.getvalue())
    [sample] = collect_images(["-"]).samples
    assert sample.name == "<stdin>"
    assert decode(sample.open()).size == (8, 6)


def test_a_damaged_image_on_stdin_is_no_list(monkeypatch: pytest.MonkeyPatch) -> None:
    give_stdin(monkeypatch, b"\0\0\0\x18ftypmif1\0\0\0\0mif1\n\n")
    assert [sample.name for sample in collect_images(["-"]).samples] == ["<stdin>"]


def test_lists_have_a_limit(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("inputs", "csv_list"):
        monkeypatch.setattr(f"mobilenetv2.datasets.{module}.MOST_IMAGES", 2)
    (root / "list.csv").write_text("file\na.png\n" * 3)
    give_stdin(monkeypatch, b"x\ny\nz\n")
    assert [
        problem.replace(f"{root}/", "") for problem in collect_images([root / "list.csv"]).problems
    ] == ["list.csv: more than 2 images: make several lists of it, or shards"]
    assert collect_images(["-"]).problems[-1] == "-: more than 2 names on stdin"


def test_an_empty_or_closed_stdin(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = ("-: stdin has neither an image nor names of images",)
    give_stdin(monkeypatch, b"\n")
    assert collect_images(["-"]).problems == expected
    monkeypatch.setattr("sys.stdin", None)
    assert collect_images(["-"]).problems == expected


def test_links_to_nothing_in_folders_and_patterns(root: Path) -> None:
    (root / "b/gone.png").symlink_to("nowhere.png")
    (root / "b/more").symlink_to("nowhere")
    [broken] = [sample for sample in collect_images([root]).samples if "gone" in sample.name]
    with pytest.raises(
        ImageError, match=r"gone\.png: a link to nowhere\.png, which does not exist"
    ):
        broken.decode()
    expected = f"{root / 'b/more'}: a link to nowhere, which does not exist"
    assert collect_images([root]).problems == (expected,)
    assert expected in collect_images([root / "b/*"]).problems


def test_looping_links_end(root: Path) -> None:
    for name in ("b/one", "b/two"):
        (root / name).symlink_to(root)
    (root / "again").symlink_to(root / "b/d")
    inputs = collect_images([str(root / "**" / "*.JPG")])
    assert names(inputs, root) == ["again/e.JPG", "b/d/e.JPG"]
    inputs = collect_images([root])
    assert names(inputs, root) == ["a.png", "again/e.JPG", "b/c.png", "b/d/e.JPG"]
    assert inputs.left_out[-1] == (
        f"links to a folder that they are in left out: {root / 'b/one'}, {root / 'b/two'}"
    )


def test_links_that_branch_at_every_level_end(tmp_path: Path) -> None:
    for level in range(30):
        (tmp_path / str(level)).mkdir()
        for name in "ab":
            (tmp_path / str(level) / name).symlink_to(tmp_path / str(level + 1))
    (tmp_path / "30").mkdir()
    [problem] = collect_images([tmp_path / "0"]).problems
    assert "a folder that links reach more than 10000 times" in problem


def test_names_that_are_not_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    try:
        build(tmp_path, "b\udce9d.png")
    except (OSError, UnicodeError):
        pytest.skip("this file system takes text alone")
    give_stdin(monkeypatch, os.fsencode(tmp_path / "b\udce9d.png"))
    assert [Path(sample.name) for sample in collect_images(["-"]).samples] == [
        tmp_path / "b\udce9d.png"
    ]


def test_narrow_16_bit_data_on_the_command_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ramp = np.arange(4096, dtype=np.uint16).reshape(64, 64)
    Image.fromarray(ramp).save(tmp_path / "scan.png")
    Image.fromarray((ramp >> 4).astype(np.uint8)).save(tmp_path / "eight.png")
    outputs = []
    message = f"{tmp_path / 'scan.png'}: values from 0 to 4095 of 0..65535 give 16 grey levels"
    for path, flags in (("scan.png", []), ("scan.png", ["--stretch"]), ("eight.png", [])):
        warned = path == "scan.png" and not flags
        with pytest.warns(NarrowRangeWarning, match=message) if warned else nullcontext():
            assert run(["classify", str(tmp_path / path), *flags, "--format", "csv"]) == 0
        out, err = capsys.readouterr()
        assert err == ""
        outputs.append([line.split(",", 1)[1] for line in out.splitlines()])
    shown = warnings.formatwarning(NarrowRangeWarning("\x1b.png"), NarrowRangeWarning, "x.py", 1)
    assert shown == "warning: \\x1b.png\n"
    assert outputs[0] != outputs[1]
    assert outputs[1][1].split(",")[:3] == outputs[2][1].split(",")[:3]


def test_an_image_on_stdin_of_the_command(
    root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    give_stdin(monkeypatch, (root / "a.png").read_bytes())
    assert run(["classify", "-", str(root / "gone.png"), "--format", "csv", "--top", "1"]) == 1
    out, err = capsys.readouterr()
    assert out.splitlines()[1].startswith("<stdin>,1,")
    assert err.splitlines() == [
        f"{root / 'gone.png'}: no such file or folder",
        "1 of 2 could not be read",
    ]
