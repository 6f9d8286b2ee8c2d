"""The names of a bundle's resources."""

from __future__ import annotations

from zray import bundles

GROUP = "ab" * bundles.GROUP_ID_BYTES


def test_work_in_any_bundle_and_in_one():
    assert bundles.asked({"CPU": 5}, GROUP, bundles.ANY) == {f"CPU_group_{GROUP}": 5, f"bundle_group_{GROUP}": 10}
    assert bundles.asked({"CPU": 5}, GROUP, 2) == {
        f"CPU_group_{GROUP}": 5, f"CPU_group_2_{GROUP}": 5,
        f"bundle_group_{GROUP}": 10, f"bundle_group_2_{GROUP}": 10,
    }  # fmt: skip


def test_what_is_asked_for_is_a_part_of_what_is_added():
    added = bundles.added({"CPU": 5, "x": 1}, GROUP, 0)
    for index in (bundles.ANY, 0):
        asked = bundles.asked({"CPU": 5, "x": 1}, GROUP, index)
        assert all(amount <= added[name] for name, amount in asked.items())


def test_plain_amounts():
    amounts = {"CPU": 5, "memory": 7, "odd_group_name": 1}
    for index in (bundles.ANY, 0, 12):
        asked = bundles.asked(amounts, GROUP, index)
        assert bundles.plain(asked) == amounts
        assert bundles.group_of(asked) == GROUP
    assert bundles.plain(bundles.asked({}, GROUP, 0)) == {}
    assert bundles.plain(amounts) == amounts
    assert bundles.group_of(amounts) == ""
    assert bundles.group_of(["bundle_group_x"]) == ""
