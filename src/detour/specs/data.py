"""Settings of the pictures and captions of a training run."""

from typing import Literal

from detour.specs.strict import Auto, Count, Positive, PositiveInt, Share, Spec

Role = Literal["train", "class"]


class FolderSpec(Spec):
    """One of several folders of pictures: ``[[data.folders]]``."""

    source: str = ""
    """A folder of pictures, or ``hub:ID``; the conventions of ``data.source``."""
    split: str = "train"
    """Which part of a hub data set."""
    recursive: bool = False
    """Read every folder below as well; on for all folders with ``data.recursive``."""
    role: Role = "train"
    """``class``: pictures of the kind that the subject belongs to, which keep the base's idea of it (prior
    preservation): every second sample is one of them, and they are never held out."""
    repeats: PositiveInt | None = None
    """How often each picture is shown in an epoch, in place of what kohya folder names say; only proportions count."""
    weight: Positive = 1.0
    """Factor on the loss of these pictures."""
    caption: str | None = None
    """Caption of the pictures that have none; unset, train folders take ``data.caption``."""
    trigger: str | None = None
    """Word put in front of these captions; unset, train folders take ``data.trigger`` and class folders none."""
    template: str | None = None
    """What these captions become; unset, train folders take ``data.template`` and class folders none."""


class DataSpec(Spec):
    """The pictures and captions of a run, and how they are shown."""

    source: str = ""
    """A folder of pictures with ``.txt`` sidecars, or ``hub:ID``."""
    folders: tuple[FolderSpec, ...] = ()
    """More folders, each with settings of its own; with ``source``, beside it."""
    recursive: bool = False
    """Read every folder below as well, each with its own captions; otherwise what is not read is named."""
    split: str = "train"
    """Which part of a hub data set, e.g. ``train[:100]``."""
    caption: str | None = None
    """Caption of the pictures that have none; without it a missing caption is an error."""
    trigger: str = ""
    """Word or phrase put in front of every caption that does not contain it."""
    template: str = ""
    """What every caption becomes, e.g. ``a photo of {trigger}, {caption}``; empty leaves it as it is."""
    shuffle_tags: bool = False
    """Show the comma-separated parts of a caption in another order each time."""
    keep_tags: Count = 0
    """How many first tags of a caption stay where they are when tags are shuffled."""
    shuffles: PositiveInt = 8
    """Orders of each caption that are encoded beforehand and taken in turns; more cost memory only."""
    resolution: PositiveInt | Auto = "auto"
    """Side of the square training picture in pixels; ``auto`` is the base's own."""
    buckets: bool = False
    """Keep each picture's shape: train it at the nearest of several sizes of equal area, in place of a square."""
    upscale: bool = False
    """Enlarge pictures that are smaller than their bucket, which they otherwise get a smaller one for."""
    crop: Literal["center", "random"] = "center"
    """Where a picture is cut that has another shape than what is trained on."""
    crops: PositiveInt = 4
    """Places of a random crop that are encoded for each picture and shown in turns."""
    mask: Literal["off", "alpha", "file"] = "off"
    """Which part of a picture counts: its alpha channel, or ``NAME.mask.png`` beside it or ``mask/NAME.png``."""
    mask_floor: Share = 0.0
    """Weight of what a mask leaves out; what it shows has 1."""
    flip: bool = True
    """Show each picture mirrored half of the time (a second cache entry)."""
    cache: Literal["memory", "disk"] = "memory"
    """Where encoded pictures and texts are kept: in memory for this run, or on disk for all runs, read when shown."""
    cache_folder: str = ""
    """Folder of the cache on disk; empty: ``encoded`` in ``$DETOUR_CACHE`` or ``detour`` in the user's cache folder."""
    cache_gib: Positive = 20.0
    """Bound of the cache on disk; what was used longest ago goes first, what a run reads stays."""
    holdout: Share | Auto = "auto"
    """Share of the pictures kept out for validation; ``auto``: one in eight, none below eight pictures."""
    skip_bad_images: bool = False
    """Leave unreadable pictures out instead of stopping."""
    max_megapixels: Positive = 100.0
    """Larger pictures are refused before they are decoded."""
    captions: Literal["own", "shuffled"] = "own"
    """``shuffled``: each picture is trained with another one's caption, as a control; those kept out keep theirs."""
    tag_table: bool = True
    """Write the frequency of the captions into the adapter's metadata."""

    def all_folders(self) -> tuple[FolderSpec, ...]:
        """``source`` and ``folders`` as one list in which nothing is left to inherit."""
        first = (FolderSpec(source=self.source, split=self.split),) if self.source else ()
        return tuple(self._complete(folder) for folder in (*first, *self.folders))

    def for_subject(self) -> "DataSpec":
        """Copy the settings for a subject, whose pictures need no captions where it has a trigger."""
        if not self.trigger or self.caption is not None:
            return self
        return self.model_copy(update={"caption": ""})

    def triggers(self) -> tuple[str, ...]:
        """The distinct triggers of the train folders, in their order."""
        found = [f.trigger for f in self.all_folders() if f.role == "train" and f.trigger]
        return tuple(dict.fromkeys(found)) or ((self.trigger,) if self.trigger else ())

    def _complete(self, folder: FolderSpec) -> FolderSpec:
        trains = folder.role == "train"
        return folder.model_copy(
            update={
                "recursive": self.recursive or folder.recursive,
                "caption": self.caption if folder.caption is None and trains else folder.caption,
                "trigger": (self.trigger if trains else "") if folder.trigger is None else folder.trigger,
                "template": (self.template if trains else "") if folder.template is None else folder.template,
            }
        )
