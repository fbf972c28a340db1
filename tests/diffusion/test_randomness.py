import torch

from detour.diffusion.randomness import chance_for, derive, noise_for, order_for_epoch, timestep_for


def test_derived_seed_is_the_same_on_every_machine() -> None:
    # A changed value would make every published run impossible to repeat.
    assert derive(0, "noise", 3, 5) == 7852807039475564168


def test_names_do_not_run_into_each_other() -> None:
    seeds = {
        derive(0, "a", 1),
        derive(0, "a1"),
        derive(0, "a", "1"),
        derive(0, "a", 1, ""),
        derive(1, "a", 1),
    }
    assert len(seeds) == 5
    assert all(0 <= seed < 1 << 63 for seed in seeds)


def test_noise_depends_on_seed_step_sample_and_purpose_only() -> None:
    first = noise_for(0, 3, 5, (4, 8, 8))
    torch.manual_seed(99)
    torch.randn(7)
    assert torch.equal(first, noise_for(0, 3, 5, (4, 8, 8)))
    for other in (
        noise_for(1, 3, 5, (4, 8, 8)),
        noise_for(0, 4, 5, (4, 8, 8)),
        noise_for(0, 3, 6, (4, 8, 8)),
    ):
        assert not torch.equal(first, other)


def test_noises_of_different_purposes_are_independent() -> None:
    noises = torch.stack(
        [noise_for(0, 3, 5, (50_000,), purpose=p) for p in ("noise", "latent", "perturbation", "overfit")]
    )
    others = torch.corrcoef(noises)[~torch.eye(4, dtype=torch.bool)]
    assert float(others.abs().max()) < 0.02  # 4.5 standard errors


def test_global_generator_is_left_alone() -> None:
    before = torch.get_rng_state()
    noise_for(0, 1, 2, (4,))
    order_for_epoch(0, 1, 10)
    assert torch.equal(before, torch.get_rng_state())


def test_timesteps_cover_the_schedule_evenly() -> None:
    drawn = torch.tensor([timestep_for(0, step, 0) for step in range(4000)])
    assert int(drawn.min()) >= 0
    assert int(drawn.max()) < 1000
    counts = torch.bincount(drawn // 100, minlength=10)
    assert int(counts.min()) > 300
    assert int(counts.max()) < 500


def test_chance_is_even() -> None:
    drawn = [chance_for(0, step, 1, purpose="flip") for step in range(2000)]
    assert min(drawn) >= 0
    assert max(drawn) < 1
    assert 0.45 < sum(c < 0.5 for c in drawn) / 2000 < 0.55


def test_each_epoch_shows_everything_once_in_its_own_order() -> None:
    first, second = order_for_epoch(0, 0, 50), order_for_epoch(0, 1, 50)
    assert sorted(first.tolist()) == list(range(50))
    assert not torch.equal(first, second)
    assert torch.equal(first, order_for_epoch(0, 0, 50))
