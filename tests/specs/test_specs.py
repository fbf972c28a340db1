import contextlib
import tomllib
import typing
from pathlib import Path
from typing import Any

import pytest
from annotated_types import Le
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

from detour.errors import ConfigError
from detour.specs import GenerateSpec, PictureSpec, RunSpec, load_run_spec, parse_assignments, to_toml
from detour.specs.sources import parse, set_dotted

ALL_SPECS = [RunSpec, GenerateSpec, PictureSpec]


def refused(words: str, **sources: Any) -> None:
    with pytest.raises(ConfigError, match=words) as caught:
        load_run_spec(**sources)
    assert "\n" not in str(caught.value)


def test_later_sources_win(tmp_path: Path) -> None:
    config = tmp_path / "run.toml"
    config.write_text('name = "a"\nseed = 1\n[train]\nsteps = 10\nbatch = 2\n[train.optim]\nlr = 1e-3\n')
    run = load_run_spec(
        config=config,
        flags={"train.steps": 20, "train.batch": 4, "name": None},
        assignments=["train.batch=8", "train.optim.lr=5e-5"],
    )
    assert (run.name, run.seed, run.train.steps, run.train.batch, run.train.optim.lr) == ("a", 1, 20, 8, 5e-5)


def test_specs_are_frozen_and_compare_by_value() -> None:
    with pytest.raises(ValueError, match="frozen"):
        RunSpec().seed = 1  # type: ignore[misc]
    assert RunSpec() == RunSpec()
    assert hash(RunSpec()) == hash(RunSpec())


@pytest.mark.parametrize(
    ("assignment", "words"),
    [
        ("train.step=1", r"unknown key 'train.step'. Did you mean 'train.steps'\?"),
        ("train.optim.learning_rate=1", "unknown key 'train.optim.learning_rate'"),
        ("lr=1", r"unknown key 'lr'. Did you mean 'train.optim.lr'\?"),
        ("trian.steps=1", r"unknown key 'trian'. Did you mean 'train'\?"),
        ("train.steps=-1", "'train.steps' is -1, but it"),
        ("train.steps=1.5", "'train.steps' is 1.5"),
        ('train.steps="many"', "'train.steps' is 'many'"),
        ("train.steps=true", "'train.steps' is True"),
        (
            "adapter.init=best",
            "'adapter.init' is 'best', but it should be 'gaussian', 'kaiming', 'pissa' or 'olora'",
        ),
        ("adapter.dropout=1.0", "'adapter.dropout' is 1.0"),
        ("train.optim.lr=nan", "'train.optim.lr' is nan"),
        ("train.optim.lr=inf", "'train.optim.lr' is inf"),
        ("data.flip=yes", "'data.flip' is 'yes'"),
        ("train=5", "'train' is 5"),
        ("seed.x=5", "seed"),
        ("steps", "expected section.key=value"),
    ],
)
def test_wrong_settings_are_one_line_that_names_the_key(assignment: str, words: str) -> None:
    refused(words, assignments=[assignment])


def test_section_path_through_a_value_is_refused() -> None:
    values: dict[str, Any] = {"seed": 1}
    with pytest.raises(ConfigError, match="'seed' is a value, not a section"):
        set_dotted(values, "seed.x", 1)


def test_settings_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    refused("gone.toml: cannot be read", config=tmp_path / "gone.toml")
    (tmp_path / "a.toml").write_text("x = [")
    refused("a.toml: not valid TOML", config=tmp_path / "a.toml")
    (tmp_path / "b.toml").write_bytes(b"x = '\xff'")
    refused("b.toml: not UTF-8 text", config=tmp_path / "b.toml")
    (tmp_path / "c.toml").write_text("[train]\nstep = 1\n")
    refused(r"c.toml: unknown key 'train.step'. Did you mean 'train.steps'\?", config=tmp_path / "c.toml")
    (tmp_path / "d.toml").write_bytes(b"#" * (2 << 20))
    refused("larger than 1,024 KiB", config=tmp_path / "d.toml")


def test_a_byte_order_mark_is_no_part_of_the_settings(tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_text("seed = 7\n", encoding="utf-8-sig")
    assert load_run_spec(config=tmp_path / "a.toml").seed == 7


def test_text_that_is_not_utf8_is_refused_by_its_key() -> None:
    refused(
        r"data.folders.source = 'caf\\udce9': not UTF-8", flags={"data.folders": [{"source": "caf\udce9"}]}
    )


def test_assignment_is_toml_where_it_is_and_text_where_not() -> None:
    found = parse_assignments(
        ["a=1", "b=1e-4", "c=true", 'd="x"', "e=plain words", "f=[1, 2]", "g=a=b", "h="]
    )
    assert found == {
        "a": 1, "b": 1e-4, "c": True, "d": "x", "e": "plain words", "f": [1, 2], "g": "a=b", "h": ""
    }  # fmt: skip


def test_assignment_cannot_smuggle_in_a_second_key() -> None:
    assert parse_assignments(["a=1\nb = 2"]) == {"a": "1\nb = 2"}


def test_every_setting_says_what_it_is() -> None:
    """``detour train --help`` and the reference are made of these."""
    for kind in ALL_SPECS:
        assert not [key for key, field in fields_of(kind) if not field.description and not is_section(field)]


def fields_of(kind: type[BaseModel]) -> list[tuple[str, Any]]:
    found = []
    for name, field in kind.model_fields.items():
        found.append((f"{kind.__name__}.{name}", field))
        if is_section(field):
            found += fields_of(field.annotation)  # type: ignore[arg-type]
    return found


def is_section(field: Any) -> bool:
    return isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel)


TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)


def strategy_of(field: Any) -> st.SearchStrategy[Any]:
    """Any value that the field's type allows, awkward ones first."""
    return _of(field.annotation, field.metadata)


def _of(annotation: Any, metadata: list[Any]) -> st.SearchStrategy[Any]:
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        return _of(arguments[0], list(arguments[1:]))
    if origin is typing.Literal:
        return st.sampled_from(arguments)
    if origin is tuple:
        return st.lists(_of(arguments[0], metadata), max_size=3).map(tuple)
    if origin is not None:
        return st.one_of([_of(argument, metadata) for argument in arguments])
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return spec_of(annotation)
    most = min([limit.le for limit in metadata if isinstance(limit, Le)], default=1024)
    return {
        bool: st.booleans(),
        str: TEXT,
        type(None): st.none(),
        int: st.sampled_from([number for number in (8, 16, 64, 1024) if number <= most]),
        float: st.sampled_from([0.1, 1e-7, 1e-5, 0.999, 0.25, 0.3333333333333333]),
    }[annotation]


def spec_of(kind: type[BaseModel]) -> st.SearchStrategy[Any]:
    fields = {(field.alias or name): strategy_of(field) for name, field in kind.model_fields.items()}
    return st.fixed_dictionaries({}, optional=fields).map(lambda values: _dumped(kind, values))


def _dumped(kind: type[BaseModel], values: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if value is not None}


@settings(max_examples=80, deadline=None, derandomize=True)
@given(spec_of(RunSpec))
def test_a_run_written_as_toml_is_the_same_run(values: dict[str, Any]) -> None:
    run = parse(RunSpec, values)
    text = to_toml(run)
    assert parse(RunSpec, tomllib.loads(text)) == run
    assert to_toml(parse(RunSpec, tomllib.loads(text))) == text


@settings(max_examples=100, deadline=None, derandomize=True)
@given(TEXT | st.text(max_size=12))
def test_any_text_survives_toml(text: str) -> None:
    try:
        run = parse(RunSpec, {"data": {"trigger": text}})
        written = to_toml(run)
    except ConfigError:
        return
    assert tomllib.loads(written)["data"]["trigger"] == text


@settings(max_examples=100, deadline=None, derandomize=True)
@given(st.dictionaries(TEXT, st.integers() | TEXT | st.lists(st.integers()), max_size=3))
def test_any_table_gives_a_run_or_a_config_error(values: dict[str, Any]) -> None:
    with contextlib.suppress(ConfigError):
        assert isinstance(parse(RunSpec, values), RunSpec)


def test_folders_are_tables_of_the_file_and_read_back_equal(tmp_path: Path) -> None:
    file = tmp_path / "run.toml"
    file.write_text(
        '[data]\ntrigger = "sks"\n[[data.folders]]\nsource = "dog"\nrepeats = 3\n'
        '[[data.folders]]\nsource = "dogs"\nrole = "class"\nweight = 0.5\n'
    )
    spec = load_run_spec(config=file)
    assert [(f.source, f.role, f.repeats, f.weight) for f in spec.data.folders] == [
        ("dog", "train", 3, 1.0),
        ("dogs", "class", None, 0.5),
    ]
    file.write_text(to_toml(spec))
    assert load_run_spec(config=file) == spec
    assert load_run_spec(assignments=['data.folders=[{source="dog"}]']).data.folders[0].source == "dog"


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("sorce = 'x'", r"unknown key 'data\.folders\.0\.sorce'\. Did you mean 'data\.folders\.source'"),
        ("repeats = 0", r"'data\.folders\.0\.repeats' is 0, but it should be greater than 0"),
        ("role = 'klass'", r"'data\.folders\.0\.role' is 'klass', but it should be 'train' or 'class'"),
    ],
)
def test_a_wrong_key_of_a_folder_is_named_with_its_place(tmp_path: Path, line: str, words: str) -> None:
    file = tmp_path / "run.toml"
    file.write_text(f"[[data.folders]]\n{line}\n")
    with pytest.raises(ConfigError, match=words):
        load_run_spec(config=file)
