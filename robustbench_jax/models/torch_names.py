"""The names that published PyTorch versions of our architectures give to their layers.

resnet20 to 56: akamaster/pytorch_resnet_cifar10. preact_resnet18 and resnet18_cifar: kuangliu/pytorch-cifar.
wide_resnet: yaodongyu/TRADES. *_swish: google-deepmind/deepmind-research, adversarial_robustness. resnet18, resnet50:
torchvision. vit_small: timm. All but the first and the last two as in RobustBench (Croce et al., NeurIPS 2021 Datasets
and Benchmarks, arXiv:2010.09670). cnn and mlp: any names, layers in their order.
"""

from collections.abc import Iterable
from dataclasses import dataclass

LEAVES = {"kernel": "weight", "scale": "weight", "bias": "bias", "mean": "running_mean", "var": "running_var"}


@dataclass(frozen=True)
class Names:
    """How a published PyTorch architecture calls our modules; of several names the first that the file has.

    outside: modules beside the blocks, or whole arrays. block: a pattern of stage and index, stages from `first`.
    stages: the number of blocks in each; a number of equal stages otherwise. idle: prefixes of arrays that the
    published file holds and its network does not use. side: of the images that it is for.
    """

    outside: dict[str, tuple[str, ...]]
    block: str
    inside: dict[str, tuple[str, ...]]
    stages: int | tuple[int, ...]
    first: int = 1
    idle: tuple[str, ...] = ()
    side: int = 32

    def of(self, module: str, blocks: int) -> tuple[str, ...]:
        """The names that our module, e.g. blocks/3/conv1, may have in a file; blocks: how many there are."""
        if not module.startswith("blocks/"):
            return self.outside[module]
        _, number, inner = module.split("/", 2)
        stage, index = self._place(int(number), blocks)
        prefix = self.block.format(stage=stage + self.first, index=index)
        return tuple(f"{prefix}.{name}" for name in self.inside[inner])

    def _place(self, number: int, blocks: int) -> tuple[int, int]:
        sizes = self.stages if isinstance(self.stages, tuple) else (blocks // self.stages,) * self.stages
        for stage, size in enumerate(sizes):
            if number < size:
                return stage, number
            number -= size
        raise ValueError(f"block {number} of {sizes}")


PAIR = {"conv1": ("conv1",), "conv2": ("conv2",), "norm1": ("bn1",), "norm2": ("bn2",)}
CIFAR = Names({"stem": ("conv1",), "norm": ("bn1",), "head": ("linear", "fc")}, "layer{stage}.{index}", PAIR, 3)
PREACT = Names(
    {"stem": ("conv1",), "norm": ("bn", "norm"), "head": ("linear", "fc")},
    "layer{stage}.{index}",
    PAIR | {"shortcut": ("shortcut.0", "shortcut")},
    4,
)
WIDE = Names(
    {"stem": ("conv1",), "norm": ("bn1",), "head": ("fc",)},
    "block{stage}.layer.{index}",
    PAIR | {"shortcut": ("convShortcut", "shortcut")},
    3,
    idle=("sub_block1.",),  # a second first block, made by the reference and never called
)
DEEPMIND_WIDE = Names(
    {"stem": ("init_conv",), "norm": ("batchnorm",), "head": ("logits",)},
    "layer.{stage}.block.{index}",
    {
        "conv1": ("conv_0",),
        "conv2": ("conv_1",),
        "norm1": ("batchnorm_0",),
        "norm2": ("batchnorm_1",),
        "shortcut": ("shortcut",),
    },
    3,
    first=0,
)
DEEPMIND_PREACT = Names(
    {"stem": ("conv_2d",), "norm": ("batchnorm",), "head": ("logits",)},
    "layer_{stage}.{index}",
    {
        "conv1": ("conv_2d_1",),
        "conv2": ("conv_2d_2",),
        "norm1": ("batchnorm_0",),
        "norm2": ("batchnorm_1",),
        "shortcut": ("shortcut",),
    },
    4,
    first=0,
)


def _imagenet(stages: tuple[int, ...], side: int) -> Names:
    inside = {
        f"{ours}s/{i}": (f"{theirs}{i + 1}",) for ours, theirs in (("conv", "conv"), ("norm", "bn")) for i in range(3)
    }
    return Names(
        {"stem": ("conv1",), "norm": ("bn1",), "head": ("fc", "linear")},
        "layer{stage}.{index}",
        inside | {"shortcut": ("downsample.0", "shortcut.0"), "norm": ("downsample.1", "shortcut.1")},
        stages,
        side=side,
    )


VIT = Names(
    {
        "embed": ("patch_embed.proj",),
        "norm": ("norm",),
        "head": ("head",),
        "class_token": ("cls_token",),
        "position": ("pos_embed",),
    },
    "blocks.{index}",
    {
        "norm1": ("norm1",),
        "norm2": ("norm2",),
        "qkv": ("attn.qkv",),
        "out": ("attn.proj",),
        "wide": ("mlp.fc1",),
        "narrow": ("mlp.fc2",),
    },
    1,
    side=224,
)
NAMES = {
    **dict.fromkeys(("resnet20", "resnet32", "resnet44", "resnet56"), CIFAR),
    **dict.fromkeys(("preact_resnet18", "preact_resnet18_fast"), PREACT),
    "wide_resnet": WIDE,
    "wide_resnet_swish": DEEPMIND_WIDE,
    "preact_resnet18_swish": DEEPMIND_PREACT,
    "resnet18": _imagenet((2, 2, 2, 2), 224),
    "resnet50": _imagenet((3, 4, 6, 3), 224),
    "resnet18_cifar": _imagenet((2, 2, 2, 2), 32),
    "resnet50_cifar": _imagenet((3, 4, 6, 3), 32),
    "vit_small": VIT,
}
SEQUENTIAL = {
    **dict.fromkeys(("cnn", "cnn_a", "cnn_b", "ibp_small", "ibp_medium", "ibp_large"), ("convolutions", "dense")),
    "mlp": (None, "hidden"),
}


def published(architecture: str, ours: Iterable[str], there: Iterable[str]) -> dict[str, str]:
    """{our array: its name in the file}; of several possible names the first that is there."""
    names = NAMES[architecture]
    blocks = 1 + max((int(k.split("/")[1]) for k in ours if k.startswith("blocks/")), default=0)
    theirs = {}
    for name in ours:
        module, _, leaf = name.rpartition("/")
        tail = f".{LEAVES[leaf]}" if module else ""
        candidates = [f"{n}{tail}" for n in names.of(module or leaf, blocks)]
        theirs[name] = next((c for c in candidates if c in there), candidates[0])
    return theirs


def in_order(architecture: str, ours: Iterable[str], convolutions: list[str], dense: list[str]) -> dict[str, str]:
    """{our array: its name in the file} for layers that have their place and any name; the last dense is the head."""
    kinds = dict(zip(SEQUENTIAL[architecture], (convolutions, dense[:-1]), strict=True)) | {"head": dense[-1:]}
    theirs = {}
    for name in ours:
        module, leaf = name.rsplit("/", 1)
        kind, _, number = module.partition("/")
        layers, place = kinds[kind], int(number or 0)
        theirs[name] = f"{layers[place] if place < len(layers) else module}.{LEAVES[leaf]}"
    return theirs
