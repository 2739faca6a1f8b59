"""Draw what a finished sweep printed: python docs/figures/outcome_picture.py results/quickstart OUT.svg"""

import io
import sys
from pathlib import Path

import yaml
from rich.console import Console

from ctxtune.config import SweepConfig
from ctxtune.tuning.display import print_results
from ctxtune.tuning.record.journal import Journal
from ctxtune.tuning.sweep_results import results_of


def main(folder: Path, picture: Path) -> None:
    """Write the picture."""
    config = SweepConfig.model_validate(yaml.safe_load((folder / "space.yaml").read_text()))
    journal = Journal(folder / "journal.jsonl")
    precision = journal.decisions.precision
    config = config.model_copy(update={"trial": config.trial.model_copy(update={"precision": precision})})
    console = Console(record=True, width=104, file=io.StringIO())
    print_results(console, results_of(config, journal, ended=True), {})
    picture.write_text(console.export_svg(title="python -m ctxtune.sweep search_spaces/quickstart.yaml"))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
