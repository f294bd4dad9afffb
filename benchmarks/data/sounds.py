"""Real recordings out of Debian packages, laid out as class folders or as a table with a group column."""

from __future__ import annotations

import csv
import re
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from xml.etree import ElementTree

import numpy as np

DRUMS, KITS = "hydrogen-drumkits", "usr/share/hydrogen/data/drumkits"
KINDS = {
    "hihat": r"hi-?hat|\bhh|hat\b|hat[ _]|chh|ohh",
    "kick": r"kick|bass ?drum|\bbd|stomp",
    "snare": r"snare|\bsn|\bsd",
    "tom": r"tom|\btm",
    "cymbal": r"cymbal|crash|ride|\brd|splash|china",
}
"""How an instrument's name in a kit, or else a file's, tells its kind; the first that fits counts."""
PROMPTS = {language: f"asterisk-core-sounds-{language}-wav" for language in ("en", "es", "fr", "it", "ru")}
STAMPS, NAMES = "tuxpaint-stamps-default", "usr/share/tuxpaint/stamps"
EACH = 100
"""Clips of each language."""


def unpacked(packages: list[str], into: Path) -> Path:
    """Download packages, unpack them under ``into`` without installing them, and return their common root."""
    subprocess.run(["apt-get", "download", "-q", *packages], cwd=into, check=True, stdout=sys.stderr)
    for archive in sorted(into.glob("*.deb")):
        subprocess.run(["dpkg-deb", "-x", archive.name, "root"], cwd=into, check=True)
    return into / "root"


def drums(into: Path, out: Path) -> dict[str, int]:
    """Write ``drums.csv``: file, kind and kit of every hit whose kind its name tells."""
    kits = unpacked([DRUMS], into) / KITS
    rows = []
    for kit in sorted(p for p in kits.iterdir() if p.is_dir()):
        named = _instruments(kit / "drumkit.xml")
        for path in sorted(kit.iterdir()):
            kind = _kind(named.get(path.name, "")) or _kind(path.stem)
            if path.suffix.lower() in (".wav", ".flac", ".aiff") and kind:
                target = Path("clips") / f"{kit.name}-{path.name}".replace(" ", "_")
                (out / target).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(path, out / target)
                rows.append((str(target), kind, kit.name))
    _table(out / "drums.csv", ("file", "kind", "kit"), rows)
    return dict(sorted(Counter(kind for _, kind, _ in rows).items()))


def _instruments(path: Path) -> dict[str, str]:
    """Return the name of the instrument that each file of a kit is a layer of."""
    found: dict[str, str] = {}
    for instrument in ElementTree.parse(path).iter():
        if instrument.tag.endswith("instrument"):
            files = [e.text for e in instrument.iter() if e.tag.endswith("filename") and e.text]
            names = [e.text for e in instrument if e.tag.endswith("name") and e.text]
            found |= dict.fromkeys(files, names[0] if names else "")
    return found


def _kind(name: str) -> str:
    text = name.replace("_", " ").lower()
    return next((kind for kind, pattern in KINDS.items() if re.search(pattern, text)), "")


def prompts(into: Path, out: Path) -> dict[str, int]:
    """Copy prompts of a telephone system, 8 kHz, into one folder a language; each has one speaker."""
    sounds = unpacked(list(PROMPTS.values()), into) / "usr/share/asterisk/sounds"
    found = {}
    for language in PROMPTS:
        (voice,) = sounds.glob(f"{language}_*")
        paths = [p for p in sorted(voice.rglob("*.wav")) if p.parent.name != "silence"]
        found[language] = _drawn(paths, voice, out / language)
    return found


def names(into: Path, out: Path) -> dict[str, int]:
    """Write ``names.csv``: spoken names of drawings, their language, and the drawing, which is spoken in several."""
    stamps = unpacked([STAMPS], into) / NAMES
    by: dict[str, list[Path]] = {}
    for path in sorted(stamps.rglob("*.ogg")):
        named = re.search(r"_desc_([a-z]{2})$", path.stem)
        if named:
            by.setdefault(named[1], []).append(path)
    largest = sorted(by, key=lambda n: (-len(by[n]), n))[:8]
    rows, counts = [], {}
    for language in sorted(largest):
        counts[language] = _drawn(by[language], stamps, out / language)
        for path in sorted((out / language).iterdir()):
            rows.append((f"{language}/{path.name}", language, path.stem.rpartition("_desc_")[0]))
    _table(out / "names.csv", ("file", "language", "drawing"), rows)
    return counts


def _drawn(paths: list[Path], root: Path, out: Path, seed: int = 0) -> int:
    out.mkdir(parents=True)
    chosen = np.random.default_rng(seed).choice(len(paths), min(EACH, len(paths)), replace=False)
    for i in sorted(chosen.tolist()):
        shutil.copyfile(paths[i], out / "-".join(paths[i].relative_to(root).parts))
    return len(chosen)


def _table(path: Path, header: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([header, *rows])


SETS = {"drums": drums, "prompts": prompts, "names": names}
