"""What kills cost is counted alike for every queue: from what was sent, begun and recorded, and when."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

from bench import losses, queues
from bench.peers import notebook

ROOT = Path(__file__).parents[2]


class Told:
    """A queue of which all is known: a real one would lose something else each time."""

    name, settings = "told 1.0", "none"


def test_what_was_sent_and_never_recorded_is_lost_and_what_was_done_twice_is_counted():
    seen = queues.Seen(
        sent={"a": 1.0, "b": 2.0, "c": 3.0, "d": 9.0},
        begun=Counter(a=1, b=3, c=1, d=1, stranger=5),
        recorded={"a": [1.5], "b": [7.0, 8.0], "d": [9.5], "stranger": [1.0, 2.0]},
    )
    row = losses._row(Told(), seen, [4.0, 9.2])
    assert (row.submitted, row.recorded, row.lost) == (4, 3, 1)
    assert (row.executed_again, row.recorded_again) == (2, 1)
    assert [round(seconds, 3) for seconds in row.recovery_s] == [3.0, 0.3], "by its first record, if it has one"


def test_a_file_keeps_the_rows_of_queues_that_were_not_measured_now(tmp_path):
    row = losses._row(Told(), queues.Seen(sent={"a": 1.0}), [2.0])
    file = tmp_path / "losses.json"
    assert losses._kept(file, {"other"}) == []
    file.write_text(json.dumps({"rows": [losses._as_json(row)]}))
    [kept] = losses._kept(file, {"other"})
    assert losses._as_json(kept) == losses._as_json(row) | {"recovery_s": [0.0]}
    assert losses._kept(file, {"told"}) == []


def test_the_page_has_a_place_for_the_table_and_a_row_says_it_all():
    page = losses.PAGE.read_text()
    assert (page.count(losses.BEGINS), page.count(losses.ENDS)) == (1, 1)
    seen = queues.Seen(sent={"a": 1.0, "b": 2.0}, begun=Counter(a=2), recorded={"a": [3.5]})
    *_, row, _ = losses.table([losses._row(Told(), seen, [2.0])])
    assert row == "| told 1.0 | 1 | 2 | 1 | 1 | 1 | 0 | 1.5 s, 1.5 s |"


def test_many_processes_write_one_notebook_in_whole_lines(tmp_path):
    code = "from bench.peers import notebook; [notebook.note('begun', f'{n:036}') for n in range(500)]"
    environ = {**os.environ, notebook.NOTEBOOK: str(tmp_path / "notebook")}
    writers = [subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, env=environ) for _ in range(3)]
    assert [writer.wait(60) for writer in writers] == [0, 0, 0]
    assert set(queues._read(tmp_path / "notebook").begun.values()) == {3}
