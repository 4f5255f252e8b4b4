import torch

from cdinfer.models import Classifier, CResNet, ResNet


def test_latents_of_any_size_become_logits() -> None:
    net = Classifier(CResNet(8, 8, width=0.25), num_classes=7).eval()
    for size in [(1, 1), (5, 3), (8, 6)]:
        assert net(torch.rand(2, 8, *size)).shape == (2, 7)


def test_images_of_any_size_become_logits() -> None:
    net = Classifier(ResNet(width=0.25), num_classes=7).eval()
    for size in [(1, 1), (33, 17), (64, 48)]:
        assert net(torch.rand(2, 3, *size)).shape == (2, 7)


def test_logits_are_linear_in_the_mean_of_the_features() -> None:
    net = Classifier(CResNet(8, 8, width=0.25), num_classes=7).eval()
    y = torch.rand(2, 8, 12, 9)
    pooled = torch.nn.functional.adaptive_avg_pool2d(net.trunk(y), 1).flatten(1)
    torch.testing.assert_close(net(y), pooled @ net.fc.weight.T + net.fc.bias)


def test_the_head_learns() -> None:
    net = Classifier(CResNet(8, 8, width=0.25), num_classes=7)
    loss = torch.nn.functional.cross_entropy(net(torch.rand(2, 8, 7, 5)), torch.tensor([3, 5]))
    loss.backward()
    assert net.fc.weight.grad.any()
    assert net.fc.bias.grad.any()
