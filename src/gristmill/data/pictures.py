"""What the facts of a scan say about the pictures: blank, dark, tiny, huge, odd, mixed, turned, animated,
misnamed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

import numpy as np

from gristmill.data.findings import Finding, counted, finding, listed
from gristmill.data.folders import ending
from gristmill.data.leakage import FEWEST_ROWS, tells_class
from gristmill.data.source import Source

BLANK_STD = 2.0
"""Pictures whose grey levels (0 to 255) vary less than this show nothing."""
_DARK_MEAN = 20.0
_TINY = 0.25
_HUGE = 20.0
_HUGE_PIXELS = 4_000_000
_NARROW = 4.0
_TELLS = 0.9
_ENDINGS = {
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif"),
    "PNG": (".png",),
    "WEBP": (".webp",),
    "BMP": (".bmp",),
    "GIF": (".gif",),
    "TIFF": (".tif", ".tiff"),
}


def findings(source: Source, facts: Mapping[str, np.ndarray], readable: np.ndarray) -> list[Finding]:
    """Findings about single pictures; facts that are absent are skipped."""
    found: list[Finding] = []
    if "mean" in facts and "std" in facts:
        found += _light(source, facts["mean"], facts["std"], readable)
    if "width" in facts and "height" in facts:
        found += _sizes(source, facts["width"], facts["height"], readable)
    if "mode" in facts:
        found += _modes(facts["mode"], readable)
    if "turned" in facts:
        found += _turned(source, facts["turned"], readable)
    if "animated" in facts:
        found += _animated(source, facts["animated"], readable)
    if "format" in facts:
        found += _misnamed(source, facts["format"], readable)
    return found + _looks(source, facts, readable)


def _named(source: Source, mask: np.ndarray) -> list[str]:
    return [source.names[row] for row in np.flatnonzero(mask)]


def _count(mask: np.ndarray) -> str:
    return counted(int(mask.sum()), "picture is", "pictures are")


def _light(source: Source, mean: np.ndarray, std: np.ndarray, readable: np.ndarray) -> list[Finding]:
    found = []
    blank = readable & (std < BLANK_STD)
    if blank.any():
        message = f"{_count(blank)} blank: one colour all over."
        advice = "Look at them; delete those that show nothing."
        found.append(finding("blank", "warning", message, _named(source, blank), advice))
    dark = readable & ~blank & (mean < _DARK_MEAN)
    if dark.any():
        message = f"{_count(dark)} very dark."
        found.append(finding("dark", "info", message, _named(source, dark), "Look at them."))
    return found


def _sizes(source: Source, width: np.ndarray, height: np.ndarray, readable: np.ndarray) -> list[Finding]:
    if not readable.any():
        return []
    found = []
    short, long = np.minimum(width, height).astype(np.float64), np.maximum(width, height).astype(np.float64)
    area = short * long
    checks = (
        ("tiny", short < _TINY * np.median(short[readable]), "much smaller than most"),
        (
            "huge",
            (area > _HUGE * np.median(area[readable])) & (area > _HUGE_PIXELS),
            "much larger than most",
        ),
        (
            "narrow",
            long > _NARROW * np.maximum(short, 1),
            "more than four times as long as wide",
        ),
    )
    for code, odd, what in checks:
        mask = readable & odd
        if mask.any():
            usual = f"{int(np.median(width[readable]))} x {int(np.median(height[readable]))}"
            message = f"{_count(mask)} {what} (usual: {usual} pixels)."
            found.append(
                finding(code, "info", message, _named(source, mask), "Look at them: thumbnails or mistakes?")
            )
    return found


def _modes(mode: np.ndarray, readable: np.ndarray) -> list[Finding]:
    kinds = Counter(str(m) for m in mode[readable].tolist())
    if len(kinds) < 2:
        return []
    shown = listed([f"{n:,} {kind}" for kind, n in kinds.most_common()])
    message = f"Pictures have different colour modes ({shown}); all are converted to one."
    return [finding("mixed-modes", "info", message, [], "Nothing to do.", count=int(readable.sum()))]


def _turned(source: Source, turned: np.ndarray, readable: np.ndarray) -> list[Finding]:
    mask = readable & np.asarray(turned, dtype=bool)
    if not mask.any():
        return []
    message = f"{_count(mask)} marked by the camera as to be turned, and will be."
    return [finding("turned", "info", message, _named(source, mask), "Nothing to do.")]


def _animated(source: Source, animated: np.ndarray, readable: np.ndarray) -> list[Finding]:
    mask = readable & np.asarray(animated, dtype=bool)
    if not mask.any():
        return []
    many = counted(int(mask.sum()), "picture holds", "pictures hold")
    message = f"{many} several frames, of which only the first is looked at."
    advice = "If others matter, save them as pictures of their own."
    return [finding("animated", "info", message, _named(source, mask), advice)]


def _misnamed(source: Source, formats: np.ndarray, readable: np.ndarray) -> list[Finding]:
    rows = [
        row
        for row in np.flatnonzero(readable).tolist()
        if ending(source.names[row]) and ending(source.names[row]) not in _ENDINGS.get(str(formats[row]), ())
        if any(ending(source.names[row]) in known for known in _ENDINGS.values())
    ]
    if not rows:
        return []
    first = f"{source.names[rows[0]]} is {formats[rows[0]]}"
    many = counted(len(rows), "picture is", "pictures are")
    message = f"{many} of another kind than the ending says ({first}) and read as what they are."
    return [finding("misnamed", "info", message, [source.names[row] for row in rows], "Nothing to do.")]


def _looks(source: Source, facts: Mapping[str, np.ndarray], readable: np.ndarray) -> list[Finding]:
    """A class that size, mode and format give away: the model may learn the camera instead of the thing."""
    rows = np.flatnonzero(readable & source.labelled & (source.given != "test"))
    columns = [facts[name] for name in ("width", "height", "mode", "format") if name in facts]
    if source.task.target.task == "regression" or not columns or len(rows) < FEWEST_ROWS:
        return []
    values = np.empty(len(rows), dtype=object)
    values[:] = ["/".join(str(column[row]) for column in columns) for row in rows.tolist()]
    score = tells_class(values, source.targets[source.task.target.name][rows])
    if score < _TELLS:
        return []
    message = (
        f"Size and kind of file alone tell the class in {score:.0%} of the cases: the classes may come from "
        "different cameras or sources, and a model can learn those instead of what the pictures show."
    )
    advice = "Take the pictures of all classes in the same way, or test on pictures from elsewhere."
    return [finding("file-tells-class", "warning", message, [], advice, count=len(rows))]
