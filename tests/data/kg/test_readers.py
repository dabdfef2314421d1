"""Layouts of files, and what is said about bad ones."""

import gzip
from itertools import permutations
from pathlib import Path

import pytest

from gnnaccel.data.kg import KnowledgeGraph, TripleError, read_kg

TRAIN = [("a", "likes", "b"), ("b", "likes", "c"), ("c", "knows", "a"), ("a", "knows", "b")]
VALID = [("a", "likes", "c")]
TEST = [("c", "likes", "d")]


def text(rows, order="hrt", sep="\t") -> str:
    return "".join(sep.join(row["hrt".index(x)] for x in order) + "\n" for row in rows)


def write(folder: Path, **files: str | bytes) -> Path:
    folder.mkdir(exist_ok=True)
    for name, content in files.items():
        data = content.encode() if isinstance(content, str) else content
        (folder / name.replace("__", ".")).write_bytes(data)
    return folder


def rows(kg: KnowledgeGraph, split: str = "train") -> list[tuple[str, str, str]]:
    part = getattr(kg, split)
    return list(
        zip(kg.entity_names(part.head), kg.relation_names(part.relation), kg.entity_names(part.tail), strict=True)
    )


def error(path: Path, **options) -> TripleError:
    with pytest.raises(TripleError) as caught:
        read_kg(path, **options)
    assert isinstance(caught.value, ValueError) and "\n" not in str(caught.value)
    return caught.value


@pytest.mark.parametrize("order", ["".join(p) for p in permutations("hrt")])
@pytest.mark.parametrize("sep", ["\t", ",", ";", "|", " "])
def test_orders_and_delimiters(tmp_path: Path, order: str, sep: str) -> None:
    folder = write(tmp_path / "kg", train__txt=text(TRAIN, order, sep), test__txt=text(TEST, order, sep))
    kg = read_kg(folder, order=order)
    assert rows(kg) == TRAIN and rows(kg, "test") == TEST and rows(kg, "valid") == []
    assert rows(read_kg(folder, format=f"raw_udd_{order}", delimiter=sep)) == TRAIN


def test_numbers_follow_the_lines(tmp_path: Path) -> None:
    """As DGL-KE numbers: head before tail, line by line, train before valid before test."""
    folder = write(tmp_path / "kg", train__txt=text(TRAIN[1:]), valid__txt=text(VALID), test__txt=text(TEST))
    kg = read_kg(folder)
    assert kg.entities.to_pylist() == ["b", "c", "a", "d"]
    assert kg.relations.to_pylist() == ["likes", "knows"]
    assert kg.train.tensor().tolist() == [[0, 0, 1], [1, 1, 2], [2, 1, 0]]
    assert kg.name == "kg" and (kg.num_entities, kg.num_relations) == (4, 2)


def test_numbers_agree_with_a_plain_loop(tmp_path: Path) -> None:
    facts = [(f"n{i * i % 37}", f"r{i % 5}", f"n{i * 7 % 53}") for i in range(400)]
    folder = write(tmp_path / "kg", train__tsv=text(facts[:300]), dev__tsv=text(facts[300:]))
    ids: dict[str, int] = {}
    relations: dict[str, int] = {}
    want = []
    for h, r, t in facts:
        want.append([ids.setdefault(h, len(ids)), relations.setdefault(r, len(relations)), ids.setdefault(t, len(ids))])
    kg = read_kg(folder)
    assert kg.train.tensor().tolist() == want[:300] and kg.valid.tensor().tolist() == want[300:]
    assert kg.entities.to_pylist() == list(ids) and kg.relations.to_pylist() == list(relations)


def test_gzip_single_file_and_name(tmp_path: Path) -> None:
    path = tmp_path / "facts.tsv.gz"
    path.write_bytes(gzip.compress(text(TRAIN).encode()))
    kg = read_kg(path)
    assert rows(kg) == TRAIN and kg.name == "facts" and len(kg.valid) == len(kg.test) == 0
    with pytest.raises(ValueError, match="test must hold triples, got an empty split"):
        kg.split("test")
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(ValueError, match="gzip stream is cut short"):
        read_kg(path)


@pytest.mark.parametrize("sep", ["\t", ",", " "])
def test_blank_lines_crlf_and_byte_order_mark(tmp_path: Path, sep: str) -> None:
    lines = text(TRAIN, sep=sep).splitlines()
    raw = "\ufeff\r\n  \r\n" + "\r\n   \r\n\r\n".join(lines) + "\r\n\r\n"
    assert rows(read_kg(write(tmp_path / "kg", train__txt=raw))) == TRAIN


def test_names_are_literal(tmp_path: Path) -> None:
    facts = [('"a"', "it's", 'half "quote'), ('"open', "NA", "null"), ("ü ñ", "#", "\\t"), ("nan", "", "1.0")]
    facts = [*facts[:3], ("nan", "a,b", "01")]
    kg = read_kg(write(tmp_path / "kg", train__txt=text(facts)))
    assert rows(kg) == facts
    # blanks around a name are not part of it
    kg = read_kg(write(tmp_path / "kg", train__txt="a \t r\tb\n a\tr \tc d\n"))
    assert rows(kg) == [("a", "r", "b"), ("a", "r", "c d")]


def test_header(tmp_path: Path) -> None:
    named = "Tail,Head,relation,source\n" + "".join(f"{t},{h},{r},x\n" for h, r, t in TRAIN)
    assert rows(read_kg(write(tmp_path / "kg", train__csv=named))) == TRAIN
    assert rows(read_kg(tmp_path / "kg", header=True)) == TRAIN
    assert "header of order thr" in str(error(tmp_path / "kg", order="hrt"))
    plain = "from\tby\tto\n" + text(TRAIN)
    assert rows(read_kg(write(tmp_path / "two", train__txt=plain), header=True)) == TRAIN
    assert rows(read_kg(tmp_path / "two"))[0] == ("from", "by", "to")


def test_weights(tmp_path: Path) -> None:
    lines = [f"{line}\t{w}" for line, w in zip(text(TRAIN).splitlines(), (1, 0.5, 2e1, 0), strict=True)]
    kg = read_kg(write(tmp_path / "kg", train__txt="\n".join(lines)), weight=True)
    assert kg.train.weight is not None and kg.train.weight.tolist() == [1, 0.5, 20, 0]
    spaced = read_kg(write(tmp_path / "kg", train__txt="\n".join(lines).replace("\t", "  ")), weight=True)
    assert spaced.train.weight is not None and spaced.train.weight.tolist() == [1, 0.5, 20, 0]
    assert "line 1: expected 3 columns separated by tab, got 4; pass weight=True" in str(
        error(write(tmp_path / "kg", train__txt="\n".join(lines)))
    )
    for bad in ("x", "", "-1", "nan", "inf"):
        broken = write(tmp_path / "bad", train__txt="\n".join([*lines[:2], f"a\tlikes\tc\t{bad}"]))
        assert f"line 3: expected a weight, finite and >= 0, got {bad!r}" in str(error(broken, weight=True))


# dictionaries


MAPS = {"entities__dict": "0\tb\n1\ta\n2\td\n3\tc\n", "relations__dict": "0\tknows\n1\tlikes\n"}
IDS = "1\t1\t0\n0\t1\t3\n3\t0\t1\n1\t0\t0\n"


def test_dictionaries_with_names_and_with_ids(tmp_path: Path) -> None:
    named = read_kg(write(tmp_path / "names", **MAPS, train__txt=text(TRAIN), test__txt=text(TEST)))
    assert rows(named) == TRAIN and rows(named, "test") == TEST
    assert named.entities.to_pylist() == ["b", "a", "d", "c"]
    ids = read_kg(write(tmp_path / "ids", **MAPS, train__txt=IDS))
    assert rows(ids) == TRAIN and ids.num_entities == 4
    assert ids.train.tensor().equal(named.train.tensor())
    tsv = {k.replace("dict", "tsv"): v for k, v in MAPS.items()}
    assert rows(read_kg(write(tmp_path / "tsv", **tsv, train__txt=IDS), format="ids")) == TRAIN


def test_ids_that_are_names_too(tmp_path: Path) -> None:
    maps = {"entities__dict": "0\t1\n1\t0\n", "relations__dict": "0\t0\n"}
    folder = write(tmp_path / "kg", **maps, train__txt="0\t0\t1\n")
    assert "line 1: expected names or ids, got 0 0 1, which are both; pass format='names'" in str(error(folder))
    assert read_kg(folder, format="ids").train.tensor().tolist() == [[0, 0, 1]]
    assert read_kg(folder, format="names").train.tensor().tolist() == [[1, 0, 0]]


def test_ids_alone(tmp_path: Path) -> None:
    kg = read_kg(write(tmp_path / "kg", train__txt="5 1 0\n2 0 5\n"), format="ids")
    assert (kg.num_entities, kg.num_relations, kg.entities) == (6, 2, None)
    assert rows(kg) == [("5", "1", "0"), ("2", "0", "5")]
    assert kg.entity_ids(["5"]).tolist() == [5]


def test_dglke_data_files(tmp_path: Path) -> None:
    folder = write(tmp_path / "kg", e="0,b\n1,a\n2,d\n3,c\n", r="0,knows\n1,likes\n", x="1,0,1\n0,3,1\n", y="3,2,1\n")
    kg = read_kg(folder, format="udd_htr", files=["e", "r", "x", "y"], delimiter=",")
    assert rows(kg) == TRAIN[:2] and rows(kg, "valid") == TEST
    raw = read_kg(
        write(tmp_path / "raw", x=text(TRAIN, "trh"), y=text(TEST, "trh")), format="raw_udd_trh", files=["x", "y"]
    )
    assert rows(raw) == TRAIN and rows(raw, "valid") == TEST
    assert "kg/z: expected a file, got none" in str(error(folder, format="raw_udd_hrt", files=["z"]))


def test_names_written_as_dglke_does_are_read_again(tmp_path: Path) -> None:
    kg = read_kg(write(tmp_path / "kg", train__txt=text(TRAIN), test__txt=text(TEST)))
    kg.save_names(tmp_path / "kg")
    assert (tmp_path / "kg" / "entities.tsv").read_text() == "0\ta\n1\tb\n2\tc\n3\td\n"
    again = read_kg(tmp_path / "kg", format="names")
    assert again.entities.equals(kg.entities) and again.train.tensor().equal(kg.train.tensor())
    assert not list((tmp_path / "kg").glob("*.tmp"))


@pytest.mark.parametrize("sep", ["\t", " ", "  \t"])
def test_openke(tmp_path: Path, sep: str) -> None:
    maps = {
        "entity2id__txt": f"4\nb{sep}0\na{sep}1\nd{sep}2 \nc{sep}3\n",
        "relation2id__txt": "2\r\nknows\t0\r\nlikes\t1\r\n",
    }
    ids = {"train2id__txt": "4\n" + f"1{sep}0{sep}1\n0 3 1\n3\t1\t0\n1 0 0\n".replace(" ", sep).replace("\t", sep)}
    folder = write(tmp_path / "kg", **maps, **ids, test2id__txt="1\n3 2 1", valid2id__txt="1\n1 3 1\n")
    write(folder, **{"1-1__txt": "nothing", "type_constrain__txt": "2\n"})
    kg = read_kg(folder)
    assert rows(kg) == TRAIN and rows(kg, "valid") == VALID and rows(kg, "test") == TEST
    write(folder, test2id__txt="2\n3 2 1")
    assert "test2id.txt: expected 2 triples as its first line says, got 1" in str(error(folder))
    write(folder, test2id__txt="3 2 1\n")
    assert "test2id.txt: line 1: expected the number of triples (OpenKE), got '3 2 1'" in str(error(folder))


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("0\ta\n\nx\n", "line 3: expected an id and a name, got 'x'"),
        ("0\ta\n2\tb\n", "line 2: expected ids 0..1 for 2 names, got 2"),
        ("0\ta\n\n0\tb\n", "line 3: expected each id once, got 0 again (line 1)"),
        ("0\ta\n1\ta\n", "line 2: expected each name once, got 'a' again (line 1)"),
        ("3\n0\ta\n1\tb\n", "expected 3 names as its first line says, got 2"),
        (b"0\ta\n1\t\xe4\n", "line 2: expected UTF-8, got byte 0xe4"),
        ("", "expected names and ids, got an empty file"),
    ],
)
def test_bad_dictionaries(tmp_path: Path, lines: str | bytes, message: str) -> None:
    folder = write(tmp_path / "kg", train__txt=IDS, entities__dict=lines, relations__dict=MAPS["relations__dict"])
    assert f"entities.dict: {message}" in str(error(folder))


@pytest.mark.parametrize("compress", [False, True])
@pytest.mark.parametrize(
    ("lines", "line", "message"),
    [
        ("a\tr\tb\n\n\na\tr\n", 4, "expected 3 columns separated by tab, got 2"),
        ("a\tr\tb\r\na,r,b\r\n", 2, "expected 3 columns separated by tab, got 1; this line looks separated by comma"),
        ("a,r,b\n  \na\tr\tb\n", 3, "expected 3 columns separated by comma, got 1; this line looks separated by tab"),
        ("a r b\n\na r  b c\n", 3, "expected 3 columns separated by blanks, got 4"),
        ("a\tr\tb\n\t\t\n", 2, "expected a head, got nothing"),
        ("a\tr\tb\n \na\t \tb\n", 3, "expected a relation, got nothing"),
        ("a\tr\tb\na\tr\t\n", 2, "expected a tail, got nothing"),
        (b"a\tr\tb\na\tr\t\xff\n", 2, "expected UTF-8, got byte 0xff; convert the file to UTF-8"),
        (b"\na\tr\tb\n\xc3\tr\n", 3, "expected UTF-8, got byte 0xc3"),
        (b"a r b\na r \xff\n", 2, "expected UTF-8, got byte 0xff"),
        (b"a r b\na r\na r \xff\n", 2, "expected 3 columns separated by blanks, got 2"),
        ("a\tr\tb\n".encode("utf-16"), None, "expected UTF-8 text, got a binary file or UTF-16"),
        (b"a\tr\tb\0\n", None, "expected UTF-8 text, got a binary file or UTF-16"),
        ("\n\r\n", None, "expected triples of train, got an empty split"),
        ("head\trelation\ttail\n\n", None, "expected triples of train, got an empty split"),
    ],
)
def test_bad_lines(tmp_path: Path, lines: str | bytes, line: int | None, message: str, compress: bool) -> None:
    data = lines.encode() if isinstance(lines, str) else lines
    folder = write(tmp_path / "kg", train__txt=gzip.compress(data) if compress else data)
    caught = error(folder)
    assert caught.line == line
    assert str(caught).startswith(f"{folder / 'train.txt'}: {'' if line is None else f'line {line}: '}{message}")


def test_bad_line_far_into_a_file(tmp_path: Path) -> None:
    many = "".join(f"e{i}\tr\te{i + 1}\n" for i in range(300_000))
    folder = write(tmp_path / "kg", train__txt=f"{many}short\tline\n{many}")
    assert error(folder).line == 300_001


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("1\t1\t0\n\n1\t0\t4\n", "line 3: expected an entity id [0, 4), got '4'"),
        ("1\t1\t0\n1\t2\t1\n", "line 2: expected a relation id [0, 2), got '2'"),
        ("1\t1\t0\n-1\t0\t1\n", "line 2: expected an entity id [0, 4), got '-1'"),
        ("1\t1\t0\n0x1\t0\t1\n", "line 2: expected an entity id [0, 4), got '0x1'"),
        ("1\t1\t0\n1\t99999999999999999999\t1\n", "line 2: expected a relation id [0, 2), got '99999999999999999999'"),
        ("1\t1\t0\n1.0\t0\t1\n", "line 2: expected an entity id [0, 4), got '1.0'"),
    ],
)
def test_ids_out_of_range(tmp_path: Path, lines: str, message: str) -> None:
    folder = write(tmp_path / "kg", **MAPS, train__txt=lines)
    assert f"train.txt: {message}" in str(error(folder, format="ids"))


def test_names_missing_in_the_dictionary(tmp_path: Path) -> None:
    folder = write(tmp_path / "kg", **MAPS, train__txt=text(TRAIN), test__txt=text([*TEST, ("a", "likes", "zed")]))
    assert "test.txt: line 2: expected one of the 4 entities of the dictionary, got 'zed'" in str(error(folder))
    write(folder, test__txt=text([("a", "hates", "b")]))
    assert "test.txt: line 1: expected one of the 2 relations of the dictionary, got 'hates'" in str(error(folder))


# policies


def test_unknown_entities(tmp_path: Path) -> None:
    folder = write(tmp_path / "kg", train__txt=text(TRAIN), valid__txt=text(VALID))
    write(folder, test__txt="\n" + text([VALID[0], *TEST, ("a", "hates", "b"), ("a", "likes", "a")]))
    kept = read_kg(folder)
    assert len(kept.test) == 4 and kept.num_entities == 4 and not kept.dropped
    assert [x.tolist() for x in kept.unseen()] == [[3], [2]]
    assert kept.summary()["triples_not_in_train"] == {"valid": 0, "test": 2}
    left = read_kg(folder, unknown="report")
    assert rows(left, "test") == [VALID[0], ("a", "likes", "a")] and left.dropped["unknown"] == {"test": 2}
    assert left.num_entities == 4
    caught = error(folder, unknown="error")
    assert "test.txt: line 3: expected an entity of train, got 'd'" in str(caught) and caught.line == 3
    # the line is the file's, also after duplicates were dropped
    write(folder, test__txt=text([VALID[0], VALID[0], *TEST]))
    assert error(folder, unknown="error", duplicates="drop").line == 3
    write(folder, test__txt=text([("a", "hates", "b")]))
    assert "test.txt: line 1: expected a relation of train, got 'hates'" in str(error(folder, unknown="error"))


def test_duplicates(tmp_path: Path) -> None:
    twice = [*TRAIN, TRAIN[1], ("b", "likes", "a"), TRAIN[1]]
    folder = write(tmp_path / "kg", train__txt="\n" + text(twice), valid__txt=text([TRAIN[0]]))
    kept = read_kg(folder)
    assert rows(kept) == twice
    assert kept.summary()["duplicates"] == {"train": 2, "valid": 0, "test": 0}
    assert kept.summary()["in_train"] == {"valid": 1, "test": 0}
    dropped = read_kg(folder, duplicates="drop")
    assert rows(dropped) == [*TRAIN, ("b", "likes", "a")] and dropped.dropped["duplicates"] == {"train": 2}
    message = "train.txt: line 6: expected each triple of train once, got the one of line 3 again"
    assert message in str(error(folder, duplicates="error"))


def test_weights_follow_what_is_kept(tmp_path: Path) -> None:
    weighted = "a\tr\tb\t1\na\tr\tb\t2\nb\tr\ta\t3\n"
    folder = write(tmp_path / "kg", train__txt=weighted, test__txt="a\tr\tz\t4\na\tr\ta\t5\n")
    kg = read_kg(folder, weight=True, duplicates="drop", unknown="report")
    assert kg.train.weight is not None and kg.train.weight.tolist() == [1, 3]
    assert kg.test.weight is not None and kg.test.weight.tolist() == [5]


def test_empty_splits(tmp_path: Path) -> None:
    folder = write(tmp_path / "kg", train__txt=text(TRAIN), valid__txt="", test__txt="\n")
    assert "valid.txt: expected triples of valid, got an empty split; pass allow_empty=True" in str(error(folder))
    kg = read_kg(folder, allow_empty=True)
    assert len(kg.valid) == len(kg.test) == 0
    write(folder, train__txt="")
    assert "expected triples of train" in str(error(folder, allow_empty=True))


def test_folders_that_are_not_knowledge_graphs(tmp_path: Path) -> None:
    assert "expected a file of train (train.txt), got an empty folder" in str(error(write(tmp_path / "none")))
    assert "expected a file or folder of triples, got none" in str(error(tmp_path / "absent"))
    both = write(tmp_path / "both", train__txt=text(TRAIN), train__tsv=text(TRAIN))
    assert "expected one file of train, got train.txt and train.tsv" in str(error(both))
    one = write(tmp_path / "one", train__txt=text(TRAIN), entities__dict=MAPS["entities__dict"])
    assert "expected both entities.dict and relations.dict" in str(error(one))
    assert rows(read_kg(one, format="raw")) == TRAIN
    assert "for format names" in str(error(one / "train.txt", format="names"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"order": "hhr"}, "order must be a permutation of 'hrt', got 'hhr'"),
        ({"format": "csv"}, "format must be one of auto, raw"),
        ({"format": "udd_hrt", "order": "htr"}, "order must be 'hrt' with format 'udd_hrt', got 'htr'"),
        ({"unknown": "skip"}, "unknown must be one of rank, report, error, got 'skip'"),
        ({"duplicates": "x"}, "duplicates must be one of keep, drop, error, got 'x'"),
        ({"delimiter": "||"}, "delimiter must be one ASCII character"),
        ({"files": ["a", "b", "c"]}, "files must come with format="),
        ({"files": []}, "files must be"),
    ],
)
def test_arguments(tmp_path: Path, options: dict, message: str) -> None:
    with pytest.raises(ValueError, match="read_kg: ") as caught:
        read_kg(write(tmp_path / "kg", train__txt=text(TRAIN)), **options)
    assert message in str(caught.value)
