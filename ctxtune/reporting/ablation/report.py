"""The report of an ablation."""

from collections.abc import Sequence
from itertools import combinations

from matplotlib.figure import Figure

from ctxtune.metric_names import metric_title
from ctxtune.reporting.ablation import figures, tables
from ctxtune.reporting.ablation.data import AblationData
from ctxtune.reporting.ablation.tuning import tuning_table
from ctxtune.reporting.document import Document, Picture, Section, Table, file_stem
from ctxtune.reporting.ledger import ledger_section
from ctxtune.reporting.provenance import provenance_section
from ctxtune.reporting.setup import setup_table
from ctxtune.reporting.study import bill, device_of
from ctxtune.results.ablation import JudgedContrast
from ctxtune.results.costs import hours_of
from ctxtune.results.formatting import capital, price
from ctxtune.results.wording import budget_sentence, contrast_sentences, lost_sentences, scope_sentences
from ctxtune.statistics import LEVEL
from ctxtune.text import counted, duration

_DESIGNS = {"grid": "full grid", "one_factor_at_a_time": "one factor at a time", "leave_one_out": "leave one out"}

_PROBABILITY_WORDS = (
    "P(better), P(equal), P(worse): posterior probabilities that the true mean difference lies above, within or below the "
    "margin of practical equality (Bayesian correlated t-test, Corani and Benavoli 2015, flat prior, correlation 0: seeds "
    "are independent). They are not corrected for the number of contrasts."
)


def ablation_document(data: AblationData) -> Document:
    """The whole report of an ablation, finished or still running."""
    contrasts = data.results.contrasts
    done = any(data.results.scores(cell, data.design.metric) for cell in data.results.cells)
    sections = []
    if done:
        sections.append(_contrast_section(data, contrasts))
        sections += _factor_sections(data, contrasts)
        sections.append(_score_section(data))
    else:
        sections.append(Section("Results", [_nothing_to_show(data)]))
    failed = tables.failure_table(data)
    tuned = tuning_table(data)
    shared = setup_table(data)
    what: list[str | Table | Picture] = [
        tables.change_table(data),
        *([shared] if shared else []),
        *([tuned] if tuned else []),
        tables.cost_table(data),
    ]
    sections.append(Section("Arms and cost", what + ([failed] if failed else [])))
    sections.append(Section("How it was judged", method_paragraphs(data)))
    if data.design.confirmatory:
        sections.append(ledger_section(data.study, data.design.dataset))
    sections.append(provenance_section(data.study))
    return Document(
        title=f"Ablation {data.study.name}",
        subtitle=_subtitle(data),
        facts=_facts(data),
        findings=_findings(data),
        sections=sections,
        notes=[f"Made by ctxtune.report from {len(data.study.runs):,} runs in MLflow, searches included."],
        study=data.study.name,
        attached=[tables.run_table(data)],
    )


def _nothing_to_show(data: AblationData) -> str:
    if any(data.results.complete.values()):
        return f"Runs are completed, but none has logged {data.design.metric}: was it evaluated?"
    return "Nothing is finished yet: no seed of any arm has all its runs."


def _subtitle(data: AblationData) -> str:
    states = data.results.states
    parts = [f"{states['completed']} of {data.results.expected_runs} runs completed"]
    parts += [f"{states[state]} {state}" for state in ("running", "failed", "killed") if states[state]]
    return ", ".join(parts) + (" (still running)" if data.study.parent.state == "running" else "")


def _facts(data: AblationData) -> dict[str, str]:
    design = data.design
    device = device_of(data.study)
    return {
        "data set": design.dataset,
        "metric": metric_title(design.metric),
        "design": _DESIGNS.get(design.design, design.design),
        "arms": str(len(design.cells)),
        "seeds": str(design.seeds) + (f" × {design.repeats} repeats" if design.repeats > 1 else ""),
        "tuning": "none here" if design.tuning == "none" else f"each arm, same budget{_selected(data)}",
        f"time of one {device}": duration(hours_of(data.study.runs)),
        **{title: price(value) for title, value in bill(data.study.runs).items()},
    }


def _selected(data: AblationData) -> str:
    design = data.design
    again = f"; the best {design.selected} trials run again with {counted(design.selection_seeds, 'fresh seed')}"
    return again if design.selected > 1 else ""


def _findings(data: AblationData) -> list[str]:
    sentences = [*contrast_sentences(data.results), *lost_sentences(data.results.lost)]
    if ended := budget_sentence(data.design):
        sentences.insert(0, ended)
    if data.design.confirmatory:
        sentences.append("Confirmatory: the test classes were scored, once for each arm and seed; the ledger has it.")
    return [*sentences, *scope_sentences(data.design)]


def _contrast_section(data: AblationData, contrasts: Sequence[JudgedContrast]) -> Section:
    items: list[str | Table | Picture] = [tables.contrast_table(data, contrasts)]
    if any(each.difference is not None for each in contrasts):
        classes = bool(data.over_classes)
        thick = " The gray bar resamples seeds and classes: what to expect on other classes." if classes else ""
        caption = (
            f"Paired differences to the reference: mean with 95 % t-interval (▲ better, ▼ worse, ● neither after Holm's "
            f"correction, which the intervals do not have); ticks are single {data.results.replication}s.{thick}"
        )
        items.append(Picture("forest", caption, lambda: figures.forest(data, contrasts)))
    return Section("Differences to the reference", items)


def _score_section(data: AblationData) -> Section:
    unit = data.results.replication
    caption = f"Score of each arm: mean with 95 % t-interval; ticks are single {unit}s; the reference in blue."
    picture = Picture("arms", caption, lambda: figures.arms(data, list(data.results.cells)))
    return Section(
        "Scores", [tables.score_table(data), picture, tables.all_scores_table(data), *tables.luck_tables(data)]
    )


def _factor_sections(data: AblationData, contrasts: Sequence[JudgedContrast]) -> list[Section]:
    sections = []
    for factor in data.design.factors:
        series = cells_over_factor(data, factor)
        if not series:
            continue
        caption = (
            f"Score over {factor}{', and the difference to the reference at the same level' if len(series) > 1 else ''}; bands "
            "are 95 % t-intervals of each point (not corrected)."
        )

        def draw(factor: str = factor, series: dict[str, dict[int, str]] = series) -> Figure:
            return figures.factor_curves(data, factor, series, contrasts)

        items: list[str | Table | Picture] = [tables.factor_table(data, factor, series, contrasts)]
        sections.append(Section(f"By {factor}", [*items, Picture(f"over_{file_stem(factor)}", caption, draw)]))
    for first, second in combinations(data.design.factors, 2):
        crossed = crossed_cells(data, first, second)
        if not crossed:
            continue

        def draw_pair(
            first: str = first, second: str = second, crossed: dict[str, dict[tuple[int, int], str]] = crossed
        ) -> Figure:
            return figures.interaction(data, first, second, crossed)

        caption = (
            f"{capital(metric_title(data.design.metric))} over {first} for each {second}: lines that are not parallel "
            "are an interaction."
        )
        name = f"interaction_{file_stem(first)}_{file_stem(second)}"
        sections.append(Section(f"{first} and {second}", [Picture(name, caption, draw_pair)]))
    return sections


def cells_over_factor(data: AblationData, factor: str) -> dict[str, dict[int, str]]:
    """For each variant the cell at each level (index) of a factor, the other factors where the reference has them."""
    levels = data.design.factors[factor]
    others = {name: value for name, value in _reference_levels(data).items() if name != factor}
    base = _reference_levels(data).get(factor)
    series: dict[str, dict[int, str]] = {}
    for name, cell in data.results.cells.items():
        if any(cell.levels.get(other, value) != value for other, value in others.items()):
            continue
        level = cell.levels.get(factor, base)
        if level in levels:
            series.setdefault(cell.variant, {}).setdefault(levels.index(level), name)
    return {variant: cells for variant, cells in series.items() if len(cells) > 1}


def crossed_cells(data: AblationData, first: str, second: str) -> dict[str, dict[tuple[int, int], str]]:
    """For each variant the cell at each pair of levels (indices) of two factors; only where they are crossed."""
    reference = _reference_levels(data)
    rows, columns = data.design.factors[first], data.design.factors[second]
    found: dict[str, dict[tuple[int, int], str]] = {}
    for name, cell in data.results.cells.items():
        levels = reference | cell.levels
        if any(levels[other] != value for other, value in reference.items() if other not in (first, second)):
            continue
        if levels.get(first) in rows and levels.get(second) in columns:
            place = rows.index(levels[first]), columns.index(levels[second])
            found.setdefault(cell.variant, {}).setdefault(place, name)
    whole = len(rows) * len(columns)
    return {variant: cells for variant, cells in found.items() if len(cells) == whole}


def _reference_levels(data: AblationData) -> dict[str, object]:
    cell = data.results.cells.get(data.design.reference)
    levels = dict(cell.levels) if cell else {}
    return {factor: levels.get(factor, values[0]) for factor, values in data.design.factors.items()}


def method_paragraphs(data: AblationData) -> list[str]:
    """How the numbers came about, in the words of a methods section."""
    design, unit = data.design, data.results.replication
    paragraphs = [
        f"A score is that of the last epoch{', averaged over folds' if len(data.results.folds) > 1 else ''}. All arms share "
        f"folds, data order and, where shapes allow, initial weights: they are paired by {unit}."
    ]
    if design.repeats > 1:
        paragraphs.append(
            f"Search and seeds were repeated {design.repeats} times. A replication is a repeat, its score the mean over "
            f"its {design.seeds} seeds: seeds of one repeat share their tuning and are no independent evidence."
        )
    else:
        paragraphs.append(
            "A replication is a seed: intervals say how results vary with the seed, given one tuning run. What another "
            "tuning run would have found is not in them; tune_each.repeats in the ablation's file measures that."
        )
    paragraphs += [
        f"p: two-sided paired t-test. Holm's correction is over all contrasts of the file at {LEVEL}; contrasts that are not "
        "finished count, and none is judged before all its replications are there. The Wilcoxon signed-rank test is shown "
        "only where its smallest possible p-value can reach the corrected level. Effect g: mean over standard deviation of "
        "the paired differences (d_z) with Hedges' correction for few pairs.",
        *([_study_words(design.study)] if design.study else []),
        f"{_equivalence_words(design.equivalence)} Inconclusive is what shows neither: the interval says how large a "
        "difference may still be.",
        *([_PROBABILITY_WORDS] if design.probabilities else []),
        "Bootstrap: bias-corrected and accelerated, 9,999 resamples; with five values it is too narrow (some 85 % instead of "
        "95 %), so the t-interval counts, and of fewer it is not shown. Seeds and classes: the variance over seeds plus that "
        "over classes, from a bootstrap of the classes that serves all seeds and both arms, with Student's quantile at "
        "Satterthwaite's degrees of freedom; it is the interval for other seeds and other classes of the same kind.",
    ]
    return paragraphs


def _study_words(study: str) -> str:
    return (
        f"This file is one of the study {study}. The verdicts here are corrected over this file; ctxtune report --compare with "
        "all files of the study corrects over all of them."
    )


def _equivalence_words(margin: float | None) -> str:
    if margin is None:
        return "No margin of practical equality was stated beforehand, so equality is not tested."
    return (
        f"Practically equal: two one-sided paired t-tests show the difference to be less than {100 * margin:g} points, the "
        "margin that the file states, with Holm's correction over the file; a difference that is found, yet shown to be "
        "smaller than the margin, is practically equal too."
    )
