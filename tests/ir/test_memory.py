"""The order of values in memory never changes a value or a gradient."""

import torch

from irverify.ir.ops.memory import (
    LAST,
    channels_last,
    descending,
    is_last,
    planes_last,
    reshaped,
    settled,
    stored_as,
    taken,
)


def test_channels_go_last_in_memory_and_nowhere_else() -> None:
    x = torch.arange(48.0).reshape(2, 4, 3, 2)
    found = channels_last(x)
    assert found.stride() == (24, 1, 8, 4) and torch.equal(found, x)
    assert descending(found) == [0, 2, 3, 1]
    assert channels_last(x.double()).is_contiguous()
    assert channels_last(x.flatten(2)).is_contiguous()


def test_one_channel_is_moved_without_a_copy() -> None:
    x = torch.rand(2, 1, 3, 3)
    found = channels_last(x)
    assert found.data_ptr() == x.data_ptr() and found.stride() == (9, 1, 3, 1) and torch.equal(found, x)


def test_convolutions_of_training_keep_channels_last() -> None:
    layer = torch.nn.Conv2d(1, 4, 3)
    assert layer(channels_last(torch.rand(2, 1, 5, 5))).stride() == (36, 1, 12, 4)


def test_a_reshape_gives_its_gradient_in_the_order_of_its_operand() -> None:
    x = channels_last(torch.rand(2, 3, 4, 5)).requires_grad_()
    weight = torch.rand(60)
    strides = []
    x.register_hook(lambda gradient: strides.append(gradient.stride()))
    y = reshaped(x, (60,))
    assert torch.equal(y, x.reshape(2, 60))
    (y @ weight).sum().backward()
    assert x.grad is not None and torch.equal(x.grad, weight.reshape(1, 3, 4, 5).expand(2, 3, 4, 5))
    assert strides == [x.stride()]


def test_a_reshape_is_differentiated_by_torch_func() -> None:
    x, weight = channels_last(torch.rand(2, 3, 4, 5)), torch.rand(60)
    found = torch.func.grad(lambda x: (reshaped(x, (60,)) @ weight).sum())(x)
    assert torch.equal(found, weight.reshape(1, 3, 4, 5).expand(2, 3, 4, 5))


def test_a_reshape_has_second_derivatives() -> None:
    x = channels_last(torch.rand(1, 2, 2, 2)).requires_grad_()
    (first,) = torch.autograd.grad((reshaped(x, (8,)) ** 3).sum(), x, create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), x)
    torch.testing.assert_close(second, 6 * x.detach())


def test_stored_as_changes_the_order_alone() -> None:
    x = torch.rand(2, 3, 4, 5)
    like = channels_last(torch.empty(2, 3, 4, 5))
    found = stored_as(like, x)
    assert found.stride() == like.stride() and torch.equal(found, x)
    assert stored_as(x, x) is x


def test_planes_of_any_number_of_axes_before() -> None:
    x = torch.rand(2, 3, 4, 5)
    for leading in (x, x[0], x.unsqueeze(0)):
        assert torch.equal(planes_last(leading), leading)
        assert planes_last(leading).movedim(-3, -1).is_contiguous()
    assert planes_last(x.half()).is_contiguous()
    assert planes_last(x.double()).is_contiguous() == (torch.float64 not in LAST)
    assert planes_last(x[0, 0]) is not None


def test_rows_settle_in_one_order() -> None:
    x = torch.rand(2, 3, 4, 5)
    assert is_last(settled(x))
    assert is_last(settled(x.permute(0, 1, 3, 2)))
    assert is_last(settled(x.double())) == (torch.float64 in LAST)
    for other in (x.half().permute(0, 1, 3, 2), x.flatten(2).transpose(1, 2)):
        assert settled(other).is_contiguous()
        assert not is_last(settled(other))
    assert not is_last(torch.rand(2, 1, 4, 5))


def test_entries_taken_are_stored_as_before() -> None:
    x = channels_last(torch.rand(4, 3, 4, 5))
    index = torch.tensor([3, 0])
    assert is_last(taken(x, index))
    assert torch.equal(taken(x, index), x[index])
    assert torch.equal(taken(x.contiguous(), index), x[index])
