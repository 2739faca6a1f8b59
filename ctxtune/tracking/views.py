"""What makes MLflow's own pages pleasant: a saved view of an experiment with the right columns, order and plots.

The format is that of "Views > Save as new view" in MLflow 3.17: an experiment tag with the state of the page. Older
servers show the page as it is without it.
"""

import base64
import json
import zlib
from collections.abc import Sequence
from urllib.parse import quote, urlencode

VIEW_TAG = "mlflow.sharedViewState."
# Otherwise the UI takes the experiment for one about language models and hides the runs behind other menus.
EXPERIMENT_TAGS = {"mlflow.experimentKind": "custom_model_development"}
# What the UI shows in the column "Source".
RUN_TAGS = {"mlflow.source.name": "ctxtune", "mlflow.source.type": "LOCAL"}
_SECTION = "ctxtune-search"


def view_tags(
    key: str, name: str, metric: str, dimensions: Sequence[str], *, ascending: bool, kind: str, time_ms: int
) -> dict[str, str]:
    """The experiment tag of a saved view: the runs of one kind ordered by `metric`, with columns for the `dimensions`.

    Its plots: parallel coordinates of the dimensions (parameters) and the metric, and the metric over the epochs.
    """
    columns = [f"metrics.`{metric}`", "tags.`state`", *(f"params.`{dimension}`" for dimension in dimensions)]
    state = {
        "searchFilter": f"tags.kind = '{kind}'",
        "orderByKey": f"metrics.`{metric}`",
        "orderByAsc": ascending,
        "startTime": "ALL",
        "lifecycleFilter": "Active",
        "datasetsFilter": [],
        "modelVersionFilter": "All Runs",
        "selectedColumns": columns,
        "columnOrder": [],
        "columnWidths": {f"metrics.`{metric}`": 170, **{f"params.`{dimension}`": 165 for dimension in dimensions}},
        "runsHiddenMode": "SHOW_ALL",
        "compareRunCharts": _charts(key, metric, dimensions),
        "compareRunSections": [
            {
                "uuid": _SECTION,
                "name": "Search",
                "display": True,
                "columns": 2,
                "cardHeight": 420,
                "isReordered": False,
                "deleted": False,
                "isGenerated": False,
            }
        ],
        "viewMaximized": False,
        "runListHidden": False,
        "isAccordionReordered": True,  # our section first, not in the order of the alphabet
        "useGroupedValuesInCharts": True,
        "hideEmptyCharts": True,
        "groupBy": None,
        "groupsExpanded": {},
    }
    packed = "deflate;" + base64.b64encode(zlib.compress(json.dumps(state).encode())).decode()
    view = {"name": name, "createdAt": time_ms, "updatedAt": time_ms, "state": packed}
    return {VIEW_TAG + key: json.dumps(view), **EXPERIMENT_TAGS}


def _charts(key: str, metric: str, dimensions: Sequence[str]) -> list[dict[str, object]]:
    line = {
        "uuid": f"{key}-line",
        "type": "LINE",
        "metricKey": metric,
        "displayName": metric,
        "lineSmoothness": 0,
        "xAxisScaleType": "linear",
        "scaleType": "linear",
        "range": {},
        "xAxisKey": "step",
        "selectedXAxisMetricKey": "",
        "yAxisKey": "metric",
        "yAxisExpressions": [],
        "ignoreOutliers": False,
        "useGlobalXaxisKey": True,
        "useGlobalLineSmoothing": True,
    }
    parallel = {
        "uuid": f"{key}-parallel",
        "type": "PARALLEL",
        "selectedParams": list(dimensions),
        "selectedMetrics": [metric],
        "showAllRuns": False,
    }
    common = {"runsCountToCompare": 10, "metricSectionId": _SECTION, "deleted": False, "isGenerated": False}
    return [parallel | common, line | common]


def experiment_link(server: str, experiment_id: str, view: str | None = None) -> str:
    """The address of an experiment's runs in MLflow's UI, in a saved view if one is named by its key."""
    query = {"workflowType": "machine_learning"} | ({"viewStateShareKey": view} if view else {})
    return f"{server.rstrip('/')}/#/experiments/{quote(experiment_id)}/runs?{urlencode(query)}"
