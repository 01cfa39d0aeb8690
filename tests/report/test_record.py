from __future__ import annotations

import json

import pytest

from gristmill.report import RunReport


@pytest.mark.parametrize("kind", ["pictures", "table", "number"])
def test_json_round_trip(example, kind: str) -> None:
    report = getattr(example, kind)()
    text = json.dumps(report.to_json(), allow_nan=False)
    assert RunReport.from_json(json.loads(text)) == report


def test_later_and_earlier_versions_open(example) -> None:
    data = example.pictures().to_json()
    data["from_the_future"] = {"x": 1}
    data["leaderboard"][0]["colour"] = "green"
    assert RunReport.from_json(data) == example.pictures()
    old = RunReport.from_json({"title": "photos", "task": data["task"]})
    assert old.findings == () and old.evaluation is None and old.has_pictures
