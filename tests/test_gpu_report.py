"""The report on a graphics card: that it runs where there is none, and that a fault stays where it is."""

import json
import sys

import pytest
from test_measurements import EXAMPLES, load


@pytest.fixture(scope="module")
def report():
    sys.path.insert(0, str(EXAMPLES))
    return load("gpu_report")


def test_it_says_that_there_is_no_card_and_runs_small(report, tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.setattr(report.torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(report, "supervise", lambda names, folder, seconds: inline(report, names, folder, seconds))
    sections = ["mask_noise", "generation", "training"]
    monkeypatch.setattr("sys.argv", ["x", "--output", str(tmp_path / "page"), "--seconds", "1200", "--only", *sections])
    report.main()
    text, found = (tmp_path / "page.md").read_text(), json.loads((tmp_path / "page.json").read_text())
    assert "card: none" in text and "its times say nothing" in text and text in capsys.readouterr().out
    assert "torch" in found["machine"]["versions"]
    for name in sections:
        section = found["sections"][name]
        assert section["state"] == "done" and not any("failed" in remark for remark in section["remarks"]), section
        assert all(value > 0 for rows in section["tables"].values() for row in rows.values() for value in row.values())
    assert {name.split(",")[0] for name in found["sections"]["training"]["tables"]["Training"]} == {
        *("video", "landmark", "emotion"),
    }


@pytest.mark.parametrize(("native", "precision"), [(False, "32-true"), (True, "bf16-mixed")])
def test_it_trains_as_fast_as_the_device_can(report, monkeypatch, native, precision) -> None:
    told = {}
    training = load("gpu_report_training")
    monkeypatch.setattr("talkhead.devices.has_fast_bf16", lambda device: native)
    monkeypatch.setattr(training, "Trainer", lambda **options: told.update(options))
    with pytest.raises(AttributeError, match="fit"):
        training.timed("landmark", 1, "cpu")
    assert told["precision"] == precision


def inline(report, names, folder, seconds):
    """Do in this process what `supervise` does in others."""
    report.work(names, folder, seconds)
    return {name: json.loads((folder / f"{name}.json").read_text()) for name in names}


def test_a_fault_is_reported_and_the_rest_goes_on(report, tmp_path, monkeypatch) -> None:
    def broken(log, device) -> None:
        log.row("Half", "first", {"ms": 1.5})
        raise RuntimeError("the card is on fire")

    def sound(log, device) -> None:
        log.attempt("Whole", "bad row", lambda: 1 / 0)
        log.attempt("Whole", "good row", lambda: {"ms": 2.0, "frames": 1234.0})
        log.attempt("Whole", "late row", lambda: {"ms": 3.0}, needs=1e6)

    monkeypatch.setattr(report, "generation", broken)
    monkeypatch.setattr(report, "training", sound)
    found = inline(report, ["generation", "training"], tmp_path, 60)
    text = report.page({"card": "none"}, found)
    assert "| first | 1.5 |" in text and "on fire" in text
    assert "| good row | 2 | 1234 |" in text and "ZeroDivisionError" in text and "late row: left out" in text


def test_a_process_that_dies_takes_nothing_with_it(report, tmp_path, monkeypatch) -> None:
    died = iter([["tests", "mask_noise"], ["generation"]])

    def dying(command, **options):
        # The first worker ends a section and dies in the next, the second comes to the third; the rest never begin.
        for name, state in zip(next(died, []), ("done", "running"), strict=False):
            (tmp_path / f"{name}.json").write_text(json.dumps({"state": state, "tables": {}, "remarks": []}))
        options["stderr"].write("Segmentation fault")

    monkeypatch.setattr(report.subprocess, "run", dying)
    found = report.supervise(list(report.SHARES), tmp_path, 60)
    states = {name: section["state"] for name, section in found.items()}
    assert states == dict(zip(report.SHARES, ["done", "failed", "done", "failed", "failed"], strict=True))
    assert "Segmentation fault" in report.page({}, found)
