import csv
import io
import json
import threading

import fsspec
import hypothesis.strategies as st
import pytest
from hypothesis import given

from preprocessing.dataset.lists import parse_list
from preprocessing.dataset.sources import find_sources
from preprocessing.errors import UserError

NAMES = ("clips/a.mp4", "clips/b, c.mp4", "clips/d; é.mp4", 'clips/the "best".mp4')


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "clips").mkdir()
    for name in NAMES:
        (tmp_path / name).write_bytes(b"x")
    return tmp_path


def found(path):
    return [(f.name, f.licence, f.size) for f in find_sources(path, "own").files]


def table(separator, end="\r\n", header="Source{0}Licence{0}Note"):
    rows = [header.format(separator)]
    for name in NAMES:
        quoted = '"' + name.replace('"', '""') + '"'
        rows.append(separator.join((quoted, "CC0", "")))
    return end.join([*rows, ""])


ALL = sorted((name, "CC0", 1) for name in NAMES)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be",
                                      "utf-32", "latin-1", "cp1252"])  # fmt: skip
@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
def test_a_table_is_read_as_a_spreadsheet_saved_it(folder, encoding, separator):
    (folder / "list.csv").write_bytes(table(separator).encode(encoding))
    assert found(folder / "list.csv") == ALL


@pytest.mark.parametrize(
    "text",
    [
        table(",", end="\n"),
        table(";", end="\r"),
        "sep=;\r\n" + table(";"),
        "\n;;\n" + table(";", header='"SOURCE"{0}" licence "{0}note'),
        table(",").replace('"clips/a.mp4"', "  clips/a.mp4 \t"),
        table(";").replace("\r\n", ";;\r\n") + ";;;;\r\n\r\n",
        table(",", header="source{0}License{0}note"),
    ],
)
def test_blanks_and_empty_rows_and_cells_mean_nothing(folder, text):
    (folder / "list.csv").write_text(text, newline="")
    assert found(folder / "list.csv") == ALL


def test_a_column_of_its_own_needs_no_quotes(folder):
    (folder / "list.csv").write_text("source\nclips/a.mp4\nclips/b, c.mp4\nclips/d; é.mp4\n")
    assert [name for name, _, _ in found(folder / "list.csv")] == list(NAMES[:3])


def test_columns_are_found_by_name(folder):
    (folder / "list.tsv").write_text("id\tlicence\tsource\n1\tCC0\tclips/a.mp4\n2\t\tgone.mp4\n")
    assert found(folder / "list.tsv") == [("clips/a.mp4", "CC0", 1), ("gone.mp4", "own", -1)]


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_json_lines_and_plain_lists_have_the_same_encodings(folder, encoding):
    items = [{"Source": f" {name} ", "license": "CC0"} for name in NAMES]
    text = "\n".join(json.dumps(item, ensure_ascii=False) for item in items)
    (folder / "list.jsonl").write_text(text, encoding=encoding)
    assert found(folder / "list.jsonl") == ALL
    (folder / "list.txt").write_text("\r\n".join(f"{n} \t" for n in NAMES), encoding=encoding)
    assert [name for name, _, _ in found(folder / "list.txt")] == sorted(NAMES)


def test_no_line_of_a_plain_list_is_lost(folder):
    odd = ("#1.mp4", "line\u2028separator.mp4", "next\x0bline.mp4")
    for name in odd:
        (folder / name).write_bytes(b"x")
    (folder / "list.txt").write_text("\n".join(["# a comment ü", *odd, "gone.mp4"]))
    assert {name for name, _, _ in found(folder / "list.txt")} == {*odd, "gone.mp4"}
    (folder / "list.txt").write_text("# in Grün\nclips/a.mp4\n", encoding="latin-1")
    assert found(folder / "list.txt") == [("clips/a.mp4", "own", 1)]


def test_names_that_are_no_text_may_be_listed_as_they_are(folder):
    name = b"raw-\xe9\xff.mp4"
    with open(bytes(folder) + b"/" + name, "wb") as stream:
        stream.write(b"xy")
    (folder / "list.txt").write_bytes(name + b"\n")
    assert found(folder / "list.txt") == [("raw-\\xe9\\xff.mp4", "own", 2)]


@given(
    st.lists(
        st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1).filter(
            lambda name: name.strip() == name
        )
    ),
    st.sampled_from([",", ";", "\t", "|"]),
    st.sampled_from(["\n", "\r\n", "\r"]),
    st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "utf-32"]),
    st.sampled_from([csv.QUOTE_ALL, csv.QUOTE_MINIMAL, csv.QUOTE_NONNUMERIC]),
    st.integers(0, 3),
)
def test_no_row_is_lost_however_a_table_is_saved(names, separator, end, encoding, quoting, cells):
    stream = io.StringIO()
    writer = csv.writer(stream, delimiter=separator, lineterminator=end, quoting=quoting)
    writer.writerow(["Source", *["note"] * cells])
    writer.writerows([name, *["x, y"] * cells] for name in names)
    listed = parse_list("l.csv", stream.getvalue().encode(encoding)).sources
    assert [one.source for one in listed] == names


@given(st.binary(max_size=60), st.sampled_from(["csv", "tsv", "txt", "jsonl"]))
def test_a_damaged_list_is_read_or_refused(tail, extension):
    head = {"jsonl": b'{"source": "a.mp4"}\n', "txt": b"a.mp4\n"}.get(extension, b"source\na.mp4\n")
    try:
        told = [one.source for one in parse_list(f"l.{extension}", head + tail).sources]
    except UserError as error:
        told = [str(error)]
    assert told
    assert all(line and "\n" not in line for line in told)


def test_a_path_in_the_home_folder_is_found(folder, monkeypatch):
    monkeypatch.setenv("HOME", str(folder / "clips"))
    (folder / "list.txt").write_text("~/a.mp4\n")
    assert found(folder / "list.txt") == [("~/a.mp4", "own", 1)]


def test_urls_of_a_list_are_asked_at_once(folder, monkeypatch):
    names = [f"v/{number}.mp4" for number in range(40)]
    memory = fsspec.filesystem("memory")
    memory.pipe({f"/many/{name}": b"abc" for name in names})
    together = threading.Barrier(16, timeout=20)

    def wait(self, path, **options):
        if int(path.split("/")[-1].removesuffix(".mp4")) < 16:
            together.wait()
        return {"size": 3}

    monkeypatch.setattr(type(memory), "info", wait)
    (folder / "list.txt").write_text("\n".join(f"memory://many/{name}" for name in names))
    assert [size for _, _, size in found(folder / "list.txt")] == [3] * 40


def test_a_list_at_a_url_is_a_list_too(folder):
    memory = fsspec.filesystem("memory")
    memory.pipe({"/lists/list.csv": b"source;licence\nv/a.mp4;CC0\n", "/lists/v/a.mp4": b"abc"})
    (one,) = find_sources("memory://lists/list.csv").files
    assert (one.name, one.location, one.size) == ("v/a.mp4", "memory://lists/v/a.mp4", 3)
    (folder / "list.csv").write_text("source\nclips/a.mp4\n")
    assert found(f"file://{folder}/list.csv") == [("clips/a.mp4", "own", 1)]


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("l.csv", "path;size\nx;1\n", r"no column 'source', but 'path', 'size' \(separated by ';'"),
        ("l.csv", "", "no column 'source'"),
        ("l.csv", "source,Source\na,b\n", "two columns 'source'"),
        ("l.csv", "source,licence\nb, c.mp4,CC0\n", r"line 2 .* 3 cells and its header 2 .*','"),
        ("l.csv", "source;licence\na.mp4;\n;CC0\n", "line 3 .* has no source"),
        ("l.csv", 'source;licence\n"a.mp4;CC0\nb.mp4;CC0\n', "line 3 .* cannot be read"),
        ("l.csv", 'source,n\n"a.mp4,1\nb.mp4,1\n",1\n', "spans lines"),
        ("l.csv", 'source,n\n"a" b.mp4,1\n', "line 2 .* cannot be read"),
        ("l.csv", "source,licence\na.mp4,CC0\na.mp4,CC-BY\n", "two licences, 'CC0' and 'CC-BY'"),
        ("l.csv", b"source\n\x81\x8d.mp4\n", "not text in UTF-8"),
        ("l.csv", "source\n字幕.mp4\n".encode("gbk"), "not UTF-8, and read as windows-1252"),
        ("l.csv", b"\xff\xfes\x00o", "not text in UTF-16-LE .at byte 2"),
        ("l.csv", b"\xff\xfe\x00\xd8", "not text in UTF-16-LE"),
        ("l.txt", b"PK\x03\x04\x00\x00\x00\x00\xff", "not text in UTF-16"),
        ("l.jsonl", '{"source": "a.mp4"}\n["b.mp4"]\n', "line 2 .* field 'source'"),
        ("l.jsonl", '{"source": 7}\n', "line 1 .* field 'source'"),
        ("l.jsonl", '{"source": "a.mp4"}\n{"sou', "line 2 .* not JSON"),
        ("l.xlsx", b"PK\x03\x04", "is a spreadsheet; save it as CSV"),
    ],
)  # fmt: skip
def test_what_is_not_plain_is_refused_in_one_line(tmp_path, name, data, message):
    (tmp_path / name).write_bytes(data.encode() if isinstance(data, str) else data)
    with pytest.raises(UserError, match=message) as error:
        find_sources(tmp_path / name)
    assert "\n" not in str(error.value)
