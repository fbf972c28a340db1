"""The operator's price file: dated prices of machines and alternatives. This project brings none."""

from __future__ import annotations

from datetime import date
from pathlib import Path
from typing import Annotated

from pydantic import Field

from detour.errors import ConfigError
from detour.specs.sources import parse, read_toml
from detour.specs.strict import NonNegative, Positive, PositiveInt, Spec

DAYS_A_MONTH = 365.25 / 12

TEMPLATE = """\
# Prices for 'detour cost'. All of them are yours to fill in: take them from your contract or a price list, with the day
# on which you looked them up. All are in one currency, and cost is never converted.
currency = ""                # for example "EUR"

[machine]                    # what the server runs on
name = ""
per_hour =                   # rent; or purchase spread over its life, with power and room
date =                       # year-month-day, without quotes

# [training]                 # what one adapter costs before its first picture
# per_adapter =              # data, people, trial runs; the machine time of --run folders is added to it
# pictures_per_adapter =     # accepted pictures over which it is spread
# date =

# [[hosted]]                 # an interface that draws for you; repeat for each
# name = ""
# per_picture =              # or: per_megapixel =
# per_training = 0.0         # what it takes for training one adapter
# date =

# [[other]]                  # how the picture was had before: stock, a freelancer, a photo shoot; repeat for each
# name = ""
# per_picture =
# date =
"""


class _Dated(Spec):
    date: date
    """Day on which the price was looked up."""


class MachinePrice(_Dated):
    """Price of the machine that draws."""

    name: Annotated[str, Field(min_length=1, max_length=200)]
    """What it is called."""
    per_hour: Positive
    """Price of an hour, whether it draws or waits."""


class TrainingPrice(_Dated):
    """What one adapter costs before its first picture."""

    per_adapter: NonNegative = 0.0
    """Data, people and trial runs of one adapter."""
    pictures_per_adapter: PositiveInt
    """Accepted pictures over which the training is spread."""


class HostedPrice(_Dated):
    """Price of an interface that draws for money."""

    name: Annotated[str, Field(min_length=1, max_length=200)]
    """What it is called."""
    per_picture: Positive | None = None
    """Price of one picture, of whatever size."""
    per_megapixel: Positive | None = None
    """Price of 1,000,000 pixels."""
    per_training: NonNegative = 0.0
    """Price of training one adapter there."""

    def price_of(self, width_px: int, height_px: int) -> float:
        """Price of one picture of a size."""
        if self.per_picture is not None:
            return self.per_picture
        assert self.per_megapixel is not None
        return self.per_megapixel * width_px * height_px / 1e6


class OtherPrice(_Dated):
    """Price of a picture that nobody draws: stock, a freelancer, a photo shoot."""

    name: Annotated[str, Field(min_length=1, max_length=200)]
    """What it is called."""
    per_picture: Positive
    """Price of one picture."""


class Prices(Spec):
    """All prices of one operator, in one currency."""

    currency: Annotated[str, Field(min_length=1, max_length=20)]
    """Currency of every price in the file."""
    machine: MachinePrice
    training: TrainingPrice | None = None
    hosted: tuple[HostedPrice, ...] = ()
    other: tuple[OtherPrice, ...] = ()

    def dated(self) -> list[tuple[str, date]]:
        """Each price by its name, with its day."""
        found = [(f"machine '{self.machine.name}'", self.machine.date)]
        if self.training is not None:
            found.append(("training", self.training.date))
        found += [(f"hosted '{one.name}'", one.date) for one in self.hosted]
        return found + [(f"other '{one.name}'", one.date) for one in self.other]

    def old(self, today: date, *, months: float) -> list[str]:
        """One sentence for each price that is older than so many months, or dated after today.

        Args:
            today: the day it is.
            months: of 365.25 / 12 days.
        """
        found = []
        for name, day in self.dated():
            age = (today - day).days / DAYS_A_MONTH
            if age > months:
                found.append(f"price of {name} is {age:.0f} months old ({day}). Look it up again.")
            elif day > today:
                found.append(f"price of {name} is dated {day}, which is after today. Correct the date.")
        return found


def read_prices(path: Path) -> Prices:
    """Read a price file.

    Raises:
        ConfigError: it cannot be read, a price is missing or out of range, or a hosted price is given twice.
    """
    try:
        values = read_toml(path)
    except ConfigError as error:
        if path.is_file() and "not valid TOML" in str(error):
            raise ConfigError(
                f"{error} Fill in every line of the template that has nothing after '=', or delete it."
            ) from error
        raise
    prices = parse(Prices, values, where=str(path))
    for one in prices.hosted:
        if (one.per_picture is None) == (one.per_megapixel is None):
            raise ConfigError(
                f"{path}: hosted '{one.name}' needs one of per_picture and per_megapixel. Give exactly one."
            )
    return prices
