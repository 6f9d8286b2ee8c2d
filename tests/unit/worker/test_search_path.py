"""The order in which a worker looks for modules."""

from __future__ import annotations

import pytest

from zray.worker.process.search_path import merged_search_path

LIBRARY = "/python/lib"


@pytest.mark.parametrize(
    "job, own, merged",
    [
        # The same installation: the driver's entries before and behind the library stay there.
        (["/script", LIBRARY, "/site", "/added"], [LIBRARY, "/site"], ["/script", LIBRARY, "/site", "/added"]),
        (["/script", LIBRARY, "/site"], [LIBRARY, "/zray", "/site"], ["/script", LIBRARY, "/site", "/zray"]),
        # Another installation: the driver's library is not this worker's.
        (["/script", "/other/lib"], [LIBRARY, "/site"], ["/script", "/other/lib", LIBRARY, "/site"]),
        (["/script", "/site"], [LIBRARY, "/site"], ["/script", LIBRARY, "/site"]),
        ([], [LIBRARY, "/site"], [LIBRARY, "/site"]),
        (["/twice", "/twice", LIBRARY], [LIBRARY], ["/twice", LIBRARY]),
    ],
)
def test_order(job: list[str], own: list[str], merged: list[str]) -> None:
    assert merged_search_path(job, own, LIBRARY) == merged
