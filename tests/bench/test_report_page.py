"""The page and its Markdown: all is there, nothing is loaded, nothing escapes. The figures here are made up."""

import builtins
import copy
import importlib.util
import re
import sys
from dataclasses import asdict
from html.parser import HTMLParser

import pytest

from gnnaccel.bench import report_bars, report_data, report_markdown, report_page
from gnnaccel.bench.harness import Row
from gnnaccel.bench.report_labels import place_labels
from gnnaccel.bench.report_page import write_report
from gnnaccel.bench.report_text import clock, times

HOSTILE = "<script>alert('x')</script> & \"a|b\""
VOID = {"meta", "br", "link", "img", "use", "path", "input"}


def rows_of(op="an_op", case="big", mode="full", threads=2, peers=(("torch", 2.0), ("pyg", 0.8)), **extra):
    out = []
    for name, ratio in (("gnnaccel", None), *peers):
        row = Row(op, case, mode, name, ratio is None, "ok", threads=threads)
        row.p20_ms, row.p50_ms, row.p80_ms = (k * (ratio or 1.0) for k in (0.9, 1.0, 1.2))
        row.peak_bytes, row.gbps, row.gflops, row.pct_copy, row.pct_gemm = 3000, 4.0, 8.0, 40.0, 8.0
        if ratio is not None:
            row.ratio_p20, row.ratio, row.ratio_p80 = 0.9 * ratio, ratio, 1.1 * ratio
            row.peak_bytes = 6000
        row.extra = dict(extra)
        out.append(asdict(row))
    return out


def scaling_rows(axis="fanout", xs=(1, 10, 100)):
    return [r for x in xs for r in rows_of(f"scaling-{axis}", f"x{x}", "fwd", scaling={"axis": axis, "x": x})]


def document(device="cpu", name="CPU X", **change):
    env = {
        "device": device,
        "device_name": name,
        "simd": "AVX2",
        "threads": 2,
        "torch": "2.13",
        "commit": "abc",
        "cuda": "13",
    }
    rows = (
        rows_of()
        + rows_of(case="small", peers=(("torch", 0.5),))
        + rows_of("other", "one", "fwd", peers=(("torch", 70.0),))
    )
    rows += rows_of("tgn", "wiki_b600", "train", stages_ms={"sample": 1.0, "wait.sample": 9.0, "forward": 3.0})
    rows += scaling_rows()
    rows.append(asdict(Row("an_op", "big", "gate", "wrong", False, "red", "error 3e-1", 2)))
    rows.append(asdict(Row("an_op", "big", "full", "dgl", False, "missing", HOSTILE, 2)))
    return {
        "schema": 1,
        "environment": env,
        "rates": {"2": {"copy_gbps": 10.0, "gemm_gflops": 100.0}},
        "rows": rows,
        **change,
    }


class Page(HTMLParser):
    """Checks that tags are closed in order, and keeps what the tests ask for."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.texts, self.ids = [], [], [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self.ids += [v for k, v in attrs if k == "id"]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self.open and self.open.pop() == tag, f"</{tag}> at {self.getpos()}"

    def handle_data(self, data):
        if not self.open or self.open[-1] not in ("script", "style"):
            self.texts.append(data)

    @property
    def text(self):
        return " ".join(" ".join(self.texts).split())

    def all(self, tag):
        return [attrs for name, attrs in self.tags if name == tag]


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    page = write_report([document(), document("cuda", "GPU Y")], folder)
    assert page == folder / "index.html"
    return page.read_text("utf-8"), (folder / "report.md").read_text("utf-8")


def test_page_is_well_formed(written):
    page = Page(written[0])
    assert [tag for tag, _ in page.tags if tag in ("h1", "main", "header")] == ["header", "h1", "main"]
    assert len(page.ids) == len(set(page.ids)), "ids are unique, those of pictures too"
    assert page.all("html")[0]["lang"] == "en"
    assert {"width=device-width, initial-scale=1"} <= {m.get("content") for m in page.all("meta")}
    for th in page.all("th"):
        assert th.get("scope") in ("row", "col", "rowgroup")
    for link in page.all("a"):
        assert link["href"].removeprefix("#") in page.ids
    for label in re.findall(r'aria-labelledby="([^"]*)"', written[0]):
        assert label in page.ids


def test_page_loads_nothing(written):
    for tag, attrs in Page(written[0]).tags:
        assert tag not in ("link", "img", "iframe", "object", "embed", "base")
        assert "src" not in attrs and "srcset" not in attrs
        for name in ("href", "xlink:href"):
            assert attrs.get(name, "#").startswith("#")
    assert "@import" not in written[0]
    assert all(url.startswith("#") for url in re.findall(r"url\(\s*[\"']?([^)]*)", written[0]))


def test_both_hold_every_row_and_every_section(written):
    page, text = Page(written[0]).text, written[1]
    for title in ("Misses", "Wrong or failed", "Peers that did not run", "Rates", "Scaling", "End to end", "Everything",
                  "Environment", "To repeat it"):  # fmt: skip
        assert f"# {title}\n" in text
        # curves are pictures
        assert title in page or (title == "Scaling" and importlib.util.find_spec("matplotlib") is None)
    want = sum(len(document()["rows"]) for _ in range(2))
    body = written[0].partition('<section id="everything"')[2].partition("</tbody>")[0]
    assert body.count("<tr>") - 1 == want
    everything = text.partition("## Everything")[2].partition("## Environment")[0]
    assert len([x for x in everything.splitlines() if x.startswith("| ")]) - 2 == want
    for word in (
        "CPU X (AVX2)",
        "GPU Y, CUDA 13",
        "scaling-fanout --threads 2",
        "scaling-fanout --device cuda",
    ):
        assert word in page and word in text


def test_misses_are_as_plain_as_hits(written):
    page, text = Page(written[0]).text, written[1]
    assert "an_op small, forward + backward, 2 threads: torch takes 0.5 ms, ours 1 ms (0.50x)" in text
    section = written[0].partition('id="misses"')[2].partition("</table>")[0]
    assert section.index("0.50x") < section.index("0.80x"), "the worst first"
    assert written[0].count('class="bar lost"') == 4, "pyg in an_op and tgn of each device"
    assert "an_op big, wrong: error 3e-1" in page and "an_op big, wrong: red, error 3e-1" in text
    assert "3 faster" not in page and "4 faster than ours" in page


def test_names_cannot_become_markup(written):
    page, text = written
    assert HOSTILE not in page and "&lt;script&gt;alert(" in page
    assert len(Page(page).all("script")) == 1
    assert "<script>" not in text and "a\\|b" in text


def test_pictures_take_the_colours_of_the_page(written):
    pytest.importorskip("matplotlib")
    svgs = re.findall(r"<svg.*?</svg>", written[0], flags=re.DOTALL)
    assert len(svgs) == 4, "a roofline and a curve for each device"
    for svg in svgs:
        assert "var(--text)" in svg and "var(--faster)" in svg and "<title" in svg
        assert not re.search(r"#[0-9a-f]{6}", svg), "no colour of its own"
        assert "<style" not in svg and "<metadata" not in svg and svg.count("<text") > 3


def test_same_documents_same_bytes(tmp_path):
    documents = [document()]
    first, second = (write_report(copy.deepcopy(documents), tmp_path / name) for name in "ab")
    assert first.read_bytes() == second.read_bytes()
    assert (tmp_path / "a" / "report.md").read_bytes() == (tmp_path / "b" / "report.md").read_bytes()
    assert {p.name for p in first.parent.iterdir()} == {"index.html", "report.md"}


def test_without_matplotlib_the_page_says_so(tmp_path, monkeypatch):
    real = builtins.__import__

    def none_there(name, *args, **kwargs):
        if name.partition(".")[0] == "matplotlib":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    for name in [m for m in sys.modules if m.partition(".")[0] == "matplotlib"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(builtins, "__import__", none_there)
    page = Page(write_report([document()], tmp_path).read_text("utf-8"))
    assert "pictures need matplotlib: pip install 'gnnaccel[bench]'" in page.text
    assert page.all("svg") == [] and "2.00x" in page.text
    with pytest.raises(ValueError, match="pictures need matplotlib"):
        report_bars.bars([document()], tmp_path / "x.svg")


def test_few_rows_make_a_page_too(tmp_path):
    rows = rows_of(peers=())
    page = Page(write_report([document(rows=[], rates={}), document(rows=rows, rates={})], tmp_path).read_text("utf-8"))
    assert "Nothing was compared with a peer." in page.text
    assert "Nothing was compared with a peer." in (tmp_path / "report.md").read_text()


def test_refuses_what_is_no_result(tmp_path):
    with pytest.raises(ValueError, match="at least one run, got none"):
        write_report([], tmp_path)
    with pytest.raises(ValueError, match=r"documents\[1\] must be a result document of schema 1"):
        write_report([document(), {"schema": 1, "rows": [{"name": 1}]}], tmp_path)


def test_date_and_command_are_those_of_the_document(tmp_path):
    written = write_report([document(date="2026-01-02", command="gnnaccel bench ops --threads 7")], tmp_path)
    page = Page(written.read_text("utf-8")).text
    assert "Measured 2026-01-02." in page and "gnnaccel bench ops --threads 7" in page


def test_labels_keep_apart():
    """Twenty points in one place: each has a label, and no two touch."""
    size, texts = 12.5, [f"an_op_of_some_length_{i}" for i in range(20)]
    spots = [(400.0 + 3 * (i % 5), 300.0 + 3 * (i // 5)) for i in range(20)]
    places = place_labels(texts, spots, [], (0, 0, 1000, 700), size)
    half = 0.3 * size * len(texts[0])
    for i, (x, y) in enumerate(places):
        assert half <= x <= 1000 - half and size / 2 <= y <= 700 - size / 2
        for u, v in places[:i]:
            assert abs(x - u) >= 2 * half or abs(y - v) >= size


def test_headline_takes_the_closest_peer_and_all_that_lose():
    doc = document(rows=rows_of("gather_rows", peers=(("torch", 3.0), ("pyg", 2.0))) + rows_of("unknown_op") +
                   rows_of("tcsr_build", peers=(("read_and_write_once", 0.5), ("torch", 4.0))))  # fmt: skip
    ((device, found),) = report_data.headline([doc])
    assert device == "CPU X (AVX2)"
    assert [(what, p.row["provider"]) for what, p in found] == [("gathering rows", "pyg"), ("unknown op", "pyg")]
    assert report_data.misses([doc])[0].row["op"] == "unknown_op", "a bound is no peer"


def test_committed_reads_what_bench_wrote(tmp_path):
    with pytest.raises(ValueError, match="holds no results"):
        report_data.committed(tmp_path)


def test_table_cells():
    assert report_markdown.cell("a|b\n<i>") == "a\\|b &lt;i>"
    assert [clock(x) for x in (4166.8, 12.34, 0.0525)] == ["4.17 s", "12.3 ms", "52.5 µs"]
    assert [times(x) for x in (0.0421, 2.04, 361.2, None)] == ["0.042", "2", "361", ""]


def luminance(color):
    parts = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
    return sum(w * c for w, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def test_text_can_be_read_in_light_dark_and_print():
    """Contrast of at least 4.5:1 of whatever carries words, on the page and on its panels."""
    roots = re.findall(r":root \{(.*?)\}", (report_page.FOLDER / "report.css").read_text("utf-8"), flags=re.DOTALL)
    assert len(roots) == 3
    for root in roots:
        color = dict(re.findall(r"--(\w+): (#\w{6})", root))
        for ground in ("ground", "panel"):
            for name in ("text", "muted", "faster", "slower", "wrong"):
                high, low = sorted((luminance(color[name]), luminance(color[ground])), reverse=True)
                assert (high + 0.05) / (low + 0.05) >= 4.5, (name, color[name], color[ground])


def test_a_sweep_over_threads_shows_the_most():
    """What has its own number of threads is run again in each round of a sweep; it is there once."""
    sweep = [r for n in (1, 2) for r in rows_of(threads=n) + rows_of("pinned", threads=1) + scaling_rows("batch")]
    doc = document(rows=sweep)
    found = [(p.row["op"], p.row["threads"], p.row["provider"]) for p in report_data.pairs([doc])]
    assert found == [("an_op", 2, "torch"), ("an_op", 2, "pyg"), ("pinned", 1, "torch"), ("pinned", 1, "pyg")]
    assert len(list(report_data.pairs([doc], everything=True))) == 6
    assert [(c.threads, len(c.lines["torch"])) for c in report_data.curves([doc])] == [("2 threads", 3)]


def seven(mode):
    return [r for i in range(7) for r in rows_of(f"op{i}", mode=mode)]


@pytest.mark.parametrize(
    ("rows", "settings", "want"),
    [
        (rows_of(), {}, "gnnaccel bench an_op --threads 2"),
        (rows_of() + rows_of("b", mode="step"), {"data": "wiki"}, "gnnaccel bench an_op b --threads 2 --data wiki"),
        (seven("fwd"), {"threads": [1, 2]}, "gnnaccel bench ops --threads 1,2"),
        ([r for i in range(7) for r in scaling_rows(f"{i}")], {"quick": True}, "gnnaccel bench scaling --threads 2 --quick"),
        (seven("step"), {}, "gnnaccel bench models --threads 2"),
        (seven("fwd") + rows_of("b", mode="step"), {}, "gnnaccel bench all --threads 2"),
    ],
)  # fmt: skip
def test_the_line_that_repeats_a_run(rows, settings, want):
    assert report_data.command(document(rows=rows, settings=settings)) == want


def test_memory_that_torch_does_not_see_is_not_compared():
    doc = document(rows=rows_of(peers=(("dgl", 2.0), ("torch", 2.0))))
    assert [p.memory for p in report_data.pairs([doc])] == [None, 2.0]
    doc["environment"]["device"] = "cuda"
    assert [p.memory for p in report_data.pairs([doc])] == [2.0, 2.0]
