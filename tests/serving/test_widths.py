"""Jobs that come at once get the width of all of them, although none of them is written yet."""

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from detour.serving.keys import LOCAL
from detour.serving.service import ClientRequest
from tests.serving.conftest import Served


def test_jobs_that_are_accepted_at_once_share_a_batch(served: Served) -> None:
    service, together = served.service, threading.Barrier(4)
    written = service.store.accept

    def accept_together(new: Any) -> Any:
        together.wait(30)
        return written(new)

    service.store.accept = accept_together  # type: ignore[method-assign]
    requests = [
        ClientRequest(prompts=("a cat",), seed=seed, steps=2, guidance_scale=4.0) for seed in range(4)
    ]
    with ThreadPoolExecutor(4) as clients:
        jobs = [job for job, _ in clients.map(lambda request: service.accept(LOCAL, request), requests)]
    assert sorted(job.request.width_class for job in jobs) == [2, 4, 8, 8]
    for job in jobs:
        assert served.done(job.id)["state"] == "done"
    service.store.accept = written  # type: ignore[method-assign]
    later, _ = service.accept(LOCAL, requests[0])
    assert later.request.width_class == 2
