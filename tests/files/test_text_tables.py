"""Claims about texts and tables that people write: every way in which spreadsheets save them means the same."""

import pytest

from pipeline.files.text_tables import Table, UndecodableText, decode_text, parse_table

PLAIN = "file,left,share\na.png,1,0.5\nb.png,2,1e-3\n"
ROWS = [("a.png", 1.0, 0.5), ("b.png", 2.0, 0.001)]


def rows(table: Table) -> list[tuple[str, float, float]]:
    return [
        (cells["file"].strip(), table.number(cells["left"]), table.number(cells["share"])) for _, cells in table.rows
    ]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
@pytest.mark.parametrize(
    "text",
    [
        PLAIN,
        PLAIN.replace("\n", "\r\n"),
        PLAIN.replace(".5", ",5").replace(",", ";").replace("0;5", "0,5"),
        PLAIN.replace(",", "\t"),
        "sep=;\n" + PLAIN.replace(",", ";"),
        PLAIN.replace("\n", ",,\n") + ",,,,\n,,,,\n",
        '"file","left","share"\n"a.png","1","0.5"\n"b.png","2","1e-3"\n',
        " File ,LEFT,  share\n a.png , 1 ,0.5\n\nb.png,2,1e-3",
        'file;left;share\n"a.png";"1";"0,5"\n"b.png";"2";"1,0e-3"\n',
    ],
)
def test_all_ways_of_spreadsheets_are_one_table(text: str, encoding: str) -> None:
    table = parse_table(decode_text(text.encode(encoding)), ("file", "left", "share"))
    assert table.columns == ("file", "left", "share")
    assert rows(table) == ROWS


@pytest.mark.parametrize("mark", [b"\xff\xfe", b"\xfe\xff"])
def test_both_orders_of_bytes_are_known_by_their_mark(mark: bytes) -> None:
    order = "utf-16-le" if mark == b"\xff\xfe" else "utf-16-be"
    assert decode_text(mark + "größe: 1\n".encode(order)) == "größe: 1\n"


def test_another_code_page_is_told_with_its_line() -> None:
    with pytest.raises(UndecodableText, match="line 2: byte 0xfc is not UTF-8; save it as UTF-8 text"):
        decode_text("a\nfür\n".encode("cp1252"))


def test_a_comma_is_a_decimal_point_only_where_it_parts_no_cells() -> None:
    assert parse_table("a;b\n0,01;x\n").number("0,01") == 0.01
    for text in ('a,b\n"0,01",x\n', "a;b\n1.000,5;x\n", "a;b\n1,000,5;x\n"):
        table = parse_table(text)
        with pytest.raises(ValueError, match="could not convert"):
            table.number(table.rows[0][1]["a"])


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "it is empty"),
        ("\n;;\n", "it is empty"),
        ("file,left,left\n", "its first line has left twice"),
        ("file,File,left\n", "its first line has file twice"),
        ("left,x\n", "must name the columns file, left; it has left, x, and no file"),
        ("file,left\na\n", "line 2 has fewer columns than the first"),
        ("file,left\na,1\nb,2,3\n", "line 3 has more columns than the first"),
        ('file,left\n"a,1\n', "unexpected end of data"),
    ],
)
def test_what_is_no_table_is_told(text: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        parse_table(text, ("file", "left"))


def test_lines_keep_their_numbers() -> None:
    assert [number for number, _ in parse_table("sep=;\na;b\n\n1;2\n").rows] == [4]
