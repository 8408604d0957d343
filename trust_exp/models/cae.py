"""Convolutional autoencoders of small images: a plain one, one of inception blocks, and that of Deep SVDD.

Sizes after Sarafijanovic-Djukic and Davis 2019 and Ruff et al. 2018, as their released code has them.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from trust_exp.errors import UserError

SLOPE = 0.1  # of leaky ReLU
CODE, CODE_SIDE = 32, 4  # of Deep SVDD


class Autoencoder(nn.Module):
    """An encoder and its decoder. Images are padded with 0 to a multiple of some pixels, and cropped again.

    Args:
        shape: of one image.
        encoder: maps padded images to codes [B, D] or [B, D, h, w].
        decoder: maps codes to padded images in [0, 1].
        multiple: of which the sides are; 8 allows for three halvings.

    Raises:
        UserError: if the data are not images.
    """

    def __init__(self, shape: tuple[int, ...], encoder: nn.Module, decoder: nn.Module, multiple: int = 8) -> None:
        super().__init__()
        self.encoder, self.decoder = encoder, decoder
        (self.top, self.bottom), (self.left, self.right) = (padding(side, multiple) for side in _sides(shape))

    def encode(self, image: Tensor) -> Tensor:
        """The code of images, [B, D] or [B, D, h, w]."""
        found: Tensor = self.encoder(F.pad(image, (self.left, self.right, self.top, self.bottom)))
        return found

    def pooled(self, image: Tensor) -> Tensor:
        """One vector for each image, [B, D]: the code, or its mean over places."""
        code = self.encode(image)
        return code.mean((2, 3)) if code.dim() == 4 else code

    def forward(self, image: Tensor) -> Tensor:
        """The reconstruction of images, in [0, 1]."""
        height, width = image.shape[2:]
        whole = self.decoder(self.encode(image))
        found: Tensor = whole[:, :, self.top : self.top + height, self.left : self.left + width]
        return found


def padding(side: int, multiple: int = 8) -> tuple[int, int]:
    """Pixels before and after a side that make it a multiple."""
    more = -side % multiple
    return more // 2, more - more // 2


def _sides(shape: tuple[int, ...]) -> tuple[int, int]:
    if len(shape) != 3:
        raise UserError(f"an autoencoder of images needs images; the data have the shape {tuple(shape)}")
    return shape[1], shape[2]


def _halved(shape: tuple[int, ...], parts: int = 8) -> tuple[int, int]:
    """Height and width of a padded image after halvings to one of 8 or 4 parts."""
    height, width = (side + sum(padding(side, parts)) for side in _sides(shape))
    return height // parts, width // parts


def _conv(before: int, after: int, side: int) -> list[nn.Module]:
    return [nn.Conv2d(before, after, side, padding=side // 2), nn.BatchNorm2d(after), nn.LeakyReLU(SLOPE)]


def cae(shape: tuple[int, ...], classes: int) -> Autoencoder:
    """The baseline: three convolutions and a dense code of 128; 802,819 parameters for 28x28."""
    channels, (height, width) = shape[0], _halved(shape)
    down: list[nn.Module] = []
    for before, after in ((channels, 32), (32, 64), (64, 128)):
        down += [*_conv(before, after, 5), nn.MaxPool2d(2)]
    encoder = nn.Sequential(*down, nn.Flatten(), nn.Linear(128 * height * width, 8 * height * width))
    up: list[nn.Module] = [nn.Unflatten(1, (8, height, width))]
    for before, after in ((8, 128), (128, 64), (64, 32)):
        up += [*_conv(before, after, 5), nn.Upsample(scale_factor=2)]
    decoder = nn.Sequential(*up, nn.Conv2d(32, channels, 5, padding=2), nn.BatchNorm2d(channels), nn.Sigmoid())
    return Autoencoder(shape, encoder, decoder)


class Inception(nn.Module):
    """Convolutions of sides 1, 3 and 5 and one after a pool, side by side: 4 times ``filters`` channels."""

    def __init__(self, before: int, filters: int) -> None:
        super().__init__()
        self.branches = nn.ModuleList(nn.Conv2d(before, filters, side, padding=side // 2) for side in (1, 3, 5))
        self.pool = nn.Sequential(nn.MaxPool2d(3, 1, 1), nn.Conv2d(before, filters, 1))
        self.after = nn.Sequential(nn.BatchNorm2d(4 * filters), nn.LeakyReLU(SLOPE))

    def forward(self, image: Tensor) -> Tensor:
        found: Tensor = self.after(torch.cat([*(branch(image) for branch in self.branches), self.pool(image)], dim=1))
        return found


def inception_cae(shape: tuple[int, ...], classes: int) -> Autoencoder:
    """Six inception blocks; 333,699 parameters for one channel."""
    channels = shape[0]
    down: list[nn.Module] = []
    for before, filters in ((channels, 8), (32, 16), (64, 32)):
        down += [Inception(before, filters), nn.MaxPool2d(2)]
    up: list[nn.Module] = []
    for before, filters in ((128, 32), (128, 16), (64, 8)):
        up += [Inception(before, filters), nn.Upsample(scale_factor=2)]
    up += [nn.Conv2d(32, channels, 3, padding=1), nn.BatchNorm2d(channels), nn.Sigmoid()]
    return Autoencoder(shape, nn.Sequential(*down), nn.Sequential(*up))


def svdd_lenet(shape: tuple[int, ...], classes: int) -> Autoencoder:
    """The network of Deep SVDD for MNIST with its decoder: a code of 32; 7,272 parameters encode 28x28.

    No layer has a bias and batch norm has no scale, so that the network cannot map all images to one code (Ruff et al.
    2018, propositions 2 and 3).
    """
    channels, (height, width) = shape[0], _halved(shape, 4)

    def norm(filters: int) -> list[nn.Module]:
        return [nn.BatchNorm2d(filters, eps=1e-4, affine=False), nn.LeakyReLU()]

    down: list[nn.Module] = []
    for before, after in ((channels, 8), (8, 4)):
        down += [nn.Conv2d(before, after, 5, padding=2, bias=False), *norm(after), nn.MaxPool2d(2)]
    encoder = nn.Sequential(*down, nn.Flatten(), nn.Linear(4 * height * width, CODE, bias=False))
    wider = (2 * height + 2, 2 * width + 2)  # the convolution after it takes one pixel off each side
    up = [nn.Unflatten(1, (CODE // CODE_SIDE**2, CODE_SIDE, CODE_SIDE)), nn.LeakyReLU(), nn.Upsample(scale_factor=2)]
    up += [nn.ConvTranspose2d(CODE // CODE_SIDE**2, 4, 5, padding=2, bias=False), *norm(4), nn.Upsample(wider)]
    up += [nn.ConvTranspose2d(4, 8, 5, padding=3, bias=False), *norm(8), nn.Upsample(scale_factor=2)]
    up += [nn.ConvTranspose2d(8, channels, 5, padding=2, bias=False), nn.Sigmoid()]
    return Autoencoder(shape, encoder, nn.Sequential(*up), multiple=4)
