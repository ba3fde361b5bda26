"""Functions whose derivatives are written by hand, right and wrong."""

import torch


def by_hand(value, slope):
    """A function that believes what its author wrote of its derivative."""

    class Made(torch.autograd.Function):
        generate_vmap_rule = True

        @staticmethod
        def forward(x):
            return value(x)

        @staticmethod
        def setup_context(ctx, inputs, output):
            ctx.save_for_backward(inputs[0])

        @staticmethod
        def backward(ctx, gradient):
            return slope(ctx.saved_tensors[0]) * gradient

    return Made.apply


class Square(torch.autograd.Function):
    """A square, all of whose derivatives are right."""

    @staticmethod
    def forward(x):
        return x * x

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(inputs[0])

    @staticmethod
    def backward(ctx, gradient):
        return 2 * ctx.saved_tensors[0] * gradient


class SquareOnce(Square):
    """Under torch.func its decorator does not raise: the derivative of its result is left out."""

    backward = staticmethod(torch.autograd.function.once_differentiable(Square.backward))


class Forgetful(Square):
    """A square whose first derivative is right and whose second is left out."""

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(inputs[0].detach())
