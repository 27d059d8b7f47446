"""Biclustering and Tucker-2, in every array library."""

import numpy as np
import pytest

from cnncompress.solvers.biclustering import (
    bicluster,
    blocks_of,
    from_blocks,
    tucker2,
    tucker_energies,
)

SHAPES = [(2, 6, 9, 8), (3, 12, 1, 5), (1, 9, 2, 4), (2, 20, 2, 3), (2, 3, 2, 20), (1, 1, 4, 1), (2, 4, 1, 4)]


def planted(rng, *, inputs=2, outputs=3, rows=6, columns=4, positions=9, noise=0.0):
    """A shuffled weight all of whose blocks have rank one, and which group each channel belongs to."""
    of_input = rng.permutation(np.repeat(np.arange(inputs), rows))
    of_output = rng.permutation(np.repeat(np.arange(outputs), columns))
    scales = rng.standard_normal(len(of_input)), rng.standard_normal(len(of_output))
    cores = rng.standard_normal((inputs, outputs, positions))
    # an input's scale depends on its group of outputs only through the core, so that its rows are collinear
    weight = np.einsum("c,f,cfp->cpf", *scales, cores[of_input][:, of_output])
    return weight + noise * rng.standard_normal(weight.shape), of_input, of_output


def same_partition(a, b):
    return np.array_equal(a[:, None] == a[None, :], b[:, None] == b[None, :])


def relative_error(tensors, found):
    return float(np.sum((np.asarray(found.dense()) - tensors) ** 2) / np.sum(tensors**2))


@pytest.mark.parametrize("groups", [(1, 1), (2, 3), (6, 1), (1, 12), (6, 12)])
def test_blocks_and_back_is_the_identity(to_xp, rng, groups):
    inputs, outputs = groups
    tensor = rng.standard_normal((6, 5, 12))
    orders = rng.permutation(6), rng.permutation(12)
    blocks = blocks_of(to_xp(tensor), *orders, inputs=inputs, outputs=outputs)
    assert blocks.shape == (inputs * outputs, 6 // inputs, 5, 12 // outputs)
    back = from_blocks(blocks, *orders, inputs=inputs, outputs=outputs)
    assert np.array_equal(np.asarray(back), tensor)
    assert type(back) is type(blocks) is type(to_xp(tensor))


def test_a_block_holds_what_its_groups_say(rng):
    tensor = rng.standard_normal((6, 5, 12))
    rows, columns = rng.permutation(6), rng.permutation(12)
    blocks = blocks_of(tensor, rows, columns, inputs=2, outputs=3)
    for g, members in enumerate(rows.reshape(2, 3)):
        for h, outputs in enumerate(columns.reshape(3, 4)):
            assert np.array_equal(blocks[g * 3 + h], tensor[members][:, :, outputs])


@pytest.mark.parametrize("noise", [0.0, 1e-3])
def test_planted_groups_are_recovered(to_xp, rng, noise):
    weight, of_input, of_output = planted(rng, noise=noise)
    found = bicluster(to_xp(weight), inputs=2, outputs=3)
    assert same_partition(found.inputs.labels, of_input)
    assert same_partition(found.outputs.labels, of_output)
    blocks = blocks_of(to_xp(weight), found.inputs.order, found.outputs.order, inputs=2, outputs=3)
    assert relative_error(np.asarray(blocks), tucker2(blocks, input_rank=1, output_rank=1)) < 1e-20 + noise


def test_inputs_and_outputs_are_grouped_independently(rng):
    weight = rng.standard_normal((12, 9, 8))
    alone, both = (bicluster(weight, inputs=3, outputs=h) for h in (1, 4))
    assert alone.inputs.labels.tolist() == both.inputs.labels.tolist()
    assert np.bincount(both.outputs.labels).tolist() == [2, 2, 2, 2]


@pytest.mark.parametrize("noise", [0.0, 0.1, 0.5])
@pytest.mark.parametrize("baseline", ["random", "ordered"])
def test_clusters_beat_the_baselines(noise, baseline):
    errors = []
    for seed in range(5):
        weight = planted(np.random.default_rng(seed), noise=noise)[0]
        loss = []
        for grouping in ("clustered", baseline):
            found = bicluster(weight, inputs=2, outputs=3, grouping=grouping, seed=100 + seed)
            blocks = blocks_of(weight, found.inputs.order, found.outputs.order, inputs=2, outputs=3)
            error = relative_error(blocks, tucker2(blocks, input_rank=1, output_rank=1))
            loss.append((error, found.inputs.objective, found.outputs.objective))
        assert all(a < b for a, b in zip(*loss, strict=True))
        errors.append(loss[1][0])
    assert min(errors) > 0.05


def test_baselines_are_what_they_say(rng):
    weight = rng.standard_normal((12, 9, 8))
    ordered = bicluster(weight, inputs=3, outputs=2, grouping="ordered")
    assert ordered.inputs.order.tolist() == list(range(12))
    assert ordered.outputs.labels.tolist() == [0, 0, 0, 0, 1, 1, 1, 1]
    first, again, other = (
        bicluster(weight, inputs=3, outputs=2, grouping="random", seed=s).inputs.labels.tolist()
        for s in (1, 1, 2)
    )
    assert first == again != other


def test_groups_are_deterministic_and_the_same_in_every_library(to_xp, rng):
    weight = rng.standard_normal((12, 9, 8))
    found, again = (bicluster(w, inputs=3, outputs=4, seed=2) for w in (weight, to_xp(weight)))
    assert found.inputs.labels.tolist() == again.inputs.labels.tolist()
    assert found.outputs.labels.tolist() == again.outputs.labels.tolist()


def test_dead_channels_are_grouped_like_any_others(to_xp, rng):
    weight = rng.standard_normal((12, 9, 8))
    weight[:5], weight[:, :, 2] = 0, 0
    found = bicluster(to_xp(weight), inputs=3, outputs=4)
    assert np.bincount(found.inputs.labels).tolist() == [4, 4, 4]
    blocks = blocks_of(to_xp(weight), found.inputs.order, found.outputs.order, inputs=3, outputs=4)
    assert relative_error(np.asarray(blocks), tucker2(blocks, input_rank=4, output_rank=2, sweeps=2)) < 1e-20


@pytest.mark.parametrize("shape", SHAPES)
def test_exact_at_full_ranks(to_xp, rng, shape):
    tensors = rng.standard_normal(shape)
    # singular values over many orders: a careless Gram matrix would lose the small ones
    tensors *= np.geomspace(1, 1e-9, shape[1])[:, None, None] * np.geomspace(1, 1e-3, shape[3])
    _, channels, positions, filters = shape
    input_rank = min(channels, positions * filters)
    output_rank = min(positions * input_rank, filters)
    for sweeps in (0, 2):
        found = tucker2(to_xp(tensors), input_rank=input_rank, output_rank=output_rank, sweeps=sweeps)
        assert found.core.shape == (shape[0], input_rank, positions, output_rank)
        assert found.history[-1] < 1e-20
        assert relative_error(tensors, found) < 1e-20


@pytest.mark.parametrize("shape", SHAPES)
def test_factors_are_orthonormal_at_every_rank(to_xp, rng, shape):
    _, channels, positions, filters = shape
    for input_rank in range(1, min(channels, positions * filters) + 1):
        for output_rank in {1, min(positions * input_rank, filters)}:
            found = tucker2(
                to_xp(rng.standard_normal(shape)), input_rank=input_rank, output_rank=output_rank, sweeps=2
            )
            for factor in (np.asarray(found.inputs), np.asarray(found.outputs)):
                gram = factor.transpose(0, 2, 1) @ factor
                np.testing.assert_allclose(
                    gram, np.broadcast_to(np.eye(gram.shape[1]), gram.shape), atol=1e-12
                )


@pytest.mark.parametrize("shape", [(2, 6, 9, 8), (1, 9, 2, 4), (2, 20, 2, 3), (2, 3, 2, 20)])
def test_the_error_is_within_the_discarded_energy(to_xp, rng, shape):
    tensors = rng.standard_normal(shape)
    by_inputs, by_outputs = (np.asarray(e) for e in tucker_energies(to_xp(tensors)))
    for input_rank in range(1, len(by_inputs) + 1):
        for output_rank in range(1, min(shape[2] * input_rank, shape[3]) + 1):
            found = tucker2(to_xp(tensors), input_rank=input_rank, output_rank=output_rank)
            discarded = by_inputs[input_rank:].sum(), by_outputs[output_rank:].sum()
            lost = found.history[0] * np.sum(tensors**2)
            assert max(discarded) - 1e-9 <= lost <= sum(discarded) + 1e-9
            np.testing.assert_allclose(
                found.history[0], relative_error(tensors, found), rtol=1e-10, atol=1e-20
            )


@pytest.mark.parametrize("shape", [(2, 6, 9, 8), (1, 20, 2, 6), (2, 8, 1, 8)])
def test_sweeps_lower_the_error(to_xp, rng, shape):
    tensors = rng.standard_normal(shape)
    lengths = []
    for ranks in ((2, 2), (4, 3), (5, 1)):
        found = tucker2(
            to_xp(tensors), input_rank=ranks[0], output_rank=min(ranks[1], shape[2] * ranks[0]), sweeps=8
        )
        assert np.all(np.diff(found.history) < 0)
        np.testing.assert_allclose(found.history[-1], relative_error(tensors, found), rtol=1e-10)
        lengths.append(len(found.history))
    # with one position the start is a truncated singular value decomposition, which nothing improves
    assert max(lengths) > 3 or shape[2] == 1


def test_one_tensor_does_not_depend_on_the_others(rng):
    tensors = rng.standard_normal((3, 6, 9, 8))
    together = tucker2(tensors, input_rank=2, output_rank=3, sweeps=1).dense()
    alone = [tucker2(tensors[i : i + 1], input_rank=2, output_rank=3, sweeps=1).dense()[0] for i in range(3)]
    np.testing.assert_allclose(together, alone, atol=1e-12)


def test_a_planted_core_is_recovered(to_xp, rng):
    factors = rng.standard_normal((2, 10, 3)), rng.standard_normal((2, 8, 2))
    tensors = np.einsum("bck,bkpl,bfl->bcpf", factors[0], rng.standard_normal((2, 3, 9, 2)), factors[1])
    assert relative_error(tensors, tucker2(to_xp(tensors), input_rank=3, output_rank=2)) < 1e-20
    assert relative_error(tensors, tucker2(to_xp(tensors), input_rank=2, output_rank=2)) > 1e-4


@pytest.mark.parametrize("shape", SHAPES)
def test_energies_are_those_of_both_unfoldings(to_xp, rng, shape):
    tensors = rng.standard_normal(shape)
    batch, channels, _, filters = shape
    unfolded = tensors.reshape(batch, channels, -1), tensors.reshape(batch, -1, filters)
    for energies, matrices in zip(tucker_energies(to_xp(tensors.astype(np.float32))), unfolded, strict=True):
        host = np.asarray(energies)
        assert host.dtype == np.float64
        assert np.all(np.diff(host) <= 0)
        expected = np.sum(np.linalg.svd(matrices, compute_uv=False) ** 2, axis=0)
        np.testing.assert_allclose(host, expected, rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(host.sum(), np.sum(tensors**2), rtol=1e-6)


def test_nothing_is_lost_of_nothing(to_xp):
    found = tucker2(to_xp(np.zeros((2, 4, 9, 3))), input_rank=2, output_rank=2, sweeps=2)
    assert found.history == (0.0,)
    assert np.all(np.asarray(found.dense()) == 0)
    assert all(np.all(np.asarray(e) == 0) for e in tucker_energies(to_xp(np.zeros((2, 4, 9, 3)))))


@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_library_and_dtype_are_kept(to_xp, rng, kind):
    given = to_xp(rng.standard_normal((2, 4, 9, 3)).astype(kind))
    found = tucker2(given, input_rank=2, output_rank=2, sweeps=1)
    for part in (found.inputs, found.core, found.outputs, found.dense()):
        assert type(part) is type(given)
        assert part.dtype == given.dtype


def test_unequal_groups_are_refused_with_the_valid_numbers(rng):
    weight = rng.standard_normal((6, 9, 8))
    orders = np.arange(6), np.arange(8)
    inputs = "inputs must divide the 6 input channels, got 4; valid: 1, 2, 3, 6$"
    outputs = "outputs must divide the 8 output channels, got 3; valid: 1, 2, 4, 8$"
    for grouping in ("clustered", "random", "ordered"):
        with pytest.raises(ValueError, match=inputs):
            bicluster(weight, inputs=4, outputs=2, grouping=grouping)
        with pytest.raises(ValueError, match=outputs):
            bicluster(weight, inputs=2, outputs=3, grouping=grouping)
    with pytest.raises(ValueError, match=inputs):
        blocks_of(weight, *orders, inputs=4, outputs=2)
    with pytest.raises(ValueError, match=outputs):
        blocks_of(weight, *orders, inputs=2, outputs=3)
    with pytest.raises(ValueError, match="grouping must be one of clustered, random, ordered, got 'sorted'"):
        bicluster(weight, inputs=2, outputs=2, grouping="sorted")
    with pytest.raises(ValueError, match="2 x 2 groups have 4 blocks, got 6"):
        from_blocks(rng.standard_normal((6, 3, 9, 2)), *orders, inputs=2, outputs=2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"input_rank": 0, "output_rank": 1}, "input_rank must be between 1 and 4, got 0"),
        ({"input_rank": 5, "output_rank": 1}, "input_rank must be between 1 and 4, got 5"),
        ({"input_rank": 1, "output_rank": 3}, "output_rank must be between 1 and 2, got 3"),
        ({"input_rank": 4, "output_rank": 6}, "output_rank must be between 1 and 5, got 6"),
        ({"input_rank": 4, "output_rank": 5, "sweeps": -1}, "sweeps must not be negative, got -1"),
    ],
)
def test_ranks_out_of_range_name_the_limit(options, message):
    with pytest.raises(ValueError, match=message):
        tucker2(np.ones((1, 4, 2, 5)), **options)
