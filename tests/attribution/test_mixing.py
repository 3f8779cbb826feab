"""How tokens mix: attention that a product describes, by hand, and everything else refused in words."""

from typing import Any

import pytest
import timm
import torch
from timm.layers import DiffAttention  # pyright: ignore
from timm.models.vision_transformer import ParallelScalingBlock
from timm.models.volo import VOLO
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models import SwinTransformer

from ibviz.attribution import catalogue
from ibviz.attribution.methods import values
from ibviz.attribution.softmax import recorded_attention, split_heads
from ibviz.attribution.transformer import attention_rollout, gradient_rollout
from ibviz.errors import InputError

close = torch.testing.assert_close
NAMES = {"raw": "raw_attention", "rollout": "attention_rollout", "gradient": "gradient_rollout"}
METHODS = {short: catalogue.METHODS[name] for short, name in NAMES.items()}
PRODUCTS = ("rollout", "gradient")
SMALL: dict[str, Any] = {"img_size": 32, "patch_size": 8, "depth": 2, "embed_dim": 24, "num_heads": 3, "num_classes": 5}
IMAGES = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
TARGETS = torch.tensor([1, 4])


def peaked(network: Any) -> Any:
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.normal_(0, 0.25)
    return network.eval()


def small(name: str, **options: Any) -> nn.Module:
    return peaked(timm.create_model(name, **SMALL | options))


class Toy(nn.Module):
    """Two layers of one head without any module of PyTorch's for attention; what happens in a layer can be changed."""

    def __init__(self, *, classes: int = 5, width: int = 12) -> None:
        super().__init__()
        self.patches, self.token = nn.Conv2d(3, width, 8, 8), nn.Parameter(torch.ones(1, 1, width))
        self.asking = nn.ModuleList(nn.Linear(width, 3 * width) for _ in range(2))
        self.between = nn.ModuleList(nn.Linear(width, width) for _ in range(2))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, classes)

    def forward(self, images: Tensor) -> Tensor:
        cells = self.patches(images).flatten(2).mT
        tokens = torch.cat([self.token.expand(len(cells), -1, -1), self.order(cells)], 1)
        for asking, between in zip(self.asking, self.between, strict=True):
            tokens = self.layer(tokens, *asking(tokens).chunk(3, 2), between)  # pyright: ignore
        return self.decide(self.norm(tokens))

    def order(self, cells: Tensor) -> Tensor:
        return cells

    def layer(self, tokens: Tensor, query: Tensor, key: Tensor, value: Tensor, between: nn.Module) -> Tensor:
        tokens = tokens + self.weights(query @ key.mT) @ value
        return tokens + between(tokens).tanh()

    def weights(self, logits: Tensor) -> Tensor:
        return logits.softmax(-1)

    def decide(self, tokens: Tensor) -> Tensor:
        return self.head(tokens[:, 0])


def rows_of(network: nn.Module, images: Tensor, target: Tensor) -> tuple[list[Tensor], list[Tensor]]:
    """Attention `(b, heads, q, k)` of a pass, and the gradients of the targets' logits."""
    with recorded_attention() as seen:
        score = network(images.clone().requires_grad_()).gather(1, target.unsqueeze(1)).sum()
        slopes = torch.autograd.grad(score, seen)
    return [split_heads(one.detach(), len(images)) for one in seen], [split_heads(one, len(images)) for one in slopes]


def by_loop(layers: list[list[Tensor]], slopes: list[list[Tensor]], start: Tensor, method: str) -> Tensor:
    """What tokens weigh `(b, t)`, one image at a time; several attentions in a layer stand side by side."""
    rows = []
    for image, weights in enumerate(start):
        row, eye = weights, torch.eye(len(weights))
        for maps, gradients in zip(reversed(layers), reversed(slopes), strict=True):
            means = [one[image].mean(0) for one in maps]
            positive = [(one[image] * g[image]).clamp(min=0).mean(0) for one, g in zip(maps, gradients, strict=True)]
            if method == "gradient":
                row = row + row @ sum(positive, start=torch.zeros_like(eye))
            elif method == "rollout":
                row = row @ (sum(means, start=eye) / (1 + len(maps)))
            else:
                row = row @ (sum(means, start=torch.zeros_like(eye)) / len(maps))
                break
        rows.append(row - weights if method == "gradient" else row)
    return torch.stack(rows)


def expect(network: nn.Module, method: str, layers: list[list[int]], start: Tensor, *, prefix: int = 1) -> None:
    """Hold a map of the network to the loop over its softmaxes in these layers, on its square grid."""
    seen, slopes = rows_of(network, IMAGES, TARGETS)
    chosen = [[[all_[index] for index in layer] for layer in layers] for all_ in (seen, slopes)]
    row = by_loop(*chosen, start.expand(2, -1), method)[:, prefix:]  # pyright: ignore
    maps = values(METHODS[method](network, IMAGES, TARGETS))
    close(maps.flatten(1), row, rtol=1e-4, atol=1e-7)
    assert (maps.amax((1, 2)) > 1.02 * maps.amin((1, 2))).all()


def token(index: int, count: int) -> Tensor:
    return torch.eye(count)[index]


class Masked(Toy):
    """No token may read those long before it."""

    def weights(self, logits: Tensor) -> Tensor:
        return logits.masked_fill(torch.ones_like(logits[0]).tril(-5).bool(), -torch.inf).softmax(-1)


class NotItself(Toy):
    """No token may read itself."""

    def weights(self, logits: Tensor) -> Tensor:
        return logits.masked_fill(torch.eye(logits.shape[-1]).bool(), -torch.inf).softmax(-1)


class Beside(Toy):
    """Attention and what follows it read the same tokens, as in parallel transformers with one attention a layer."""

    def layer(self, tokens: Tensor, query: Tensor, key: Tensor, value: Tensor, between: nn.Module) -> Tensor:
        return tokens + F.scaled_dot_product_attention(query, key, value) + between(tokens).tanh()


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    ("build", "layers", "tokens"),
    [
        (Toy, [[0], [1]], 17),
        (Masked, [[0], [1]], 17),
        (Beside, [[0], [1]], 17),
        (lambda: small("vit_small_patch16_18x2_224"), [[0, 1], [2, 3]], 17),  # x + A(x) + B(x)
        (lambda: small("vit_tiny_patch16_224", block_fn=ParallelScalingBlock), [[0], [1]], 17),
        (lambda: small("vit_tiny_patch16_224", patch_size=16, depth=7), [[i] for i in range(7)], 5),  # few tokens
    ],
)
def test_layers_are_read_in_the_order_in_which_the_network_has_them(build, layers, tokens, method):
    expect(peaked(build()), method, layers, token(0, tokens))


@pytest.mark.parametrize("method", PRODUCTS)
def test_the_head_of_a_distilled_network_that_says_nothing_has_no_deciding_token(method):
    network: Any = small("deit_tiny_distilled_patch16_224")
    with torch.no_grad():
        network.head.weight.zero_()
    expect(network, method, [[0], [1]], token(1, 18), prefix=2)


class ClassAndMean(Toy):
    """The logits read a class token and the mean of the cells, as DINOv2's classifier does."""

    def __init__(self) -> None:
        super().__init__()
        self.second = nn.Linear(12, 5)

    def decide(self, tokens: Tensor) -> Tensor:
        return self.head(tokens[:, 0]) + self.second(tokens[:, 1:].mean(1))


@pytest.mark.parametrize("method", METHODS)
def test_a_class_token_and_a_mean_of_cells_count_by_what_they_weigh(method):
    network: Any = peaked(ClassAndMean())
    pairs = [slice(None)] * 2 if method != "gradient" else TARGETS[:, None]
    first, second = (
        torch.stack([head.weight[rows].norm() for rows in pairs]) for head in (network.head, network.second)
    )
    start = torch.cat([first[:, None], second[:, None].expand(-1, 16) / 16], 1).detach()
    expect(network, method, [[0], [1]], start / start.sum(1, keepdim=True))


@pytest.mark.parametrize("method", METHODS)
def test_an_attention_of_the_head_pools_what_the_layers_give(method):
    network = small("vit_base_patch16_siglip_224")
    *seen, pool = zip(*rows_of(network, IMAGES, TARGETS), strict=True)
    heads = pool[0] if method != "gradient" else (pool[0] * pool[1]).clamp(min=0)
    start, layers = heads.mean(1)[:, 0], [] if method == "raw" else seen
    row = by_loop([[one] for one, _ in layers], [[slope] for _, slope in layers], start, method)
    maps = values(METHODS[method](network, IMAGES, TARGETS))
    close(maps.flatten(1), row + start if method == "gradient" else row, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("way", ["eager", "sdpa"])
def test_networks_of_transformers_equal_the_attention_that_they_give_themselves(way):
    transformers = pytest.importorskip("transformers")
    config = transformers.ViTConfig(
        hidden_size=24,
        num_hidden_layers=2,
        num_attention_heads=3,
        intermediate_size=48,
        image_size=32,
        patch_size=8,
        num_labels=5,
        attn_implementation=way,
        pooler_output_size=24,
    )
    inner = peaked(transformers.ViTForImageClassification(config))

    class Logits(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, images: Tensor) -> Tensor:
            return self.inner(images).logits

    rollout = attention_rollout(Logits(), IMAGES)
    inner.set_attn_implementation("eager")  # pyright: ignore
    with torch.no_grad():
        given = list(inner(IMAGES, output_attentions=True).attentions)
    assert len(given) == 2
    close(
        rollout.flatten(1),
        by_loop([[one] for one in given], [[one] for one in given], token(0, 17).expand(2, -1), "rollout")[:, 1:],
        rtol=1e-4,
        atol=1e-7,
    )


class Gated(Toy):
    def weights(self, logits: Tensor) -> Tensor:
        return logits.softmax(-1) * 0.5


class Differential(Toy):
    def weights(self, logits: Tensor) -> Tensor:
        return logits.softmax(-1) - 0.5 * (logits * 2).softmax(-1)


class DifferenceOfResults(Toy):
    """As fused kernels compute differential attention: a difference of two products with the same values."""

    def layer(self, tokens: Tensor, query: Tensor, key: Tensor, value: Tensor, between: nn.Module) -> Tensor:
        first = F.scaled_dot_product_attention(query, key, value)
        return tokens + between(first - 0.5 * F.scaled_dot_product_attention(2 * query, key, value))


class TalkingHeads(Toy):
    def layer(self, tokens: Tensor, query: Tensor, key: Tensor, value: Tensor, between: nn.Module) -> Tensor:
        query, key, value = (one.unflatten(2, (2, 6)).transpose(1, 2) for one in (query, key, value))
        heads = (query @ key.mT).softmax(-1)
        talking = torch.einsum("bhij,hg->bgij", heads, torch.tensor([[0.8, 0.2], [0.4, 0.6]]))
        return tokens + between((talking @ value).transpose(1, 2).flatten(2))


class Overall(Toy):
    """Attention over queries, not keys."""

    def weights(self, logits: Tensor) -> Tensor:
        return logits.softmax(1)


class Sigmoid(Toy):
    def weights(self, logits: Tensor) -> Tensor:
        return logits.sigmoid()


class WithMean(Toy):
    """The mean of all tokens is added to each."""

    def layer(self, tokens: Tensor, query: Tensor, key: Tensor, value: Tensor, between: nn.Module) -> Tensor:
        return super().layer(tokens, query, key, value, between) + tokens.mean(1, keepdim=True)


class Convolved(Toy):
    """Cells are averaged with those beside them in every layer."""

    def layer(self, tokens: Tensor, query: Tensor, key: Tensor, value: Tensor, between: nn.Module) -> Tensor:
        tokens = super().layer(tokens, query, key, value, between)
        cells = F.avg_pool2d(tokens[:, 1:].mT.unflatten(2, (4, 4)), 3, 1, 1)
        return torch.cat([tokens[:, :1], cells.flatten(2).mT], 1)


class SigmoidBesideSoftmax(Toy):
    def layer(self, tokens: Tensor, query: Tensor, key: Tensor, value: Tensor, between: nn.Module) -> Tensor:
        return super().layer(tokens, query, key, value, between) + (key @ query.mT).sigmoid() @ value


class WithoutSkip(Toy):
    def layer(self, tokens: Tensor, query: Tensor, key: Tensor, value: Tensor, between: nn.Module) -> Tensor:
        return between(self.weights(query @ key.mT) @ value) + 0 * tokens


class ColumnByColumn(Toy):
    def order(self, cells: Tensor) -> Tensor:
        return cells.unflatten(1, (4, 4)).transpose(1, 2).flatten(1, 2)


class MixedBefore(Toy):
    """Cells see each other before the first softmax."""

    def order(self, cells: Tensor) -> Tensor:
        return cells + (cells @ cells.mT).tanh() @ cells


class FewerKeys(Toy):
    def layer(self, tokens: Tensor, query: Tensor, key: Tensor, value: Tensor, between: nn.Module) -> Tensor:
        return super().layer(tokens, query, key[:, ::2], value[:, ::2], between)


class Windows(Toy):
    """Attention within four windows of the cells, without the class token; images and windows are one axis."""

    def layer(self, tokens: Tensor, query: Tensor, key: Tensor, value: Tensor, between: nn.Module) -> Tensor:
        query, key, value = (one[:, 1:].reshape(-1, 4, one.shape[2]) for one in (query, key, value))
        mixed = between((self.weights(query @ key.mT) @ value).reshape(len(tokens), 16, -1))
        return tokens + torch.cat([mixed.mean(1, keepdim=True), mixed], 1)


class Detached(Toy):
    """Attention of the first layer is led past all gradients; that of the second is not."""

    def layer(self, tokens: Tensor, query: Tensor, key: Tensor, value: Tensor, between: nn.Module) -> Tensor:
        weights = (query @ key.mT).softmax(-1)
        return tokens + between((weights.detach() if between is self.between[0] else weights) @ value)


ANYWHERE = {
    Gated: "read by Mul",
    Differential: "read by .*Sub",
    DifferenceOfResults: "share their values",
    TalkingHeads: "talking heads.*read by Permute",
    Overall: "no attention between tokens",
    Sigmoid: "no attention between tokens",
    ColumnByColumn: "another order than the image",
    FewerKeys: "fewer keys than queries",
    Windows: "what each weighs is not known",
    NotItself: "may not read themselves",
    Detached: "no gradient passes",
}
IN_LAYERS = {
    Convolved: "a convolution over them",
    WithMean: "something besides its softmax attention",
    SigmoidBesideSoftmax: "an attention of another kind",
    WithoutSkip: "no skip connection",
    MixedBefore: "before the first attention",
}


@pytest.mark.parametrize("kind", ANYWHERE)
def test_attention_that_is_not_used_as_its_softmax_gives_it_is_refused(kind):
    for method in METHODS.values():
        with pytest.raises(InputError, match=f"{ANYWHERE[kind]}.*such as grad_cam"):
            method(peaked(kind()), IMAGES, TARGETS)


@pytest.mark.parametrize("kind", IN_LAYERS)
def test_products_are_refused_where_something_else_mixes_tokens(kind):
    for method in PRODUCTS:
        with pytest.raises(InputError, match=f"{IN_LAYERS[kind]}.*such as grad_cam"):
            METHODS[method](peaked(kind()), IMAGES, TARGETS)


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda: small("cait_xxs24_224"), "talking heads"),
        (lambda: small("vit_tiny_patch16_224", attn_layer=DiffAttention), "share their values"),
        (lambda: small("convit_tiny", embed_dim=24), "read by Mul"),
        (lambda: small("xcit_nano_12_p16_224"), "heads, queries, keys"),
        (lambda: peaked(SwinTransformer([4, 4], 24, [1, 1], [2, 2], [4, 4], num_classes=5)), "within windows"),
        (
            lambda: peaked(VOLO((1, 1, 1, 1), img_size=32, num_classes=5, embed_dims=(24,) * 4, num_heads=(2,) * 4)),  # pyright: ignore
            "heads, queries, keys",
        ),
        (lambda: peaked(timm.create_model("pvt_v2_b0", depths=(1, 1, 1, 1), num_classes=5)), "fewer keys"),
        (
            lambda: peaked(timm.create_model("coat_lite_tiny", img_size=32, serial_depths=(1, 1, 1, 1), num_classes=5)),
            "no attention between tokens",
        ),
    ],
)
def test_families_whose_attention_is_of_another_kind_are_refused(build, words):
    network = build()
    for method in PRODUCTS:
        with pytest.raises(InputError, match=f"{words}.*such as grad_cam"):
            METHODS[method](network, IMAGES, TARGETS)


def test_a_probe_leaves_nothing_behind():
    network = small("vit_tiny_patch16_224")
    before = torch.backends.mha.get_fastpath_enabled(), torch.backends.cuda.flash_sdp_enabled(), torch.get_rng_state()
    weights = {name: one.clone() for name, one in network.state_dict().items()}
    gradient_rollout(network, IMAGES, TARGETS)
    after = torch.backends.mha.get_fastpath_enabled(), torch.backends.cuda.flash_sdp_enabled(), torch.get_rng_state()
    assert before[:2] == after[:2]
    assert torch.equal(before[2], after[2])
    assert all(torch.equal(one, weights[name]) for name, one in network.state_dict().items())
    assert all(one.grad is None for one in network.parameters())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in network.modules())


class PassedBy(Toy):
    """The mean colour of the image has a say of its own."""

    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images) + images.mean((1, 2, 3))[:, None] * torch.arange(5)


class ContextAdded(nn.Module):
    """A context pooled by attention is added to each cell of a convolution, whose mean decides, as in GCNet."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.key, self.head = nn.Conv2d(3, 8, 8, 8), nn.Conv2d(8, 1, 1), nn.Linear(8, 5)

    def pooled(self, cells: Tensor) -> Tensor:
        return (8 * self.key(cells).flatten(2)).softmax(2) @ cells.flatten(2).mT

    def forward(self, images: Tensor) -> Tensor:
        cells = self.conv(images)
        return self.head((cells.flatten(2).mT + self.pooled(cells)).mean(1))


class ContextAlone(ContextAdded):
    """What attention pools is all that the head sees."""

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.pooled(self.conv(images))[:, 0])


@pytest.mark.parametrize("kind", [PassedBy, ContextAdded])
@pytest.mark.parametrize("method", METHODS)
def test_attention_that_pixels_pass_by_is_refused(kind, method):
    with pytest.raises(InputError, match=r"past its attention.*such as grad_cam"):
        METHODS[method](peaked(kind()), IMAGES, TARGETS)


def test_attention_that_pools_all_that_the_head_sees_is_the_map():
    model: Any = peaked(ContextAlone())
    expected = (8 * model.key(model.conv(IMAGES)).flatten(2)).softmax(2)
    for method in ("raw", "rollout"):
        maps = values(METHODS[method](model, IMAGES, TARGETS))
        torch.testing.assert_close(maps, expected[:, 0].detach().unflatten(1, maps.shape[1:]))


class LargestToken(Toy):
    """The largest of each channel over the cells decides: other cells in every image."""

    def decide(self, tokens: Tensor) -> Tensor:
        return self.head(tokens[:, 1:].amax(1))


def test_tokens_that_decide_in_one_image_alone_are_not_taken_for_all():
    for method in ("raw", "rollout"):
        with pytest.raises(InputError, match=r"differs between images.*choose gradient_rollout"):
            METHODS[method](peaked(LargestToken()), IMAGES, TARGETS)


class CropsBefore(Toy):
    """Attends to the middle of its images."""

    def forward(self, images: Tensor) -> Tensor:
        return super().forward(F.interpolate(images, scale_factor=1.5)[:, :, 4:-4, 4:-4])


@pytest.mark.parametrize("method", METHODS)
def test_attention_within_a_crop_is_refused(method):
    with pytest.raises(InputError, match="rows of pixels: this network crops its images"):
        METHODS[method](peaked(CropsBefore()), IMAGES, TARGETS)
