"""Results as a Weights & Biases report: tables, bars at each radius, scatter, curves. Needs the extra ``workspaces``.

``report_of`` builds the whole specification without a network; ``publish`` sends it. Imports wandb only when used.
"""

import json
import re
from collections.abc import Iterable, Sequence
from importlib import import_module, util
from statistics import mean, stdev
from typing import Any

from trust_exp.errors import UserError
from trust_exp.identity import cell_id
from trust_exp.results.collect import Found
from trust_exp.results.comparison import suite_of
from trust_exp.results.record import is_measured

CERTIFIED = re.compile(r"certify/accuracy@([\d.e+-]+)")
CELL = ("method", "dataset", "model", "size")
LIPSCHITZ = "certify/lipschitz"
WIDE, HIGH, COLUMNS = 8, 6, 3  # size of a panel in W&B's grid of 24 columns, and panels per row
MEAN_AND_DEVIATION = {"groupby_aggfunc": "mean", "groupby_rangefunc": "stddev"}


def report_of(results: Sequence[Found], entity: str, project: str) -> Any:
    """A report on the runs: means over seeds, panels of grouped runs, and panels and a table of single runs.

    Args:
        results: the runs to show; their ids are the same in W&B.
        entity: the W&B user or team.
        project: the W&B project that has the runs.

    Raises:
        UserError: if wandb-workspaces is not installed, or no run is done.
    """
    wr = library()
    done = [result for result in results if result.values["status"] == "done"]
    if not done:
        raise UserError(f"a dashboard needs runs that are done; none of the {len(results)} selected runs is")
    methods, datasets = names(done, "method"), names(done, "dataset")
    return wr.Report(
        entity=entity,
        project=project,
        title=f"trust_exp: {', '.join(methods)} on {', '.join(datasets)}"[:128],
        description=f"{len(done)} runs, made by trust-exp wandb dashboard",
        width="fluid",
        blocks=[
            wr.H2("Mean and standard deviation over seeds"),
            wr.MarkdownBlock(table_of_means(done)),
            wr.H2("By method and data set"),
            grouped_panels(done),
            wr.H2("Single runs"),
            single_panels(done),
        ],
    )


def specification(report: Any) -> dict[str, Any]:
    """The specification of a report that is sent to W&B, as plain values."""
    model = report._to_model()
    sent: dict[str, Any] = json.loads(model.spec.model_dump_json(by_alias=True, exclude_none=True))
    return {"title": report.title, "entity": report.entity, "project": report.project, "spec": sent}


def publish(report: Any) -> str:
    """Save a report in W&B; returns its URL."""
    report.save()
    return str(report.url)


def default_entity() -> str:
    """The W&B user or team that the key belongs to."""
    import wandb

    return str(wandb.Api().default_entity)


def require() -> None:
    """Raise UserError unless wandb-workspaces is installed."""
    if util.find_spec("wandb_workspaces") is None:
        raise UserError("a dashboard needs wandb-workspaces: pip install 'trust_exp[workspaces]'")


def library() -> Any:
    """The module of reports in wandb-workspaces; untyped, as it exports by star."""
    require()
    return import_module("wandb_workspaces.reports.v2")


def names(results: Iterable[Found], group: str) -> list[str]:
    """The distinct choices of a group, sorted."""
    return sorted({str(result.option(group)) for result in results})


def radii(results: Iterable[Found]) -> list[str]:
    """The radii at which certified accuracy was measured, as its metrics write them, smallest first."""
    found = {
        match[1] for result in results for name in result.values["metrics"] if (match := CERTIFIED.fullmatch(name))
    }
    return sorted(found, key=float)


def have(results: Iterable[Found], *metrics: str) -> list[str]:
    """The given metrics that at least one result has."""
    present = {name for result in results for name in result.values["metrics"]}
    return [name for name in metrics if name in present]


def shown_metrics(results: Sequence[Found]) -> list[str]:
    """The metrics of the tables, in their order."""
    certified = [f"certify/accuracy@{radius}" for radius in radii(results)]
    return have(results, "clean/accuracy", *certified, "autoattack/accuracy", LIPSCHITZ, "certify/tightness")


def table_of_means(results: Sequence[Found]) -> str:
    """A Markdown table with one line ("cell") for all runs that differ only in their seed: mean ± deviation.

    ``results`` are in the order in which they started.
    """
    cells: dict[tuple[str, ...], list[Found]] = {}
    for result in results:
        chosen = tuple(str(result.option(key)) for key in CELL)
        cells.setdefault((*chosen, cell_id(result.config)), []).append(result)
    metrics = shown_metrics(results)
    lines = [[*CELL, "cell", "runs", *metrics], ["---"] * (len(CELL) + 2 + len(metrics))]
    for cell, members in sorted(cells.items()):
        lines.append([*cell, str(len(members)), *(spread(members, metric) for metric in metrics)])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def spread(results: Iterable[Found], metric: str) -> str:
    """Mean ± standard deviation of a metric, in per cent if it is a fraction; empty if no run has measured it.

    It is over the runs that measured it with the evaluation settings of the newest (last) of them. Where these are not
    all runs, their number n follows.
    """
    found = list(results)
    having = [result for result in found if is_measured(result.values["metrics"].get(metric))]
    if not having:
        return ""
    alike = [result for result in having if _eval_id(result, metric) == _eval_id(having[-1], metric)]
    values = [result.values["metrics"][metric] for result in alike]
    units = {row["unit"] for result in alike for row in result.values["rows"] if row["metric"] == metric}
    scale, end = (100.0, " %") if units == {"fraction"} else (1.0, "")
    if len(values) < len(found):
        end += f" (n {len(values)})"
    middle = f"{scale * mean(values):.1f}"
    return f"{middle} ± {scale * stdev(values):.1f}{end}" if len(values) > 1 else f"{middle}{end}"


def _eval_id(result: Found, metric: str) -> str | None:
    """Names the settings of the eval that measured a metric; None if they are not known."""
    how = result.values.get("evals", {}).get(suite_of(result, metric), {})
    return how.get("id")


def grouped_panels(results: Sequence[Found]) -> Any:
    """Bars and curves over runs of the same method and data set: means, with the standard deviation over seeds."""
    wr = library()
    bars = [(f"certified accuracy at {radius}", f"certify/accuracy@{radius}") for radius in radii(results)]
    others = {
        "clean/accuracy": "clean accuracy",
        "autoattack/accuracy": "accuracy under AutoAttack",
        LIPSCHITZ: "Lipschitz constant (upper bound)",
    }
    bars += [(others[metric], metric) for metric in have(results, *others)]
    curves = {
        "training loss": "train/loss",
        "training accuracy": "train/accuracy",
        "Lipschitz constant": "train/lipschitz",
    }
    panels = [wr.BarPlot(title=title, metrics=[metric], **MEAN_AND_DEVIATION) for title, metric in bars]
    panels += [wr.LinePlot(title=title, x="step", y=[metric], **MEAN_AND_DEVIATION) for title, metric in curves.items()]
    runs = wr.Runset(
        name="by method and data set",
        groupby=["config.method.name", "config.dataset.name"],
        filters=only(results),
    )
    return wr.PanelGrid(runsets=[runs], panels=laid_out(panels))


def single_panels(results: Sequence[Found]) -> Any:
    """Panels of single runs: clean against certified accuracy, the figures, and a table of the runs."""
    wr = library()
    clean = wr.SummaryMetric("clean/accuracy")
    panels: list[Any] = [
        wr.ScatterPlot(
            title=f"clean against certified accuracy at {radius}",
            x=clean,
            y=wr.SummaryMetric(f"certify/accuracy@{radius}"),
        )
        for radius in radii(results)
    ]
    figures = sorted(
        {figure.rpartition("/")[2].rpartition(".")[0] for one in results for figure in one.values["figures"]}
    )
    if figures:
        panels.append(wr.MediaBrowser(title="figures", media_keys=[f"figures/{figure}" for figure in figures]))
    columns = [
        *("config:method.value.name", "config:dataset.value.name", "config:model.value.name"),
        *("config:size.value", "config:seed.value"),
        *(f"summary:{metric}" for metric in shown_metrics(results)),
    ]
    runs = wr.Runset(name="runs", filters=only(results), pinned_columns=columns)
    return wr.PanelGrid(runsets=[runs], panels=laid_out(panels))


def only(results: Iterable[Found]) -> Any:
    """A filter that matches exactly these runs."""
    from wandb_workspaces import expr

    return expr.And(expr.Metric("ID").isin(sorted(result.id for result in results)))


def laid_out(panels: Sequence[Any]) -> list[Any]:
    """Lay out the panels in rows of three."""
    for place, panel in enumerate(panels):
        row, column = divmod(place, COLUMNS)
        panel.layout.x, panel.layout.y, panel.layout.w, panel.layout.h = WIDE * column, HIGH * row, WIDE, HIGH
    return list(panels)
