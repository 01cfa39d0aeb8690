"""The contract of a modality (a kind of input), as tests: inherit, make data, and pytest runs them.

    from gristmill.testing.modality import ModalityContract

    class TestSounds(ModalityContract):
        def make(self, folder): ...                 # write some data, return the Source that `read` finds
        def trained(self, source, store, rows): ... # what a model is trained on
        def served(self, source, store, row): ...   # the same from the original file or cells, as in a bundle

The heart of it: training and bundle must see the same bytes, and a store is whole or absent.
"""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
from numpy.typing import NDArray

from gristmill.data.prepare import Scan, scan
from gristmill.data.source import Source
from gristmill.data.store import Store
from gristmill.errors import GristmillError, ResourceError
from gristmill.task import Task

Array = NDArray[Any]


class ModalityContract:
    """What every kind of input must keep, from the files to the arrays of a model."""

    def make(self, folder: Path) -> Source:
        """Write at least eight rows, no two alike, into the empty `folder`; called again: the same rows."""
        raise NotImplementedError

    def trained(self, source: Source, store: Store, rows: Array) -> list[Array]:
        """What a model is trained on for some rows: arrays with one entry per row."""
        raise NotImplementedError

    def served(self, source: Source, store: Store, row: int) -> list[Array]:
        """The same for one row from the original file or cells, by the code of a bundle."""
        raise NotImplementedError

    def scanned(self, folder: Path) -> tuple[Source, Scan]:
        """Make the data and scan them into a cache beside them."""
        (folder / "data").mkdir(exist_ok=True)
        source = self.make(folder / "data")
        return source, scan(source, cache=folder / "cache")

    def test_training_and_bundle_see_the_same_bytes(self, tmp_path: Path) -> None:
        source, found = self.scanned(tmp_path)
        trained = self.trained(source, found.store, np.arange(source.rows))
        for row in range(source.rows):
            served = self.served(source, found.store, row)
            assert len(served) == len(trained)
            for one, many in zip(served, trained, strict=True):
                assert one.dtype == many.dtype
                assert np.array_equal(one[0], many[row], equal_nan=one.dtype.kind == "f")

    def test_rows_are_gathered_in_the_order_asked_for(self, tmp_path: Path) -> None:
        source, found = self.scanned(tmp_path)
        everything = found.store.gather(np.arange(source.rows))
        order = np.random.default_rng(0).integers(0, source.rows, 2 * source.rows)
        for name, values in found.store.gather(order).items():
            assert len(values) == len(order)
            assert [repr(v) for v in values.tolist()] == [repr(v) for v in everything[name][order].tolist()]
        assert all(len(v) == 0 for v in found.store.gather(np.zeros(0, np.int64)).values())

    def test_each_row_has_a_hash_of_its_content_and_no_error(self, tmp_path: Path) -> None:
        source, found = self.scanned(tmp_path)
        assert all(len(values) == source.rows == found.store.rows for values in found.facts.values())
        assert found.facts["error"].tolist() == [None] * source.rows
        assert len(set(found.facts["sha"].tolist())) == source.rows
        assert all(len(sha) == 64 for sha in found.facts["sha"])

    def test_the_same_data_give_the_same_store_anywhere(self, tmp_path: Path) -> None:
        (tmp_path / "here").mkdir()
        (tmp_path / "there").mkdir()
        (_, here), (_, there) = self.scanned(tmp_path / "here"), self.scanned(tmp_path / "there")
        assert here.store.key == there.store.key
        assert here.facts["sha"].tolist() == there.facts["sha"].tolist()

    def test_unchanged_data_are_found_again(self, tmp_path: Path) -> None:
        source, found = self.scanned(tmp_path)
        again = scan(source, cache=tmp_path / "cache")
        assert again.reused and again.store.uri == found.store.uri
        assert set(again.facts) == set(found.facts)

    def test_the_inputs_of_the_store_survive_json(self, tmp_path: Path) -> None:
        source, found = self.scanned(tmp_path)
        task = Task(inputs=found.store.inputs, targets=source.task.targets, metric=source.task.metric)
        assert Task.from_json(task.to_json()) == task
        assert [i.name for i in found.store.inputs] == [i.name for i in source.task.inputs]
        assert Store.open(found.store.uri).inputs == found.store.inputs

    def test_a_full_disk_leaves_nothing_and_the_next_try_succeeds(self, tmp_path: Path) -> None:
        (tmp_path / "data").mkdir()
        source, sync, calls = self.make(tmp_path / "data"), os.fsync, 0

        def full_from_the_second(descriptor: int) -> None:
            nonlocal calls
            calls += 1
            if calls > 1:
                raise OSError(errno.ENOSPC, "No space left on device")
            sync(descriptor)

        with patch.object(os, "fsync", full_from_the_second):
            try:
                scan(source, cache=tmp_path / "cache")
            except ResourceError as error:
                assert error.next_step
            else:
                raise AssertionError("a store must be flushed to the disk, and a full disk must be told")
        assert not [p for p in (tmp_path / "cache").rglob("*") if p.is_file()]
        assert scan(source, cache=tmp_path / "cache").store.rows == source.rows

    def test_a_bad_row_gives_an_error_of_ours_or_a_quarantined_row(self, tmp_path: Path) -> None:
        source, _ = self.scanned(tmp_path)
        for path in sorted((tmp_path / "data").rglob("*")):
            if path.is_file():
                path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
                break
        try:
            found = scan(source, cache=tmp_path / "other cache")
        except GristmillError as error:
            assert error.next_step
        else:
            assert found.store.rows == source.rows
            reasons = [e for e in found.facts["error"] if e is not None]
            assert all(isinstance(e, str) and e for e in reasons) and len(reasons) <= 1
