"""The page of a sweep's or an ablation's run in MLflow, as Markdown."""

from ctxtune.metric_names import metric_title
from ctxtune.results.ablation import AblationResults
from ctxtune.results.formatting import MISSING, percent, percent_interval, setting
from ctxtune.results.luck import luck
from ctxtune.results.sweep import SweepResults
from ctxtune.results.wording import (
    confirmation_sentence,
    contrast_sentences,
    lost_sentences,
    luck_sentences,
    probability_sentences,
    scope_sentences,
    seeds_words,
    tuning_sentences,
)
from ctxtune.text import markdown_cell, markdown_text


def sweep_note(results: SweepResults) -> str:
    """What a sweep found, in tables and sentences."""
    lines = [f"**Chosen configuration: {markdown_text(results.chosen)}**", "", "| | start | chosen |", "|---|---|---|"]
    lines += [_row(path, setting(start), setting(chosen)) for path, start, chosen in results.changes]
    if results.front:
        names = [objective.metric for objective in results.design.objectives]
        lines += ["", "Pareto front (the best by the first objective goes on):", ""]
        lines += [_row("trial", *names), "|---" * (len(names) + 1) + "|"]
        for run in results.front:
            lines.append(_row(run.key, *map(setting, results.objective_values(run).values())))
    if results.confirmed:
        over = seeds_words(results.confirmed[0])
        lines += ["", f"Test classes, percent, mean and 95 % t-interval over {over}:", ""]
        lines += ["| | untrained | start | chosen | chosen − start |", "|---|---|---|---|---|"]
    missing = "same" if results.same else MISSING
    for score in (*results.confirmed, *results.separated):
        start, difference = score.start_interval, score.difference
        texts = [
            percent(score.untrained),
            percent_interval(start) if start else missing,
            percent_interval(score.chosen_interval),
            percent_interval(difference.interval, sign=True) if difference else missing,
        ]
        lines.append(_row(metric_title(score.metric).removeprefix("test "), *texts))
    lines += ["", *map(markdown_text, [confirmation_sentence(results), *scope_sentences(results.design)])]
    lines += (
        ["", *(f"- {markdown_text(sentence)}" for sentence in lost_sentences(results.lost))] if results.lost else []
    )
    return "\n".join(lines)


def ablation_note(results: AblationResults) -> str:
    """What an ablation found, in sentences."""
    found = [*contrast_sentences(results), *probability_sentences(results), *lost_sentences(results.lost)]
    found += luck_sentences(luck(results))
    found += [*tuning_sentences(results.design), *scope_sentences(results.design)]
    return "\n".join(f"- {sentence}" for sentence in found)


def _row(*cells: str) -> str:
    return f"| {' | '.join(map(markdown_cell, cells))} |"
