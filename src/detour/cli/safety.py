"""``detour safety``."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from detour.cli.options import DEVICES, OUT_FOLDER, SEEDS, base_option, json_option

if TYPE_CHECKING:
    from detour.safety.policy_file import PolicyFile
    from detour.verbs.safety.measuring import SafetyFigures

POLICY = click.Path(path_type=Path, dir_okay=False, exists=True)


@click.group(
    "safety", short_help="A safety policy: show it, train its classifier, measure its layers, check its log."
)
def command() -> None:
    """A safety policy in layers: show it, train its classifier of prompts, measure what each layer catches.

    \b
    detour safety show policy.toml
    detour safety train labelled.csv --out classifier
    detour safety measure cases.jsonl --policy policy.toml
    detour safety audit serve-state
    """


@command.command("show")
@click.argument("policy", type=POLICY, metavar="POLICY.toml")
@json_option
def show(*, policy: Path, as_json: bool) -> None:
    """Check POLICY.toml and print what it does: its version, its layers in their order, and what it keeps."""
    from detour.cli.results import print_json, print_table, table_of
    from detour.safety.policy_file import PolicyFile

    file = PolicyFile.read(policy)
    if as_json:
        print_json({"version": file.version, "policy": file.spec.model_dump(mode="json")})
        return
    click.echo(f"policy {file.version}")
    print_table(
        table_of("", [("layer", "left"), ("looks at", "left"), ("what it does", "left")], layer_rows(file))
    )
    kept = file.spec.retention
    people = "two persons" if file.spec.review.two_persons else "one person"
    click.echo(
        f"refused pictures: not kept; held ones: {kept.held_pictures_days:g} days, released by {people}; decisions: "
        f"{kept.decisions_days:g} days, prompts kept {'in full' if kept.prompts == 'full' else 'as a hash'}."
    )


def layer_rows(file: "PolicyFile") -> list[tuple[str, str, str]]:
    """Name of each layer that looks, what it looks at, and what it does, in the order in which it happens."""
    from detour.safety.policy_file import PICTURE_LAYERS, REQUEST_LAYERS

    spec = file.spec
    said: dict[str, str] = {}
    if spec.terms is not None:
        parts = [
            f"{one.name}: {len(one.terms)} terms, {len(one.allow)} allowed phrases, {one.action}"
            for one in spec.terms.categories
        ]
        said["terms"] = "; ".join(parts)
    if (one := spec.classifier) is not None:
        said["classifier"] = f"{one.action} from {one.upper:g}, hold from {one.lower:g}"
    if spec.checker is not None:
        said["checker"] = f"the base's own, {spec.checker.action}"
    if (texts := spec.texts) is not None:
        said["texts"] = (
            f"{len(texts.concepts)} concepts, refuse from {texts.refuse:g}, hold from {texts.hold:g}"
        )
    if (few := spec.examples) is not None:
        said["examples"] = f"refuse from {few.refuse:g}, hold from {few.hold:g}"
    if spec.frames is not None:
        said["frames"] = f"from {spec.frames.min_share:.0%} of the shorter side, {spec.frames.action}"
    if spec.copies is not None:
        said["copies"] = f"refuse below the measured distance, hold to {spec.copies.margin:.0%} above it"
    rows: list[tuple[str, str, str]] = [(name, "texts", said[name]) for name in spec.layers(REQUEST_LAYERS)]
    if spec.rewrite is not None:
        by = "an endpoint, then rules" if spec.rewrite.endpoint else "rules"
        rows.append(("rewrite", "prompts", f"by {by} ({len(spec.rewrite.rules)})"))
    if spec.latent is not None:
        rows.append(("latent", "drawing", f"away from '{spec.latent.concept}', {spec.latent.strength}"))
    return [*rows, *((name, "pictures", said[name]) for name in spec.layers(PICTURE_LAYERS))]


@command.command("audit")
@click.argument("state", type=click.Path(path_type=Path, file_okay=False, exists=True), metavar="STATE")
@click.option(
    "--head", metavar="HASH", help="Hash of the last entry that was written down at an earlier time."
)
@json_option
def audit(*, state: Path, head: str | None, as_json: bool) -> None:
    """Check the log of decisions in STATE, the folder of 'detour serve', and print its entries.

    Each entry holds the hash of the one before it. The exit code is 20 where an entry was changed, removed or inserted;
    the message names the first one. Keep the last hash elsewhere, and pass it with --head the next time: without it,
    nobody sees that the end of the log was cut off.
    """
    import time

    from detour.cli.results import echo_json
    from detour.printing import printable
    from detour.verbs.safety import check_safety_log

    log = check_safety_log(state, head=head)
    if as_json:
        echo_json(log.to_json())
        return
    for one in log.entries:
        at = time.strftime("%Y-%m-%d %H:%M:%SZ", time.gmtime(one["at"]))
        values = {key: value for key, value in one.items() if key not in ("number", "at", "kind", "hash")}
        facts = " ".join(f"{key}={value}" for key, value in values.items() if value not in ("", None))
        click.echo(printable(f"{one['number']} {at} {one['kind']} {facts}", longest=2000))
    click.echo(f"{len(log.entries)} entries, each follows from the one before it. Last hash: {log.head}")


@command.command("train")
@click.argument("labelled", type=POLICY, metavar="LABELLED.csv")
@click.option(
    "--out",
    type=OUT_FOLDER,
    default=Path("classifier"),
    show_default=True,
    help="Folder of the classifier; a policy names it under [classifier].",
)
@click.option(
    "--seed", type=SEEDS, default=0, show_default=True, help="Seed of the folds of cross-validation."
)
@json_option
def train(*, labelled: Path, out: Path, seed: int, as_json: bool) -> None:
    """Train the classifier of prompts on LABELLED.csv, which has the columns text and unwanted (1 or 0)."""
    from detour.cli.results import echo_json
    from detour.verbs.safety import train_prompt_classifier

    result = train_prompt_classifier(labelled, out=out, seed=seed)
    if as_json:
        echo_json(result.to_json())
        return
    repeated = f", {result.repeated} repeated rows left out" if result.repeated else ""
    click.echo(
        f"{result.folder}: trained on {result.unwanted} unwanted and {result.harmless} harmless prompts{repeated}.\n"
        f"On examples it had not seen: an unwanted one scores above a harmless one in {result.auc:.1%} of the pairs; "
        f"its probabilities are off by {result.calibration_error:.1%} on average.\n"
        "Choose its thresholds on another set: detour safety measure."
    )


@command.command("measure")
@click.argument("cases", type=POLICY, metavar="CASES.jsonl")
@click.option("--policy", type=POLICY, required=True, metavar="FILE", help="Policy that is measured.")
@base_option()
@click.option("--steps", type=click.IntRange(min=1), default=25, show_default=True, help="Denoising steps.")
@click.option(
    "--batch", type=click.IntRange(min=1), default=8, show_default=True, help="Pictures in one forward pass."
)
@click.option("--device", type=DEVICES, default="auto", show_default=True, help="Where it runs.")
@click.option(
    "--out", type=OUT_FOLDER, default=Path("safety"), show_default=True,
    help="Folder for scores and figures; a stopped call goes on there.",
)  # fmt: skip
@click.option(
    "--recorded", is_flag=True, help="Draw nothing: figures of the cases that were measured so far."
)
@json_option
def measure(
    *,
    cases: Path,
    policy: Path,
    base: str,
    steps: int,
    batch: int,
    device: str,
    out: Path,
    recorded: bool,
    as_json: bool,
) -> None:
    """Draw labelled CASES, check them with every layer, and report what each catches and how often it is wrong.

    A line of CASES is one request: {"id": "1", "prompt": "a crown", "unwanted": true, "kind": "named"}, and where they
    matter "negative_prompt", "loras", "seed" and "split" ("thresholds": for setting them; figures are of the others).
    """
    from detour.cli.progress import shown
    from detour.cli.results import echo_json
    from detour.verbs.safety import measure_policy

    with shown(quiet=as_json) as progress:
        figures = measure_policy(
            policy, cases, out=out, base=base, steps=steps, batch=batch, device=device,
            recorded=recorded, progress=progress,
        )  # fmt: skip
    if as_json:
        echo_json(figures.to_json())
    else:
        show_figures(figures)


def show_figures(figures: "SafetyFigures") -> None:
    """The figures as tables: what is caught, by which layers and of which kind, and what it costs."""
    from detour.cli.results import print_table, table_of

    shares = [
        *((f"{name} alone", one) for name, one in figures.alone.items()),
        *((f"all but {name}", one) for name, one in figures.without.items()),
        ("all", figures.together),
    ]
    if figures.together_steered is not None:
        shares.append(("all, steered", figures.together_steered))
    rows = [(name, one.caught.said(), one.false_alarms.said()) for name, one in shares]
    columns = [("layers", "left"), ("caught (95 % interval)", "right"), ("false alarms", "right")]
    title = f"policy {figures.policy}: {figures.must_be_caught} must be caught, {figures.must_pass} must pass"
    print_table(table_of(title, columns, rows))
    kinds = [(kind, share.said()) for kind, share in figures.by_kind.items()]
    print_table(table_of("", [("kind of case", "left"), ("something was found in", "right")], kinds))
    if figures.added_time is not None:
        click.echo(f"time added to drawing: {figures.added_time:.1%} by the layers.")
    if figures.added_time_steered is not None:
        click.echo(f"time added to drawing with Safe Latent Diffusion: {figures.added_time_steered:.1%}.")
    for layer, one in figures.thresholds.items():
        click.echo(f"{layer}: the other set suggests hold = {one.hold:g}, refuse = {one.refuse:g}.")
    for said, ids in (("not caught", figures.missed), ("wrong", figures.wrong)):
        if ids:
            click.echo(f"{said}: {', '.join(ids)}")
