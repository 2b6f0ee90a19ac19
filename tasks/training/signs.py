"""What a table of epochs warns of, in words: the named signs of a training that went wrong."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt
from sklearn.metrics import precision_recall_fscore_support

from tasks.training.table import Epoch, best_epoch

_RISE = 1.05  # validation loss against its best: more is no noise
_GAP = 0.10  # training accuracy above validation accuracy
_HIGH, _LOW = 0.90, 0.50  # of precision and recall


def signs(
    rows: Sequence[Epoch], outputs: tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]], classes: Sequence[str]
) -> tuple[str, ...]:
    """Sentences: what was seen, and what to try. `rows` of fine-tuning, the start included.

    `outputs`: validation logits [N, C] of the weights that were kept, and labels [N].
    """
    return (*_of_the_course(rows), *_of_the_kept(*outputs, classes))


def _of_the_course(rows: Sequence[Epoch]) -> Iterator[str]:
    trained = [row for row in rows if row.train_loss is not None]
    if not trained:
        return
    first, last, kept = trained[0], trained[-1], rows[best_epoch(rows)]
    assert first.train_loss is not None
    assert last.train_loss is not None
    fell = last.train_loss < first.train_loss
    if fell and last.validation_loss > _RISE * kept.validation_loss:
        yield (
            f"overfitting: validation loss rose from {kept.validation_loss:.4f} (epoch {kept.epoch}, which is kept) to "
            f"{last.validation_loss:.4f} while training loss fell: more pictures, stronger augmentation or a lower "
            "learning_rate"
        )
    if not fell and len(trained) > 1:
        yield (
            f"nothing learned: training loss went from {first.train_loss:.4f} to {last.train_loss:.4f}: another "
            "learning_rate (finetune.learning_rate: auto tries some)"
        )
    if kept.epoch == 0:
        yield (
            "no better than the head alone: no epoch lowered the validation loss, so fine-tuning changed nothing: a "
            "lower learning_rate (finetune.learning_rate: auto tries some), or finetune.epochs: 0 to save its time"
        )
    if kept.train_accuracy is not None and kept.train_accuracy - kept.validation_accuracy > _GAP:
        yield (
            f"training accuracy {kept.train_accuracy:.4f} but validation accuracy {kept.validation_accuracy:.4f}: the "
            "pictures are learned by heart: more of them, stronger augmentation, finetune.mixup, model.dropout"
        )


def _of_the_kept(
    logits: npt.NDArray[np.float64], labels: npt.NDArray[np.int64], classes: Sequence[str]
) -> Iterator[str]:
    decided = logits.argmax(1)
    accuracy, majority = float((decided == labels).mean()), float(np.bincount(labels).max() / len(labels))
    if accuracy <= majority:
        yield (
            f"no better than always deciding the most frequent class: accuracy {accuracy:.4f}, that class's share "
            f"{majority:.4f}: check the labels, or head.class_weights: balanced"
        )
    numbers = range(len(classes))
    precisions, recalls, _, _ = precision_recall_fscore_support(labels, decided, labels=numbers, zero_division=0)
    for label, precision, recall in zip(classes, precisions, recalls, strict=True):
        if precision > _HIGH and recall < _LOW:
            yield (
                f"{label}: precision {precision:.4f} but recall {recall:.4f}: most of its pictures are missed: "
                "head.class_weights: balanced, or decision.watch for it"
            )
        if recall > _HIGH and precision < _LOW:
            yield (
                f"{label}: recall {recall:.4f} but precision {precision:.4f}: most pictures decided so are others: "
                "head.class_weights: none, or more pictures of the others"
            )
