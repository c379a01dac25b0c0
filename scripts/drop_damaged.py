"""Drop what an interrupted pip left behind, so that the next ``pip install`` puts it back whole.

pip writes a package's files first and their list (RECORD) last, and moves old files aside under names that begin with
``~`` while it replaces them. Killed in between, it leaves a package that looks installed and is not. This script
compares every RECORD with the disk (names and sizes: a quarter of a second for the whole environment) and removes the
metadata of each package that does not match; pip then no longer believes that it is there.

Prints one line for each package that it dropped. Standard library only; scripts/setup_env.sh calls it.

    python scripts/drop_damaged.py .venv/lib/python3.11/site-packages
"""

import csv
import os
import shutil
import sys
from pathlib import Path

SUFFIX = ".dist-info"


def damage(metadata: Path) -> str:
    """What is wrong with the package that ``metadata`` (a .dist-info folder) describes, or "" when it is whole."""
    record = metadata / "RECORD"
    if not record.is_file() or not (metadata / "METADATA").is_file():
        return "its list of files is missing"
    with record.open(newline="", encoding="utf-8") as lines:
        rows = list(csv.reader(lines))
    if not rows:
        return "its list of files is empty"
    for row in rows:
        name, size = row[0], row[2] if len(row) == 3 else ""
        path = os.path.join(metadata.parent, name)
        if name.endswith(".pyc"):
            continue
        if not os.path.exists(path):
            return f"{name} is missing"
        if size and os.path.getsize(path) != int(size):
            return f"{name} has another size than when it was installed"
    return ""


def remove(path: Path) -> None:
    """Remove a file, a link or a whole folder."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()


def main(site_packages: Path) -> None:
    """Remove half-replaced packages (~name) and the metadata of damaged ones from ``site_packages``."""
    for path in sorted(site_packages.iterdir()):
        if path.name.startswith("~"):
            remove(path)
            print(f"removed {path.name}: left by an interrupted pip")
        elif path.name.endswith(SUFFIX):
            reason = damage(path)
            if reason:
                remove(path)
                print(f"dropped {path.name.removesuffix(SUFFIX)}: {reason}")


if __name__ == "__main__":
    if len(sys.argv) != 2 or sys.argv[1] in ("-h", "--help"):
        print(__doc__)
        sys.exit(0 if sys.argv[1:] in (["-h"], ["--help"]) else 2)
    main(Path(sys.argv[1]))
