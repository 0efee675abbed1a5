"""The next token of each answer, by its own sampling, from what the model computed for many of them at once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

from cluster import errors
from deployments.llm.language import Order, TokenSampling
from deployments.llm.token_masks import TokenForm
from deployments.llm.writing import TokenOdds

if TYPE_CHECKING:
    import torch

#: The likeliest tokens, among which the most probable ones are looked for first: sorting a whole vocabulary takes
#: milliseconds.
LIKELIEST = 1024


class WrittenAnswer:
    """One answer as it is chosen token by token. Its chance is its own: others beside it change nothing."""

    def __init__(self, order: Order, sampling: TokenSampling, form: TokenForm | None = None) -> None:
        """`form`: that it is held to."""
        import torch

        self.order = order
        #: What makes it worthless.
        self.error: errors.InferenceFailed | None = None
        self._sampling = sampling
        self._form = form
        #: Tokens of its prompt that others had left when it was begun; None before that.
        self.cached: int | None = None
        #: Chosen and not told yet.
        self.ids: list[int] = []
        self.odds: list[TokenOdds] = []
        self._counts: Counter[int] = Counter()
        self._generator = torch.Generator()
        if sampling.seed is not None:
            self._generator.manual_seed(sampling.seed % 2**63)
        elif sampling.temperature > 0:
            self._generator.seed()

    @property
    def is_plain(self) -> bool:
        """Whether the likeliest token is all that it takes."""
        is_chosen = self._sampling.temperature or self._is_penalised or self.order.query.logprobs
        return not (is_chosen or self._form)

    @property
    def _is_penalised(self) -> bool:
        query = self.order.query
        return bool(query.presence_penalty or query.frequency_penalty or query.repetition_penalty not in (None, 1.0))

    @property
    def may_end(self) -> bool:
        """Whether it ends at the model's word; one in a form has to."""
        return not self.order.query.ignore_eos or self._form is not None

    def take(self, id: int) -> None:
        self.ids.append(id)
        self._counts[id] += 1
        if self._form is not None:
            self._form.take(id)

    def choose(self, logits: torch.Tensor) -> int:
        """`logits`: of each token of the vocabulary, in fp32 and in main memory."""
        import torch

        scores = self._penalised(logits) if self._is_penalised else logits
        if self._form is not None:
            scores = self._held(scores, self._form)
        id = self._sampled(scores) if self._sampling.temperature else int(scores.argmax())
        if self.order.query.logprobs:
            self.odds.append(self._odds(id, logits - torch.logsumexp(logits, 0)))
        return id

    def _held(self, scores: torch.Tensor, form: TokenForm) -> torch.Tensor:
        try:
            return scores.masked_fill(~form.allowed(), float("-inf"))
        except errors.InferenceFailed as error:
            # Whatever comes next, nobody is told of it.
            self.error, self._form = error, None
            return scores

    def _odds(self, id: int, logprobs: torch.Tensor) -> TokenOdds:
        values, ids = logprobs.topk(min(self.order.query.top_logprobs, len(logprobs)))
        return TokenOdds(float(logprobs[id]), tuple(zip(ids.tolist(), values.tolist(), strict=True)))

    def _penalised(self, logits: torch.Tensor) -> torch.Tensor:
        import torch

        query, scores = self.order.query, logits.clone()
        if query.repetition_penalty is not None:
            met = torch.tensor(sorted({*self.order.ids, *self._counts}))
            values, factor = scores[met], query.repetition_penalty
            scores[met] = torch.where(values < 0, values * factor, values / factor)
        if self._counts:
            written = torch.tensor(list(self._counts))
            times = torch.tensor(list(self._counts.values()), dtype=scores.dtype)
            scores[written] -= query.presence_penalty + query.frequency_penalty * times
        return scores

    def _sampled(self, scores: torch.Tensor) -> int:
        import torch

        sampling = self._sampling
        scores = scores / sampling.temperature
        if 0 < sampling.top_k < len(scores):
            values, ids = scores.topk(sampling.top_k)
            chances = values.softmax(0)
        elif sampling.top_p < 1:
            chances, ids = _most_of(scores.softmax(0), sampling.top_p)
        else:
            chances, ids = scores.softmax(0), None
        if sampling.top_p < 1:
            # The first that goes beyond the limit is still one of them.
            chances = chances.masked_fill(chances.cumsum(0) - chances >= sampling.top_p, 0)
        if sampling.min_p:
            chances = chances.masked_fill(chances < sampling.min_p * chances.max(), 0)
        at = int(torch.multinomial(chances, 1, generator=self._generator))
        return at if ids is None else int(ids[at])


def _most_of(chances: torch.Tensor, share: float) -> tuple[torch.Tensor, torch.Tensor]:
    """The likeliest tokens in order, at least so many that together they have that share."""
    most, ids = chances.topk(min(LIKELIEST, len(chances)))
    return (most, ids) if float(most.sum()) >= share else chances.sort(descending=True)


def chosen(logits: torch.Tensor, answers: Sequence[WrittenAnswer]) -> list[int]:
    """The next token of each answer, which then has it. `logits`: a row for each."""
    if all(answer.is_plain for answer in answers):
        ids: list[int] = logits.argmax(dim=-1).tolist()
    else:
        ids = [answer.choose(row) for answer, row in zip(answers, logits.float().cpu(), strict=True)]
    for answer, id in zip(answers, ids, strict=True):
        answer.take(id)
    return ids
