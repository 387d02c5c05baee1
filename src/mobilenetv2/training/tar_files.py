"""Tar files in WebDataset's layout: the images of one, each with the files of its name."""

from __future__ import annotations

import glob
import re
import tarfile
from collections.abc import Iterator
from pathlib import Path

from ..datasets.shard_sample import ShardSample
from ..errors import UserError

REMOTE = re.compile("[a-z][a-z0-9+]+:", re.IGNORECASE)  # two letters or more: not a drive
META = re.compile("__[^/]*__(/|$)")  # names that WebDataset keeps for itself
# folder and name, and what follows the first dot; a name with a leading dot is hidden
MEMBER = re.compile(r"((?:.*/)?[^./]+)\.([^/]*)", re.DOTALL)


def tar_files(pattern: str) -> list[str]:
    """The tar files of a pattern, in order.

    Args:
        pattern: Path or URL, with braces for the part that varies; of a path also with `*`, `?` and
            `[...]`.

    Raises:
        UserError: A file does not exist. URLs are not checked.
    """
    from webdataset.shardlists import expand_urls

    urls = [url for each in expand_urls(pattern) for url in _matching(each)]
    absent = [url for url in urls if not REMOTE.match(url) and not Path(url).is_file()]
    if absent:
        raise UserError(f"{pattern}: {len(absent)} of {len(urls)} files are absent: {absent[0]}")
    return urls


def _matching(path: str) -> list[str]:
    """The files that a path with wildcards means, or the path itself."""
    if REMOTE.match(path) or Path(path).is_file():
        return [path]
    return sorted(glob.glob(path)) or [path]


def tar_samples(url: str) -> Iterator[tuple[str, ShardSample]]:
    """The files of a tar file, those of one name in a row as one sample, with that name.

    Args:
        url: A file, or an address that the library webdataset opens.

    Raises:
        UserError: It cannot be read, or a name is there twice.
    """
    from webdataset.gopen import gopen

    name, files, links = "", dict[str, bytes](), dict[str, str]()
    try:
        with gopen(url) as stream, tarfile.open(fileobj=stream, mode="r|*") as archive:
            for member in archive:
                archive.members = []  # they would all be kept
                match = MEMBER.fullmatch(member.name)
                link = member.issym() or member.islnk()
                if match is None or META.match(member.name) or not (link or member.isreg()):
                    continue
                if match[1] != name:
                    if files or links:
                        yield name, ShardSample(f"{url}/{name}", files, links)
                    name, files, links = match[1], {}, {}
                kind = match[2].lower()
                if kind in files or kind in links:
                    raise UserError(f"{url}/{member.name}: is there twice")
                if link:
                    links[kind] = member.linkname
                elif content := archive.extractfile(member):
                    files[kind] = content.read()
            if files or links:
                yield name, ShardSample(f"{url}/{name}", files, links)
    except UserError:
        raise
    except Exception as error:  # webdataset, tarfile and the download raise anything
        raise UserError(f"{url}: cannot be read: {error}") from error
