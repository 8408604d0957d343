"""One street laid out: sky and ground, buildings on both sides, then what stands and moves between them."""

import math
from collections.abc import Callable, Sequence

from trust_exp.data.street_scenes.drawing import buildings, figures, furniture, vehicles
from trust_exp.data.street_scenes.drawing.canvas import BUILDINGS, GROUND, SKY, Brush, Canvas, Point
from trust_exp.data.street_scenes.drawing.dice import Dice
from trust_exp.data.street_scenes.drawing.light import Light
from trust_exp.data.street_scenes.drawing.places import Place, Range, Street
from trust_exp.data.street_scenes.drawing.textures import KINDS, Finish, finish


class Scenery:
    """One scene while it is laid out."""

    def __init__(self, dice: Dice, place: Place, street: Street, canvas: Canvas, light: Light) -> None:
        self.dice, self.place, self.street, self.canvas, self.light = dice, place, street, canvas, light
        sx, sy, sz = light.sun
        steep = min(1 / sy, 3.5)
        self.sweep = -sx * steep, -sz * steep
        self.taken: list[tuple[float, float, float, float]] = []

    def lay_out(self) -> None:
        """Paint everything."""
        self._sky()
        self._ground()
        self._end()
        for side in (-1, 1):
            self._lots(side)
            self._borders(side)
        self._traffic()
        self._furniture()
        self._plants()
        self._people()

    # ------------------------------------------------------------------------------------------- sky, ground, backdrop

    def _sky(self) -> None:
        light, camera = self.light, self.canvas.camera
        far = 1000.0
        x, z = camera.x + far * math.sin(camera.yaw), far * math.cos(camera.yaw)
        for name, colour in (("sky", light.zenith), ("cloud", light.cloud)):
            brush = self.canvas.brush("sky", x, z, camera.yaw + math.pi / 2, y=camera.height, layer=SKY)
            look = Finish(KINDS[name], colour, light.horizon, far, (0.0, 0.0), glow=1.0)
            wide = [(-9e3, -9e3, 0.0), (9e3, -9e3, 0.0), (9e3, 9e3, 0.0), (-9e3, 9e3, 0.0)]
            brush.paint(wide, look, "cloud" if name == "cloud" else "")

    def _ground(self) -> None:
        dice, street = self.dice, self.street
        yard = dice.weigh(self.place.yard)
        base = self.canvas.brush("terrain" if yard in ("grass", "soil") else "sidewalk", layer=GROUND)
        base.paint(_level(-60, 400, -300, 300), finish(dice, yard))
        paving = finish(
            dice, dice.weigh({"tiles": 3, "ashlar": 1.5, "brick": 2, "asphalt": 1.2, "concrete": 1.5, "cobbles": 1})
        )
        paved = base.of("sidewalk")
        road = finish(dice, dice.weigh({"asphalt": 7, "cobbles": 2.2, "ashlar": 0.5, "brick": 0.5, "concrete": 0.7}))
        kerb = finish(dice, "ashlar")
        surface = base.of("road")
        strips = [(surface, road, 0.0)]
        if street.walk > 0.4:
            strips = [(paved, paving, street.walk), (paved, kerb, 0.18), *strips]
        for brush, look, more in strips if street.road else strips[:1]:
            if street.cross:
                brush.paint(_level(street.cross[0] - more, street.cross[1] + more, -150, 150), look)
            brush.paint(_level(-60, 300, -street.road - more, street.road + more), look)
        if street.road:
            self._markings(surface, road)

    def _markings(self, surface: Brush, road: Finish) -> None:
        dice, street = self.dice, self.street
        paint = finish(dice, "marking")
        if dice.chance(0.6):
            starts = [z for z in range(-20, 90, 5) if not self._crossed(z, z + 2.2)]
            surface.paint([_level(z, z + 2.2, -0.08, 0.08) for z in starts], paint)
        if dice.chance(0.35):
            surface.paint([_level(-20, 200, s * (street.road - 0.3), s * (street.road - 0.15)) for s in (-1, 1)], paint)
        for _ in range(dice.whole(0, 2)):
            x, z = dice.uniform(-0.8, 0.8) * street.road, dice.uniform(3, 20)
            surface.paint([(z + f, 0.0, x + w) for f, w in _octagon(0.32)], finish(dice, "metal"))
        if dice.chance(self.place.crosswalk):
            self._crosswalk(surface, road, paint)

    def _crosswalk(self, surface: Brush, road: Finish, paint: Finish) -> None:
        """Stripes, and the road between them: both are the crosswalk."""
        dice, street = self.dice, self.street
        deep = dice.uniform(2.6, 4.2)
        z = street.cross[0] - deep - 0.5 if street.cross and dice.chance(0.7) else dice.uniform(3, 22)
        surface.paint(_level(z, z + deep, -street.road, street.road), road.toned(0.95), "crosswalk")
        pitch = dice.uniform(0.8, 1.2)
        count = int(2 * street.road / pitch)
        lefts = [-street.road + pitch * (i + 0.25) for i in range(count)]
        surface.paint([_level(z, z + deep, x, x + pitch / 2) for x in lefts], paint, "crosswalk")

    def _end(self) -> None:
        kinds = {"leaves": ("vegetation", (6, 16)), "concrete": ("building", (12, 50)), "grass": ("terrain", (5, 18))}
        kind = self.dice.weigh(self.place.end)
        name, height = kinds[kind]
        furniture.backdrop(self.canvas, self.dice, name, kind, height)

    # ------------------------------------------------------------------------------------------------ lots, one by one

    def _lots(self, side: int) -> None:
        z = -22.0 - self.dice.uniform(0, 8)
        while z < 85:
            wide = self.dice.between(self.place.lot)
            gap = self.dice.uniform(1, 5) if self.dice.chance(0.4) and self.place.lot[0] < 10 else 0.0
            if self.dice.chance(self.place.built) and not self._crossed(z, z + wide):
                self._lot(side, z + wide / 2, wide / 2)
            z += wide + gap

    def _crossed(self, start: float, end: float) -> bool:
        cross = self.street.cross
        return cross is not None and start < cross[1] + self.street.walk and end > cross[0] - self.street.walk

    def _lot(self, side: int, z: float, half: float) -> None:
        dice, place = self.dice, self.place
        setback = dice.uniform(0, 0.5) * self.street.verge
        brush = self.canvas.brush(
            "building", side * (self.street.front + setback), z, 0 if side < 0 else math.pi, layer=BUILDINGS
        )
        ground = dice.weigh(place.grounds)
        plan = buildings.Plan(
            half=half,
            depth=dice.uniform(7, 14),
            storeys=max(1, int(dice.between(place.storeys) + 0.5) - (ground == "hall")),
            storey=dice.uniform(2.7, 3.5) * (1.5 if ground == "hall" else 1),
            ground=ground,
            roof=dice.weigh(place.roofs),
        )
        wall = dice.weigh(place.walls)
        footprint = [(-half, 0.0), (half, 0.0), (half, -plan.depth), (-half, -plan.depth)]
        brush.shadow(footprint, plan.top, self.sweep)
        if self._in_view(brush, half + plan.depth):
            buildings.building(brush, dice, plan, wall, self.light.dusk)

    def _borders(self, side: int) -> None:
        kinds: dict[str, Callable[[Dice], furniture.Panel]] = {
            "hedge": furniture.hedge,
            "fence": furniture.fence,
            "masonry": furniture.masonry,
        }
        kind = self.dice.weigh(self.place.borders)
        if kind == "none" or self.street.verge < 0.6:
            return
        panel, name = kinds[kind](self.dice), {"hedge": "vegetation", "masonry": "wall"}.get(kind, kind)
        x = side * (self.street.border + 0.25)
        for i in range(-3, 22):
            z = 3.0 * i
            brush = self.canvas.brush(name, x, z, 0 if side < 0 else math.pi)
            if not self.dice.chance(0.12) and not self._crossed(z - 1.5, z + 1.5) and self._in_view(brush, 3):
                panel(brush, 3.0)

    # ---------------------------------------------------------------------------------------------- what stands around

    def _in_view(self, brush: Brush, size: float) -> bool:
        """Whether something of this size there may be seen."""
        right, _, forward = brush.frame[3]
        return forward > -size and abs(right) < (forward + size) / self.canvas.camera.focal + size

    def _count(self, bounds: Range) -> int:
        return int(self.dice.between(bounds))

    def _place_at(
        self, xs: Callable[[], float], half: tuple[float, float], away: float, far: float = 55, zs: Range | None = None
    ) -> tuple[float, float] | None:
        """A free place in view, at least ``away`` from the camera; ``half`` is the space it takes in x and z."""
        camera = self.canvas.camera
        for _ in range(12):
            x, z = xs(), self.dice.between(zs) if zs else -8 + (far + 8) * self.dice.random() ** 1.5
            right, forward = camera.rotated(x - camera.x, z)
            seen = forward > 2 and abs(right) < 1.05 * forward / camera.focal
            free = all(abs(x - a) > half[0] + c or abs(z - b) > half[1] + d for a, b, c, d in self.taken)
            if seen and free and math.hypot(right, forward) > away:
                self.taken.append((x, z, *half))
                return x, z
        return None

    def _each(
        self, bounds: Range, xs: Callable[[], float], half: tuple[float, float], away: float
    ) -> Sequence[tuple[float, float]]:
        places = (self._place_at(xs, half, away) for _ in range(self._count(bounds)))
        return [place for place in places if place]

    def _round_shadow(self, brush: Brush, radius: float, height: float) -> None:
        brush.shadow(_octagon(radius), height, self.sweep)

    # --------------------------------------------------------------------------------------------------------- traffic

    def _traffic(self) -> None:
        place = self.place
        for _ in range(self._count(place.buses)):
            self._vehicle("bus", parked=False)
        for _ in range(self._count(place.trucks)):
            self._vehicle("truck", parked=self.dice.chance(0.4))
        for _ in range(self._count(place.driving)):
            self._vehicle("car", parked=False)
        for _ in range(self._count(place.parked)):
            self._vehicle("car", parked=True)
        for name, count in (("motorcycle", place.motorcycles), ("bicycle", place.bicycles)):
            for _ in range(self._count(count)):
                self._two_wheeler(name)

    def _vehicle(self, name: str, parked: bool) -> None:
        dice, street = self.dice, self.street
        length, width = {"car": (4.6, 1.9), "truck": (8.0, 2.5), "bus": (11.0, 2.7)}[name]
        lane = dice.sign()
        heading = (0.0 if lane == street.hand else math.pi) + dice.uniform(-0.06, 0.06)
        if parked and dice.chance(0.25):
            heading += math.pi
        crossing = street.cross and not parked and dice.chance(0.5)
        if crossing and street.cross:
            heading = dice.sign() * math.pi / 2 + dice.uniform(-0.1, 0.1)
            spot = self._place_at(
                lambda: dice.uniform(-14, 14),
                (length / 2, width / 2),
                8,
                zs=(street.cross[0] + 1.2, street.cross[1] - 1.2),
            )
        else:
            x = lane * (max(street.road - width / 2 - 0.15, 0.4) if parked else 0.45 * street.road)
            if not street.road:
                x = lane * dice.uniform(0, 1) * street.border
            x += lane * 0.9 * (parked and dice.chance(0.15)) * (name == "car")
            spot = self._place_at(lambda: x, (width / 2, length / 2 + 0.4), 4.2 if name == "car" else 8.5)
        if not spot:
            return
        brush = self.canvas.brush(name, *spot, heading)
        brush.shadow(
            vehicles.footprint(length * 0.92, width * 0.9), {"car": 1.2, "truck": 2.8, "bus": 2.8}[name], self.sweep
        )
        brush.shadow(vehicles.footprint(length, width), 0.0, self.sweep)
        if name == "car":
            vehicles.car(brush, dice, self.light.dusk, dice.weigh({"hatchback": 3, "sedan": 3, "suv": 2.5, "van": 1.5}))
        else:
            (vehicles.truck if name == "truck" else vehicles.bus)(brush, dice, self.light.dusk)

    def _two_wheeler(self, name: str) -> None:
        """Ridden on the road or standing on the sidewalk, turned so that one sees its side."""
        dice, street = self.dice, self.street
        ridden = dice.chance(0.5)
        limit = street.road if ridden and street.road else street.border
        spot = self._place_at(lambda: dice.uniform(-1, 1) * limit, (0.8, 0.8), 3.8, far=30)
        if not spot:
            return
        facing = math.atan2(spot[0] - self.canvas.camera.x, spot[1])
        brush = self.canvas.brush(name, *spot, facing + dice.sign() * math.pi / 2 + dice.uniform(-0.7, 0.7))
        brush.shadow([(0.8, 0.12), (0.8, -0.12), (-0.8, -0.12), (-0.8, 0.12)], 1.5 if ridden else 0.9, self.sweep)
        if name == "bicycle":
            figures.bicycle(brush, dice, ridden)
        else:
            figures.motorcycle(brush, dice, ridden, self.light.dusk)

    # ---------------------------------------------------------------------------------------- furniture, plants, people

    def _furniture(self) -> None:
        dice, street, place = self.dice, self.street, self.place
        kerb = street.road or street.border - 1
        paints = (
            (place.poles, "pole", lambda brush: furniture.pole(brush, dice)),
            (place.lamps, "pole", lambda brush: furniture.lamp(brush, dice, self.light.dusk)),
            (place.lights, "traffic light", lambda brush: furniture.traffic_light(brush, dice)),
            (place.signs, "traffic sign", lambda brush: furniture.traffic_sign(brush, dice)),
        )
        for count, name, paint in paints:
            for x, z in self._each(count, lambda: dice.sign() * (kerb + dice.uniform(0.3, 0.9)), (0.2, 0.2), 4.5):
                brush = self.canvas.card(name, x, z)
                self._round_shadow(brush, 0.1, 5)
                paint(brush)

    def _plants(self) -> None:
        dice, street, place = self.dice, self.street, self.place
        kerb = street.road or street.border - 1
        for x, z in self._each(
            place.street_trees, lambda: dice.sign() * (kerb + dice.uniform(0.7, 1.1)), (0.5, 1.5), 6
        ):
            self._tree(x, z)
        room = max(street.verge, 0.5)
        for x, z in self._each(
            place.yard_plants, lambda: dice.sign() * (street.border + dice.uniform(0.8, room + 0.6)), (0.6, 0.6), 5
        ):
            if dice.chance(0.6):
                self._tree(x, z)
            else:
                size = dice.uniform(0.6, 2.0)
                brush = self.canvas.card("vegetation", x, z)
                self._round_shadow(brush, 0.4 * size, size)
                furniture.bush(brush, dice, size)

    def _tree(self, x: float, z: float) -> None:
        brush, height = self.canvas.card("vegetation", x, z), self.dice.uniform(4, 11)
        self._round_shadow(brush, 0.2 * height, 0.8 * height)
        furniture.tree(brush, self.dice, height)

    def _people(self) -> None:
        dice, street = self.dice, self.street

        def somewhere() -> float:
            on_walk = street.road + dice.uniform(0.2, max(street.walk, 0.6))
            return dice.sign() * (on_walk if street.road and not dice.chance(0.25) else dice.uniform(0, street.border))

        for _ in range(self._count(self.place.people)):
            spot = self._place_at(somewhere, (0.35, 0.35), 3.2, far=30)
            if spot:
                brush = self.canvas.card("person", *spot)
                height = dice.uniform(1.55, 1.95) if dice.chance(0.85) else dice.uniform(1.0, 1.4)
                self._round_shadow(brush, 0.22, height)
                figures.person(brush, dice, height)


def _octagon(radius: float) -> list[tuple[float, float]]:
    return [(radius * math.cos(i * math.pi / 4), radius * math.sin(i * math.pi / 4)) for i in range(8)]


def _level(z0: float, z1: float, x0: float, x1: float) -> list[Point]:
    """A rectangle on the ground for a brush at the origin."""
    return [(z0, 0.0, x0), (z1, 0.0, x0), (z1, 0.0, x1), (z0, 0.0, x1)]
