"""Writes every instance file and the table in the README."""

from __future__ import annotations

import argparse
from pathlib import Path

from instances.generate import (
    measured,
    pipedream,
    pipefisher,
    pipefisher_kfac,
    quickstart,
    sailor,
    table,
    vocabulary,
    zero_bubble,
)
from instances.generate.draft import Draft


def main() -> None:
    """Read the folder's profiles, write the instances beside this package."""
    parser = argparse.ArgumentParser(prog="python -m instances.generate")
    parser.add_argument("data", type=Path, help="folder of the upstream cost profiles")
    data: Path = parser.parse_args().data
    target = Path(__file__).resolve().parent.parent
    drafts = all_drafts(data)
    for draft in (*drafts, *pipefisher_kfac.drafts()):
        path = target / draft.family / f"{draft.name}.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(draft.text())
    measured.main()
    readme = target / "README.md"
    readme.write_text(table.with_table(readme.read_text(), drafts))


def all_drafts(data: Path) -> list[Draft]:
    """Every instance of the README's table, in its order."""
    from_vocabulary = list(vocabulary.drafts(data))
    drafts = [
        quickstart.draft(from_vocabulary),
        *zero_bubble.drafts(data),
        *from_vocabulary,
        *pipefisher.drafts(),
        *pipedream.drafts(data),
        *sailor.drafts(data),
    ]
    names = [draft.name for draft in drafts]
    assert len(set(names)) == len(names)
    return drafts


if __name__ == "__main__":
    main()
