"""Picture and table from stored results. The figures here are made up."""

import json
from dataclasses import asdict

import pytest
import typer
from typer.testing import CliRunner

from gnnaccel.bench import report, report_draw
from gnnaccel.bench.harness import Row


def document(ratio=2.0):
    def row(op, case, mode, provider, value=None):
        out = Row(op, case, mode, provider, value is None, "ok", threads=2, p50_ms=1.0 if value is None else value)
        out.peak_bytes = 1000 if value is None else 4000
        if value is not None:
            out.ratio_p20, out.ratio, out.ratio_p80 = 0.9 * value, value, 1.1 * value
        return asdict(out)

    rows = [row("a_op", case, mode, *p) for case in ("big", "small") for mode in ("fwd", "full")
            for p in (("gnnaccel",), ("torch", ratio), ("pyg", 0.8))]  # fmt: skip
    rows += [row("tgn", "w_b600", "train", "gnnaccel"), row("tgn", "w_b600", "train", "pyg", 4.0)]
    env = {"device": "cpu", "device_name": "CPU X", "simd": "AVX2", "threads": 2, "torch": "2.13", "commit": "abc"}
    return {"schema": 1, "environment": env, "rates": {}, "rows": rows}


@pytest.fixture
def stored(tmp_path):
    path = tmp_path / "r.json"
    path.write_text(json.dumps(document()))
    return path


def test_table_shows_hits_and_misses():
    text = report.markdown([document()])
    lines = text.splitlines()
    assert len([x for x in lines if x.startswith("| `")]) == 3, "one case and mode of each op"
    assert "| `a_op` | big, 2 threads | forward + backward | torch | 2 | 1 | **2.00x** | 1.80-2.20 | 4 |" in lines
    assert any("**0.80x**" in x for x in lines)
    assert "CPU X (AVX2), 2 threads, torch 2.13, commit abc" in text
    assert len([x for x in report.markdown([document()], everything=True).splitlines() if x.startswith("| `")]) == 9


@pytest.mark.parametrize("suffix", [".svg", ".png"])
@pytest.mark.parametrize("ratio", [2.0, 60.0], ids=["linear", "log"])
def test_picture_is_byte_stable(tmp_path, suffix, ratio):
    pytest.importorskip("matplotlib")
    for theme in report_draw.THEMES:
        first, second = tmp_path / f"1{suffix}", tmp_path / f"2{suffix}"
        report_draw.bars([document(ratio)], first, theme)
        report_draw.bars([document(ratio)], second, theme)
        assert first.read_bytes() == second.read_bytes()
        assert first.stat().st_size > 1000


def test_picture_ignores_the_users_style(tmp_path):
    mpl = pytest.importorskip("matplotlib")
    report_draw.bars([document()], tmp_path / "1.svg")
    with mpl.rc_context({"axes.facecolor": "red", "font.size": 30}):
        report_draw.bars([document()], tmp_path / "2.svg")
        assert mpl.rcParams["font.size"] == 30
    assert (tmp_path / "1.svg").read_bytes() == (tmp_path / "2.svg").read_bytes()


def test_command_fills_the_marked_section(tmp_path, stored):
    pytest.importorskip("matplotlib")
    app = typer.Typer()
    app.command()(report.report)
    readme = tmp_path / "README.md"
    readme.write_text(f"# Title\n{report.BEGIN}\nold\n{report.END}\nrest\n")
    args = [str(stored), "--out", str(tmp_path / "docs" / "speed.svg"), "--into", str(readme), "--markdown"]
    result = CliRunner().invoke(app, args)
    assert result.exit_code == 0, result.output
    text = readme.read_text()
    assert text.startswith("# Title\n") and text.endswith(f"{report.END}\nrest\n")
    assert "old" not in text
    assert 'srcset="docs/speed-dark.svg"' in text and 'src="docs/speed.svg"' in text
    assert (tmp_path / "docs" / "speed-dark.svg").exists()
    assert "| `tgn` |" in result.output
    CliRunner().invoke(app, args)
    assert readme.read_text() == text


def test_command_refuses(tmp_path, stored):
    app = typer.Typer()
    app.command()(report.report)
    (tmp_path / "plain.md").write_text("nothing here")
    for args, message in (
        ([str(tmp_path / "none.json")], "not a readable result file"),
        ([str(stored), "--out", "x.gif"], "must end in .svg or .png"),
        ([str(stored), "--into", str(tmp_path / "plain.md")], "has no <!-- bench:begin -->"),
    ):
        result = CliRunner().invoke(app, args)
        assert result.exit_code == 2
        assert message in " ".join(result.output.replace("│", " ").split())
