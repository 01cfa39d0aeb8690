from __future__ import annotations

import errno
import pickle

import pytest

from gristmill import errors
from gristmill.errors import GristmillError, Interrupted, UsageError, did_you_mean, of_the_disk

CODES = {
    "GristmillError": 1,
    "UsageError": 2,
    "RunError": 2,
    "DataError": 3,
    "BundleError": 3,
    "ResourceError": 4,
    "BudgetError": 5,
    "VerificationError": 6,
    "Interrupted": 130,
}


def test_exit_codes_are_the_documented_ones() -> None:
    found = {
        k: v.exit_code
        for k, v in vars(errors).items()
        if isinstance(v, type) and issubclass(v, GristmillError)
    }
    assert found == CODES
    for name, code in CODES.items():
        line = next(x for x in (errors.__doc__ or "").splitlines() if name in x.split())
        assert f"exit {code}" in line, "the tree drawn in the docstring says the same"


def test_a_message_says_rule_value_and_next_step() -> None:
    error = UsageError("The time must be positive.", got="0s", next_step="use --time 10m")
    assert str(error) == "The time must be positive. Got: 0s.\nNext: use --time 10m"
    assert str(UsageError("Only the rule.")) == "Only the rule."
    assert str(UsageError("A falsy value.", got=0)) == "A falsy value. Got: 0."


@pytest.mark.parametrize("name", [n for n in CODES if n != "Interrupted"])
def test_errors_cross_a_process_border(name: str) -> None:
    kind = getattr(errors, name)
    before = kind("The rule.", got=3, next_step="the step")
    after = pickle.loads(pickle.dumps(before))
    assert type(after) is kind
    assert (after.rule, after.got, after.next_step) == ("The rule.", 3, "the step")


def test_an_interruption_keeps_its_exit_code() -> None:
    assert Interrupted("Asked to end.").exit_code == 130
    assert Interrupted("Asked to end.", exit_code=143).exit_code == 143


@pytest.mark.parametrize(
    ("name", "near"),
    [("acuracy", "accuracy"), ("ACCURACY", "accuracy"), ("rmsE", "rmse"), ("zzz", None), ("", None)],
)
def test_the_nearest_name(name: str, near: str | None) -> None:
    assert did_you_mean(name, ("accuracy", "rmse", "mae")) == near


def test_of_names_that_differ_in_case_the_first_is_meant() -> None:
    assert did_you_mean("label", ["Label", "LABEL"]) == "Label"


@pytest.mark.parametrize(
    ("number", "words"),
    [(errno.ENOSPC, "have room"), (errno.EDQUOT, "have room"), (errno.EACCES, "open to this user")],
)
def test_a_full_or_closed_disk_is_told_with_the_place(number: int, words: str) -> None:
    told = of_the_disk(OSError(number, "the reason", "/place"))
    assert told is not None
    assert told.exit_code == 4
    assert words in str(told)
    assert "/place: the reason" in str(told)


def test_other_errors_are_not_of_the_disk() -> None:
    assert of_the_disk(OSError(errno.ENOENT, "no such file")) is None
    assert of_the_disk(ValueError("x")) is None
