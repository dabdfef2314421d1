"""Picture and table from stored results. The figures here are made up."""

import json
import re
from dataclasses import asdict

import pytest
import typer
from typer.testing import CliRunner

from gnnaccel.bench import cli, gpu_ops, harness, report, report_bars, report_draw
from gnnaccel.bench import report_data as data
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
        report_bars.bars([document(ratio)], first, theme)
        report_bars.bars([document(ratio)], second, theme)
        assert first.read_bytes() == second.read_bytes()
        assert first.stat().st_size > 1000


def test_picture_ignores_the_users_style(tmp_path):
    mpl = pytest.importorskip("matplotlib")
    report_bars.bars([document()], tmp_path / "1.svg")
    with mpl.rc_context({"axes.facecolor": "red", "font.size": 30}):
        report_bars.bars([document()], tmp_path / "2.svg")
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
        ([], "give result files, or --committed"),
        ([str(stored), "--committed"], "give result files, or --committed"),
        ([str(stored), "--out", "x.gif"], "must end in .svg or .png"),
        ([str(stored), "--into", str(tmp_path / "plain.md")], "has no <!-- bench:begin -->"),
    ):
        result = CliRunner().invoke(app, args)
        assert result.exit_code == 2
        assert message in " ".join(result.output.replace("│", " ").split())


@pytest.fixture
def checkout():
    if not (report.ROOT / "bench" / "results").is_dir() or not (report.ROOT / "docs").is_dir():
        pytest.skip("not a checkout")
    return data.committed(report.ROOT / "bench" / "results")


def drawn_by():
    return report.DRAWN_BY.search((report.ROOT / "docs" / "speed.md").read_text("utf-8"))[1]


def test_committed_tables_are_those_of_the_committed_results(checkout):
    for path, text in report.sections(checkout, report.ROOT, drawn_by()).items():
        assert report.marked(path)[1] == text, f"{path.name} is old: python -m gnnaccel.bench.report --committed"


def test_committed_pictures_are_those_of_the_committed_results(checkout, tmp_path):
    mpl = pytest.importorskip("matplotlib")
    if mpl.__version__ != drawn_by():
        pytest.skip(
            f"matplotlib {mpl.__version__} draws otherwise than {drawn_by()}, which drew the committed pictures"
        )
    for path in report.draw_committed(checkout, tmp_path):
        kept = report.ROOT / "docs" / path.name
        assert kept.read_bytes() == path.read_bytes(), (
            f"{path.name} is old: python -m gnnaccel.bench.report --committed"
        )


def fake_checkout(root):
    for page in (root / "README.md", root / "docs" / "speed.md"):
        page.parent.mkdir(exist_ok=True)
        page.write_text(f"above\n{report.BEGIN}\nold\n{report.END}\nbelow\n")
    for i, (folder, device) in enumerate((("cpu-2t", "cpu"), ("h200", "cuda"))):
        (root / "bench" / "results" / folder).mkdir(parents=True)
        found = document(2.0 + i)
        found["environment"] |= {"device": device, "device_name": f"device {i}", "cuda": "13.0"}
        found["rates"] = {"2": {"copy_gbps": 10.0, "gemm_gflops": 100.0}}
        own = found["rows"][0]
        found["rows"].append({**own, "gbps": 2.0, "gflops": 5.0, "op": "counted", "pct_copy": 20.0, "pct_gemm": 5.0})
        for x in (1, 2):
            at = {"scaling": {"axis": "batch", "x": x}}
            found["rows"].append({**own, "op": "scaling-batch", "p20_ms": 1.0, "p80_ms": 2.0, "extra": at})
        (root / "bench" / "results" / folder / "all.json").write_text(json.dumps(found))
    (root / "bench" / "results" / "cpu-2t" / "other.json").write_text('{"schema": 1, "rows": [{"name": "not ours"}]}')


def test_everything_is_made_by_one_command(tmp_path, monkeypatch):
    pytest.importorskip("matplotlib")
    fake_checkout(tmp_path)
    app = typer.Typer()
    app.command()(report.report)
    monkeypatch.setattr(report, "ROOT", tmp_path)
    result = CliRunner().invoke(app, ["--committed"])
    assert result.exit_code == 0, result.output
    made = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.svg")}
    assert made == {f"docs/{n}{d}.svg" for n in ("speed", "roofline", "scaling") for d in ("", "-dark")}
    before = {path: path.read_bytes() for path in tmp_path.rglob("*.*") if path.is_file()}
    assert CliRunner().invoke(app, ["--committed"]).exit_code == 0
    assert before == {path: path.read_bytes() for path in before}
    readme, page = ((tmp_path / name).read_text("utf-8") for name in ("README.md", "docs/speed.md"))
    for text in (readme, page):
        assert text.startswith("above\n") and text.endswith("\nbelow\n") and "old" not in text
        assert "prefers-color-scheme: dark" in text and "device 0 (AVX2)" in text and "device 1, CUDA 13.0" in text
    assert 'src="docs/speed.svg"' in readme and 'src="roofline.svg"' in page and 'src="scaling.svg"' in page
    assert "a_op big, forward + backward, 2 threads: pyg takes 0.8 ms, ours 1 ms (0.80x)" in page
    assert "| training TGN | tgn, w_b600, 2 threads | 1 ms | pyg 4 ms | 4.00x |" in readme
    assert "| a op | a_op, big, 2 threads | 1 ms | pyg 0.8 ms | 0.80x |" in readme, "losing is in by rule"


def test_nothing_is_left_half_done_without_matplotlib(tmp_path, monkeypatch):
    fake_checkout(tmp_path)

    def lacking():
        raise ValueError("bench: pictures need matplotlib: pip install 'gnnaccel[bench]'")

    monkeypatch.setattr(report.draw, "need_matplotlib", lacking)
    with pytest.raises(ValueError, match="pictures need matplotlib"):
        report.regenerate(tmp_path)
    assert "old" in (tmp_path / "README.md").read_text()


def test_headline_names_entries_that_exist():
    harness.discover()
    known = {*harness.REGISTRY, *harness.END_TO_END, *(e.op for e in gpu_ops.ENTRIES)}
    assert [op for op, _ in data.HEADLINE + data.HEADLINE_GPU if op not in known] == []
    assert [op for op, _ in data.YARDSTICKS if op not in known] == []
    assert 12 <= len(data.HEADLINE) <= 18


def test_commands_of_the_page_exist():
    """Every option that docs/benchmarks.md shows is one of the command, every target an entry or a group of them."""
    page = report.ROOT / "docs" / "benchmarks.md"
    if not page.exists():
        pytest.skip("not a checkout")
    harness.discover()
    command = typer.main.get_command(cli.app)
    options = {name for param in command.params for name in (*param.opts, *param.secondary_opts)}
    lines = re.findall(r"^    gnnaccel bench([^#\n]*)", page.read_text("utf-8"), flags=re.MULTILINE)
    assert len(lines) > 6
    for line in lines:
        assert set(re.findall(r"--[a-z-]+", line)) <= options
        names = re.sub(r"--(json|base|report) \S+|--\S+", "", line).split()
        assert set(names) <= {*harness.REGISTRY, *harness.END_TO_END, "all", "ops", "models", "scaling"}
