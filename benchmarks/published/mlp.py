"""Perceptrons: AutoTrainer's Blob and Circle, exclusive or, digits."""

from __future__ import annotations

import copy
import functools

import torch
from planted.training import Training
from torch import nn
from torch.nn import functional as F  # noqa: N812 - torch's own name for it

from published.material import (
    Exponential,
    blobs,
    changed,
    circles,
    digits,
    drawn,
    exclusive_or,
    fault,
    he,
    mlp,
    weights,
)

bce = F.binary_cross_entropy_with_logits
ce = F.cross_entropy


def binary(model: nn.Module, draw: object = None, **more: object) -> Training:
    """A training on rings."""
    return Training("mlp", "binary", model, draw or circles(), bce, **more)  # type: ignore[arg-type]


def classifier(model: nn.Module, draw: object = None, **more: object) -> Training:
    """A training on digits."""
    return Training("mlp", "classify", model, draw or digits(), ce, **more)  # type: ignore[arg-type]


@fault("AutoTrainer Circle model_0ae2cd88", "exponential-overflow",
       "exploding-gradient", "init-gain-too-large", "diverging-loss", "learning-rate-too-high",
       "non-finite-value", "depth-without-skip", "vanishing-gradient",
       "collapsed-signal")  # fmt: skip
def exponential_stack(sick: bool) -> Training:
    """Eight dense layers whose activation is the exponential."""
    net = mlp([2, *[8] * 8, 1], Exponential if sick else nn.Tanh)
    return binary(drawn(net, he if sick else nn.init.xavier_uniform_), rate=1e-2)


@fault("AutoTrainer Circle model_5ab0aeda", "attenuating-activation", "uncentred-activation",
       "init-gain-too-small", "depth-without-skip", "vanishing-gradient")  # fmt: skip
def sigmoid_stack(sick: bool) -> Training:
    """Eleven sigmoid layers with He's initialisation."""
    net = mlp([2, *[12] * 11, 1], nn.Sigmoid) if sick else mlp([2, 12, 12, 12, 1], nn.ReLU)
    return binary(drawn(net, he), rate=1e-2)


@fault("AutoTrainer Circle model_8de47bdc", "init-gain-too-small", "vanishing-gradient",
       "depth-without-skip")  # fmt: skip
def small_uniform(sick: bool) -> Training:
    """Rectified layers drawn uniformly from -0.05 to 0.05, as Keras's RandomUniform does."""
    narrow = functools.partial(nn.init.uniform_, a=-0.05, b=0.05)
    return binary(drawn(mlp([2, *[12] * 8, 1]), narrow if sick else he), rate=3e-3)


@fault("AutoTrainer Circle model_8e28bdef", "depth-without-skip", "dead-relu",
       "init-gain-too-small", "init-gain-too-large", "collapsed-signal",
       "vanishing-gradient")  # fmt: skip
def thin_and_deep(sick: bool) -> Training:
    """Sixteen rectified layers of five units: signals die on the way."""
    return binary(drawn(mlp([2, *[5] * (16 if sick else 3), 1]), he), rate=1e-2)


@fault("AutoTrainer Blob, oscillating loss; DeepFD seeding (rate 1 to 10)",
       "learning-rate-too-high", "oscillating-loss", "diverging-loss", "dead-relu",
       "update-norm-spike")  # fmt: skip
def rate_of_ten(sick: bool) -> Training:
    """Gradient descent with a rate of ten."""
    net = mlp([2, 16, 16, 3])
    return classifier(net, blobs(), optimizer_name="SGD", rate=10.0 if sick else 0.1)


@fault("DeepFD seeding (rate 1e-10)", "learning-rate-too-low")
def rate_of_nothing(sick: bool) -> Training:
    """Adam with a rate of 1e-10."""
    return classifier(mlp([2, 16, 16, 3]), blobs(), rate=1e-10 if sick else 3e-3)


@fault("SO 31556268", "learning-rate-too-low", "attenuating-activation", "loss-unfit-for-target",
       "init-gain-too-small")  # fmt: skip
def xor_by_absolute_error(sick: bool) -> Training:
    """Exclusive or by four sigmoids and the absolute error, at a rate of 0.05."""
    if not sick:
        return binary(mlp([2, 16, 1], nn.Tanh), exclusive_or(), rate=3e-2)
    t = binary(mlp([2, 4, 1], nn.Sigmoid, nn.Sigmoid()), exclusive_or(), optimizer_name="momentum")
    t.rate, t.loss_fn = 0.05, F.l1_loss
    return t


@fault("SO 42516484", "zero-initialisation", "symmetric-initialisation")
def xor_from_zero(sick: bool) -> Training:
    """Exclusive or, all weights zero."""
    net = mlp([2, 16, 1], nn.Tanh)
    return binary(drawn(net, nn.init.zeros_) if sick else net, exclusive_or(), rate=3e-2)


@fault("SO 48027263", "symmetric-initialisation")
def all_alike(sick: bool) -> Training:
    """Digits, all weights of a layer the same number."""
    net = mlp([196, 32, 32, 10])
    return classifier(drawn(net, lambda w: nn.init.constant_(w, 0.01)) if sick else net)


@fault("SO 59129802", "one-unit-softmax")
def softmax_of_one_unit(sick: bool) -> Training:
    """A softmax over the only output: always one."""
    end = nn.Softmax(dim=1) if sick else nn.Sigmoid()
    t = binary(mlp([2, 16, 16, 1], nn.ReLU, end), rate=1e-2)
    t.loss_fn = F.binary_cross_entropy
    return t


@fault("discuss.pytorch.org/t/43814; SO 50485506", "doubled-softmax")
def softmax_before_cross_entropy(sick: bool) -> Training:
    """A softmax layer before a loss that has one."""
    end = nn.Softmax(dim=1) if sick else None
    return classifier(mlp([196, 32, 32, 10], nn.ReLU, end), optimizer_name="SGD", rate=0.1)


@fault("SO 39714374; SO 50485506", "unscaled-input", "learning-rate-too-high")
def pixels_to_255(sick: bool) -> Training:
    """Digits as bytes, gradient descent."""
    draw = changed(digits(), lambda x, y: (60 * x + 60, y)) if sick else digits()
    return classifier(mlp([196, 64, 32, 10]), draw, optimizer_name="SGD", rate=0.05)


@fault("SO 40147568", "init-gain-too-large", "saturated-activation", "learning-rate-too-high")
def standard_normal_weights(sick: bool) -> Training:
    """Weights from N(0, 1), as ``random_normal`` gives them."""
    net = mlp([196, 64, 64, 10])
    return classifier(drawn(net, nn.init.normal_) if sick else net, optimizer_name="SGD", rate=0.05)


@fault("facebookresearch/dlrm#358", "dead-relu")
def negative_bias(sick: bool) -> Training:
    """One layer's bias so negative that its rectifier never opens."""
    net = mlp([196, 32, 32, 32, 10])
    if sick:
        nn.init.constant_(weights(net)[1].bias, -20.0)  # type: ignore[arg-type]
    return classifier(net)


@fault("SO 46639430", "learning-rate-too-high", "dead-relu", "diverging-loss", "oscillating-loss",
       "update-norm-spike")  # fmt: skip
def killed_rectifiers(sick: bool) -> Training:
    """Digits by gradient descent whose first steps close the rectifiers."""
    net = drawn(mlp([196, 64, 64, 64, 10]), he)
    return classifier(net, optimizer_name="momentum", rate=2.0 if sick else 0.02)


@fault("user-needs: dropout 0.99", "excessive-dropout")
def dropout_of_99(sick: bool) -> Training:
    """Digits, and dropout that leaves one unit in a hundred."""
    drop = 0.99 if sick else 0.1
    net = nn.Sequential(
        nn.Linear(196, 64), nn.ReLU(), nn.Dropout(drop),
        nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10),
    )  # fmt: skip
    return classifier(net)


@fault("microsoft/CNTK#476", "attenuating-activation", "uncentred-activation", "depth-without-skip",
       "init-gain-too-small", "vanishing-gradient")  # fmt: skip
def seven_sigmoids(sick: bool) -> Training:
    """Six sigmoid layers train, seven do not."""
    net = mlp([196, *[32] * 7, 10], nn.Sigmoid) if sick else mlp([196, 32, 32, 10])
    return classifier(net, optimizer_name="momentum", rate=0.05)


@fault("BVLC/caffe#2051", "init-gain-too-small", "vanishing-gradient", "depth-without-skip")
def hundredth_normal(sick: bool) -> Training:
    """N(0, 0.01) in each of five layers: the loss stays at ln 10."""
    net = mlp([196, *[32] * 5, 10])
    small = functools.partial(nn.init.normal_, std=0.01)
    return classifier(drawn(net, small if sick else he), optimizer_name="momentum", rate=0.03)


@fault("AmazingDD/daisyRec#15; merlin#1175", "doubled-sigmoid")
def sigmoid_before_logits_loss(sick: bool) -> Training:
    """A sigmoid layer before a loss on logits."""
    return binary(mlp([2, 16, 16, 1], nn.ReLU, nn.Sigmoid() if sick else None), rate=1e-2)


@fault("SO 39817949", "unscaled-input", "saturated-activation")
def sigmoids_on_raw_features(sick: bool) -> Training:
    """Features of some hundreds into sigmoids."""
    draw = changed(circles(), lambda x, y: (300 * x + 400, y)) if sick else circles()
    return binary(mlp([2, 24, 24, 1], nn.Tanh), draw, rate=1e-2)


@fault("BVLC/caffe#1396", "weight-collapse", "collapsed-signal")
def decay_of_a_half(sick: bool) -> Training:
    """Weight decay of 0.5 where 0.0005 was meant: any input, the same output."""
    t = classifier(mlp([196, 32, 32, 10]), optimizer_name="momentum", rate=0.05)
    t.options["weight_decay"] = 0.5 if sick else 5e-4
    return t


@fault("fastai/fastai#2133", "stale-optimizer", "parameters-without-optimizer")
def layers_after_the_optimizer(sick: bool) -> Training:
    """The first two layers replaced after the optimizer was built."""
    net = mlp([196, 32, 32, 10])
    t = classifier(net)
    if sick:
        old = list(net.parameters())
        for number in (0, 2):
            net[number] = copy.deepcopy(net[number])
            net[number].reset_parameters()  # type: ignore[operator]
            nn.init.normal_(net[number].weight, std=1e-3)  # type: ignore[arg-type]
        t.held = lambda model: old
    return t


@fault("SO 64998875", "bounded-logits", "rectified-output", "dead-relu")
def rectified_classes(sick: bool) -> Training:
    """An activation layer too many: a ReLU behind the logits."""
    net = mlp([196, 32, 32, 10], nn.ReLU, nn.ReLU() if sick else None)
    return classifier(net, optimizer_name="SGD", rate=0.1)


@fault("karpathy/nn-zero-to-hero, makemore part 3", "saturated-activation", "init-gain-too-large")
def tanh_at_its_ends(sick: bool) -> Training:
    """Tanh layers drawn so wide that all outputs are one or minus one."""
    net = mlp([196, 32, 32, 32, 10], nn.Tanh)
    wide = functools.partial(nn.init.normal_, std=1.5)
    return classifier(drawn(net, wide, last=False) if sick else net, rate=1e-3)


@fault("karpathy/nn-zero-to-hero, makemore part 3", "init-gain-too-large")
def first_loss_of_27(sick: bool) -> Training:
    """An output layer from N(0, 1): the first loss is far above chance."""
    net = mlp([196, 64, 10])
    if sick:
        nn.init.normal_(weights(net)[-1].weight, std=8.0)  # type: ignore[arg-type]
    return classifier(net, rate=1e-3)


@fault("SO 53138899", "depth-without-skip", "init-gain-too-large", "saturated-activation",
       "learning-rate-too-high", "exploding-gradient")  # fmt: skip
def no_activations(sick: bool) -> Training:
    """Ten layers without an activation, drawn from N(0, 0.5): numbers explode."""
    net = mlp([2, *[16] * 6, 3], nn.Identity if sick else nn.ReLU)
    large = functools.partial(nn.init.normal_, std=1.0)
    if not sick:
        drawn(net, he)
    return classifier(drawn(net, large) if sick else net, blobs(), optimizer_name="SGD", rate=0.05)


@fault("pytorch/pytorch#4741", "evaluation-mode-in-training")
def left_in_evaluation(sick: bool) -> Training:
    """``model.eval()`` before the loop, with batch norm that has seen nothing."""
    net = nn.Sequential(
        nn.Linear(196, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 32), nn.BatchNorm1d(32),
        nn.ReLU(), nn.Linear(32, 10),
    )  # fmt: skip
    with torch.no_grad():
        for layer in weights(net):
            layer.weight.mul_(0.1)  # type: ignore[operator]
    return classifier(net.eval() if sick else net, optimizer_name="SGD", rate=0.05)
