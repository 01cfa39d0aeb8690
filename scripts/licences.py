"""The licence gate: every installed distribution has a licence we know and allow, or a reviewed exception.

    python scripts/licences.py            exit 1 and one line per distribution that does not pass
    python scripts/licences.py --list     all of them with their licences

Reads the metadata of this interpreter's environment. Exceptions are in licences.json beside this file:
name, the version that was looked at, the licence that was found, and why that is enough.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

EXCEPTIONS = Path(__file__).with_name("licences.json")

# Permissive, plus MPL-2.0, whose copyleft ends at its own files. BSL-1.0 is Boost, not Business Source.
ALLOWED = {
    *("0BSD", "AFL-2.1", "Apache-2.0", "BSD-2-Clause", "BSD-3-Clause", "BSL-1.0", "CC0-1.0", "HPND", "ISC"),
    *("MIT", "MIT-0", "MIT-CMU", "MPL-2.0", "NCSA", "PSF-2.0", "Python-2.0", "Unlicense", "Zlib"),
}
# What people write where an identifier should stand; the first pattern that matches the whole text wins.
SPOKEN = (
    (r"(the )?apache(,? software)?( licen[cs]e)?,?( version)? ?v?(2(\.0)?)?", "Apache-2.0"),
    (r"(the )?mit( licen[cs]e)?( \(mit\))?( copyright.*)?", "MIT"),
    (r"(new |modified |3-clause )?bsd( licen[cs]e)?( 3-clause)?|3-clause bsd license", "BSD-3-Clause"),
    (r"(simplified |2-clause )bsd( licen[cs]e)?", "BSD-2-Clause"),
    (r"isc( licen[cs]e)?( \(iscl\))?", "ISC"),
    (r"mozilla public license 2\.0( \(mpl 2\.0\))?|mpl[- ]2\.0", "MPL-2.0"),
    (r"(python software foundation( license)?|psf)", "PSF-2.0"),
    (r"historical permission notice and disclaimer.*", "HPND"),
)


def main(argv: list[str] | None = None) -> int:
    """Check all distributions; the exit code is 1 when one does not pass."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--list", action="store_true", help="show every distribution")
    options = parser.parse_args(argv)
    exceptions = json.loads(EXCEPTIONS.read_text(encoding="utf-8"))["exceptions"]
    found = {d.name: d for d in metadata.distributions() if d.name.lower() != "gristmill"}
    rows = [(name, d.version, licence_of(d), problem(d, exceptions)) for name, d in sorted(found.items())]
    if not rows:
        print("licences: no distribution is installed in this environment; run it in the one to be checked")
        return 1
    for name, version, licence, trouble in rows:
        if options.list or trouble:
            shown = licence or "no licence in its metadata"
            print(f"{name} {version}: {shown}" + (f"  <- {trouble}" if trouble else ""))
    bad = sum(bool(row[3]) for row in rows)
    print(f"licences: {len(rows)} distributions, {bad} without an allowed licence")
    return 1 if bad else 0


def problem(distribution: metadata.Distribution, exceptions: Mapping[str, Mapping[str, Any]]) -> str | None:
    """Why a distribution does not pass, or None when it does."""
    licence = licence_of(distribution)
    if licence and is_allowed(licence):
        return None
    reviewed = exceptions.get(distribution.name.lower().replace("_", "-"))
    if reviewed is None:
        return "not on the allowed list; look at it and add it to scripts/licences.json, or do without it"
    if distribution.version not in reviewed["versions"]:
        return f"reviewed for {', '.join(reviewed['versions'])} only"
    return None if is_allowed(reviewed["licence"]) else f"{reviewed['licence']} is not allowed"


def licence_of(distribution: metadata.Distribution) -> str:
    """An SPDX expression from the metadata: the given one, else the classifiers, else the free text."""
    fields = distribution.metadata
    if fields.get("License-Expression"):
        return str(fields["License-Expression"])
    classifiers = [c.split("::")[-1].strip() for c in fields.get_all("Classifier") or [] if "License ::" in c]
    spoken = [name for name in map(identifier, classifiers) if name]
    if spoken:
        return " AND ".join(dict.fromkeys(spoken))
    text = " ".join(str(fields.get("License") or "").split())
    return identifier(text) or ("" if text.upper() == "UNKNOWN" else text[:60])


def identifier(text: str) -> str | None:
    """The SPDX identifier of a licence as people write it, or None."""
    if text in ALLOWED:
        return text
    plain = " ".join(text.lower().split())
    return next((name for pattern, name in SPOKEN if re.fullmatch(pattern, plain)), None)


def is_allowed(expression: str) -> bool:
    """Whether an SPDX expression can be met with allowed licences: all of `AND`, one of `OR`."""
    return all(
        any(is_allowed_term(term) for term in re.split(r"\s+OR\s+", part))
        for part in re.split(r"\s+AND\s+", expression.replace("(", "").replace(")", ""))
    )


def is_allowed_term(term: str) -> bool:
    """Whether one identifier is allowed; an exception granted on top (`WITH`) only widens it."""
    return term.split(" WITH ")[0].strip() in ALLOWED


if __name__ == "__main__":
    sys.exit(main())
