"""A folder of pictures from fit to prediction, as a user goes it; counted mode, so no clock decides."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

import gristmill
from gristmill.cli import main
from gristmill.deployment import bundle
from gristmill.errors import ResourceError, RunError
from gristmill.limits import BUNDLE_BYTES

pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module")
def made(digits: Path, tmp_path_factory: pytest.TempPathFactory) -> gristmill.Result:
    out = tmp_path_factory.mktemp("out") / "digits.grist"
    bad = digits / "0" / "broken.png"
    bad.write_bytes((digits / "0" / "0000.png").read_bytes()[:60])
    return gristmill.fit(digits, out=out, segments=6, from_scratch=True)


def test_the_bundle_is_verified_and_knows_its_digits(made: gristmill.Result) -> None:
    assert bundle.verify(made.bundle).ok
    assert made.evaluation.part == "test"
    assert made.score > 0.85
    assert made.traditional is not None


def test_small_data_are_folded_and_the_report_says_so(made: gristmill.Result) -> None:
    folder = made.bundle.with_suffix(".run")
    record = json.loads((folder / "report.json").read_text())
    assert record["folds"] == 5
    assert record["parts"]["valid"] + record["parts"]["calib"] == record["parts"]["train"] == 240
    assert "by a model that had not seen it (5 folds)" in made.report.read_text()
    journal = (folder / "journal.jsonl").read_text()
    assert "+valid" not in journal
    assert not list((folder / "segments").glob("*+valid*")), "nothing is left to be fitted again"
    trained = [json.loads(p.read_text())["outcome"] for p in (folder / "segments").glob("*/outcome.json")]
    assert {o["facts"].get("models") for o in trained} == {None, 6}, "features once, models six times"


def test_the_quarantined_file_is_named_everywhere(made: gristmill.Result) -> None:
    assert "broken.png" in json.dumps(made.audit)
    assert "broken.png" in made.report.read_text()
    inside = bundle.read_text(made.bundle, "report.html")
    assert "broken.png" not in inside
    assert "data:image/jpeg" not in inside, "no picture of the user may lie in the bundle"


def test_predictions_agree_with_the_folders(made: gristmill.Result, digits: Path) -> None:
    model = gristmill.load(made.bundle)
    found = model.predict([digits / "1"])
    assert sum(p.label == "1" for p in found) >= 90
    assert model.predict([digits / "0" / "broken.png"])[0].error


def test_the_same_command_again_returns_the_finished_result(made: gristmill.Result, digits: Path) -> None:
    before = made.bundle.read_bytes()
    again = gristmill.fit(digits, out=made.bundle, segments=6, from_scratch=True)
    assert again.reused
    assert again.score == made.score
    assert made.bundle.read_bytes() == before


def test_another_problem_in_the_same_run_is_refused(made: gristmill.Result, digits: Path) -> None:
    with pytest.raises(RunError, match="seed"):
        gristmill.fit(digits, out=made.bundle, segments=6, from_scratch=True, seed=1)
    with pytest.raises(RunError, match="sampler"):
        gristmill.fit(digits, out=made.bundle, segments=6, from_scratch=True, sampler="prior")


def test_a_fresh_process_predicts_without_torch(made: gristmill.Result, digits: Path) -> None:
    script = (
        "import sys, gristmill; m = gristmill.load(sys.argv[1]); print(m.predict([sys.argv[2]])[0].label);"
        "print(sorted({'torch','sklearn','scipy','pandas','onnx'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(made.bundle), str(digits / "4" / os.listdir(digits / "4")[0])],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.splitlines() == ["4", "[]"]


def test_every_face_reads_the_bundle(
    made: gristmill.Result, digits: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["verify", str(made.bundle)]) == 0
    assert main(["inspect", str(made.bundle), "--json"]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["metric"] == "accuracy"
    assert main(["report", str(made.bundle), "--out", str(tmp_path / "r.html")]) == 0
    assert main(["report", str(made.bundle.with_suffix(".run")), "--out", str(tmp_path / "full.html")]) == 0
    assert main(["runs", "show", str(made.bundle.with_suffix(".run"))]) == 0
    capsys.readouterr()
    assert main(["evaluate", str(made.bundle), str(digits), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["evaluation"]["n"] == 300
    assert found["unreadable"][0][0].endswith("broken.png")
    assert (
        found["unreadable"][0][1]
        == gristmill.load(made.bundle).predict([digits / "0" / "broken.png"])[0].error
    )


def test_pictures_of_all_kinds_get_the_answer_of_the_plain_one(
    made: gristmill.Result, digits: Path, tmp_path: Path
) -> None:
    plain = Image.open(sorted((digits / "4").glob("*.png"))[0])
    for name, picture in {
        "rgb.png": plain.convert("RGB"),
        "rgba.png": plain.convert("RGBA"),
        "palette.png": plain.convert("P"),
        "large.bmp": plain.resize((64, 64), Image.Resampling.BICUBIC),
        "cmyk.jpg": plain.convert("RGB").convert("CMYK"),
        "lossless.webp": plain.convert("RGB"),
    }.items():
        picture.save(tmp_path / name, **({"lossless": True} if name.endswith("webp") else {}))
    turned = plain.transpose(Image.Transpose.ROTATE_90)
    exif = Image.Exif()
    exif[0x0112] = 6
    turned.convert("RGB").save(tmp_path / "turned.jpg", exif=exif, quality=95)
    found = gristmill.load(made.bundle).predict(sorted(tmp_path.iterdir()))
    assert [p.error for p in found] == [None] * 7
    assert {p.label for p in found} == {"4"}


def test_a_limit_on_the_size_is_kept(made: gristmill.Result, digits: Path, tmp_path: Path) -> None:
    def size(result: gristmill.Result) -> float:
        return 1e6 * sum(c["size_mb"] for c in result.leaderboard if c["weight"] > 0)

    out, limit = tmp_path / "small.grist", BUNDLE_BYTES + 10_000
    small = gristmill.fit(digits, out=out, segments=6, from_scratch=True, max_size=limit / 1e6)
    assert out.stat().st_size <= limit
    assert size(small) <= 10_000 < size(made)


def test_a_limit_that_nothing_keeps_says_what_comes_nearest(digits: Path, tmp_path: Path) -> None:
    with pytest.raises(ResourceError, match="max-latency and --max-size") as said:
        gristmill.fit(digits, out=tmp_path / "m.grist", segments=1, from_scratch=True, max_latency=1e-5)
    assert "--max-latency is" in str(said.value)
    assert not (tmp_path / "m.grist").exists()
