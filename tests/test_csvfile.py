"""CSV files as people have them: what is read, what is passed through, and what each mistake is told."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge.csvfile import read_csv, write_csv
from edge.errors import InputError, UsageError


def put(folder: Path, text: str | bytes) -> Path:
    path = folder / "data.csv"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


@pytest.mark.parametrize(
    ("text", "names", "values"),
    [
        ("a,b\n1,2\n3,4\n", ("a", "b"), [[1, 2], [3, 4]]),
        ("1,2\n3,4\n", ("1", "2"), [[1, 2], [3, 4]]),
        ("\ufeffa,b\r\n1,2\r\n3,4", ("a", "b"), [[1, 2], [3, 4]]),
        ("a;b\n1;2\n3;4\n", ("a", "b"), [[1, 2], [3, 4]]),
        ("a\tb\n1\t2\n", ("a", "b"), [[1, 2]]),
        ("0,1,2\n5,6,7\n", ("0", "1", "2"), [[5, 6, 7]]),
        ('"x, y",b\n"1",2\n', ("x, y", "b"), [[1, 2]]),
        ("time,a\n2024-01-01,1\n2024-01-02,2\n", ("a",), [[1], [2]]),
        ("2024-01-01,1\n2024-01-02,2\n", ("2",), [[1], [2]]),
        ("timestamp,a\n1700000000,1\n1700000060,2\n", ("a",), [[1], [2]]),
        (",a\n0,1\n1,2\n", ("a",), [[1], [2]]),
        ("time\n1\n2\n", ("time",), [[1], [2]]),
        ("a,site,b\n1,north,2\n3,south,4\n", ("a", "b"), [[1, 2], [3, 4]]),
        ("a,b\n1,\nNaN,4\n", ("a", "b"), [[1, np.nan], [np.nan, 4]]),
        ("time,a\nx,\ny,1\n", ("a",), [[np.nan], [1]]),
        ("2024-01-01,\n2024-01-02,1\n", ("2",), [[np.nan], [1]]),
        ("a\n1\n\n2\n\n", ("a",), [[1], [2]]),
        ("a,a\n1,2\n", ("a", "a"), [[1, 2]]),
    ],
)
def test_what_is_read(tmp_path: Path, text: str, names: tuple[str, ...], values: list[list[float]]) -> None:
    table = read_csv(put(tmp_path, text))
    assert table.names == names
    np.testing.assert_array_equal(table.values, np.array(values, float))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "is empty"),
        ("\n \n", "is empty"),
        ("a,b\n", "has a header and no data"),
        ("a,b\n1,2\n3,4,5\n", "line 3 has 3 cells but line 1 has 2"),
        ("a,b\n1,2\n3,x\n", "line 3, column 'b' holds 'x', which is not a number"),
        ("a,b\n1,inf\n", "line 2, column 'b' holds inf"),
        ("a,b\n1,-Infinity\n", "line 2, column 'b' holds -Infinity"),
        ("a,b\n1,1e39\n", "no float32 can"),
        ("1,2\n3,broken\n", "line 2, column '2'"),
        ("name,place\nx,y\nz,w\n", "no column of numbers"),
        (b"a\n\xff\xfe\n", "not UTF-8"),
        ('a,b\n1,"2\n3,4\n', "line"),
    ],
)
def test_what_is_refused(tmp_path: Path, text: str | bytes, said: str) -> None:
    path = put(tmp_path, text)
    with pytest.raises(InputError) as caught:
        read_csv(path)
    assert said in str(caught.value) and "data.csv" in str(caught.value) and "\n" not in str(caught.value)


def test_lines_are_those_of_the_file(tmp_path: Path) -> None:
    path = put(tmp_path, 'note,a\n"two\nlines",1\n\nx,oops\n')
    with pytest.raises(InputError, match="line 5, column 'a' holds 'oops'"):
        read_csv(path, ["a"])


def test_columns_by_name(tmp_path: Path) -> None:
    path = put(tmp_path, "time,a,b,b\n1,2,3,4\n")
    assert read_csv(path, ["a", "time"]).values.tolist() == [[2, 1]]
    with pytest.raises(InputError, match="no column 'c': it has time, a, b, b"):
        read_csv(path, ["c"])
    with pytest.raises(InputError, match="2 columns 'b'"):
        read_csv(path, ["b"])


def test_files_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there is no file"):
        read_csv(tmp_path / "nothing.csv")
    with pytest.raises(InputError, match="cannot be read"):
        read_csv(tmp_path)
    with pytest.raises(InputError, match="--csv"):
        read_csv(None)


def test_missing_values_are_pointed_at(tmp_path: Path) -> None:
    table = read_csv(put(tmp_path, "a,b\n1,2\n3,\n,5\n"))
    with pytest.raises(InputError, match=r"line 3, column 'b' is missing \(2 values are\): fill them\."):
        table.refuse_missing("fill them")
    with pytest.raises(InputError, match="has 3 rows of data but a test needs at least 4"):
        table.require(4, "a test")
    table.require(3, "a test")


def test_writing_keeps_what_was_not_touched(tmp_path: Path) -> None:
    table = read_csv(put(tmp_path, 'time;a;site\n2024-01-01;1.50;"n;1"\n2024-01-02;;s\n'))
    out = write_csv(tmp_path / "sub" / "out.csv", table, {1: ["1.50", "2.25"]}, {"a": ["x", "y"]})
    assert out.read_text() == 'time;a;site;a_2\n2024-01-01;1.50;"n;1";x\n2024-01-02;2.25;s;y\n'
    assert [path.name for path in (tmp_path / "sub").iterdir()] == ["out.csv"]
    with pytest.raises(UsageError):
        write_csv(tmp_path / "sub", table, {}, {})


def test_a_file_without_a_header_gets_one_with_new_columns(tmp_path: Path) -> None:
    table = read_csv(put(tmp_path, "1,2\n3,4\n"))
    assert write_csv(tmp_path / "a.csv", table, {}, {"score": ["5", "6"]}).read_text() == (
        "column1,column2,score\n1,2,5\n3,4,6\n"
    )
    assert write_csv(tmp_path / "b.csv", table, {}, {}).read_text() == "1,2\n3,4\n"


def test_rows_are_labelled_by_number_and_clock(tmp_path: Path) -> None:
    assert read_csv(put(tmp_path, "time,a\n09:00,1\n10:00,2\n")).label(1) == "row 1 (10:00)"
    assert read_csv(put(tmp_path, "a,b\n1,1\n2,2\n")).label(1) == "row 1"


NUMBERS = st.floats(allow_nan=False, allow_infinity=False, width=32)


@settings(max_examples=40, deadline=None)
@given(rows=st.lists(st.tuples(NUMBERS, NUMBERS), min_size=2, max_size=20))
def test_numbers_survive(tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[float, float]]) -> None:
    path = put(tmp_path_factory.mktemp("csv"), "a,b\n" + "".join(f"{a!r},{b!r}\n" for a, b in rows))
    np.testing.assert_array_equal(read_csv(path).values, np.array(rows))


@settings(max_examples=150, deadline=None)
@given(raw=st.binary(max_size=200))
def test_noise_is_read_or_refused(tmp_path_factory: pytest.TempPathFactory, raw: bytes) -> None:
    path = put(tmp_path_factory.mktemp("csv"), raw)
    try:
        table = read_csv(path)
    except InputError:
        return
    assert table.values.shape == (len(table.rows), len(table.columns))
    assert not np.isinf(table.values).any()
