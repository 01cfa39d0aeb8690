"""Ask a running `gristmill serve` about pictures; nothing but the standard library.

python examples/client.py new.jpg
"""

from __future__ import annotations

import argparse
import json
import urllib.request
from pathlib import Path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("pictures", nargs="+", type=Path)
    parser.add_argument("--server", default="http://127.0.0.1:8000")
    parser.add_argument("--token", help="as given to gristmill serve --token")
    options = parser.parse_args()
    for path in options.pictures:
        headers = {"Content-Type": "image/jpeg"}
        if options.token:
            headers["Authorization"] = f"Bearer {options.token}"
        request = urllib.request.Request(f"{options.server}/predict", path.read_bytes(), headers)
        with urllib.request.urlopen(request, timeout=30) as answer:
            print(path, json.dumps(json.load(answer)))


if __name__ == "__main__":
    main()
