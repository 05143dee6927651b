from __future__ import annotations

import io
import json
from pathlib import Path

from rich.console import Console

from benchmarks.results import CaseResults, VariantResults, write_results
from benchmarks.summary import Summary, paired_ratio, summarize
from benchmarks.table import case_table, error_text, spread_text


def _results() -> CaseResults:
    plain, reuse, broken = VariantResults("plain"), VariantResults("reuse"), VariantResults("lightstream")
    for repeat, (own, other) in enumerate([(2.0, 3.0), (4.0, 4.0), (1.0, 2.0)]):
        plain.add("step", repeat, {"status": "ok", "seconds": own, "peak_bytes": 50 * 2**20})
        reuse.add("step", repeat, {"status": "ok", "seconds": other, "peak_bytes": 40 * 2**20})
    reuse.add("memory", 0, {"status": "ok", "seconds": 9.0, "peak_bytes": 10 * 2**20})
    check = {"status": "ok", "gradient_error": 0.5, "gradient_error_without_batch_norm": 2e-15}
    reuse.add("check", 0, check)
    broken.add("check", 0, {"status": "not installed", "reason": "No module named 'lightstream'"})
    broken.add("step", 0, {"status": "not installed", "reason": "No module named 'lightstream'"})
    variants = {each.name: each for each in (plain, reuse, broken)}
    return CaseResults("some-net", {"image_size": (30, 40)}, variants)


def test_median_and_spread() -> None:
    assert summarize([6.0, 1.0, 2.0]) == Summary(2.0, 1.0, 6.0, 3)
    assert summarize([1.0, 4.0]) == Summary(2.5, 1.0, 4.0, 2)
    assert summarize([]) is None


def test_ratios_pair_the_runs_of_a_repeat() -> None:
    # 3/2, 4/4 and 2/1; the ratio of the medians would be 3/2, that of the means 9/7.
    assert paired_ratio({0: 3.0, 1: 4.0, 2: 2.0}, {0: 2.0, 1: 4.0, 2: 1.0}) == Summary(1.5, 1.0, 2.0, 3)
    assert paired_ratio({0: 3.0, 2: 2.0}, {1: 4.0, 2: 1.0}) == Summary(2.0, 2.0, 2.0, 1)
    assert paired_ratio({0: 3.0}, {1: 4.0}) is None


def test_texts() -> None:
    assert spread_text(Summary(2.0, 1.0, 6.0, 3), ".2f") == "2.00 (1.00..6.00)"
    assert spread_text(Summary(2**20, 2**20, 2**20, 1), ".0f", 2**-20) == "1"
    assert spread_text(None, ".2f") == "-"
    assert error_text({"status": "failed"}, "gradient_error") == "failed"
    assert error_text(None, "gradient_error") == "-"


def test_memory_runs_take_precedence_over_timed_ones() -> None:
    reuse = _results().variants["reuse"]
    assert reuse.seconds == Summary(3.0, 2.0, 4.0, 3)
    assert reuse.peak_bytes == Summary(10 * 2**20, 10 * 2**20, 10 * 2**20, 1)


def test_table() -> None:
    stream = io.StringIO()
    Console(width=130, file=stream).print(case_table(_results()))
    lines = stream.getvalue().splitlines()
    assert lines[0].strip() == "some-net: 30 x 40"
    cells = {
        line.split("│")[1].strip(): [cell.strip() for cell in line.split("│")[2:-1]] for line in lines if "│" in line
    }
    assert cells["plain"] == ["2.00 (1.00..4.00)", "1.00 (1.00..1.00)", "50 (50..50)", "-", "-"]
    assert cells["reuse"] == ["3.00 (2.00..4.00)", "1.50 (1.00..2.00)", "10", "5.0e-01", "2.0e-15"]
    assert cells["lightstream"] == ["not installed", "-", "-", "not installed", "not installed"]


def test_idle_time_has_a_column_where_it_was_measured() -> None:
    results = _results()
    results.variants["reuse"].add("profile", 0, {"status": "ok", "device_idle_share": 0.025})
    stream = io.StringIO()
    Console(width=150, file=stream).print(case_table(results))
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in stream.getvalue().splitlines() if "│" in line]
    assert {row[0]: row[-1] for row in rows} == {"plain": "-", "reuse": "2.5", "lightstream": "-"}
    assert "idle %" in stream.getvalue()


def test_json_has_samples_and_summaries(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "results.json"
    write_results(path, {"machine": {"cpu": "some"}}, [_results()])
    read = json.loads(path.read_text())
    assert read["machine"] == {"cpu": "some"}
    reuse = read["cases"][0]["variants"][1]
    assert [step["seconds"] for step in reuse["steps"].values()] == [3.0, 4.0, 2.0]
    assert reuse["summary"]["seconds"] == {"median": 3.0, "min": 2.0, "max": 4.0, "num_samples": 3}
    assert reuse["summary"]["ratio_to_plain"]["median"] == 1.5
    assert read["cases"][0]["variants"][2]["problem"]["status"] == "not installed"
