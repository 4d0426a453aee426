"""Cases to batches: two shuffled, augmented, endless streams, zipped and read ahead."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import grain
import numpy as np

from cifp_jax.data import sources, transforms
from cifp_jax.data.layouts import Layout
from cifp_jax.data.splits import Split
from cifp_jax.data.transforms import Arrays
from cifp_jax.data.whole_slices import WHOLE, SliceFrame

Batch = dict[str, Arrays]

_LABELED, _UNLABELED = 0, 1
_READ_AHEAD = 2  # batches, in each worker
_LAST_POSITION = 2**31 - 1  # of an int32 index


class TrainIterator(grain.DatasetIterator[Batch]):
    """Endless iterator over batches whose state is the number of the next one.

    Grain's own state of a multi-process iterator holds each worker's position, and fits no other
    number of workers. As a batch follows from its number alone, the number is enough.
    """

    def __init__(
        self,
        batches: grain.MapDataset[Batch],
        workers: int,
        names: Callable[[int], dict[str, list[str]]],
    ) -> None:
        super().__init__()
        self._batches = batches
        self._workers = workers
        self.names = names  # of the cases of a batch, of all processes, by its number and stream
        self._next_index = 0
        self._ahead: grain.DatasetIterator[Batch] | None = None

    def start_prefetch(self) -> None:
        """Starts reading ahead; the first `next` does so otherwise."""
        if self._ahead is None:
            # Grain reads 500 batches ahead by default, which for scans is gigabytes.
            options = grain.ReadOptions(
                num_threads=1 if self._workers else 2, prefetch_buffer_size=_READ_AHEAD
            )
            dataset = self._batches[self._next_index :].to_iter_dataset(options)
            if self._workers:
                dataset = dataset.mp_prefetch(
                    grain.MultiprocessingOptions(
                        num_workers=self._workers, per_worker_buffer_size=_READ_AHEAD
                    )
                )
            self._ahead = iter(dataset)

    def __next__(self) -> Batch:
        self._assert_not_closed()
        self.start_prefetch()
        assert self._ahead is not None
        batch = next(self._ahead)
        self._next_index += 1
        return batch

    def get_state(self) -> dict[str, Any]:
        return {"next_index": self._next_index}

    def set_state(self, state: dict[str, Any]) -> None:
        self._stop()
        self._next_index = state["next_index"]

    def _stop(self) -> None:
        if self._ahead is not None:
            self._ahead.close()
            self._ahead = None

    def close(self) -> None:
        """Ends the threads and processes; the iterator cannot be used after that."""
        self._stop()
        super().close()


def _example(
    position: int,
    arrays: Arrays,
    *,
    augment: Callable[[np.random.Generator, Arrays], Arrays],
    channels: int,
    seed: Sequence[int],
) -> Arrays:
    arrays = augment(np.random.default_rng([*seed, position]), arrays)
    image = arrays["image"] if channels > 1 else arrays["image"][..., None]
    example = {"image": image, "index": np.asarray(position, np.int32)}
    if "label" in arrays:
        example["label"] = arrays["label"].astype(np.int32)
    return example


def _unchanged(rng: np.random.Generator, arrays: Arrays) -> Arrays:
    del rng
    return arrays


def _augment_of(
    layout: Layout, patch_size: Sequence[int], interpolation: str, weak_slices: bool
) -> Callable[[np.random.Generator, Arrays], Arrays]:
    """What makes an example of a record; it is handed a generator of the example's own."""
    size = tuple(patch_size)
    if layout.cut == "turned_crops":
        return functools.partial(transforms.weak_scan, patch_size=size)
    if layout.cut == "crops":
        return functools.partial(transforms.weak_crop, patch_size=size)
    if weak_slices:
        return functools.partial(
            transforms.weak_slice, patch_size=size, interpolation=interpolation
        )
    return _unchanged


def _read_slice(
    case: sources.Case,
    read: Callable[[sources.Case], Arrays],
    frame: SliceFrame,
    size: Sequence[int] | None,
) -> Arrays:
    """What of a slice is seen, in the `size` that is given or its own; the cache holds it so."""
    return frame.cut(read(case)) if size is None else frame.see(read(case), size)


def _decisions(
    position: int,
    scan: tuple[int, tuple[int, ...]],
    *,
    patch_size: Sequence[int],
    seed: Sequence[int],
) -> Arrays:
    case, shape = scan
    drawn = transforms.draw_scan_crop(np.random.default_rng([*seed, position]), shape, patch_size)
    numbers = {
        "case": case,
        "start": drawn.start,
        "quarter_turns": drawn.quarter_turns,
        "mirrored_axis": drawn.mirrored_axis,
        "index": position,
    }
    return {key: np.asarray(number, np.int32) for key, number in numbers.items()}


def _join(streams: tuple[Arrays, Arrays]) -> Batch:
    return {"labeled": streams[0], "unlabeled": streams[1]}


def make_train_iterator(
    split: Split,
    *,
    layout: Layout,
    classes: int,
    patch_size: Sequence[int],
    batch_labeled: int,
    batch_unlabeled: int,
    seed: int,
    channels: int = 1,
    frame: SliceFrame = WHOLE,
    weak_slices: bool = True,
    downsample: int = 1,
    on_device: bool = False,
    workers: int = 0,
    cache_bytes: int = 4 * 10**9,
    process_index: int = 0,
    process_count: int = 1,
) -> TrainIterator:
    """The training batches, without end (of use: a stream ends after 2^31 - 1 examples):

        {"labeled":   {"image": float32 (b_l, *patch, c), "label": int32 (b_l, *patch),
                       "index": int32 (b_l,)},
         "unlabeled": {"image": float32 (b_u, *patch, c), "index": int32 (b_u,)}}

    Each stream is shuffled anew every epoch and runs on from one epoch into the next inside a
    batch, so that sets smaller than a batch serve too. `index` is an example's position in its
    stream. A batch follows from the seed and its number alone, whatever the workers; with several
    processes each gets its contiguous share of the batch that a single one would get.

    With `on_device` both streams hold, in place of images and labels, what is drawn for the same
    crops, all int32: `case` (b,), the scan's number in `split.labeled + split.unlabeled`, `start`
    (b, 3), `quarter_turns` (b,), `mirrored_axis` (b,) and `index` (b,). The shapes of the scans are
    all that is read of them; `training.device_scans` cuts the crops.

    Args:
      split: labelled and unlabelled cases. Where no case is unlabelled (a fully supervised run),
        the labelled ones stand in the unlabelled stream, without their labels.
      layout: of the cases; its `cut` says how an example is cut out of a record and augmented.
      classes: number of classes, background included.
      patch_size: sides of an example, as many as the layout's rank.
      batch_labeled: labelled examples in a batch of all processes together.
      batch_unlabeled: unlabelled examples likewise.
      seed: not negative; order and augmentation of both streams follow from it.
      channels: of the images.
      frame: what of whole slices is seen, and by which interpolation they are resized.
      weak_slices: whether whole slices are augmented here, before they are resized. Crops of scans
        are always drawn, turned and mirrored here.
      downsample: factor by which scans are averaged down when they are read.
      on_device: draw the crops only, where `layout.may_lie_on_device`.
      workers: Grain worker processes; 0 reads in threads of this process. Each process keeps its
        own cache.
      cache_bytes: decoded scans kept in memory, in bytes, per process.
      process_index: this process, of `process_count`.

    Raises:
      ValueError: a patch of another rank than the layout's; batch sizes that the processes do not
        divide; `on_device` where the layout does not allow it; and, when the bad record's turn
        comes, what `sources.read_case` raises.
    """
    if len(patch_size) != layout.rank:
        raise ValueError(f"patch_size {tuple(patch_size)} must have {layout.rank} sides.")
    if on_device and not layout.may_lie_on_device:
        raise ValueError(f"on_device serves a layout of turned_crops, not of {layout.cut}.")
    augment = _augment_of(layout, patch_size, frame.interpolation, weak_slices)
    cache = sources.ScanCache(cache_bytes)

    def shuffled(number: int, source: Any) -> grain.MapDataset[Any]:
        # Grain adds the epoch to the shuffle's seed, so seeds of two streams must not be close.
        shuffle_seed = int(np.random.SeedSequence([seed, number]).generate_state(1)[0])
        endless = grain.MapDataset.source(source).shuffle(shuffle_seed).repeat()
        return endless.slice(slice(_LAST_POSITION))

    def stream(number: int, cases: Sequence[sources.Case], size: int) -> grain.MapDataset[Arrays]:
        if size < 1 or size % process_count:
            raise ValueError(
                f"{size} examples of a stream cannot be shared out evenly to {process_count} "
                f"process(es): make data.batch_labeled and data.batch_unlabeled positive "
                f"multiples of {process_count}."
            )
        example: Callable[[int, Any], Arrays]
        if on_device:
            first = len(split.labeled) if number == _UNLABELED and split.unlabeled else 0
            shapes = [sources.scan_shape(case, downsample) for case in cases]
            source: Any = list(enumerate(shapes, first))
            example = functools.partial(_decisions, patch_size=patch_size, seed=(seed, number))
        else:
            read = functools.partial(
                sources.read_case,
                classes=classes,
                rank=layout.rank,
                labels=number == _LABELED,
                downsample=downsample,
                channels=channels,
            )
            if layout.cut == "resized_slices":
                read = functools.partial(
                    _read_slice,
                    read=read,
                    frame=frame,
                    size=None if weak_slices else tuple(patch_size),
                )
            source = sources.CaseSource(cases, read, cache)
            example = functools.partial(
                _example, augment=augment, channels=channels, seed=(seed, number)
            )
        return (
            shuffled(number, source)
            .map_with_index(example)
            .batch(size // process_count)
            .slice(slice(process_index, None, process_count))
        )

    streams = {
        "labeled": (_LABELED, split.labeled, batch_labeled),
        "unlabeled": (_UNLABELED, split.unlabeled or split.labeled, batch_unlabeled),
    }

    def names(batch: int) -> dict[str, list[str]]:
        found: dict[str, list[str]] = {}
        for stream, (number, cases, size) in streams.items():
            order: Any = shuffled(number, [case.name for case in cases])
            found[stream] = [order[batch * size + i] for i in range(size)]
        return found

    labeled, unlabeled = (stream(*of) for of in streams.values())
    # Zipped datasets must be equally long, which streams in batches of two sizes are not.
    length = min(len(labeled), len(unlabeled))
    pairs: grain.MapDataset[Any] = grain.experimental.ZipMapDataset(
        [labeled[:length], unlabeled[:length]]
    )
    return TrainIterator(pairs.map(_join), workers, names)
