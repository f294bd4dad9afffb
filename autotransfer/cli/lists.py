"""The verbs about what is installed: plugins, backbones, strategies, check, weights."""

from __future__ import annotations

import fnmatch
from typing import TYPE_CHECKING, Annotated, Any

import typer

from autotransfer.cli.verbs import WRONG, Plugins, Said, verb

if TYPE_CHECKING:
    from autotransfer.spec import BackboneSpec


def register(app: typer.Typer) -> None:
    """Add these verbs."""
    verb(app, "plugins")(plugins)
    verb(app, "backbones")(backbones)
    verb(app, "strategies")(strategies)
    verb(app, "check")(check)
    weights = typer.Typer(help="Pretrained weights in the cache.", no_args_is_help=True, rich_markup_mode=None)
    verb(weights, "fetch")(fetch)

    @weights.callback()
    def _weights() -> None:
        """Pretrained weights in the cache."""

    app.add_typer(weights, name="weights")


def plugins(plugins: Plugins = None) -> Said:
    """List the plugins, the broken ones too, with the reason."""
    from autotransfer.registry import Registry
    from autotransfer.report.words import columns

    rows = [i.to_json() for i in Registry.discover(plugins or ()).plugins()]
    short = [{**r, "hooks": ", ".join(h.removeprefix("autotransfer_") for h in r["hooks"])} for r in rows]
    shown = columns(short, ("name", "status", "module", "distribution", "version", "hooks", "reason"))
    return Said({"plugins": rows}, "\n".join(shown) or "there is no plugin")


def backbones(
    modality: Annotated[str | None, typer.Option(help="image, text or audio.")] = None,
    available: Annotated[bool, typer.Option("--available", help="Only those that need no download.")] = False,
    plugins: Plugins = None,
) -> Said:
    """List the curated backbones; more can be named, such as any 'timm/NAME'."""
    from autotransfer.errors import ConfigError, suggestion
    from autotransfer.registry import Registry
    from autotransfer.report.words import columns
    from autotransfer.spec import MODALITIES

    if modality is not None and modality not in MODALITIES:
        known = ", ".join(MODALITIES)
        raise ConfigError(f"no modality is called {modality!r}{suggestion(modality, MODALITIES)}; known: {known}")
    rows = [_backbone(s) for s in Registry.discover(plugins or ()).backbones(modality)]
    rows = [r for r in rows if r["weights"] == "here" or not available]
    return Said({"backbones": rows}, "\n".join(columns(rows)) or "there is no such backbone")


def strategies(plugins: Plugins = None) -> Said:
    """List the strategies: what each does, what it needs, when it applies, where it comes from."""
    from autotransfer.registry import Registry
    from autotransfer.report.words import columns

    found = Registry.discover(plugins or ()).strategies()
    told = ("id", "baseline", "summary", "needs", "when", "source")
    rows = [{name: getattr(s, name) for name in told} for s in found]
    shown = columns(rows, ("id", "summary", "needs", "when"))
    return Said({"strategies": rows}, "\n".join(shown) or "there is no strategy")


def check(plugin: Annotated[str, typer.Argument(metavar="FILE_OR_MODULE", help="A plugin's file or module.")]) -> Said:
    """Prove a plugin right, or say what is wrong with it, with random weights and without the network."""
    from autotransfer.testing import check_plugin

    found = check_plugin(plugin)
    lines = [str(f) for f in found]
    wrong = any(f.level == "error" for f in found)
    if not wrong:
        lines.append(f"{plugin}: all checks passed")
    return Said({"plugin": plugin, "findings": [str(f) for f in found]}, "\n".join(lines), WRONG if wrong else 0)


def fetch(
    ids: Annotated[
        list[str],
        typer.Argument(metavar="ID...", help="Backbones whose weights are wanted, or patterns such as 'packs/*'."),
    ],
    plugins: Plugins = None,
) -> Said:
    """Fetch weights into the cache, so that runs without a network have them."""
    from autotransfer import weights
    from autotransfer.errors import WeightsError
    from autotransfer.registry import Registry

    registry = Registry.discover(plugins or ())
    curated = [s.id for s in registry.backbones()]
    chosen = [n for i in ids for n in (fnmatch.filter(curated, i) or [i])]
    specs = [registry.backbone(i) for i in dict.fromkeys(chosen)]
    rows: list[dict[str, Any]] = []
    for spec in specs:
        row: dict[str, Any] = {"id": spec.id, "path": None, "error": ""}
        try:
            row["path"] = None if spec.weights is None else str(weights.fetch(spec.weights))
        except WeightsError as error:
            row["error"] = str(error)
        rows.append(row)
    lines = [f"{r['id']}: {r['error'] or r['path'] or 'it has no weights to fetch'}" for r in rows]
    return Said({"weights": rows}, "\n".join(lines), WRONG if any(r["error"] for r in rows) else 0)


def _backbone(spec: BackboneSpec) -> dict[str, Any]:
    from autotransfer.weights import available

    return {
        "id": spec.id,
        "modality": spec.modality,
        "params": spec.params,
        "stages": len(spec.stages) or None,
        "transfer": spec.transfer,
        "licence": spec.licence,
        "weights": available(spec.weights) or "here",
        "summary": spec.summary,
    }
