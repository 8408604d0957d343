"""People, and what they ride: flat figures, made of limbs."""

import math
from typing import NamedTuple

from trust_exp.data.street_scenes.drawing.canvas import Brush, disc, flat, limb, rect, ring
from trust_exp.data.street_scenes.drawing.dice import Dice
from trust_exp.data.street_scenes.drawing.textures import Finish, finish, rgb

At = tuple[float, float]


class Clothes(NamedTuple):
    """The finishes of one person."""

    skin: Finish
    hair: Finish
    top: Finish
    sleeve: Finish
    trousers: Finish
    shoes: Finish


def draw_clothes(dice: Dice) -> Clothes:
    """Some have bare arms or legs."""
    skin = finish(dice, "skin")
    top = finish(dice, "stripes" if dice.chance(0.2) else "cloth")
    top = top._replace(scale=min(top.scale, 0.25))
    shoes = finish(dice, dice.weigh({"rubber": 2, "cloth": 1.5, "plastic": 1}))
    bare_legs = dice.chance(0.22)
    return Clothes(
        skin=skin,
        hair=finish(dice, "hair"),
        top=top,
        sleeve=skin if dice.chance(0.35) else top,
        trousers=skin if bare_legs else finish(dice, "cloth"),
        shoes=shoes,
    )


def person(brush: Brush, dice: Dice, height: float) -> None:
    """Someone who stands or walks, from the front, the back or a side; the brush is a card."""
    clothes = draw_clothes(dice)
    view = dice.weigh({"front": 1, "back": 1, "side": 2})
    s, turn = height / 1.75, dice.sign()
    stride = dice.uniform(0.05, 0.32) if view == "side" else dice.uniform(0.06, 0.13)
    hip, neck = 0.86 * s, 1.45 * s
    half = (0.13 if view == "side" else 0.2) * s
    _legs(brush, clothes, s, stride, hip, turn if view == "side" else 0)
    swing = dice.uniform(-0.3, 0.3) if view == "side" else dice.uniform(0.05, 0.2)
    arms = [(-half, -half - swing * s), (half, half + swing * s)]
    if view == "side":
        arms = [(0.0, -swing * s), (0.0, swing * s)]
        _arm(brush, clothes, (arms[0][0], neck - 0.08 * s), (arms[0][1], hip - 0.02 * s), s)
    low, high, top = hip - 0.06 * s, neck - 0.07 * s, neck + 0.02 * s
    left, right = ((side * 0.85 * half, low) for side in (-1, 1))
    torso = flat(left, right, (half, high), (0.45 * half, top), (-0.45 * half, top), (-half, high))
    brush.paint(torso, clothes.top, "torso", 0.2, level=1)
    if dice.chance(0.25):
        skirt = flat((-half, hip), (half, hip), (1.5 * half, 0.45 * s), (-1.5 * half, 0.45 * s))
        brush.paint(skirt, finish(dice, "cloth"), "leg", 0.2, level=1)
    for shoulder, hand in arms if view != "side" else arms[1:]:
        _arm(brush, clothes, (shoulder, neck - 0.08 * s), (hand, hip - 0.02 * s), s)
    _head(brush, dice, clothes, (0.0, neck + 0.15 * s), s, view, turn)
    if dice.chance(0.3):
        _bag(brush, dice, s, half * dice.sign(), view)


def _legs(brush: Brush, clothes: Clothes, s: float, stride: float, hip: float, turn: int) -> None:
    for side in (-1, 1):
        ankle, look = (side * stride * s, 0.07 * s), clothes.trousers.toned(1.0 if side > 0 else 0.85)
        brush.paint(limb((side * 0.06 * s, hip), ankle, 0.18 * s, 0.11 * s), look, "leg", 0.25, level=1)
        heel, toe = ankle[0] - 0.06 * s * (turn or 1), ankle[0] + 0.14 * s * (turn or 0.4)
        brush.paint(rect(heel, toe, 0, 0.1 * s), clothes.shoes, "foot", level=1)


def _arm(brush: Brush, clothes: Clothes, shoulder: At, hand: At, s: float) -> None:
    elbow = (shoulder[0] * 0.4 + hand[0] * 0.6 - 0.02 * s, shoulder[1] * 0.5 + hand[1] * 0.5)
    brush.paint(limb(shoulder, elbow, 0.13 * s, 0.1 * s), clothes.top, "arm", 0.25, level=1)
    brush.paint(limb(elbow, hand, 0.1 * s, 0.08 * s), clothes.sleeve, "arm", 0.25, level=1)
    brush.paint(disc(*hand, 0.058 * s), clothes.skin, "hand", level=1)


def _head(brush: Brush, dice: Dice, clothes: Clothes, at: At, s: float, view: str, turn: int) -> None:
    f, h = at
    r = 0.105 * s
    brush.paint(rect(f - 0.05 * s, f + 0.05 * s, h - 0.17 * s, h), clothes.skin, level=1)
    if dice.chance(0.4):
        brush.paint(rect(f - 1.1 * r, f + 1.1 * r, h - 2.2 * r, h + 0.3 * r), clothes.hair, "hair", level=1)
    brush.paint(disc(f, h, r, tall=1.25), clothes.skin, "head", 0.2, level=1)
    before, behind = {"front": (0.45, 0.45), "back": (-2, -2), "side": (0.75, -0.7)}[view]  # how far down hair reaches
    crown = [
        (x, max(y, h + r * (before if (x - f) * turn > 0 else behind)))
        for x, y, _ in disc(f, h + 0.25 * r, 1.12 * r, tall=1.15)
    ]
    brush.paint(flat(*crown), clothes.hair, "hair", 0.2, level=1)
    if dice.chance(0.18):
        hat = finish(dice, dice.pick(("cloth", "cloth", "plastic")))
        brush.paint(limb((f, h + 0.5 * r), (f, h + 1.5 * r), 2.2 * r, 1.6 * r), hat, bulge=0.2, level=1)


def _bag(brush: Brush, dice: Dice, s: float, f: float, view: str) -> None:
    bag = finish(dice, dice.pick(("cloth", "cloth", "plastic")))
    if view == "back":
        brush.paint(rect(-0.16 * s, 0.16 * s, 0.98 * s, 1.38 * s), bag, bulge=0.2, level=1)
    else:
        h = dice.uniform(0.35, 0.8) * s
        brush.paint(rect(f - 0.16 * s, f + 0.16 * s, h, h + 0.3 * s), bag, bulge=0.2, level=1)


# ---------------------------------------------------------------------------------------------------------- two wheels


def bicycle(brush: Brush, dice: Dice, ridden: bool) -> None:
    """A bicycle seen from its side, the front along f; perhaps with its rider."""
    frame = finish(dice, "metal", scale=0.5)
    tyre, grip = finish(dice, "rubber", scale=0.2), finish(dice, "rubber" if dice.chance(0.6) else "plastic")
    saddle = finish(dice, dice.pick(("plastic", "cloth", "rubber")), scale=0.2)
    steel = finish(dice, "metal", rgb("a9acae"), scale=0.2)
    for f in (-0.52, 0.52):
        turns = [(0.3 * math.cos(a), 0.3 * math.sin(a)) for a in (0.2, 1.0, 1.8, 2.6)]
        spokes = [limb((f + x, 0.34 + y), (f - x, 0.34 - y), 0.012, 0.012) for x, y in turns]
        brush.paint(spokes, steel, "wheel", level=1)
        brush.paint(ring(f, 0.34, 0.35, 0.275), tyre, "wheel", level=1)
        brush.paint(disc(f, 0.34, 0.06), steel, "wheel", level=1)
    crank, seat, head = (-0.08, 0.32), (-0.24, 0.88), (0.36, 0.82)
    tubes = [(crank, seat), (seat, head), (crank, head), ((-0.52, 0.34), seat), ((0.52, 0.34), (0.33, 0.95))]
    brush.paint([limb(a, b, 0.055, 0.055) for a, b in tubes], frame, level=1)
    chain = flat((-0.52, 0.28), (-0.08, 0.2), (0.04, 0.26), (0.04, 0.38), (-0.08, 0.44), (-0.52, 0.4))
    guard = dice.chance(0.4)
    brush.paint(chain, frame if guard else steel.toned(0.6), "chain", level=1)
    perch = flat((-0.42, 0.98), (-0.1, 0.96), (-0.1, 0.9), (-0.26, 0.85), (-0.42, 0.89))
    brush.paint(perch, saddle, "saddle", level=1)
    bar = limb((0.32, 0.93), (0.2, 1.07), 0.06, 0.06), limb((0.36, 1.04), (0.08, 1.06), 0.07, 0.06)
    brush.paint(list(bar), grip, "handle", level=1)
    if dice.chance(0.25):
        basket = rect(0.36, 0.68, 0.74, 1.0)
        brush.paint(basket, finish(dice, dice.pick(("planks", "metal", "plastic")), scale=0.1), level=1)
    if ridden:
        _rider(brush.of("rider"), dice, seat=(-0.25, 0.98), hand=(0.2, 1.08), foot=(-0.02, 0.24))


def motorcycle(brush: Brush, dice: Dice, ridden: bool, dusk: bool) -> None:
    """A motorcycle or scooter seen from its side, the front along f."""
    scooter = dice.chance(0.45)
    paint = finish(dice, "plastic" if scooter or dice.chance(0.4) else "metal", scale=0.6)
    tyre, steel = finish(dice, "rubber", scale=0.2), finish(dice, "metal", scale=0.3)
    dark = finish(dice, "plastic", rgb("26282a"))
    r = 0.25 if scooter else 0.33
    for f in (-0.66, 0.66):
        brush.paint(disc(f, r, r), tyre, "wheel", level=1)
        brush.paint(disc(f, r, 0.62 * r), steel, "wheel", 0.2, level=1)
        brush.paint(disc(f, r, 0.2 * r), dark, "wheel", level=1)
    brush.paint(limb((0.66, r), (0.42, 0.98), 0.09, 0.09), steel, level=1)
    if scooter:
        shield = (0.0, 0.34), (0.3, 0.32), (0.42, 0.95), (0.52, 0.95), (0.42, 0.22)
        shell = flat((-0.85, 0.55), (-0.75, 0.78), (-0.1, 0.76), *shield, (-0.2, 0.22), (-0.4, 0.5))
        brush.paint(shell, paint, bulge=0.2, level=1)
    else:
        brush.paint(rect(-0.35, 0.3, 0.25, 0.62), steel, level=1)
        tank = flat((-0.3, 0.6), (0.3, 0.62), (0.42, 0.9), (0.1, 0.98), (-0.2, 0.8))
        brush.paint(tank, paint, bulge=0.3, level=1)
        brush.paint(flat((-0.95, 0.72), (-0.9, 0.62), (-0.2, 0.6), (-0.2, 0.75)), paint, bulge=0.2, level=1)
        brush.paint(limb((-0.2, 0.3), (-0.95, 0.4), 0.1, 0.12), steel, bulge=0.3, level=1)
    seat = finish(dice, dice.pick(("cloth", "plastic", "rubber")), rgb("2a2826") if dice.chance(0.6) else None)
    brush.paint(flat((-0.85, 0.86), (-0.1, 0.8), (-0.12, 0.73), (-0.8, 0.74)), seat, level=1)
    lamp = finish(dice, "glass", rgb("e4e6e2"), scale=0.3)
    brush.paint(disc(0.55, 0.86, 0.1, tall=1.1), lamp._replace(glow=0.9) if dusk else lamp, "headlight", level=1)
    bar = limb((0.5, 0.96), (0.34, 1.1), 0.1, 0.1), limb((0.44, 1.08), (0.14, 1.1), 0.12, 0.1)
    brush.paint(list(bar), finish(dice, dice.pick(("rubber", "rubber", "metal"))), "handle", level=1)
    brush.paint(rect(-0.97, -0.86, 0.66, 0.75), dark.tinted(rgb("b0201c")), level=1)
    if ridden:
        _rider(brush.of("rider"), dice, seat=(-0.4, 0.86), hand=(0.28, 1.06), foot=(0.05, 0.34))


def _rider(brush: Brush, dice: Dice, seat: At, hand: At, foot: At) -> None:
    clothes = draw_clothes(dice)
    shoulder = seat[0] + 0.2, seat[1] + 0.5
    knee = (seat[0] + foot[0]) / 2 + 0.28, (seat[1] + foot[1]) / 2 + 0.12
    brush.paint(limb(seat, knee, 0.18, 0.14), clothes.trousers, bulge=0.2, level=1)
    brush.paint(limb(knee, foot, 0.13, 0.1), clothes.trousers, bulge=0.2, level=1)
    brush.paint(rect(foot[0] - 0.07, foot[0] + 0.18, foot[1] - 0.05, foot[1] + 0.05), clothes.shoes, level=1)
    brush.paint(limb((seat[0], seat[1] - 0.05), shoulder, 0.26, 0.3), clothes.top, bulge=0.2, level=1)
    elbow = (shoulder[0] + hand[0]) / 2, (shoulder[1] + hand[1]) / 2 - 0.1
    brush.paint(limb(shoulder, elbow, 0.12, 0.1), clothes.top, bulge=0.2, level=1)
    brush.paint(limb(elbow, hand, 0.1, 0.08), clothes.sleeve, bulge=0.2, level=1)
    brush.paint(disc(*hand, 0.05), clothes.skin, level=1)
    f, h = shoulder[0] + 0.1, shoulder[1] + 0.2
    brush.paint(disc(f, h, 0.11, tall=1.25), clothes.skin, bulge=0.2, level=1)
    helmet = finish(dice, "plastic") if dice.chance(0.65) else clothes.hair
    dome = [(x, max(y, h + 0.02), 0.0) for x, y, _ in disc(f - 0.01, h + 0.04, 0.135, tall=1.1)]
    brush.paint(dome, helmet, bulge=0.25, level=1)
