"""Renew what README.md shows: the outputs of its commands, and its picture.

Run from the repository's root, on a machine that does nothing else meanwhile, with the
extra ``torch`` installed:

    python docs/renew_readme.py [WORD...]

With words, only commands that contain one of them are run; the rest stays as it is.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"
PICTURE = ROOT / "docs" / "images" / "quickstart.png"
_BLOCK = re.compile(r"^```console\n(.*?)^```$", re.DOTALL | re.MULTILINE)


def main(words: list[str]) -> None:
    """Run the commands in a folder that has the instances and the README's files."""
    text = README.read_text(encoding="utf-8")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "instances").symlink_to(ROOT / "instances")
        for file, content in re.findall(
            r"With this as `([\w.]+)`:\n\n```\w+\n(.*?)^```$",
            text,
            re.DOTALL | re.MULTILINE,
        ):
            (folder / file).write_text(content, encoding="utf-8")
        renewed = _BLOCK.sub(lambda block: _renewed(block[0], words, folder), text)
        README.write_text(renewed, encoding="utf-8")
        if not words:
            _draw(folder)


def _renewed(block: str, words: list[str], folder: Path) -> str:
    """A block of commands with what they print now."""
    lines: list[str] = []
    keeps = True
    for line in re.split(r"(?<!\\)\n", block):  # a command may go on after a \
        if line.startswith("$ "):
            keeps = bool(words) and not any(word in line for word in words)
            lines += line.splitlines()
            if not keeps:
                command = line.removeprefix("$ ").replace("\\\n", " ")
                lines += _output(command, folder).splitlines()
        elif keeps or line.startswith("```"):
            lines.append(line)
    return "\n".join(line.rstrip() for line in lines)


def _output(command: str, folder: Path) -> str:
    """What a command prints; it may use a line of 140 columns."""
    program, *words = shlex.split(command)
    arguments = [argument for word in words for argument in _expanded(word, folder)]
    if program != "schedopt":
        msg = f"README.md shows {program}, which is not run here"
        raise ValueError(msg)
    done = subprocess.run(
        [sys.executable, "-m", "schedopt", *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "140"},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return done.stdout.rstrip()


def _expanded(word: str, folder: Path) -> list[str]:
    """A word of a command, or the files that it means, as a shell does."""
    if "*" not in word:
        return [word]
    return sorted(str(path.relative_to(folder)) for path in folder.glob(word))


def _draw(folder: Path) -> None:
    """The picture, by the commands that stand below it."""
    solve = "schedopt solve instances/quickstart/quickstart.yaml --reproducible"
    _output(f"{solve} -o quickstart.json", folder)
    _output(f"schedopt plot quickstart.json -o {shlex.quote(str(PICTURE))}", folder)


if __name__ == "__main__":
    main(sys.argv[1:])
