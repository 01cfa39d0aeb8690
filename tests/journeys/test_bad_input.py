"""What goes wrong, as a user sees it: one sentence, the exit code of the README, nothing half-made left."""

from __future__ import annotations

import errno
import importlib.util
import json
import os
import shutil
import struct
import sys
import zipfile
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest
from PIL import Image

from gristmill import automl
from gristmill.cli import main
from gristmill.deadline import WallClock
from gristmill.deployment import archive
from gristmill.search.executors.local import LocalExecutor
from gristmill.segment import Outcome, Resources, Segment

pytestmark = pytest.mark.timeout(120)


def pictures(folder: Path, classes: tuple[str, ...] = ("cat", "dog"), count: int = 4) -> Path:
    """Plain pictures in one folder per class; no two are alike."""
    for c, name in enumerate(classes):
        (folder / name).mkdir(parents=True)
        for i in range(count):
            Image.new("RGB", (20 + i, 20), (40 * c, 30 * i, 90)).save(folder / name / f"{i}.png")
    return folder


def told(capfd: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str]:
    """The exit code and what came on stderr; never a fault of ours, never a traceback."""
    code, _, err = answered(capfd, *arguments)
    return code, err


def answered(capfd: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    """The exit code, stdout and stderr; never a fault of ours, never a traceback."""
    code = main([str(a) for a in arguments])
    out, err = capfd.readouterr()
    assert "Traceback" not in out + err
    assert "a fault in Gristmill" not in err
    return code, out, err


def finished(folder: Path) -> Path:
    """A run as `gristmill runs prune` leaves it, with its model beside it."""
    run = folder / "a.run"
    run.mkdir()
    (run / "run.json").write_text('{"version": 1, "identity": "0", "options": {}}')
    (run / "result.json").write_text("{}")
    (folder / "a.grist").write_bytes(b"a model")
    return run


def test_the_audit_prints_its_progress(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    code, err = told(capfd, "audit", pictures(tmp_path / "data"))
    assert code == 0
    assert "reading 8 pictures" in err


def test_a_refused_command_leaves_an_earlier_model_alone(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    run = finished(tmp_path)
    code, err = told(
        capfd, "fit", pictures(tmp_path / "data"), "--segments", "1", "--out", tmp_path / "a.grist"
    )
    assert code == 2
    assert "--fresh" in err
    assert (tmp_path / "a.grist").read_bytes() == b"a model"
    assert (run / "result.json").exists()


def test_a_refused_command_leaves_no_run_behind(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    data = pictures(tmp_path / "data")
    for i in range(2):
        (data / "cat" / f"bad{i}.png").write_bytes(b"")
    code, err = told(capfd, "fit", data, "--segments", "1", "--out", tmp_path / "a.grist")
    assert code == 3
    assert "bad0.png" in err
    assert sorted(p.name for p in tmp_path.iterdir()) == ["data"]


def test_an_unknown_sampler_is_named_with_the_nearest(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    code, err = told(
        capfd, "fit", pictures(tmp_path / "data"), "--sampler", "defualt", "--out", tmp_path / "a.grist"
    )
    assert code == 2
    assert "did you mean default?" in err
    assert not (tmp_path / "a.run").exists()


def test_no_segments_are_no_run(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    code, err = told(
        capfd, "fit", pictures(tmp_path / "data"), "--segments", "0", "--out", tmp_path / "a.grist"
    )
    assert code == 2
    assert "--segments" in err
    assert not (tmp_path / "a.run").exists()


def test_something_else_lies_where_the_run_would(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    data = pictures(tmp_path / "data")
    (tmp_path / "a.run").write_text("mine")
    (tmp_path / "b.grist").mkdir()
    for name, options in (("a", ()), ("b", ()), ("b", ("--fresh",))):
        code, err = told(capfd, "fit", data, "--segments", "1", "--out", tmp_path / f"{name}.grist", *options)
        assert code == 2
        assert "--out" in err
    assert (tmp_path / "a.run").read_text() == "mine"
    assert (tmp_path / "b.grist").is_dir()


def test_a_folder_that_is_no_run_has_no_report(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    code, err = told(capfd, "report", pictures(tmp_path / "data"))
    assert code == 2
    assert "run folder" in err


def test_no_name_steers_the_terminal(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    data = pictures(tmp_path / "data", ("cat", "\x1b[31mred", "evil\u202egpj"))
    assert main(["audit", str(data)]) == 0
    out, err = capfd.readouterr()
    assert "[U+001B]" in out
    assert "[U+202E]" in out
    (data / "cat" / "a\x1b]0;mine\x07.png").write_bytes(b"")
    assert main(["fit", str(data), "--segments", "1", "--out", str(tmp_path / "a.grist")]) == 3
    err += capfd.readouterr().err
    assert not set("\x1b\x07\u202e") & set(out + err)


@pytest.mark.skipif(sys.platform != "linux", reason="other systems take no such names")
def test_a_name_that_is_no_utf8_is_shown_and_not_fatal(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    data = pictures(tmp_path / "data")
    (data / "cat" / os.fsdecode(b"\xff.png")).write_bytes(b"")
    code, _ = told(capfd, "audit", data)
    assert code == 0


# ---------------------------------------------------------------- the table of bad input


Command = list[object]
ROOT = hasattr(os, "geteuid") and os.geteuid() == 0
needs_permissions = pytest.mark.skipif(
    ROOT or sys.platform == "win32", reason="for this user every file is open"
)


@dataclass(frozen=True, kw_only=True)
class Case:
    """`make` puts the bad input into a folder (`good.grist` and `table.grist` lie there) and gives the
    command; `says` are parts of the answer: of the rule, of the value, of the next step."""

    name: str
    make: Callable[[Path], Command]
    code: int
    says: tuple[str, ...]
    marks: tuple[pytest.MarkDecorator, ...] = ()


def fit(data: Path, *options: object) -> Command:
    """A fit beside the data, which must be refused before anything is trained."""
    return ["fit", data, "--segments", "1", "--out", data.parent / "a.grist", *options]


def read_by_both(
    name: str,
    make: Callable[[Path], Path],
    code: int,
    *says: str,
    options: tuple[str, ...] = (),
    marks: tuple[pytest.MarkDecorator, ...] = (),
) -> tuple[Case, Case]:
    """The same refusal from `audit` and from `fit`."""
    return (
        Case(
            name=f"{name}: audit",
            make=lambda folder: ["audit", make(folder), *options],
            code=code,
            says=says,
            marks=marks,
        ),
        Case(
            name=f"{name}: fit",
            make=lambda folder: fit(make(folder), *options),
            code=code,
            says=says,
            marks=marks,
        ),
    )


def audited(name: str, make: Callable[[Path], Path], *says: str, options: tuple[str, ...] = ()) -> Case:
    """Data that can be used, with what `audit` says about them."""
    return Case(name=name, make=lambda folder: ["audit", make(folder), *options], code=0, says=says)


def refused(name: str, make: Callable[[Path], Path], *says: str) -> Case:
    """Pictures of which too many cannot be read."""
    says = ("At most 5%", *says, "gristmill audit --json")
    return Case(name=name, make=lambda folder: fit(make(folder)), code=3, says=says)


def nowhere(folder: Path) -> Path:
    return folder / "nowhere"


def empty(folder: Path) -> Path:
    (folder / "hollow").mkdir()
    return folder / "hollow"


def one_class(folder: Path) -> Path:
    return pictures(folder / "data", ("cat",))


def one_picture(folder: Path) -> Path:
    data = pictures(folder / "data")
    for i in range(1, 4):
        (data / "dog" / f"{i}.png").unlink()
    return data


def other_files(folder: Path) -> Path:
    (folder / "data" / "notes").mkdir(parents=True)
    (folder / "data" / "letter.docx").write_bytes(b"x")
    (folder / "data" / "notes" / "plan.pdf").write_bytes(b"x")
    return folder / "data"


HEIC = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic"


def phone_pictures(folder: Path) -> Path:
    for name in ("cat", "dog"):
        (folder / "data" / name).mkdir(parents=True)
        for i in range(3):
            (folder / "data" / name / f"{i}.HEIC").write_bytes(HEIC)
    return folder / "data"


def changed(change: Callable[[bytes], bytes]) -> Callable[[Path], Path]:
    """Pictures, the bytes of each file changed."""

    def make(folder: Path) -> Path:
        data = pictures(folder / "data")
        for path in data.rglob("*.png"):
            path.write_bytes(change(path.read_bytes()))
        return data

    return make


def with_files(files: Mapping[str, bytes], count: int = 4) -> Callable[[Path], Path]:
    """Good pictures and these files among them."""

    def make(folder: Path) -> Path:
        data = pictures(folder / "data", count=count)
        for name, content in files.items():
            (data / name).write_bytes(content)
        return data

    return make


def some_broken(folder: Path) -> Path:
    data = with_files({"dog/none.png": b""}, count=20)(folder)
    (data / "cat" / "cut.png").write_bytes((data / "cat" / "3.png").read_bytes()[:50])
    return data


def misnamed(folder: Path) -> Path:
    data = pictures(folder / "data")
    for path in sorted(data.rglob("*.png")):
        path.rename(path.with_suffix(".jpg"))
    return data


def single_pixels(folder: Path) -> Path:
    data = pictures(folder / "data")
    for i, path in enumerate(sorted(data.rglob("*.png"))):
        Image.new("RGB", (1, 1), (30 * i, 0, 0)).save(path)
    return data


def bomb() -> bytes:
    """A PNG of a few bytes whose header claims ten thousand megapixels."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    head = struct.pack(">IIBBBBB", 100_000, 100_000, 8, 2, 0, 0, 0)
    body = chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"\0" * 999)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def animated(folder: Path) -> Path:
    data = pictures(folder / "data")
    frames = [Image.new("RGB", (8, 8), (80 * i, 0, 0)) for i in range(3)]
    frames[0].save(data / "cat" / "moves.gif", save_all=True, append_images=frames[1:])
    return data


def sixteen_bits(folder: Path) -> Path:
    data = pictures(folder / "data")
    for i in range(3):
        Image.new("I;16", (9, 9), 20_000 * i).save(data / "cat" / f"deep{i}.png")
    return data


def closed_folder(folder: Path) -> Path:
    data = pictures(folder / "data")
    (data / "dog").chmod(0)
    return data


def closed_file(folder: Path) -> Path:
    data = pictures(folder / "data", count=20)
    (data / "dog" / "3.png").chmod(0)
    return data


GOOD = "size,colour,price\n" + "".join(
    f"{i % 7},{('green', 'red')[i % 2]},{('low', 'high')[i % 3 > 0]}\n" for i in range(30)
)


def table(content: str | bytes) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        path = folder / "rows.csv"
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return make


def column(*values: str) -> str:
    """A table of 20 rows whose column `y` repeats these values."""
    return "x,y\n" + "".join(f"{i % 7},{values[i % len(values)]}\n" for i in range(20))


TARGET = ("--target", "y")


def existing_output(folder: Path) -> Command:
    (folder / "a.grist").write_bytes(b"mine")
    return fit(pictures(folder / "data"))


def output_without_run(folder: Path) -> Command:
    (folder / "a.run").mkdir()
    (folder / "a.run" / "lock").touch()
    return existing_output(folder)


def run_of_others(folder: Path) -> Command:
    run = finished(folder)
    (run / "lock").touch()
    return fit(pictures(folder / "data"))


def broken_bundle(change: Callable[[bytes], bytes]) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        path = folder / "bad.grist"
        path.write_bytes(change((folder / "good.grist").read_bytes()))
        return path

    return make


def rewritten(change: Callable[[dict[str, bytes]], None]) -> Callable[[Path], Path]:
    """A bundle of the right form, some of its members changed."""

    def make(folder: Path) -> Path:
        with zipfile.ZipFile(folder / "good.grist") as opened:
            members = {name: opened.read(name) for name in opened.namelist()}
        change(members)
        archive.write(folder / "bad.grist", members)
        return folder / "bad.grist"

    return make


def damaged(raw: bytes) -> bytes:
    second = raw.index(b"PK\x03\x04", 4)  # the first member is the manifest, which names all others
    place = raw.index(b"model-0.onnx", second) + 100
    return raw[:place] + bytes([raw[place] ^ 255]) + raw[place + 1 :]


def tamper(members: dict[str, bytes]) -> None:
    members["model-0.onnx"] = members["model-1.onnx"]


def make_newer(members: dict[str, bytes]) -> None:
    record = {**json.loads(members["manifest.json"]), "format": 99, "gristmill": "9.1"}
    members["manifest.json"] = json.dumps(record).encode()


def opened_by_both(name: str, make: Callable[[Path], Path], *says: str) -> tuple[Case, Case]:
    """A bundle that `verify` judges and `predict` refuses, in the same words."""
    return (
        Case(name=f"{name}: verify", make=lambda folder: ["verify", make(folder)], code=6, says=says),
        Case(
            name=f"{name}: predict",
            make=lambda folder: ["predict", make(folder), pictures(folder / "new")],
            code=3,
            says=says,
        ),
    )


def some_bad_inputs(folder: Path) -> Command:
    data = with_files({"cat/none.png": b"", "dog/phone.heic": HEIC, "dog/text.jpg": b"hello"})(folder)
    return ["predict", folder / "good.grist", data, folder / "nowhere.png"]


CASES = (
    *read_by_both("a missing path", nowhere, 3, "must exist", "nowhere", "check the spelling"),
    *read_by_both(
        "an empty folder", empty, 3, "pictures or a table", "hollow is empty", "one folder per class"
    ),
    *read_by_both("one class", one_class, 3, "at least two classes", '"cat"', "one folder per class"),
    *read_by_both(
        "a class with one picture",
        one_picture,
        3,
        "at least two training",
        'one picture of "dog"',
        "add pictures",
    ),
    *read_by_both(
        "no pictures but other files",
        other_files,
        3,
        "must hold pictures",
        "1 x .docx",
        "one folder per class",
    ),
    *read_by_both(
        "phone pictures", phone_pictures, 3, "HEIC", "6 of them", "cat/0.HEIC", "convert them to JPEG"
    ),
    *read_by_both(
        "a folder without permission",
        closed_folder,
        3,
        "must be readable",
        "no permission to open",
        "chmod -R u+rX",
        marks=(needs_permissions,),
    ),
    refused("cut-off pictures", changed(lambda raw: raw[:50]), "8 of 8, first cat/0.png", "cut off"),
    refused("empty pictures", changed(lambda raw: b""), "8 of 8, first cat/0.png", "empty (0 bytes)"),
    refused("a pixel bomb", with_files({"cat/bomb.png": bomb()}), "cat/bomb.png", "100000 x 100000 pixels"),
    audited("a few broken pictures", some_broken, "2 of 42", "cat/cut.png", "dog/none.png", "Mend or delete"),
    audited("a pixel bomb is named", with_files({"cat/bomb.png": bomb()}, 20), "cat/bomb.png", "megapixels"),
    audited("PNG named JPEG", misnamed, "another kind than the ending says", "cat/0.jpg is PNG"),
    audited("pictures of one pixel", single_pixels, "class folders: 8 pictures"),
    audited("an animation", animated, "several frames", "cat/moves.gif"),
    audited("16-bit pictures", sixteen_bits, "3 I;16"),
    Case(
        name="a picture without permission",
        make=lambda folder: ["audit", closed_file(folder)],
        code=0,
        says=("dog/3.png", "permission to read it is denied"),
        marks=(needs_permissions,),
    ),
    *read_by_both(
        "a misspelt target",
        table(GOOD),
        2,
        "--target must name",
        '"prise"; there are: size, colour, price',
        "use --target price",
        options=("--target", "prise"),
    ),
    *read_by_both("no target", table(GOOD), 2, "must be named", "size, colour, price", "use --target price"),
    *read_by_both(
        "a target without values",
        table(column("")),
        3,
        "must have values",
        'cell of "y" is empty',
        "choose another column",
        options=TARGET,
    ),
    *read_by_both(
        "a target of one word",
        table(column("same")),
        3,
        "at least two classes",
        'only one, "same"',
        "add examples",
        options=TARGET,
    ),
    *read_by_both(
        "a target of one number",
        table(column("1.5")),
        3,
        "at least two different values",
        '"y" is 1.5 in every row',
        "choose another column",
        options=TARGET,
    ),
    *read_by_both(
        "a broken line",
        table(column("a", "b") + "7,8,9\n"),
        3,
        "as many cells as its header",
        "line 22 of rows.csv: 3 cells",
        "mend or remove line 22",
        options=TARGET,
    ),
    *read_by_both(
        "an open quote",
        table('x,y\n1,"a\n2,b\n'),
        3,
        "as many cells as its header",
        "line 2 of rows.csv",
        "mend or remove line 2",
        options=TARGET,
    ),
    *read_by_both(
        "a table that is no text",
        table(b"x,y\n\0\0\1\2"),
        3,
        "must be a text file",
        "binary data",
        "save it as CSV (UTF-8)",
        options=TARGET,
    ),
    *read_by_both(
        "a header twice",
        table("x,x,y\n1,2,a\n3,4,b\n"),
        3,
        "its own name",
        '"x" names columns 1, 2',
        "rename all but one",
        options=TARGET,
    ),
    *read_by_both(
        "only a header",
        table("x,y\n"),
        3,
        "needs rows",
        "only a header",
        "check that the right file",
        options=TARGET,
    ),
    audited(
        "another encoding",
        table(column("gr\u00fcn", "rot").encode("cp1252")),
        "not encoded as UTF-8 (first seen on line 2)",
        "save it as CSV UTF-8",
        options=TARGET,
    ),
    audited(
        "another separator",
        table(GOOD.replace(",", ";")),
        "3 columns separated by semicolons",
        options=("--target", "price"),
    ),
    Case(
        name="the output exists",
        make=existing_output,
        code=2,
        says=("must not exist yet", "a.grist", "another name with --out"),
    ),
    Case(
        name="the output exists beside an empty run folder",
        make=output_without_run,
        code=2,
        says=("must not exist yet", "a.grist", "another name with --out"),
    ),
    Case(
        name="the run folder of another problem",
        make=run_of_others,
        code=2,
        says=("same data and the same problem", "a.run", "use --fresh"),
    ),
    Case(
        name="too little time",
        make=lambda folder: ["fit", pictures(folder / "data"), "--time", "2s"],
        code=2,
        says=("at least 10 seconds", "2 s", "use --time 1m"),
    ),
    Case(
        name="a quickstart in a file",
        make=lambda folder: ["quickstart", "--out", folder / "good.grist"],
        code=2,
        says=("works in a folder", "good.grist", "another with --out"),
    ),
    Case(
        name="a report into a missing folder",
        make=lambda folder: ["report", folder / "good.grist", "--out", folder / "nowhere" / "a.html"],
        code=2,
        says=("folder of the output must exist", "nowhere", "mkdir -p"),
    ),
    Case(
        name="a report in the place of a folder",
        make=lambda folder: ["report", folder / "good.grist", "--out", empty(folder)],
        code=2,
        says=("one file", "hollow", "report.html"),
    ),
    *opened_by_both(
        "a damaged bundle", broken_bundle(damaged), "whole and unchanged", "model-0.onnx", "copy it"
    ),
    *opened_by_both(
        "a bundle cut off",
        broken_bundle(lambda raw: raw[: len(raw) // 2]),
        "whole and unchanged",
        "bad.grist: it is cut off",
        "copy it again",
    ),
    *opened_by_both(
        "an empty bundle", broken_bundle(lambda raw: b""), "whole and unchanged", "0 bytes", "copy it again"
    ),
    *opened_by_both(
        "a tampered bundle",
        rewritten(tamper),
        "whole and unchanged",
        "model-0.onnx is not the file",
        "copy it",
    ),
    *opened_by_both(
        "a bundle in a newer format",
        rewritten(make_newer),
        "reads bundle formats up to",
        "bad.grist in format 99, made by 9.1",
        "Next: ",
    ),
    Case(
        name="a few bad inputs of predict",
        make=some_bad_inputs,
        code=0,
        says=(
            "0.png,blue",
            "none.png,,,the file is empty (0 bytes)",
            "phone.heic,,,HEIC",
            "text.jpg,,,",
            "nowhere.png,,,no such file",
        ),
    ),
    Case(
        name="only bad inputs of predict",
        make=lambda folder: ["predict", folder / "good.grist", changed(lambda raw: raw[:50])(folder)],
        code=3,
        says=("0.png,,,the picture is cut off",),
    ),
    Case(
        name="phone pictures for predict",
        make=lambda folder: ["predict", folder / "good.grist", phone_pictures(folder)],
        code=3,
        says=("0.HEIC,,,HEIC",),
    ),
    Case(
        name="an empty folder for predict",
        make=lambda folder: ["predict", folder / "good.grist", empty(folder)],
        code=3,
        says=("hollow,,,there are no pictures",),
    ),
    Case(
        name="a missing input of predict",
        make=lambda folder: ["predict", folder / "good.grist", nowhere(folder)],
        code=2,
        says=("must exist", "nowhere", "check the path"),
    ),
    Case(
        name="a broken table for predict",
        make=lambda folder: ["predict", folder / "table.grist", table("age,city\n1,Oslo\n2\n")(folder)],
        code=3,
        says=("as many cells as its header", "line 3 of rows.csv"),
    ),
)


def contents(folder: Path) -> dict[str, bytes | None]:
    """Every folder (None) and file below, hidden ones too."""
    found: dict[str, bytes | None] = {}
    for where, _, files in os.walk(folder):
        found[where] = None
        found |= {
            path: Path(path).read_bytes()
            for path in (os.path.join(where, name) for name in files)
            if os.access(path, os.R_OK)
        }
    return found


@pytest.mark.parametrize("case", [pytest.param(c, id=c.name, marks=c.marks) for c in CASES])
def test_bad_input_gets_a_sentence_and_a_code_and_leaves_nothing_behind(
    case: Case,
    tmp_path: Path,
    made: Mapping[str, Path],
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(LocalExecutor, "warm", lambda self: None)
    shutil.copy(made["pictures"], tmp_path / "good.grist")
    shutil.copy(made["table"], tmp_path / "table.grist")
    command = case.make(tmp_path)
    before = contents(tmp_path)
    code, out, err = answered(capfd, *command)
    assert code == case.code, err
    for part in case.says:
        assert part in out + err
    assert contents(tmp_path) == before


@pytest.mark.parametrize(
    ("make", "options"),
    [
        pytest.param(single_pixels, (), id="pictures of one pixel"),
        pytest.param(table(column("gr\u00fcn", "rot").encode("cp1252")), TARGET, id="another encoding"),
        pytest.param(table(GOOD.replace(",", ";")), ("--target", "price"), id="another separator"),
    ],
)
def test_odd_but_usable_data_end_in_a_bundle_that_reads_them(
    make: Callable[[Path], Path], options: tuple[str, ...], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    data = make(tmp_path)
    code, err = told(capfd, *fit(data, *options))
    assert code == 0, err
    code, out, err = answered(capfd, "predict", tmp_path / "a.grist", data, "--json")
    assert code == 0, err
    rows = [json.loads(line) for line in out.splitlines()]
    assert len(rows) >= 8
    assert not [r["error"] for r in rows if r.get("error")]


@pytest.mark.parametrize("room", range(6))
def test_a_full_disk_is_told_and_leaves_no_run_behind(
    room: int, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GRISTMILL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(LocalExecutor, "warm", lambda self: None)
    data = pictures(tmp_path / "data")
    flushed: list[int] = []

    def flush(file: int) -> None:
        flushed.append(file)
        if len(flushed) > room:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", flush)
    code, err = told(capfd, *fit(data))
    assert code == 4
    assert "must have room" in err and "No space left" in err and "free some space" in err
    assert sorted(p.name for p in tmp_path.iterdir() if p.name != "cache") == ["data"]
    assert not [p for p in (tmp_path / "cache").rglob("*") if ".tmp" in p.name]


class Hopeless:
    """An executor whose segments all come to nothing."""

    def __init__(self, **_: object) -> None:
        self.clock, self._asked = WallClock(), list[Segment]()

    @property
    def open(self) -> tuple[str, ...]:
        return tuple(s.id for s in self._asked)

    def slots(self) -> tuple[Resources, ...]:
        return (Resources(cpu=1),)

    def submit(self, segment: Segment) -> None:
        self._asked.append(segment)

    def wait(self, until: float) -> list[Outcome]:
        asked, self._asked = self._asked, []
        return [Outcome(id=s.id, state="failed", reason="ValueError: no") for s in asked]

    def warm(self) -> None: ...

    def cancel(self, segment_id: str) -> None: ...

    def close(self) -> None: ...


def test_a_run_without_a_single_model_is_told_and_leaves_no_bundle(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(automl, "LocalExecutor", Hopeless)
    code, err = told(capfd, *fit(pictures(tmp_path / "data")))
    assert code == 5
    assert "must be enough for at least one model" in err and "--segments 5" in err
    assert not (tmp_path / "a.grist").exists()


def test_a_full_disk_leaves_no_half_report(
    tmp_path: Path,
    made: Mapping[str, Path],
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def full(file: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    code, err = told(capfd, "report", made["pictures"], "--out", tmp_path / "a.html")
    assert code == 4
    assert "must have room" in err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "command", [fit(Path("data")), ["plan", "data"], ["quickstart", "--out", "new"]], ids=lambda c: str(c[0])
)
def test_without_the_training_packages_the_command_that_installs_them_is_named(
    command: Command, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *a: None if name in ("torch", "onnx") else find(name, *a)
    )
    monkeypatch.chdir(tmp_path)
    pictures(tmp_path / "data")
    code, err = told(capfd, *command)
    assert code == 4
    assert "not installed: torch, onnx" in err
    assert sys.executable in err.partition("Next: ")[2]
    assert [p.name for p in tmp_path.iterdir()] == ["data"]
