"""Weather and time of day: where light comes from, how far one sees, how good the picture is."""

import math
from typing import NamedTuple

from trust_exp.data.street_scenes.drawing.dice import Dice
from trust_exp.data.street_scenes.drawing.textures import Colour, rgb


class Light(NamedTuple):
    """Light of one scene. Colours are factors; ``sun`` points to the sun, in the world's axes, length 1."""

    sun: tuple[float, float, float]
    direct: Colour  # from the sun
    ambient: Colour  # from all around
    zenith: Colour  # of the sky
    horizon: Colour
    cloud: Colour
    clear: float  # clouds are where their density is above this
    visibility: float  # metres
    grain: float  # standard deviation of the sensor's noise, of 1
    blur: float  # share that a pixel takes from its neighbours
    dusk: bool  # lamps and windows are lit


class _Weather(NamedTuple):
    elevation: tuple[float, float]  # of the sun, degrees
    direct: tuple[float, float]
    ambient: tuple[float, float]
    clear: tuple[float, float]
    visibility: tuple[float, float]
    warmth: tuple[float, float]  # of sunlight; ambient light is as much cooler
    zenith: str
    horizon: str
    cloud: str


_WEATHER = {
    "clear": _Weather(
        (25, 65), (0.5, 0.75), (0.5, 0.65), (0.66, 0.85), (500, 3000), (0.0, 0.08), "3f78bd", "bcd2e2", "f4f5f5",
    ),
    "low sun": _Weather(
        (9, 20), (0.55, 0.75), (0.42, 0.55), (0.55, 0.75), (250, 1500), (0.1, 0.22), "5a86b8", "ecd9b8", "f5e6d0",
    ),
    "cloudy": _Weather(
        (30, 60), (0.25, 0.45), (0.6, 0.75), (0.4, 0.58), (300, 1500), (0.0, 0.06), "6a93bf", "cfd9de", "e6e9ea",
    ),
    "overcast": _Weather(
        (40, 70), (0.05, 0.15), (0.75, 0.95), (0.2, 0.5), (150, 800), (-0.04, 0.02), "a9b4bd", "d5dadd", "c3cad0",
    ),
    "haze": _Weather(
        (15, 50), (0.1, 0.3), (0.75, 0.95), (0.5, 0.8), (25, 90), (-0.02, 0.12), "b5bfc6", "d8d8d2", "dedfdc",
    ),
    "dusk": _Weather(
        (4, 12), (0.15, 0.35), (0.36, 0.52), (0.42, 0.7), (150, 600), (0.1, 0.3), "2f3f66", "d98f66", "8a6a78",
    ),
}  # fmt: skip
_SHARE = {"clear": 0.26, "low sun": 0.16, "cloudy": 0.18, "overcast": 0.16, "haze": 0.1, "dusk": 0.14}


def draw_light(dice: Dice) -> Light:
    """One of the kinds of weather, somewhere in its range."""
    name = dice.weigh(_SHARE)
    weather = _WEATHER[name]
    elevation, azimuth = math.radians(dice.between(weather.elevation)), dice.uniform(0, 2 * math.pi)
    warm = dice.between(weather.warmth)
    direct, ambient = dice.between(weather.direct), dice.between(weather.ambient)
    level = math.cos(elevation)
    return Light(
        sun=(level * math.sin(azimuth), math.sin(elevation), level * math.cos(azimuth)),
        direct=(direct * (1 + warm), direct, direct * (1 - 1.6 * warm)),
        ambient=(ambient * (1 - 0.4 * warm), ambient, ambient * (1 + 0.5 * warm)),
        zenith=_jitter(dice, rgb(weather.zenith)),
        horizon=_jitter(dice, rgb(weather.horizon)),
        cloud=_jitter(dice, rgb(weather.cloud)),
        clear=dice.between(weather.clear),
        visibility=dice.between(weather.visibility),
        grain=dice.uniform(0.004, 0.02) * (1.4 if name == "dusk" else 1.0),
        blur=dice.uniform(0.0, 0.14),
        dusk=name == "dusk",
    )


def _jitter(dice: Dice, colour: Colour) -> Colour:
    light = dice.uniform(0.9, 1.06)
    red, green, blue = (min(1.0, part * light * dice.uniform(0.96, 1.04)) for part in colour)
    return red, green, blue
