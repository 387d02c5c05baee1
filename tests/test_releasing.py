"""What builds and publishes releases: the workflows, and what cibuildwheel is given."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from .conftest import REPOSITORY

tomllib = pytest.importorskip("tomllib", reason="Python 3.11")
yaml = pytest.importorskip("yaml", reason="the extra `detection`")
WORKFLOWS = sorted((REPOSITORY / ".github" / "workflows").glob("*.yml"))


def workflow(path: Path) -> dict[str, Any]:
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    content["on"] = content.pop(True)  # YAML 1.1 reads the word as true
    return content


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_workflows_have_what_github_needs(path: Path) -> None:
    content = workflow(path)
    assert content["permissions"] == {"contents": "read"}
    for name, job in content["jobs"].items():
        assert set(job.get("needs", [])) <= set(content["jobs"]) - {name}
        assert job["runs-on"]
        assert job["timeout-minutes"] <= 120
        for step in job["steps"]:
            if step.get("uses", "").startswith("actions/checkout"):
                assert step["with"] == {"persist-credentials": False}
            assert ("run" in step) != ("uses" in step)
            assert re.fullmatch(r"[\w./-]+@[\w./]+", step.get("uses", "a/b@v1"))


def test_the_tests_are_those_of_a_submission() -> None:
    jobs = workflow(REPOSITORY / ".github" / "workflows" / "tests.yml")["jobs"]
    assert jobs["tests"]["steps"][-1] == {"run": ".ci/run"}
    files = jobs["many-images"]["steps"][-1]["run"].split()[1:]
    assert files
    assert all((REPOSITORY / file).is_file() for file in files)


def test_only_a_tag_publishes_and_with_no_password() -> None:
    content = workflow(REPOSITORY / ".github" / "workflows" / "wheels.yml")
    publish = content["jobs"]["publish"]
    assert publish["if"] == "startsWith(github.ref, 'refs/tags/v')"
    assert set(publish["needs"]) == set(content["jobs"]) - {"publish"}
    assert publish["permissions"] == {"id-token": "write"}
    assert "secrets." not in (REPOSITORY / ".github" / "workflows" / "wheels.yml").read_text()


def test_wheels_are_tried_with_the_first_command_of_the_readme() -> None:
    settings = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))
    wheels = settings["tool"]["cibuildwheel"]
    oldest = settings["project"]["requires-python"].removeprefix(">=3.")
    assert wheels["build"][0] == f"cp3{oldest}-*"
    assert f"{wheels['config-settings']['wheel.py-api']}-*" in wheels["build"]
    command = wheels["test-command"].replace("{project}/", "")
    assert f"&& {command}\n" in (REPOSITORY / "README.md").read_text(encoding="utf-8")
