from __future__ import annotations

import dataclasses
import math
import re
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from arena_pipeline.model.architectures import layer_label
from arena_pipeline.research.compare.markdown import dice_markdown
from arena_pipeline.research.compare.report import write_report
from arena_pipeline.research.compare.report.about import fact_lines
from arena_pipeline.research.compare.report.page import read_logs, render
from arena_pipeline.research.compare.report.parts import dice_cell, p_value
from arena_pipeline.research.compare.report.sections import dice_section, mean_over_folds, rank_map_sections, rank_section, short_answers
from arena_pipeline.research.compare.report.style import styles
from arena_pipeline.research.compare.report_data import ReportData
from arena_pipeline.research.compare.tables import RANK_COLUMNS, contrast_table, difference_table, summary_table
from arena_pipeline.workspace import ComparisonFolder

HOSTILE = """<script>alert("x")</script>&amp;'$\\frac{1}$\x07</style>"""


class Page(HTMLParser):
    """What the tests ask of a page: its tags with attributes, its words, and its tables by the text above each."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.tables: dict[str, list[list[str]]] = {}
        self._words: list[str] = []
        self._caption: str | None = None
        self._cell: list[str] | None = None
        self.feed(text)
        self.close()

    @property
    def words(self) -> str:
        return " ".join(" ".join(self._words).split())

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attributes)))
        if tag == "table":
            self._rows: list[list[str]] = []
        elif tag == "tr":
            self._rows.append([])
        elif tag in ("td", "th"):
            self._cell = []
        elif tag == "p" and dict(attributes).get("class") == "caption":
            self._caption = ""

    def handle_endtag(self, tag: str) -> None:
        if tag == "table":
            self.tables[str(self._caption)] = self._rows
        elif tag in ("td", "th") and self._cell is not None:
            self._rows[-1].append(" ".join(self._cell))
            self._cell = None

    def handle_data(self, data: str) -> None:
        if self._caption == "":
            self._caption = data
        if data.strip():
            self._words.append(data.strip())
            if self._cell is not None:
                self._cell.append(data.strip())

    def table(self, caption: str) -> list[dict[str, str]]:
        """The rows of the first table whose text above begins like this, by column; a name broken at an underscore is joined."""
        rows = next(rows for above, rows in self.tables.items() if above.startswith(caption))
        names = [name.replace("_ ", "_") for name in rows[0]]
        return [dict(zip(names, row, strict=True)) for row in rows[1:]]


@pytest.fixture(scope="module")
def page(report_page: str) -> Page:
    return Page(report_page)


def test_the_file_is_written_and_the_same_each_time(report_data: ReportData, report_page: str, tmp_path: Path) -> None:
    path = write_report(ComparisonFolder(tmp_path / "comparison"), report_data)
    assert path == tmp_path / "comparison" / "report.html"
    assert path.read_text(encoding="utf-8") == report_page


def test_tables_have_the_numbers_of_the_data(report_data: ReportData, page: Page) -> None:
    wide = {row["method"]: row for row in page.table("10 shots: mean Dice over 7 query cases")}
    summary = report_data.summary[report_data.summary.shots == 10]
    for row in summary.itertuples():
        published = " published 0.500" if row.method == "arena" else ""
        assert wide[row.method][row.structure] == f"{row.Dice:.3f} [{row.Dice_low:.3f}, {row.Dice_high:.3f}]{published}"
    assert wide["zero_shot"]["atrium"] == "–"
    assert len(page.table("The numbers of the plots and two scores")) == len(report_data.summary)


def test_tests_have_the_numbers_of_the_data(report_data: ReportData, page: Page) -> None:
    shown = {(row["shots"], row["structure"], row["against"]): row for row in page.table("Every difference of the plots")}
    assert len(shown) == len(report_data.tests) == 10
    for row in report_data.tests.itertuples():
        cells = shown[str(row.shots), row.structure, row.method]
        difference = f"{row.difference:+.3f} [{row.difference_low:+.3f}, {row.difference_high:+.3f}]"
        assert cells["difference"] == difference
        assert (cells["p"], cells["p (Holm)"], cells["in words"]) == (p_value(row.p), p_value(row.holm_p), row.verdict)


def test_costs_ranks_and_losses_are_in_tables_too(page: Page) -> None:
    cost = next(row for row in page.table("Means over folds") if (row["method"], row["structure"], row["shots"]) == ("arena", "liver", "5"))
    assert (cost["trained parameters"], cost["seconds"], cost["epochs"], cost["peak memory, MiB"]) == ("8\u202f000", "12.0", "5.5", "900")
    ranks = [row for row in page.table("Effective and allocated rank") if (row["structure"], row["shots"]) == ("liver", "5")]
    assert [(row["method"], int(row["initial rank"])) for row in ranks] == [(m, r) for m, own in (("lora", 4), ("arena", 8)) for r in (2, own, 16)]
    loss = next(row for row in page.table("Ends of the curves") if row["method"] == "arena")
    assert (loss["first epoch"], loss["last"], loss["epochs of each fold"]) == ("0.495", "0.270", "6, 5")
    maps = page.table("Ends of the maps")
    assert [row["matrix"] for row in maps[:2]] == ["stage 1, block 0, key", "stage 1, block 0, value"]
    assert (maps[1]["first epoch"], maps[1]["last"]) == ("8.0", "3.5")


def test_the_short_answer_names_difference_interval_and_cases(report_data: ReportData, page: Page) -> None:
    tests = report_data.tests
    row = tests[(tests.method == "lora") & (tests.kind == "novel") & (tests.shots == 5)].iloc[0]
    ends = f"{row.difference_low:+.3f} to {row.difference_high:+.3f}"
    outcome = f"corrected p {p_value(row.holm_p)}): {row.verdict}."
    sentence = f"ARENA minus LoRA {row.difference:+.3f} Dice (95 % interval {ends}, 7 query cases, 2 folds, {outcome}"
    assert sentence in page.words


def test_names_from_the_data_are_text_everywhere(build_report_data) -> None:
    data = build_report_data(structures=((HOSTILE, "base"),), shots=(5,))
    data = dataclasses.replace(data, facts=data.facts | {"title": HOSTILE, "notes": [HOSTILE], HOSTILE: HOSTILE})
    page = Page(render(data))
    assert not [tag for tag, _ in page.tags if tag == "script"]
    assert len([tag for tag, _ in page.tags if tag == "style"]) == 1
    assert page.words.count('<script>alert("x")</script>') > 10


def test_the_page_needs_nothing_outside_itself(report_page: str, page: Page) -> None:
    names = ("src", "href", "xlink:href", "srcset", "data")
    asked = [value for _, attributes in page.tags for name, value in attributes.items() if name in names]
    assert asked and all(value is not None and value.startswith(("#", "data:")) for value in asked)
    assert "url(" not in report_page and "@import" not in report_page and "@font-face" not in report_page
    assert not {"script", "iframe", "object", "embed"} & {tag for tag, _ in page.tags}


def test_identifiers_are_unique_and_all_references_lead_somewhere(report_page: str, page: Page) -> None:
    names = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(names) == len(set(names)) == 9
    assert {href[1:] for href in re.findall(r'href="(#[^"]+)"', report_page)} == set(names)


ABSENT = (
    "No rank sweep was run; arena_compare --ranks 2 4 8 32 64 makes one.",
    "No published figures are shown",
    "No test: arena and another method are not both among the methods compared.",
    "Not asked: arena and lora are not both among the methods compared.",
    "Nothing was adapted, so there is no cost to compare.",
    "No training logs were found.",
    "no method here has a rank that changes during training.",
    "No examples: arena is not among the methods compared, or its predictions were not kept.",
)


def test_what_is_not_there_is_said(build_report_data, page: Page) -> None:
    bare = Page(render(build_report_data((("liver", "base"),), ("zero_shot",), (5,), (), published=None, files=False)))
    assert [said for said in ABSENT if said not in bare.words] == []
    assert [said for said in ABSENT if said in page.words] == []


def test_a_comparison_without_novel_structures_without_arena_and_with_one_shot(build_report_data) -> None:
    page = Page(render(build_report_data((("liver", "base"),), ("lora", "linear_probe"), (1,))))
    assert [row["method"] for row in page.table("1 shot: mean Dice over 7 query cases per structure and 2 folds")] == ["lora", "linear_probe"]
    assert "novel" not in page.words and "A dash" not in page.words
    assert {row["method"] for row in page.table("Effective and allocated rank")} == {"lora"}


def test_one_structure_of_a_kind_stands_for_its_average(report_data: ReportData) -> None:
    answers = short_answers(report_data.tests)
    assert [answer.partition(":")[0] for answer in answers] == [
        "Base structures (seen in pre-training), liver, 5 shots",
        "Novel structures (not seen in pre-training), atrium, 5 shots",
        "Base structures (seen in pre-training), liver, 10 shots",
        "Novel structures (not seen in pre-training), atrium, 10 shots",
    ]
    one_case = report_data.tests.assign(cases=1, difference_low=math.nan, difference_high=math.nan)
    assert short_answers(one_case)[0].endswith("Dice; 1 query case is too few for an interval.")
    assert short_answers(one_case.assign(cases=0))[0].endswith("Dice; 0 query cases are too few for an interval.")


def test_the_structure_that_keeps_an_average_from_an_interval_is_named(build_report_data) -> None:
    runs = build_report_data((("liver", "base"), ("spleen", "base")), ("lora", "arena"), (5,), (), files=False).runs
    runs.loc[(runs["structure"] == "spleen") & (runs["case"] != "q0"), "Dice"] = math.nan
    tests = contrast_table(difference_table(runs), runs)
    assert short_answers(tests)[0].endswith("Dice; spleen has 1 query case, too few for an interval.")


def test_a_method_whose_fits_all_failed_says_nothing_of_the_intervals_of_others(build_report_data) -> None:
    runs = build_report_data((("liver", "base"),), ("lora", "arena"), (5,), (), files=False).runs
    lost = runs["method"] == "lora"
    runs.loc[lost, "failed"], runs.loc[lost, "Dice"] = True, math.nan
    summary = summary_table(runs, lambda shots, method, members: None)
    assert summary.set_index("method")["folds"].to_dict() == {"lora": 0, "arena": 2}
    told = dice_section(summary, ["lora", "arena"], styles(["lora", "arena"]), "")
    for text in (dice_markdown(summary, 5, ""), str(told.text)):
        assert "over query cases and support sets (folds)" in text and "one support set" not in text
    assert "and 2 folds" in told.tables[0].caption


def test_a_score_or_an_interval_that_is_missing() -> None:
    row = SimpleNamespace(Dice=0.5, Dice_low=math.nan, Dice_high=math.nan, published_Dice=math.nan)
    assert dice_cell(row) == "0.500\nno interval"
    assert dice_cell(SimpleNamespace(Dice=math.nan, Dice_low=math.nan, Dice_high=math.nan)) == "–"


def test_an_example_whose_file_is_gone_is_left_out_and_named(build_report_data) -> None:
    data = build_report_data((("liver", "base"),), ("arena",), (5,), ())
    data.examples[0].prediction.unlink()
    page = Page(render(data))
    assert "liver, best: q6 could not be drawn" in page.words
    assert not pictures_of_cases(page)


def test_runs_of_the_rank_sweep_are_not_in_the_loss_curves(report_data: ReportData) -> None:
    sweep = dataclasses.replace(report_data.training_logs[-1], method="arena", rank=16)
    logs = read_logs(dataclasses.replace(report_data, training_logs=[*report_data.training_logs, sweep]))
    assert [len(folds) for folds in logs.values()] == [2] * 6
    assert list(logs) == [(5, structure, method) for structure in ("liver", "atrium") for method in ("linear_probe", "lora", "arena")]


def test_mean_over_folds_continues_a_shorter_fold_with_its_last_value() -> None:
    folds = [pd.DataFrame({"loss": [1.0, 0.5, 0.2]}), pd.DataFrame({"loss": [0.8, 0.4]})]
    np.testing.assert_allclose(mean_over_folds(folds, ["loss"]), [[0.9, 0.45, 0.3]])


def test_what_is_said_of_few_epochs_and_few_queries(report_data: ReportData, build_report_data) -> None:
    """ARENA's rank has not moved yet, of two queries there is no median and no worst."""
    still = {(5, "liver", "arena"): [pd.DataFrame({"epoch": [0, 1], "loss": 0.5, "learning_rate": 0.1, "effective_rank": 8, "m.key": 8})]}
    assert rank_map_sections(still)[0].absent.endswith("no rank had changed when the adaptations ended, after at most 2 epochs.")
    only_best = Page(render(build_report_data((("liver", "base"),), ("arena",), (5,), ())))
    assert "Examples" in only_best.words and "Best, median and worst" not in only_best.words
    others = [dataclasses.replace(report_data.examples[0], which=which) for which in ("best", "median", "worst")]
    assert "Best, median and worst cases" in Page(render(dataclasses.replace(report_data, examples=others))).words


def test_names_of_matrices() -> None:
    assert layer_label("swinViT.layers3.0.blocks.1.attn.qkv.value") == "stage 3, block 1, value"
    assert layer_label("something.else") == "something.else"


def test_every_method_looks_different() -> None:
    methods = ("zero_shot", "arena", "arena_gradient", "arena_adamw", "lora", "adalora", "bitfit", "affine_ln", "linear_probe", "fft", "scratch")
    looks = styles(methods)
    assert len({(look.colour, look.marker) for look in looks.values()}) == len(methods)
    assert len({(look.marker) for look in looks.values()}) == len(methods)


def test_an_empty_table_of_ranks_may_have_columns_or_none() -> None:
    for empty in (pd.DataFrame(), pd.DataFrame(columns=list(RANK_COLUMNS))):
        assert rank_section(empty, [], {}).absent.startswith("No rank sweep was run")


def test_facts_in_lines() -> None:
    facts = {"finished": "today", "dataset": "D", "notes": ["n"], "settings": {}, "licence": None, "machine": {"cores": 2, "device": "cpu"}}
    queries = {"liver": ["a", "b"], "aorta": ["a", "b"], "colon": ["c"]}
    assert fact_lines(facts | {"queries": queries, "shots": [5, 10]}) == [
        ("dataset", ["D"]),
        ("machine", ["cores 2, device cpu"]),
        ("query cases", ["liver, aorta: a, b", "colon: c"]),
        ("finished", ["today"]),
        ("shots", ["5, 10"]),
    ]


def test_examples_are_those_with_the_most_shots(build_report_data) -> None:
    data = build_report_data((("liver", "base"),), ("arena",), (5,), ())
    more = dataclasses.replace(data.examples[0], shots=10, case="q3")
    page = Page(render(dataclasses.replace(data, examples=[*data.examples, more])))
    assert "liver, 10 shots" in page.words and "best: Dice 0.900 q3; reference 24 ml, prediction 24 ml; -175 to 250 HU" in page.words
    assert "q6;" not in page.words
    assert len(pictures_of_cases(page)) == 1


def pictures_of_cases(page: Page) -> list[str]:
    words = [str(attributes["alt"]) for tag, attributes in page.tags if tag == "img"]
    return [said for said in words if said.endswith("CT with the outlines of reference and prediction")]
