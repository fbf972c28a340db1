"""Requests made from the server's own OpenAPI: whatever comes, there is no 5xx and no traceback."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from detour.generation.engine import PictureEngine
from tests.serving.conftest import Served, serving

LIMITS = {"max_steps": 2, "max_pictures": 2, "max_pixels": 64 * 64}


@pytest.fixture(scope="module")
def fuzzed(
    engine: PictureEngine, shelf_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Served]:
    with serving(engine, shelf_folder, tmp_path_factory.mktemp("fuzz"), limits=LIMITS) as running:
        yield running


def calls(served: Served) -> list[st.SearchStrategy[Any]]:
    """One strategy of requests for each operation, valid ones and others."""
    schema = schemathesis.openapi.from_dict(served.http.get("/openapi.json").json())
    operations = [result.ok() for result in schema.get_all_operations()]
    assert len(operations) > 20
    modes = (schemathesis.GenerationMode.POSITIVE, schemathesis.GenerationMode.NEGATIVE)
    return [one.as_strategy(generation_mode=mode) for one in operations for mode in modes]


def send(served: Served, case: Any) -> None:
    request = case.as_transport_kwargs(base_url="http://localhost")
    request.pop("cookies", None)
    headers = {
        k: v
        for k, v in dict(request.pop("headers", None) or {}).items()
        if k.lower() not in ("host", "origin")
    }
    try:
        made = served.http.build_request(
            request.pop("method"), request.pop("url"), headers=headers, **request
        )
        made.read()
    except (UnicodeEncodeError, ValueError, TypeError, AttributeError):  # the client itself cannot write it
        return
    try:
        answer = served.http.send(made)
    except (UnicodeEncodeError, ValueError, TypeError):  # nor send it
        return
    told = f"{case.method} {case.formatted_path} {case.body!r} → {answer.status_code} {answer.text[:300]}"
    assert answer.status_code < 500, told
    assert "Traceback" not in answer.text, told


def fuzz(served: Served, num: int) -> None:
    for strategy in calls(served):

        @settings(
            max_examples=num,
            deadline=None,
            database=None,
            derandomize=True,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @given(case=strategy)
        def ask(case: Any) -> None:
            send(served, case)

        try:
            ask()
        except Exception as error:
            if type(error).__name__ in ("Unsatisfiable", "SkipTest"):
                continue
            raise


def test_no_request_made_from_the_schema_is_answered_with_a_server_error(fuzzed: Served) -> None:
    fuzz(fuzzed, 1)
    assert fuzzed.http.get("/healthz").status_code == 200


@pytest.mark.slow
def test_none_of_many_requests_made_from_the_schema_is_answered_with_a_server_error(fuzzed: Served) -> None:
    fuzz(fuzzed, 100)
