"""Streams of real photographs: what is served, by how many processes, and what happens when something breaks."""

import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import CenterCrop, Compose, PILToTensor, Resize
from torchvision.transforms.functional import InterpolationMode, pil_to_tensor, resized_crop

from tests.waiting import PATIENCE, is_pending, wait_for
from trust_exp.data.config import AugmentConfig
from trust_exp.data.geometry import RESIZED_CROP_NUMBERS, resized_crop_boxes
from trust_exp.data.readers.classes import ClassReader
from trust_exp.data.stream import StreamDataModule, StreamLoader, on_device
from trust_exp.errors import UserError
from trust_exp.rng import keyed_generator
from trust_exp.schema import ROOT

pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create 3 worker processes")

CROP = {"resized_crop": [0.08, 1.0], "flip": True}
LABELS = torch.tensor([0, 1, 1, 2, 2])  # of the photographs to test on
FIRST = torch.arange(11)
EVERYTHING = {**CROP, "jitter": 0.25, "hue": 0.1, "rotate": 10.0, "blur": 0.5}


@pytest.fixture(scope="session")
def photographs(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Train and test with 13 and 5 photographs of 3 classes."""
    folder = tmp_path_factory.mktemp("photographs")
    script = shared_data.parent / "tools" / "unpack_data.py"
    subprocess.run([sys.executable, script, "--to", folder / "all", "imagenet_samples"], check=True)
    found = sorted((folder / "all").rglob("*.JPEG"))[::50]
    for place, path in enumerate(found[:18]):
        part = "train" if place < 13 else "test"
        target = folder / "some" / part / "abc"[place % 3] / path.name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)
    return folder / "some"


@pytest.fixture(scope="session")
def data_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("data")


@pytest.fixture
def module(photographs, data_root):
    def build(**options) -> StreamDataModule:
        given = {"path": str(photographs), "root": data_root, "image_size": [64, 64], "resize": 72, "workers": 0}
        return StreamDataModule("folder", **(given | options))

    return build


@pytest.fixture
def reader(photographs, module):
    def build(resize=72, size=(64, 64), **augment) -> ClassReader:
        data = module(image_size=list(size), resize=resize, augment=augment)
        return data._reader("train")

    return build


def files(data: StreamDataModule, split="train") -> list[Path]:
    return [data._folder / os.fsdecode(path) for path in data.prepared.open(split)["paths"]]


def training(reader, position=0, rows=13, **options):
    """Batches that follow a position which moves with them, as a trainer's step does."""
    at = [position]
    loader = StreamLoader(reader, torch.arange(rows), 4, position=lambda: at[0], **options)
    while True:
        for batch in loader:
            at[0] += 1
            yield batch


def take(count, batches):
    found = [next(batches) for _ in range(count)]
    batches.close()
    return found


def assert_equal(batches, expected):
    for batch, other in zip(batches, expected, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(batch, other, strict=True))


# --- what is served ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("resize", "size"), [(72, (64, 64)), (None, (64, 64)), (100, (64, 99)), (144, (63, 64))])
def test_evaluation_serves_what_torchvision_serves(module, resize, size):
    data = module(resize=resize, image_size=list(size), eval_batch_size=2)
    expected = Compose([Resize(resize or 64), CenterCrop(size), PILToTensor()])
    batches = list(data.test_dataloader())
    assert [len(batch.label) for batch in batches] == [2, 2, 1]
    served = torch.cat([batch.image for batch in batches])
    for image, path in zip(served, files(data, "test"), strict=True):
        assert torch.equal((image * 255).round().byte(), expected(Image.open(path).convert("RGB")))
    assert torch.cat([batch.index for batch in batches]).tolist() == list(range(5))
    assert torch.equal(torch.cat([batch.label for batch in batches]), LABELS)
    assert data.info.shape == (3, *size)


def test_stretched_images_are_whole(module):
    served = next(iter(module(stretch=True, resize=None, image_size=[40, 70]).test_dataloader())).image
    path = files(module(), "test")[0]
    expected = Image.open(path).convert("RGB").resize((70, 40), Image.Resampling.BILINEAR)
    assert torch.equal((served[0] * 255).round().byte(), pil_to_tensor(expected))


@pytest.mark.slow
def test_copies_are_the_same_in_every_epoch_and_for_any_number_of_workers(module):
    def epochs(workers):
        data = module(copies=6, stretch=True, resize=None, batch_size=13, workers=workers)
        loader = data.train_dataloader()
        assert (len(loader), data.size("train")) == (6, 13)
        found = []
        for at in (0, len(loader)):
            loader.position = lambda at=at: at
            batches = list(loader)
            index, images = (torch.cat([getattr(batch, key) for batch in batches]) for key in ("index", "image"))
            assert index.bincount().tolist() == [6] * 13
            served = zip(index.tolist(), images, strict=True)
            found.append({(number, image.numpy().tobytes()) for number, image in served})
        return found

    first, second = epochs(0)
    assert len(first) == 6 * 13  # all differ
    assert first == second == epochs(2)[0]


def test_a_wide_image_size_is_covered(reader):
    image, _ = reader(resize=None, size=(30, 80))(0, None)
    assert image.shape == (3, 30, 80)


def test_random_crops_are_those_of_torchvision(reader, module):
    own = reader(**CROP)
    uniform = torch.rand(13, own.draws, generator=keyed_generator("uniform"))
    flipped = 0
    for row, path in enumerate(files(module())):
        image = Image.open(path).convert("RGB")
        numbers, sizes = uniform[row : row + 1, 1:], torch.tensor([[image.height, image.width]])
        ((left, top, width, height),) = resized_crop_boxes(numbers, sizes, [0.08, 1], [3 / 4, 4 / 3]).tolist()
        expected = pil_to_tensor(resized_crop(image, top, left, height, width, [64, 64], InterpolationMode.BILINEAR))
        if uniform[row, 0] < 0.5:
            expected, flipped = expected.flip(2), flipped + 1
        served, _ = own(row, uniform[row].numpy())
        assert np.array_equal(served, expected.numpy())
    assert own.draws == 1 + RESIZED_CROP_NUMBERS
    assert 0 < flipped < 13


def test_without_a_resized_crop_training_takes_a_crop_anywhere(reader, module):
    own = reader(pad=1)
    resized = Resize(72)(Image.open(files(module())[0]).convert("RGB"))
    space = resized.width - 64, resized.height - 64
    least, most = np.float32(0), np.nextafter(np.float32(1), np.float32(0))
    for u, v in ((least, least), (most, most), (least, most), (np.float32(0.3), np.float32(0.6))):
        left, top = int(float(u) * (space[0] + 1)), int(float(v) * (space[1] + 1))
        served, _ = own(0, np.array([0, u, v]))
        assert np.array_equal(served, pil_to_tensor(resized.crop((left, top, left + 64, top + 64))).numpy())
    assert (left, top) not in {(0, 0), space}
    assert int(float(most) * (space[0] + 1)) == space[0]


def test_images_that_are_no_rgb_are_served_as_rgb(module, photographs, tmp_path):
    folder = tmp_path / "odd"
    for number, mode in enumerate(("L", "P", "RGBA", "CMYK")):
        for part in ("train", "test"):
            path = folder / part / "a" / f"{number}.{'jpg' if mode == 'CMYK' else 'png'}"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.open(next(photographs.rglob("*.JPEG"))).convert(mode).save(path)
    data = module(path=str(folder), root=tmp_path)
    for image, path in zip(next(iter(data.test_dataloader())).image, files(data, "test"), strict=True):
        expected = Compose([Resize(72), CenterCrop(64), PILToTensor()])(Image.open(path).convert("RGB"))
        assert torch.equal((image * 255).round().byte(), expected)


def test_images_are_cropped_to_their_boxes_first(photographs, module):
    path = next(photographs.rglob("*.JPEG"))
    arrays = {"paths": np.array([os.fsencode(path)]), "labels": np.zeros(1, np.uint8)}
    boxes = {"boxes": np.array([[20, 10, 100, 120]], np.int32)}
    given = (torch.arange(1), (64, 64), 72, AugmentConfig())
    served, _ = ClassReader(Path("/"), arrays | boxes, *given, crop=True)(0, None)
    inside = Image.open(path).convert("RGB").crop((20, 10, 100, 120))
    assert np.array_equal(served, Compose([Resize(72), CenterCrop(64), PILToTensor()])(inside).numpy())
    with pytest.raises(UserError, match=r"dataset\.crop=true needs a box"):
        ClassReader(Path("/"), arrays, *given, crop=True)
    with pytest.raises(UserError, match=r"dataset\.crop=true needs a box"):
        module(crop=True).test_dataloader()


def test_a_resize_below_what_is_served_is_refused(module):
    with pytest.raises(UserError, match=r"dataset\.resize must be at least 64, the size of the served images; got 60"):
        module(resize=60).test_dataloader()


def test_no_change_is_made_twice_or_left_out():
    everything = AugmentConfig(**EVERYTHING)
    assert on_device(everything, "classification") == AugmentConfig(jitter=0.25, hue=0.1, rotate=10.0, blur=0.5)
    assert on_device(everything, "segmentation") == AugmentConfig(jitter=0.25, hue=0.1, blur=0.5)
    with pytest.raises(UserError, match=r"augment\.rotate is not for images with boxes"):
        on_device(everything, "detection")


def test_chosen_classes_and_limits(module):
    data = module(classes=["c", "a"], limit_train=5, eval_batch_size=10)
    assert data.info.classes == ("c", "a")
    assert data.size("train") == 5
    batch = next(iter(data.eval_loader("test")))
    everything = module(eval_batch_size=10).samples("test", batch.index)
    assert batch.label.tolist() == [{0: 1, 2: 0}[label] for label in everything.label.tolist()]
    assert torch.equal(batch.image, everything.image)
    some = data.samples("test", torch.tensor([2, 0]))
    assert_equal([some], [tuple(values[[2, 0]] for values in batch)])


def test_photographs_are_held_out_of_each_class(module):
    whole, data = module(), module(hold_out=0.3, augment=EVERYTHING, batch_size=4)
    held = data.served("val")
    assert data.served_labels("val").bincount().tolist() == [2, 1, 1]  # of 5, 4 and 4
    assert torch.equal(torch.cat([data.served("train"), held]).sort().values, torch.arange(13))
    batches = list(data.eval_loader("val", batch_size=3))
    assert_equal([tuple(map(torch.cat, zip(*batches, strict=True)))], [whole.samples("train", held)])
    assert not torch.isin(torch.cat([batch.index for batch in data.train_dataloader()]), held).any()
    limited = module(hold_out=0.3, limit_train=5)
    assert (limited.size("train"), limited.size("val")) == (5, 2)
    assert torch.isin(limited.served("val"), held).all()
    assert whole.origin() == {key: value for key, value in data.origin().items() if key != "held_out"}


def test_a_part_may_be_val(module):
    data = module(train=["train"], test=["train"], val=["test"])
    assert data.splits == ("train", "val", "test")
    assert torch.equal(data.labels("val"), LABELS)
    assert_equal(list(data.eval_loader("val")), list(module().eval_loader("test")))


# --- the same, whoever decodes -------------------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [pytest.param(1, marks=pytest.mark.slow), 3])
def test_the_number_of_workers_changes_nothing(module, workers):
    alone, helped = (module(augment=EVERYTHING, batch_size=4, workers=count) for count in (0, workers))
    torch.manual_seed(0)
    expected, drawn = list(alone.train_dataloader()), torch.rand(1)
    torch.manual_seed(0)
    assert_equal(list(helped.train_dataloader()), expected)
    assert torch.equal(torch.rand(1), drawn)  # and draws nothing from the global generator
    assert [len(batch.label) for batch in expected] == [4, 4, 4]
    assert_equal(helped.eval_loader("train", FIRST), alone.eval_loader("train", FIRST))


@pytest.mark.parametrize("workers", [0, 2])
def test_a_pass_may_be_broken_off_but_not_mixed_with_another(module, workers):
    loader = module(batch_size=2, workers=workers).train_dataloader()
    first = next(iter(loader))
    expected = list(loader)
    assert_equal([first], expected[:1])
    assert_equal(list(loader), expected)
    one, other = iter(loader), iter(loader)
    next(one), next(other)
    with pytest.raises(RuntimeError, match="one pass at a time"):
        next(one)


def test_epochs_are_permutations_and_their_changes_differ(reader):
    batches = take(6, training(reader(**EVERYTHING), augment=None))
    first, second = (torch.cat([batch.index for batch in part]) for part in (batches[:3], batches[3:]))
    assert len(first.unique()) == len(second.unique()) == 12
    assert not torch.equal(first, second)
    image = {int(i): image for batch in batches[:3] for i, image in zip(batch.index, batch.image, strict=True)}
    again = {int(i): image for batch in batches[3:] for i, image in zip(batch.index, batch.image, strict=True)}
    assert not any(torch.equal(image[i], again[i]) for i in image.keys() & again.keys())


@pytest.mark.parametrize("position", [1, 2, 4])
def test_a_resumed_stream_continues_as_if_never_interrupted(module, position):
    data = module(augment=EVERYTHING)
    options = {"augment": data.augment, "workers": 1}
    whole = take(5, training(data._reader("train"), **options))
    assert_equal(take(5 - position, training(data._reader("train"), position, **options)), whole[position:])


def test_the_shares_of_two_processes_make_the_whole(module):
    data = module(augment=EVERYTHING)
    expected = take(4, training(data._reader("train"), augment=data.augment))
    shares = [take(4, training(data._reader("train"), augment=data.augment, rank=rank, world=2)) for rank in (0, 1)]
    joined = [tuple(map(torch.cat, zip(*batches, strict=True))) for batches in zip(*shares, strict=True)]
    assert_equal(joined, expected)


def test_whole_batches_of_an_evaluation_go_round_robin_to_processes(module):
    reader, rows = module()._reader("test"), torch.arange(5)
    expected = list(StreamLoader(reader, rows, 2))
    for rank in range(4):
        loader = StreamLoader(reader, rows, 2, rank=rank, world=4)
        batches = list(loader)
        assert len(loader) == len(batches) == 1
        if rank < 3:
            assert_equal(batches, [expected[rank]])
        else:
            assert [tuple(values.shape) for values in batches[0]] == [(0, 3, 64, 64), (0,), (0,)]


def test_a_batch_that_cannot_be_shared_is_refused(reader):
    with pytest.raises(UserError, match="cannot be shared equally by 3"):
        StreamLoader(reader(), torch.arange(13), 4, position=lambda: 0, world=3)


# --- when something breaks -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [0, 2])
def test_a_file_that_breaks_later_is_named_and_no_process_stays(photographs, tmp_path, workers):
    folder = shutil.copytree(photographs, tmp_path / "copy")
    data = StreamDataModule("folder", path=str(folder), root=tmp_path, batch_size=2, workers=workers)
    loader = data.train_dataloader()
    others = set(multiprocessing.active_children())
    broken = files(data)[int(list(loader)[-1].index[0])]
    assert len(set(multiprocessing.active_children()) - others) == workers
    broken.write_bytes(broken.read_bytes()[:100])
    with pytest.raises(UserError, match=rf"{broken.name} is damaged") as refused:
        list(loader)
    assert "\n" not in str(refused.value)
    assert not set(multiprocessing.active_children()) - others
    broken.unlink()
    with pytest.raises(UserError, match=rf"{broken.name} cannot be read: No such file"):
        list(loader)


def test_a_folder_that_is_gone_is_said_before_training(photographs, tmp_path):
    folder = shutil.copytree(photographs, tmp_path / "copy")
    data = StreamDataModule("folder", path=str(folder), root=tmp_path)
    data.prepare_data()
    shutil.rmtree(folder)
    with pytest.raises(UserError, match=r"no longer in .*copy; put them back"):
        data.prepare_data()


SCRIPT = """
    import sys, torch
    from trust_exp.data.stream import StreamDataModule
    if __name__ == "__main__":
        data = StreamDataModule("folder", path=sys.argv[1], root=sys.argv[2], batch_size=2, workers=2)
        loader = data.train_dataloader()
        try:
            while True:
                for batch in loader:
                    print("batch", flush=True)
        except KeyboardInterrupt:
            sys.exit(130)
"""


@pytest.fixture(scope="module")
def streams(photographs, data_root, tmp_path_factory):
    """Two processes that stream without end, each in a group of its own, as to start one takes its time."""
    script = tmp_path_factory.mktemp("script") / "endless.py"
    script.write_text(textwrap.dedent(SCRIPT))
    command = [sys.executable, script, photographs, data_root]
    pipes = {"text": True, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    processes = [subprocess.Popen(command, cwd=ROOT, start_new_session=True, **pipes) for _ in range(2)]
    yield list(processes)
    for process in processes:
        if group_of(process):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


@pytest.fixture
def streaming(streams):
    """One of them, when it has begun."""
    process = streams.pop()
    for _ in range(3):
        assert process.stdout.readline() == "batch\n"
    return process


def group_of(process) -> list[int]:
    """The processes of the group that are not dead."""
    members = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            state, _, group = (folder / "stat").read_text().rpartition(")")[2].split()[:3]
        except OSError:  # it has just ended
            continue
        if int(group) == process.pid and state != "Z":
            members.append(int(folder.name))
    return members


def parent_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


@pytest.mark.slow
def test_workers_leave_signals_to_the_process_they_work_for(streaming):
    others = [member for member in group_of(streaming) if member != streaming.pid]
    assert len(others) >= 3  # two workers, and the server that they were forked from
    workers = [member for member in others if parent_of(member) in others]
    assert len(workers) == 2
    for member in others:
        os.kill(member, signal.SIGTERM)
    wait_for(lambda: not any(is_pending(worker, signal.SIGTERM) for worker in workers))  # they have taken it
    assert set(others) <= set(group_of(streaming))
    for _ in range(20):
        assert streaming.stdout.readline() == "batch\n"
    os.killpg(streaming.pid, signal.SIGINT)  # as Ctrl-C does
    _, errors = streaming.communicate(timeout=PATIENCE)
    assert (streaming.returncode, errors) == (130, "")
    wait_for(lambda: not group_of(streaming))


@pytest.mark.slow
def test_workers_do_not_outlive_a_killed_process(streaming):
    os.kill(streaming.pid, signal.SIGKILL)
    wait_for(lambda: not group_of(streaming))
