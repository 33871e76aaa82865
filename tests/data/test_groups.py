"""Claims about what names the groups of images: patterns and tables, and what is wrong with them."""

import json
from pathlib import Path

import pytest

from pipeline.data.splits.groups import groups_by_pattern, groups_from_table, is_table, read_table
from pipeline.errors import UserError

FILES = (
    "photos/cat/rex_1.png",
    "photos/cat/rex_2.png",
    "photos/dog/ada_1.png",
    "photos/dog/lone.png",
    "photos/dog/rex_3.png",
)


def test_first_group_of_the_pattern_names_the_group_across_classes() -> None:
    groups = groups_by_pattern(r"/([a-z]+)_(\d)|$", FILES)
    assert groups.names == ("ada", "rex")
    assert groups.group_ids.tolist() == [1, 1, 0, 2 + 3, 1]  # a file that matches without the group is on its own
    assert [groups.named(group) for group in (0, 5)] == ["ada", "image 3, on its own"]


def test_class_in_the_group_keeps_classes_apart() -> None:
    groups = groups_by_pattern(r"/(\w+/[a-z]+)_|$", FILES)
    assert groups.names == ("cat/rex", "dog/ada", "dog/rex")


@pytest.mark.parametrize(
    ("pattern", "said"),
    [
        (r"animal\d+_", r"animal\\d\+_: has no group. Put the part that names the group into parentheses"),
        (r"(?:animal)_", "has no group"),
        (r"(\d+", "not a regular expression"),
        ("(a{99999999999})", "not a regular expression"),
        ("(" * 10_000 + "a" + ")" * 10_000, "not a regular expression"),
        (
            r"/(wolf)_",
            r"is not found in the names of all 5 images \(photos/cat/rex_1.png, .*, \.\.\.\). Names are those",
        ),
        (
            r"/(rex)_",
            r"is not found in the names of 2 of 5 images \(photos/dog/ada_1.png, photos/dog/lone.png\). To leave",
        ),
    ],
)
def test_unusable_patterns_are_refused_by_name(pattern: str, said: str) -> None:
    with pytest.raises(UserError, match=rf"params\.yaml: split\.group_by: .*{said}"):
        groups_by_pattern(pattern, FILES)


def write(path: Path, content: str) -> Path:
    path.write_text(content, encoding="utf-8")
    return path


CSV = "path,source,group\nphotos/cat/rex_1.png,x,r\nphotos/cat/rex_2.png,x,r\nphotos/dog/ada_1.png,x,a\nphotos/dog/lone.png,x,\nphotos/dog/rex_3.png,x,r\n"
OBJECT = {FILES[0]: "r", FILES[1]: "r", FILES[2]: "a", FILES[3]: None, FILES[4]: "r"}


@pytest.mark.parametrize("name", ["groups.csv", "groups.CSV", "groups.json"])
def test_both_kinds_of_table_name_the_same_groups(tmp_path: Path, name: str) -> None:
    assert is_table(name)
    path = write(tmp_path / name, json.dumps(OBJECT) if name.endswith("json") else "\ufeff" + CSV)
    groups = groups_from_table(path, FILES, shown_as=name)
    assert groups.names == ("a", "r")
    assert groups.group_ids.tolist() == [1, 1, 0, 2 + 3, 1]
    assert groups.unused == ()


def test_patterns_are_no_tables() -> None:
    assert not is_table(r"(\d+)_.*\.png")


def test_numbers_name_groups_and_entries_for_other_images_are_kept_to_be_told(tmp_path: Path) -> None:
    path = write(tmp_path / "groups.json", json.dumps(dict.fromkeys(FILES, 7) | {"gone.png": 1}))
    groups = groups_from_table(path, FILES, shown_as="groups.json")
    assert (groups.names, groups.unused) == (("7",), ("gone.png",))


def test_accented_names_are_found_however_the_file_system_writes_them(tmp_path: Path) -> None:
    path = write(tmp_path / "groups.json", json.dumps({"caf\u00e9.png": "a"}))
    assert groups_from_table(path, ("cafe\u0301.png",), shown_as="groups.json").names == ("a",)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("g.csv", "path;groups\na;b\n", "first line must name the columns path, group; it has path, groups"),
        ("g.csv", "", "it is empty"),
        ("g.csv", "path,group\n", "names no images"),
        ("g.csv", "path,group\na\n", "line 2 has fewer columns than the first"),
        ("g.csv", "path,group\na,1\na,2\n", "a is in two groups, 1 and 2"),
        ("g.json", '{"a": "1", "a": "2"}', "a is in two groups, 1 and 2"),
        ("g.json", "[1, 2]", "must contain one JSON object that gives each path its group"),
        ("g.json", "3", "must contain one JSON object that gives each path its group"),
        ("g.json", '{"a": 1.5}', "the group of a is neither text nor a whole number"),
        ("g.json", '{"a": {"b": "c"}}', "the group of a is neither text nor a whole number"),
        ("g.json", '{"a": true}', "the group of a is neither text nor a whole number"),
        ("g.json", '{"a": ', "cannot be used"),
        ("g.json", "{}", "names no images"),
    ],
)
def test_unusable_tables_are_refused_by_name(tmp_path: Path, name: str, content: str, said: str) -> None:
    path = write(tmp_path / name, content)
    with pytest.raises(UserError, match=rf"params\.yaml: split\.group_by: {name}: .*{said}"):
        read_table(path, shown_as=name)


def test_bytes_that_are_no_text_are_refused(tmp_path: Path) -> None:
    (tmp_path / "g.csv").write_bytes(b"path,group\n\xff\xfe,1\n")
    with pytest.raises(UserError, match=r"g\.csv: cannot be used"):
        read_table(tmp_path / "g.csv", shown_as="g.csv")


def test_table_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"split\.group_by: g\.csv: no such file"):
        read_table(tmp_path / "g.csv", shown_as="g.csv")
    with pytest.raises(UserError, match=r"g\.csv: cannot be read"):
        read_table(tmp_path, shown_as="g.csv")


def test_images_without_an_entry_are_named_with_the_entries_that_are_too_many(tmp_path: Path) -> None:
    path = write(tmp_path / "g.json", json.dumps({"rex_1.png": "r", "rex_2.png": "r"}))
    with pytest.raises(UserError, match=r"does not name all 5 images \(photos/cat/rex_1\.png, .*It names 2 that the set does not have \(rex_1\.png, rex_2\.png\)"):  # fmt: skip
        groups_from_table(path, FILES, shown_as="g.json")


def test_paths_and_groups_are_found_in_another_spelling(tmp_path: Path) -> None:
    content = (
        CSV.replace("photos/cat/rex_1", "Photos\\Cat\\Rex_1")
        .replace(",r\n", ",rex\n")
        .replace("rex_2.png,x,rex", "rex_2.png,x,Rex ")
    )
    path = write(tmp_path / "g.csv", content.replace(",", ";"))
    groups = groups_from_table(path, FILES, shown_as="g.csv")
    assert groups.group_ids.tolist()[0] == groups.group_ids.tolist()[1] == groups.group_ids.tolist()[4]
    assert len(groups.names) == 2
    assert not groups.unused


def test_letters_are_groups_of_their_own_and_ss_is_no_other_case_of_sz() -> None:
    names = ("A", "a", "ß", "ss", "Rex", "rex")
    found = groups_by_pattern("^(.*)$", names)
    assert len(set(found.group_ids.tolist())) == 5
    assert found.group_ids[4] == found.group_ids[5]
