"""Numbers and user strings as people read them, and safe to show."""

from __future__ import annotations

import math
import re
import unicodedata

LONGEST = 60
"""Characters of a name shown in full; the middle of longer ones is left out."""

_HIDDEN = {"Cc", "Cf", "Cs", "Zl", "Zp"}
_JOINERS = "\u200c\u200d"  # Persian, Hindi and many emoji are misspelt without them; they move nothing
_PICTURE = re.compile(r"data:image/(?:png|jpeg|webp);base64,[A-Za-z0-9+/]+={0,2}")


def visible(text: str) -> str:
    """The text with every character that is invisible or steers the display written out as its code.

    Control characters, directional overrides, zero-width spaces and lone surrogates (file names that are
    no UTF-8) let a name show as another name, or break the file. Tab and line ends become a space.
    """
    return "".join(_shown(c) for c in text)


def _shown(char: str) -> str:
    if char in "\t\n\r":
        return " "
    hidden = unicodedata.category(char) in _HIDDEN and char not in _JOINERS
    return f"[U+{ord(char):04X}]" if hidden else char


def short(name: object, longest: int = LONGEST) -> str:
    """A user's name, made visible, at most `longest` characters: start and end stay."""
    text = visible(str(name)) or "(empty)"
    if len(text) <= longest:
        return text
    tail = longest // 3
    return f"{text[: longest - tail - 1]}…{text[-tail:]}"


def quoted(name: object) -> str:
    """A user's name inside a sentence."""
    return f"“{short(name)}”"


def listed(items: list[str], most: int = 3) -> str:
    """`a`, `a and b`, `a, b and c`, `a, b and 7 more`."""
    if len(items) > most:
        return f"{', '.join(items[: most - 1])} and {len(items) - most + 1} more"
    return " and ".join(filter(None, (", ".join(items[:-1]), *items[-1:])))


def plural(count: int, noun: str) -> str:
    """`1 row`, `12,000 rows`, `3 classes`."""
    ending = "" if count == 1 else "es" if noun.endswith(("s", "x", "ch")) else "s"
    return f"{count:,} {noun}{ending}"


def percent(share: float) -> str:
    """`83%`; near the ends, where a tenth matters, `99.4%`."""
    value = 100.0 * share
    rough = 1.5 < value < 98.5 or value in (0.0, 100.0)
    return f"{value:.0f}%" if rough else f"{value:.1f}%"


def amount(value: float, unit: str | None = None, digits: int = 3) -> str:
    """A number with some significant digits and its unit: `12,300 €`, `0.0123`, `−4.5 kg`."""
    if not math.isfinite(value):
        text = "unknown"
    elif value == 0.0:
        text = "0"
    else:
        places = digits - 1 - math.floor(math.log10(abs(value)))
        rounded = round(value, places)
        extreme = abs(rounded) < 1e-4 or abs(rounded) >= 1e12
        text = f"{rounded:.{digits}g}" if extreme else f"{rounded:,.{max(0, places)}f}"
        if "." in text and "e" not in text:
            text = text.rstrip("0").rstrip(".")
    return f"{text.replace('-', '−')} {visible(unit)}" if unit else text.replace("-", "−")


def compact(value: float) -> str:
    """A number short enough for the tick of an axis: `250k`, `1.2M`, `−0.5`."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size and (size > 1e3 or abs(value) >= 1e4):
            return amount(value / size) + letter
    return amount(value)


def duration(seconds: float) -> str:
    """`0.4 s`, `8 s`, `2 min 05 s`, `1 h 02 min`."""
    if seconds < 1.0:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min" if whole % 60 == 0 else f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def time_option(seconds: float) -> str:
    """A value for --time: `90s`, `10m`, `2h`."""
    whole = math.ceil(seconds)
    if whole % 3600 == 0:
        return f"{whole // 3600}h"
    return f"{whole // 60}m" if whole % 60 == 0 else f"{whole}s"


def picture(address: object) -> str | None:
    """A thumbnail's address if it is a picture inside the page and nothing else, else None."""
    text = str(address)
    return text if _PICTURE.fullmatch(text) else None
