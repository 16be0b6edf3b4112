"""Visual attention redistribution: weight that falls on attention sinks goes to the rest of the picture (arXiv 2503.03321).

The paper, too, calls it VAR; the method of that name here is another one.
"""

from __future__ import annotations

from collections.abc import Sequence

from interp.methods.batch import Batch, Reply
from interp.methods.method import Method
from interp.methods.redistribution import redistributing


def _answer(batch: Batch) -> Sequence[Reply]:
    with redistributing(batch.vlm, {facts.id: facts.segment for facts in batch.facts}) as change:
        replies = batch.ask("base", call=change.call)
    for reply, share in zip(replies, change.changed_share(), strict=True):
        reply.numbers["redistributed_heads"] = share
    return replies


SINK_REDISTRIBUTION = Method(
    "sink-redistribution",
    "original picture, base prompt; in image-centric heads 0.4 of the sinks' attention goes to the other visual tokens",
    _answer,
    records={"redistributed_heads": ()},
    forms=("base",),
)
"""Source: arXiv 2503.03321 and its code. From the third layer to the last but one, in every row behind the picture, prompt and answer: a
head whose attention on visual tokens is at least 0.2, at most half of it on sinks, has its weights on sinks (of text and picture)
multiplied by 0.6, and what is freed goes to the other visual tokens in proportion to their weights. `redistributed_heads` records the
share of heads that this changed at the last prompt token; in a model without sinks it is 0, and the answers are those of `base`.

Deviations: sinks are found from the model, as by `interp.sinks` (any feature of ``RMSNorm(h)`` above 20, or half of the largest possible
value in narrow models), not from a list of two features known per model, and in what enters each layer after the changes below it;
answer tokens are never sinks. `reference_logprob` is that of the changed model.

Cost: the prefill itself runs under the change, so that it cannot be the one of `base`.
"""
