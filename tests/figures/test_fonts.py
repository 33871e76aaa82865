"""Claims about names in any script in figures: drawn where a font has their signs, else numbered; never an empty box."""

import io
import warnings
from pathlib import Path

import numpy as np
import pytest
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen
from matplotlib import font_manager
from matplotlib.figure import Figure
from matplotlib.text import Text

from pipeline.figures import fonts
from pipeline.figures.curves import confusion_figure, difference_figure
from pipeline.figures.fonts import display_labels, families_for, fit_fonts
from pipeline.figures.search import parallel_figure, slice_figure
from pipeline.stages.report.statistics import class_figure

CHINESE = ["猫", "犬"]
USUAL = families_for("cat")


def made_font(path: Path, name: str, signs: str) -> None:
    """A font that draws a filled square for each sign."""
    builder = FontBuilder(1000, isTTF=True)
    names = [".notdef", *(f"sign{number}" for number in range(len(signs)))]
    builder.setupGlyphOrder(names)
    builder.setupCharacterMap({ord(sign): names[number + 1] for number, sign in enumerate(signs)})
    pen = TTGlyphPen(None)
    for step, place in enumerate([(0, 0), (0, 700), (700, 700), (700, 0)]):
        (pen.moveTo if not step else pen.lineTo)(place)
    pen.closePath()
    square = pen.glyph()
    builder.setupGlyf(dict.fromkeys(names, square))
    builder.setupHorizontalMetrics(dict.fromkeys(names, (800, 0)))
    builder.setupHorizontalHeader(ascent=800, descent=-200)
    builder.setupNameTable({"familyName": name, "styleName": "Regular"})
    builder.setupOS2()
    builder.setupPost()
    builder.save(path)


@pytest.fixture
def bare(monkeypatch: pytest.MonkeyPatch) -> font_manager.FontManager:
    """Only matplotlib's own fonts."""
    own = [entry for entry in font_manager.fontManager.ttflist if "matplotlib" in entry.fname]
    monkeypatch.setattr(font_manager.fontManager, "ttflist", own)
    return font_manager.fontManager


@pytest.fixture
def chinese(bare: font_manager.FontManager, tmp_path: Path) -> str:
    made_font(tmp_path / "squares.ttf", "Squares", "猫犬")
    bare.addfont(tmp_path / "squares.ttf")
    return "Squares"


def drawn(figure: Figure) -> bytes:
    """The picture; a sign without a glyph is a warning, and warnings are errors."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()


def ticks(figure: Figure) -> list[str]:
    return [label.get_text() for label in figure.axes[0].get_yticklabels()]


@pytest.mark.parametrize("names", [["cat", "dog"], ["Bär", "кот"], ["γάτα", "a"], []])
def test_usual_names_are_drawn_as_ever(names: list[str]) -> None:
    labels = display_labels(names)
    assert labels.texts == tuple(names)
    assert labels.families == USUAL
    assert not labels.numbered


@pytest.mark.usefixtures("bare")
@pytest.mark.parametrize("names", [CHINESE, ["고양이", "개"], ["बिल्ली", "कुत्ता"], ["cat", "猫"]])
def test_without_a_font_all_classes_are_numbered_and_it_is_said(names: list[str]) -> None:
    figure = confusion_figure(np.eye(2), names)
    drawn(figure)
    assert ticks(figure) == ["1", "2"]
    assert figure.axes[0].get_xlabel() == "predicted (number of the class)"
    rows = [
        {"class": name, "change": change, "low": None, "high": None}
        for name, change in zip(names, (None, 0.1), strict=True)
    ]
    found = class_figure(rows, 0.95)
    assert found is not None
    assert ticks(found[1]) == ["2"]
    assert found[0].endswith("Classes by their number in the table.")


def test_a_font_that_has_the_signs_is_taken(chinese: str) -> None:
    labels = display_labels([*CHINESE, "cat"])
    assert labels.texts == (*CHINESE, "cat")
    assert labels.families == (*(USUAL or ()), chinese)
    figure = confusion_figure(np.eye(3), [*CHINESE, "cat"])
    other = confusion_figure(np.eye(3), ["犬", "x", "cat"])
    assert ticks(figure) == [*CHINESE, "cat"]
    assert drawn(figure) != drawn(other)
    drawn(difference_figure([("猫", 0.1, 0.0, 0.2)]))


def test_any_text_of_a_figure_gets_its_font_or_its_codes(chinese: str) -> None:
    figure = Figure()
    figure.add_subplot().set_title("猫")
    figure.suptitle("개 猫")
    fit_fonts(figure)
    drawn(figure)
    assert chinese in figure.axes[0].title.get_fontfamily()
    assert figure.get_suptitle() == r"\uac1c \u732b"


def test_scripts_that_need_shaping_are_numbered_where_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    assert families_for("قط") is not None or not fonts.SHAPES  # the usual font has Arabic
    monkeypatch.setattr(fonts, "SHAPES", False)
    assert display_labels(["قط", "כלב"]).numbered
    assert display_labels(["हाथी"]).numbered


def test_a_damaged_font_is_passed_over(bare: font_manager.FontManager, chinese: str, tmp_path: Path) -> None:
    broken = tmp_path / "broken.ttf"
    broken.write_bytes(b"no font")
    bare.ttflist.insert(0, font_manager.FontEntry(fname=str(broken), name="Broken", style="normal", weight=400))
    assert display_labels(CHINESE).families[-1] == chinese


DOLLARS = ["$a__1$", r"$\frac$", "$5 bill$", "x_$y$", "a", "US $5", r"a\$ $"]


@pytest.mark.parametrize("kind", ["confusion", "difference", "parallel", "slice"])
def test_dollars_make_no_formula(kind: str) -> None:
    trials = [
        {"state": "complete", "value": place / 10, "epochs": 2, "parameters": {"kwargs": name, "$p$": name}}
        for place, name in enumerate(DOLLARS)
    ]
    found = {
        "confusion": lambda: confusion_figure(np.eye(len(DOLLARS)), DOLLARS),
        "difference": lambda: difference_figure([(name, 0.1, 0.0, 0.2) for name in DOLLARS], title=r"$\frac$"),
        "parallel": lambda: parallel_figure(trials),
        "slice": lambda: slice_figure(trials, title="$a__1$"),
    }[kind]()
    assert found is not None
    fit_fonts(found)
    drawn(found)
    texts = [each for each in found.findobj(Text) if isinstance(each, Text) and "$" in each.get_text()]
    assert set(DOLLARS) - {"a"} <= {each.get_text() for each in texts}
    assert not any(each.get_parse_math() for each in texts)


def test_a_name_between_dollars_gets_its_font(chinese: str) -> None:
    names = ["$猫$", r"$\犬$"]
    assert display_labels(names).families[-1] == chinese
    drawn(confusion_figure(np.eye(2), names))
    drawn(difference_figure([(name, 0.1, 0.0, 0.2) for name in names]))


def test_numbers_at_a_logarithmic_axis_stay_formulas() -> None:
    figure = Figure()
    axes = figure.add_subplot()
    axes.set(xscale="log", xlim=(1e-4, 1))
    before = drawn(figure)
    fit_fonts(figure)
    assert drawn(figure) == before
    assert any(each.get_parse_math() and "mathdefault" in each.get_text() for each in axes.get_xticklabels())
