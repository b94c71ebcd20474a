"""The work of examples/step.rs in PyTorch: reads lines, answers each with the milliseconds of one step.

`torch_step.py CASE THREADS`; the first line of its answers is the work of one step as JSON: [[flops, bytes], ...] of each
convolution and matrix product, forward and backward, counted as it ran.
"""
import json
import math
import pathlib
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "tests/golden"))

import torch
import torch.nn.functional as F
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

import timm
import torchvision

from description_networks import Autoencoder
from description_networks import Small as PatchDescription
from patch_networks import PatchSvdd
from reverse_networks import Reverse
from stl_networks import Ptfem, SelfCalibrated, Stl, Tem
from torch_networks import LeNet, Vgg19, WideResNet


class Work(TorchDispatchMode):
    """Arithmetic, and bytes of operands and results, of what PyTorch counts FLOPs of."""

    def __init__(self):
        super().__init__()
        self.ops = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func._overloadpacket not in flop_registry:
            with self:  # in inference mode, whole layers arrive here
                out = func.decompose(*args, **kwargs)
            return func(*args, **kwargs) if out is NotImplemented else out
        out = func(*args, **kwargs)
        flops = flop_registry[func._overloadpacket](*args, **kwargs, out_val=out)
        tensors = [leaf for leaf in tree_leaves((args, out)) if isinstance(leaf, torch.Tensor)]
        self.ops.append([flops, sum(tensor.numel() * tensor.element_size() for tensor in tensors)])
        return out


def train(network):
    def prepare(images):
        net, labels = network().train(), torch.arange(len(images)) % 10
        optimizer = torch.optim.SGD(net.parameters(), lr=0.01, momentum=0.9, weight_decay=5e-4)

        def step():
            optimizer.zero_grad(set_to_none=True)
            F.cross_entropy(net(images)[0], labels).backward()
            optimizer.step()

        return step

    return prepare


def evaluate(network):
    def prepare(images):
        net = network().eval()

        @torch.inference_mode()
        def step():
            net(images)

        return step

    return prepare


def resnet_stages(network, count):
    def prepare(images):
        net = network().train()
        stem = torch.nn.Sequential(net.conv1, net.bn1, net.relu, net.maxpool)
        layers = [net.layer1, net.layer2, net.layer3, net.layer4][:count]

        def step():
            net.zero_grad(set_to_none=True)
            x, loss = stem(images), 0.0
            for layer in layers:
                x = layer(x)
                loss = loss + x.square().mean()
            loss.backward()

        return step

    return prepare


def piece(layer, *shapes):
    """Forward through a layer and backward to its inputs, from the mean square of its result."""

    def prepare(images):
        images.requires_grad_()
        weights = [(torch.rand(*shape) * 2 - 1).requires_grad_() for shape in shapes]

        def step():
            images.grad = None
            for weight in weights:
                weight.grad = None
            layer(images, *weights).square().mean().backward()

        return step

    return prepare


def block(channels):
    def layer(x, scale, shift, weight, bias):
        return F.conv2d(F.silu(F.group_norm(x, 8, scale, shift)), weight, bias, padding=1)

    return piece(layer, [channels], [channels], [channels, channels, 3, 3], [channels])


def attention(channels):
    """As diffusion models write it: two products and a softmax."""

    def layer(x, weight_in, bias_in, weight_out, bias_out):
        q, k, v = F.conv2d(x, weight_in, bias_in).flatten(2).chunk(3, dim=1)
        similarity = torch.bmm(q.transpose(1, 2), k) * channels**-0.5
        mixed = torch.bmm(v, similarity.softmax(-1).transpose(1, 2))
        return F.conv2d(mixed.reshape(x.shape), weight_out, bias_out)

    return piece(layer, [3 * channels, channels, 1, 1], [3 * channels], [channels, channels, 1, 1], [channels])


def part(network):
    """Of the fusion network: forward and backward to its input and parameters."""

    def prepare(images):
        net = network().train()
        images.requires_grad_()

        def step():
            images.grad = None
            net.zero_grad(set_to_none=True)
            net(images).square().mean().backward()

        return step

    return prepare


def parts(width):
    scales = (1, 2, 4, 8)
    return {
        f"tem{width}": (part(lambda: Tem(width, 128, "official")), 32, width, 32),
        f"ptfem{width}": (part(lambda: Ptfem(width, scales, 8, "official")), 32, 2 * width, 32),
        f"ptfem{width}_8": (part(lambda: Ptfem(width, (8,), 8, "official")), 32, 2 * width, 32),
        f"stl{width}": (part(lambda: Stl(width, width)), 32, width, 32),
        f"sc{width}": (part(lambda: SelfCalibrated(width, width)), 32, width, 32),
    }


class Fusion(torch.nn.Module):
    """The fusion network of src/models/fusion.rs on a frozen EfficientNet-Lite0."""

    def __init__(self, width):
        super().__init__()
        self.trunk = timm.create_model("tf_efficientnet_lite0", features_only=True, out_indices=(1, 2, 3))
        one, two, three = self.trunk.feature_info.channels()
        self.standard = torch.nn.ModuleList(torch.nn.BatchNorm2d(c, affine=False) for c in (one, two, three))
        self.stl, self.sc = Stl(one + two, width), SelfCalibrated(three, width)
        self.fuse = torch.nn.Conv2d(3 * width + width, width, 1)
        self.score = torch.nn.Conv2d(width, 1, 1)
        self.trunk.requires_grad_(False)

    def train(self, mode=True):
        super().train(mode)
        self.trunk.eval()
        return self

    def forward(self, images):
        with torch.no_grad():
            one, two, three = self.trunk(images)
            one = F.avg_pool2d(one, 2)
        low = torch.cat([self.standard[0](one), self.standard[1](two)], 1)
        high = self.sc(self.standard[2](three))
        high = F.interpolate(high, low.shape[2:], mode="bilinear", align_corners=False)
        embedding = self.fuse(torch.cat([self.stl(low), high], 1))
        return embedding, self.score(embedding).squeeze(1)


def hypersphere(embedding, scores, anomalous):
    a, marked = (embedding.square().sum(1) + 1).sqrt() - 1, anomalous.bool()
    return a[~marked].mean() / 2 - torch.log(-torch.expm1(-(a[marked] + 1e-6))).mean() / 2


def score_margin(embedding, scores, anomalous):
    normal = 1 - anomalous
    usual = (scores * normal).sum((1, 2), keepdim=True) / normal.sum((1, 2), keepdim=True)
    below = (F.relu(scores - 2.5) * normal).sum() / normal.sum()
    return below + (F.relu(5 - (scores - usual)) * anomalous).sum() / anomalous.sum()


def consistency(embedding, scores, anomalous):
    features = F.avg_pool2d(embedding, 4).flatten(2).transpose(1, 2)
    values = F.avg_pool2d(scores[:, None], 4).flatten(2).transpose(1, 2)
    normal = F.avg_pool2d(anomalous[:, None], 4).flatten(1) == 0
    others = torch.zeros_like(normal, dtype=torch.float).masked_fill(~normal, -1e9)[:, None]
    apart = lambda x: ((x[:, :, None] - x[:, None]).square().sum(-1) + 1e-8).sqrt()
    by_features = F.log_softmax(torch.cdist(features, features) + others, -1)
    by_scores = F.log_softmax(apart(values) + others, -1)
    rows = (by_scores.exp() * (by_scores - by_features)).sum(-1)
    return ((rows * normal).sum(1) / normal.sum(1).clamp(min=1)).mean()


def fusion(width):
    def prepare(images):
        net = Fusion(width).train()
        learned = [parameter for parameter in net.parameters() if parameter.requires_grad]
        optimizer = torch.optim.SGD(learned, lr=0.01, momentum=0.9, weight_decay=3e-5)
        anomalous = torch.zeros(len(images), 32, 32)
        anomalous[len(images) // 2 :, 8:16, 8:16] = 1

        def step():
            optimizer.zero_grad(set_to_none=True)
            shown = net(images)
            sum(term(*shown, anomalous) for term in (hypersphere, score_margin, consistency)).backward()
            optimizer.step()

        return step

    return prepare


def rd(images):
    """Reverse distillation of src/models/reverse_distillation.rs on a frozen EfficientNet-Lite0."""
    teacher = timm.create_model("tf_efficientnet_lite0", features_only=True, out_indices=(1, 2, 3)).eval()
    student = Reverse(teacher.feature_info.channels(), [2, 2, 2, 2], 0).train()
    optimizer = torch.optim.Adam(student.parameters(), lr=0.005, betas=(0.5, 0.999))

    def step():
        optimizer.zero_grad(set_to_none=True)
        with torch.no_grad():
            stages = teacher(images)
        made = student(stages)
        pairs = zip(stages, made)
        sum((1 - F.cosine_similarity(one.flatten(1), other.flatten(1))).mean() for one, other in pairs).backward()
        optimizer.step()

    return step


def patch_svdd(images):
    """Patch SVDD of src/models/patch_svdd: of each image two pairs of patches of each size."""
    network = PatchSvdd().train()
    optimizer = torch.optim.Adam(network.parameters(), lr=0.0001)
    generator = torch.Generator().manual_seed(0)
    ahead = [(y, x) for y in (-1, 0, 1) for x in (-1, 0, 1) if (y, x) != (0, 0)]

    def cut(corners, side):
        return torch.stack([image[:, y:y + side, x:x + side] for image, (y, x) in zip(images, corners)])

    def pairs(side, far):
        """Two corners of each image, and the direction between them."""
        room = images.shape[2] - side
        first, second, directions = [], [], torch.randint(8, (len(images),), generator=generator)
        for direction in directions:
            corner = torch.randint(room + 1, (2,), generator=generator)
            away = 3 * side // 4 + torch.randint(side // 4, (2,), generator=generator) if far else side // 32
            other = (corner + torch.tensor(ahead[direction]) * away).clamp(0, room)
            first.append(corner.tolist())
            second.append(other.tolist())
        return first, second, directions

    def step():
        optimizer.zero_grad(set_to_none=True)
        loss = 0
        for side, embed, classify in [(64, network.large, network.cls_large), (32, network.small, network.cls_small)]:
            first, second, directions = pairs(side, True)
            noisy = lambda patches: patches + 0.1 * torch.randn(len(patches), 3, 1, 1) + 0.1 * torch.randn_like(patches)
            logits = classify(embed(noisy(cut(first, side))), embed(noisy(cut(second, side))))
            one, other, _ = pairs(side, False)
            near = embed(cut(one, side)) - embed(cut(other, side))
            loss = loss + F.cross_entropy(logits, directions) + near.norm(dim=1).mean()
        loss.backward()
        optimizer.step()

    return step


def efficient_ad(images):
    """EfficientAD-S with a random teacher, without dropout, whose masks are no work."""
    teacher, student = PatchDescription(128, 384, False).eval(), PatchDescription(128, 768, False)
    autoencoder = Autoencoder(64, 384, [256, 256], 5, [56, 56])
    learned = [*student.parameters(), *autoencoder.parameters()]
    optimizer = torch.optim.AdamW(learned, lr=0.0001, weight_decay=0.00001)

    def step():
        optimizer.zero_grad(set_to_none=True)
        with torch.no_grad():
            taught = teacher(images)
        local, overall = student(images).chunk(2, 1)
        made = autoencoder(images)
        apart = (taught - local).square()
        hard = apart[apart >= torch.quantile(apart, 0.999)].mean()
        (hard + (taught - made).square().mean() + (made - overall).square().mean()).backward()
        optimizer.step()

    return step


class Unet(torch.nn.Module):
    """The network of configs/networks/fashion_diffood.yaml in diffusers; without classes, each image is of none."""

    def __init__(self):
        from diffusers import UNet2DModel  # not above: the memory of every other case would include it

        super().__init__()
        self.net = UNet2DModel(
            sample_size=14,
            in_channels=4,
            out_channels=4,
            block_out_channels=(24, 48),
            layers_per_block=1,
            down_block_types=("DownBlock2D", "AttnDownBlock2D"),
            up_block_types=("AttnUpBlock2D", "UpBlock2D"),
            attention_head_dim=None,
            downsample_padding=0,
            flip_sin_to_cos=False,
            freq_shift=1,
            norm_eps=1e-6,
            norm_num_groups=8,
            num_class_embeds=11,
        )
        # As oodkit divides them; diffusers has one number of groups for all.
        for module in self.net.modules():
            if isinstance(module, torch.nn.GroupNorm):
                module.num_groups = math.gcd(module.num_channels, 32)

    def forward(self, images, times=500, classes=None):
        if classes is None:
            classes = torch.full((len(images),), 10)
        return F.pixel_shuffle(self.net(F.pixel_unshuffle(images, 2), times, classes).sample, 2)


def unet(images):
    """A step of src/models/diffusion.rs with the recipe of configs/train/diffusion_two_cores.yaml."""
    net, labels = Unet().train(), torch.arange(len(images)) % 10
    optimizer = torch.optim.AdamW(net.parameters(), lr=0.001, weight_decay=0)
    average = AveragedModel(net, multi_avg_fn=get_ema_multi_avg_fn(0.999))
    left = torch.cos((torch.arange(1001) / 1000 + 0.008) / 1.008 * math.pi / 2).square()
    kept = (left[1:] / left[:-1]).clamp(min=0.001).cumprod(0).reshape(-1, 1, 1, 1)
    signal, share = kept.sqrt(), (1 - kept).sqrt()

    def step():
        optimizer.zero_grad(set_to_none=True)
        half = torch.randint(1000, (len(images) // 2,))
        times, noise = torch.cat([half, 999 - half]), torch.randn_like(images)
        classes = labels.masked_fill(torch.rand(len(images)) < 0.1, 10)
        F.mse_loss(net(signal[times] * images + share[times] * noise, times, classes), noise).backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1)
        optimizer.step()
        average.update_parameters(net)

    return step


CASES = {
    "lenet": (train(lambda: LeNet(1, 10, 256)), 128, 1, 28),
    "wrn40_2": (train(lambda: WideResNet(40, 2, 3, 10, 0.3)), 64, 3, 32),
    "wrn40_2_eval": (evaluate(lambda: WideResNet(40, 2, 3, 10, 0.3)), 128, 3, 32),
    "wrn28_10_eval": (evaluate(lambda: WideResNet(28, 10, 3, 10, 0.3)), 8, 3, 32),
    "vgg19": (train(lambda: Vgg19(3, 10, True)), 64, 3, 32),
    "resnet50_stages": (resnet_stages(torchvision.models.resnet50, 3), 4, 3, 256),
    "efficientnet_eval": (evaluate(lambda: timm.create_model("tf_efficientnet_lite0", num_classes=10)), 16, 3, 224),
    "convnext_tiny": (evaluate(lambda: timm.create_model("convnext_tiny", num_classes=10)), 8, 3, 224),
    "regnety_16gf": (evaluate(lambda: timm.create_model("regnety_160", num_classes=10)), 4, 3, 224),
    "swin_tiny": (evaluate(lambda: timm.create_model("swin_tiny_patch4_window7_224", num_classes=10)), 8, 3, 224),
    "vit_s16": (evaluate(lambda: timm.create_model("vit_small_patch16_224", num_classes=10)), 8, 3, 224),
    "dinov2_s14": (evaluate(lambda: timm.create_model("vit_small_patch14_dinov2", num_classes=10, dynamic_img_size=True)), 1, 3, 448),
    "unet": (unet, 64, 1, 28),
    "unet_eval": (evaluate(Unet), 64, 1, 28),
    "unet_block32": (block(32), 64, 32, 32),
    "unet_block64": (block(64), 64, 64, 16),
    "unet_block128": (block(128), 64, 128, 8),
    "attention49": (attention(64), 64, 64, 7),
    "attention256": (attention(64), 64, 64, 16),
    **parts(64),
    **parts(256),
    "fusion64": (fusion(64), 32, 3, 256),
    "rd": (rd, 16, 3, 256),
    "efficient_ad": (efficient_ad, 4, 3, 256),
    "patch_svdd": (patch_svdd, 8, 3, 256),
}


def main():
    torch.set_num_threads(int(sys.argv[2]))
    torch.manual_seed(0)
    prepare, batch, channels, side = CASES[sys.argv[1]]
    step = prepare(torch.rand(batch, channels, side, side) * 2 - 1)
    with Work() as work:
        step()
    print(json.dumps(work.ops), flush=True)
    for _ in sys.stdin:
        started = time.perf_counter()
        step()
        print((time.perf_counter() - started) * 1e3, flush=True)


main()
