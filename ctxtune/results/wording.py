"""Results in sentences: the same ones in the terminal, in MLflow and in the report."""

from collections import Counter
from collections.abc import Iterator, Sequence

from ctxtune.metric_names import metric_title
from ctxtune.results.ablation import AblationResults
from ctxtune.results.designs import AblationDesign, EarlierTuning, SweepDesign
from ctxtune.results.formatting import percent, percent_interval
from ctxtune.results.luck import LuckComponent
from ctxtune.results.runs import LostRuns
from ctxtune.results.sweep import ConfirmedScore, SweepResults
from ctxtune.results.verdicts import CLEAR
from ctxtune.text import counted, duration


def search_sentence(results: SweepResults) -> str:
    """How many trials the search had, and what ended it."""
    asked = results.design.search.trials
    of = f" of {asked}" if asked > len(results.trials) or results.ended_by_budget else ""
    ended = ": the budget ended the search" if results.ended_by_budget else ""
    shown = sum(run.state in ("completed", "pruned") for run in results.trials)
    number = shown if results.nothing_searched else len(results.trials)
    nothing = "; nothing can be concluded" if results.nothing_searched else ""
    return f"{number}{of} trials{ended}{nothing}."


def confirmation_sentence(results: SweepResults) -> str:
    """What the test classes say of the chosen configuration against the start."""
    score = results.judged
    if results.nothing_searched:
        return search_sentence(results)
    if results.same:
        finished = counted(sum(run.state == "completed" for run in results.trials), "trial")
        return (
            f"The start configuration itself was chosen: of {len(results.trials)} trials, {finished} to their end, none was "
            "better on validation."
        )
    if not results.confirmed:
        return "No confirmation is completed: nothing is known of the test classes."
    if score is None or not score.start:
        return "The start has no test scores: nothing can be said about the difference."
    if score.difference is None:
        return "No seed came to its end with both configurations: nothing can be said about the difference."
    if score.difference.count < 2:
        return "One seed gives no interval: nothing can be said about the difference."
    size = f"{percent_interval(score.difference.interval, sign=True)} points over {counted(score.pairs, 'seed')}"
    title = metric_title(score.metric).removeprefix("test ")
    words = {
        "better": "the chosen configuration is better than the start on the test classes",
        "worse": "the chosen configuration is WORSE than the start on the test classes",
        "no difference": "no difference to the start on the test classes in any seed",
        "cannot be tested": "the difference to the start is the same in every seed and cannot be tested",
    }
    said = score.words
    if score.verdict is None:
        return f"{title}: {size}; {said} seeds: nothing is judged before all of them are there."
    unclear = f"the difference to the start on the test classes is {said} points"
    return f"{title}: {words.get(score.verdict.judgment, unclear)} ({size}, given one tuning run)."


def trained_words(train_on: str, folds: int) -> str:
    """What the models of a confirmation learn from, by `confirm.train_on`.

    >>> trained_words("all", 4)
    'trained on all train classes'
    """
    if train_on == "folds":
        return f"a model for each of the {folds} folds, scored by their concatenated embeddings"
    return "trained on all train classes"


def scope_sentences(design: SweepDesign | AblationDesign) -> list[str]:
    """What the scores do not speak of; none where the classes that are scored are unseen."""
    if not design.closed_set:
        return []
    return [
        "Closed-set: train, validation and test have the same classes; the images that are scored are others. This is "
        "not zero-shot retrieval: nothing is known about unseen classes, and published scores do not compare with these."
    ]


def seeds_words(score: ConfirmedScore) -> str:
    """Over which seeds the test scores are: "the same 5 fresh seeds", or how many of each arm where they differ."""
    chosen, start = len(score.chosen), len(score.start)
    if not start:
        return counted(chosen, "fresh seed")
    if chosen == start == score.pairs:
        return f"the same {counted(chosen, 'fresh seed')}"
    return f"the fresh seeds that came to their end (n = {start} of the start, {chosen} of the chosen, {score.pairs} pairs)"


def lost_sentences(lost: Sequence[LostRuns]) -> Iterator[str]:
    """What was lost, and what that means for the numbers."""
    for each in lost:
        yield f"{each.stage} of {each.arm}: {len(each.which)} of {each.runs} runs lost: {'; '.join(each.which)}"
    stages = {each.stage for each in lost}
    if "confirmation" in stages or "cell" in stages:
        what = "Test scores" if "confirmation" in stages else "Scores"
        yield f"{what} are over the seeds that came to their end: the mean of an arm whose runs fail is flattered by that."
    if "selection" in stages:
        yield "A configuration that lost a run is left out of selection."


def contrast_sentences(results: AblationResults) -> Iterator[str]:
    """Every clear verdict of an ablation, then how many were not, and what all of it is conditional on."""
    title = metric_title(results.design.metric)
    clear = 0
    rest: Counter[str] = Counter()
    for each in results.contrasts:
        words = each.words
        if each.difference is not None and words in CLEAR:
            clear += 1
            size = percent_interval(each.difference.interval, sign=True)
            yield f"{each.contrast.cell} is {words} than {each.contrast.against}: {size} points of {title}."
        elif each.verdict is not None:
            rest[each.verdict.judgment] += 1
        else:
            rest["interim, not judged yet" if each.difference and each.tuned else words] += 1
    if rest:
        listed = "; ".join(f"{words}: {count}" for words, count in rest.items()) if len(rest) > 1 else next(iter(rest))
        many = counted(rest.total(), "contrast") if rest.total() > 1 else "contrast"
        yield f"{'The other' if clear else 'The'} {many}: {listed}."
    conditions = sorted({each.condition for each in results.contrasts if each.condition and each.verdict})
    if conditions:
        yield f"All of it {'; '.join(conditions)}."


def luck_sentences(found: Sequence[LuckComponent]) -> Iterator[str]:
    """Where the luck lies, in one sentence; nothing where that is not known."""
    if found:
        listed = ", ".join(f"{each.source} {percent(each.scores)}" for each in found)
        yield f"Where the luck lies (standard deviation of a score, points): {listed}."


def probability_sentences(results: AblationResults) -> Iterator[str]:
    """How probable it is that each arm is practically better, equal or worse; nothing where nobody asked."""
    for each in results.contrasts:
        if (found := each.probabilities) is not None:
            yield (
                f"{each.contrast.cell}: practically better with probability {found.better:.3f}, equal {found.equal:.3f}, "
                f"worse {found.worse:.3f} (margin {100 * (results.design.equivalence or 0):g} points, flat prior)."
            )


def tuning_sentences(design: AblationDesign) -> Iterator[str]:
    """What the verdicts of an ablation are given under."""
    if design.trials_held is not None:
        yield budget_sentence(design)
    if design.tuning == "none":
        yield f"Nothing was tuned here: the other cells run with the hyperparameters of {design.tuned_for or design.reference}."
    elif design.repeats == 1 and not design.nothing_tuned:
        yield "Every cell was tuned once: the verdicts are given one tuning run (tune_each.repeats repeats it)."
    if design.selected > 1:
        folds = "" if len(design.selection_folds) == 1 else f" on {len(design.selection_folds)} folds"
        yield (
            f"The best {design.selected} trials of every search were run again with "
            f"{counted(design.selection_seeds, 'fresh seed')}{folds}; the best mean was chosen."
        )
    yield from _spaces_sentences(design)
    yield from earlier_sentences(design.tuned_with)


def earlier_sentences(earlier: Sequence[EarlierTuning]) -> Iterator[str]:
    """What was spent on the arms before; nothing where the file names nothing."""
    if earlier:
        spent = (
            f"{each.variant}: {each.name}, {counted(each.runs, 'run')}, {duration(each.hours)}" for each in earlier
        )
        yield f"Tuned before, beside what was tuned here: {'; '.join(spent)}."


def _spaces_sentences(design: AblationDesign) -> Iterator[str]:
    """That arms search spaces of different sizes with the same number of trials; nothing where they are alike."""
    sizes: dict[int, list[str]] = {}
    for cell in design.cells:
        arms = sizes.setdefault(len(cell.searched), [])
        if cell.variant not in arms:
            arms.append(cell.variant)
    if len(sizes) > 1:
        listed = "; ".join(f"{counted(size, 'dimension')}: {', '.join(arms)}" for size, arms in sorted(sizes.items()))
        yield (
            f"The arms search spaces of different sizes with {counted(design.trials, 'trial')} each ({listed}): a larger one "
            "is searched less thoroughly, a smaller one has less to find."
        )


def budget_sentence(design: AblationDesign) -> str:
    """What a budget that ended the tuning has left of it; "" where it held all of it."""
    if design.trials_held is None:
        return ""
    ended = f"{design.trials_held} of {counted(design.trials, 'trial')} of every cell: the budget ended the tuning"
    if design.nothing_tuned:
        return f"{ended}; all cells run as they are in the file, nothing can be concluded about tuned ones."
    return f"{ended}."
