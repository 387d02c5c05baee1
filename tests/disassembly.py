"""Compiled kernels as instructions, read from objdump."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

Function = dict[int, str]  # instructions by address

# a conditional jump and where it goes: x86 and 64-bit Arm; others lead back from code laid out elsewhere
JUMP = r"(?:j(?!mp)\w+ +|(?:b\.\w+|cbn?z|tbn?z)\t(?:.*, )?)([0-9a-f]+) <"


def disassembled(objdump: str, binary: Path) -> dict[str, Function]:
    """The functions of an object file by name: `tile<6, 4>` as `tileILi6ELi4EE...`."""
    command = [objdump, "-d", "--no-show-raw-insn", binary]
    listing = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    functions: dict[str, Function] = {}
    for line in listing.splitlines():
        if head := re.fullmatch(r"[0-9a-f]+ <(.*)>:", line):
            functions[head[1].partition("_GLOBAL__N_1")[2].lstrip("0123456789")] = {}
        elif body := re.fullmatch(r" *([0-9a-f]+):\t(.*)", line):
            functions[list(functions)[-1]][int(body[1], 16)] = body[2]
    return functions


def inner_loops(function: Function) -> list[list[str]]:
    """Instructions from the target of a backward jump to the jump, where no other such loop lies
    within.
    """
    loops = []
    for address, instruction in function.items():
        jump = re.match(JUMP, instruction)
        if jump and int(jump[1], 16) <= address:
            loops.append((int(jump[1], 16), address))
    return [
        [instruction for at, instruction in function.items() if begin <= at <= end]
        for begin, end in loops
        if not any(begin <= b and e <= end and (b, e) != (begin, end) for b, e in loops)
    ]
