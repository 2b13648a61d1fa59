"""Networks extended by a pair of appliances: frames between two sites' real switches."""

from tests.integration.hcx.ne.stage import Stage, reaches, silent


async def test_a_network_is_one_over_both_sites_and_apart_from_the_other_one(stage: Stage) -> None:
    red_a = await stage.a.guest("ra", "10.50.0.1", "red")
    await stage.b.guest("rb", "10.50.0.2", "red")
    blue_a = await stage.a.guest("ba", "10.50.0.3", "blue")
    await stage.b.guest("bb", "10.50.0.4", "blue")

    assert await reaches(red_a, "10.50.0.2")
    assert await reaches(blue_a, "10.50.0.4")
    assert await silent(red_a, "10.50.0.4")
    assert await silent(blue_a, "10.50.0.2")
