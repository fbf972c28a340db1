"""``detour``: the command line. Commands are loaded when they are called, so that ``--help`` answers at once."""

import importlib
import os
import signal
import sys
from contextlib import suppress
from types import FrameType

import click

from detour import __version__

# name → (module that defines it, one line for the list). A test holds the lines equal to the commands' own.
COMMANDS: dict[str, tuple[str, str]] = {
    "demo": ("demo", "Train, prove and draw a style on an embedded base, in minutes on a CPU."),
    "inspect": ("inspect", "Say where adapters go in a base, and what they cost."),
    "plan": ("plan", "Predict the memory of a run by stage, with settings for common GPUs."),
    "data": ("data", "Check or caption a data set before training on it."),
    "train": ("train", "Train an adapter and prove that it learned."),
    "distill": ("distill", "Train an adapter with which a base draws in few steps."),
    "generate": ("generate", "Draw pictures, with and without adapters."),
    "show": ("show", "Say what is in an adapter file, or how a picture was drawn."),
    "convert": ("convert", "Write an adapter in another format; the change is proved to be the same."),
    "merge": ("merge", "Merge adapters into the weights of a base."),
    "compose": ("compose", "Combine several adapters into one, and predict how they interfere."),
    "resize": ("resize", "Write an adapter at a lower rank, or with other strengths by block."),
    "grid": ("grid", "Draw two adapters and their sum, or one at several strengths, on one sheet."),
    "interpolate": ("interpolate", "Draw pictures between two seeds, two prompts or two adapters."),
    "extract": ("extract", "Make an adapter from the difference of two bases."),
    "push": ("push", "Upload a finished run to the hub."),
    "prove": ("prove", "Prove a finished run again, or an adapter file."),
    "doctor": ("doctor", "Find settings that make bad pictures: each with its cause and its fix."),
    "evaluate": ("evaluate", "Judge a run or an adapter file thoroughly, with controls."),
    "runs": ("runs", "List the runs with their state and verdict."),
    "step": ("step", "Show every intermediate result of one training step."),
    "forward": ("forward", "Show the forward process on a picture, and the base's way back."),
    "compare": ("compare", "Train several settings with several seeds: which results differ beyond noise?"),
    "schedulers": ("schedulers", "Measure samplers at several numbers of steps: quality and time."),
    "guidance": ("guidance", "Measure guidance scales: prompts kept, saturation and artefacts."),
    "timesteps": ("timesteps", "Measure at which timesteps an adapter acts."),
    "blocks": ("blocks", "Measure which blocks of the network an adapter acts through."),
    "safety": (
        "safety",
        "A safety policy: show it, train its classifier, measure its layers, check its log.",
    ),
    "overfit": ("overfit", "Train ten steps on one picture: does this installation learn at all?"),
    "labs": ("labs", "Open lessons as notebooks, run them, and check your answers."),
    "serve": ("serve", "Serve adapters over HTTP: many in one batch, with jobs that survive a kill."),
    "cost": ("cost", "Say what a served picture costs, from measured work and your own prices."),
    "pocket": ("pocket", "Draw pictures of the embedded bases' world, or measure a base again."),
}


class LazyGroup(click.Group):
    """A group that imports a command's module only when the command is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(f"detour.cli.{COMMANDS[cmd_name][0]}")
        command: click.Command = module.command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, line) in COMMANDS.items()])

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in COMMANDS and not args[0].startswith("-"):
            from detour.errors import nearest

            ctx.fail(f"no command '{args[0]}'.{nearest(args[0], list(COMMANDS))}")
        return super().resolve_command(ctx, args)


@click.group(
    cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110}
)
@click.version_option(__version__, prog_name="detour")
def cli() -> None:
    """Fine-tune Stable Diffusion class models with LoRA, and prove that it worked.

    Start with `detour demo`; then `detour train photos/ --base stable-diffusion-v1-5/stable-diffusion-v1-5`.
    """


def run(arguments: list[str] | None = None) -> None:
    """Entry point: expected errors become one line on stderr and their exit code."""
    from detour.cli.streams import lasting_streams

    with suppress(ValueError):  # not in the main thread: whoever calls has handlers of their own
        signal.signal(signal.SIGINT, _interrupted)
    with lasting_streams():
        code = _code_of(list(sys.argv[1:] if arguments is None else arguments))
    sys.exit(code)


def _code_of(given: list[str]) -> int:
    from detour.errors import DetourError, Interrupted
    from detour.printing import printable

    try:
        # ``obj``: what --processes starts again
        code = cli.main(args=given, prog_name="detour", standalone_mode=False, obj=given)
    except click.exceptions.Exit as stop:
        code = stop.exit_code
    except click.ClickException as error:
        error.show()
        code = error.exit_code
    except (click.Abort, KeyboardInterrupt):
        click.echo("stopped.", err=True)
        code = 130
    except Interrupted as stop:  # the run stopped as it was asked to, which is no error
        click.echo(str(stop), err=True)
        code = stop.exit_code
    except DetourError as error:
        click.echo(f"{error.label}: " + printable(str(error), keep="\n"), err=True)
        code = error.exit_code
    return code if isinstance(code, int) else 0


def _interrupted(number: int, frame: FrameType | None) -> None:
    """Ctrl-C while modules are imported ends at once: libraries answer an interrupt there with errors of their own."""
    looked_at = frame
    while looked_at is not None:
        if looked_at.f_code.co_filename.startswith("<frozen importlib"):
            with suppress(OSError):
                os.write(2, b"stopped.\n")
            os._exit(130)
        looked_at = looked_at.f_back
    signal.default_int_handler(number, frame)


if __name__ == "__main__":
    run()
