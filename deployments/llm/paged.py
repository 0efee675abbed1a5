"""transformers' continuous batching, one step at a time: it keeps the tokens of all answers in blocks and computes one
more token of each; which token that is, is chosen here for each answer by itself.

Its own loop samples all answers in one way, and forgets those that are cancelled without a word.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from cluster.worker.family import Stop
from deployments.llm.choosing import WrittenAnswer, chosen
from deployments.llm.engine_thread import EngineThread
from deployments.llm.language import Hear, Order, TokenSampling
from deployments.llm.token_masks import TokenForm

if TYPE_CHECKING:
    import torch

#: Tokens of one block of the cache.
BLOCK = 32
#: Tokens that are computed in one step at most: those of a long prompt take several.
STEP_TOKENS = 512


def blocks_of(kept: int, slots: int) -> int:
    """For so many tokens. The last block of each answer may be all but empty, and two more are never used."""
    return -(-kept // BLOCK) + slots + 2


class PagedEngine(EngineThread):
    def __init__(self, model: Any, ends: frozenset[int], kept: int, slots: int, threads: int) -> None:
        self._model = model
        self._ends = ends
        self._processor = _processor(model, kept, slots)
        self._processor.model_runner._sample = self._choose
        self._search = self._processor.cache.search_prefix_match
        self._processor.cache.search_prefix_match = self._matched
        self._writing: dict[int, WrittenAnswer] = {}
        #: Read before each step.
        self.threads = threads
        super().__init__("transformers")

    def write(self, order: Order, sampling: TokenSampling, hear: Hear, form: TokenForm | None = None) -> Stop:
        return self._take(hear, partial(self._begin, WrittenAnswer(order, sampling, form)))

    def _begin(self, answer: WrittenAnswer, number: int) -> None:
        from transformers.generation.continuous_batching.requests import RequestState

        self._writing[number] = answer
        order = answer.order
        ends = sorted(self._ends) if answer.may_end else []
        state = RequestState(str(number), list(order.ids), max_new_tokens=order.max_tokens, eos_token_id=ends)
        self._processor.scheduler.add_waiting_request(state)

    def _cancel(self, number: int, end: str | Exception = "cancelled") -> None:
        del self._writing[number]
        self._processor.scheduler.set_request_cancellation(str(number))
        self._processor.scheduler.clear_cancelled_requests()
        self._tell(number, end=end)

    def _step(self) -> None:
        import torch

        processor = self._processor
        if torch.get_num_threads() != self.threads:
            torch.set_num_threads(self.threads)
        if not processor.scheduler.active_requests:
            # It waits for one of them to end, not to be stopped.
            processor.scheduler.block_new_requests = False
        if not processor.prepare_next_batch():
            raise RuntimeError("nothing can be computed, although there are answers to write")
        processor._generation_step(self._model)
        processor.update_batch()
        ended = {int(output.request_id) for output in processor.output_router.taken()}
        for number in self._written():
            self._read(number, number in ended)

    def _read(self, number: int, is_last: bool) -> None:
        answer = self._writing[number]
        if answer.error is not None and not is_last:
            self._cancel(number, answer.error)
            return
        ids, odds, reason = answer.ids, answer.odds, None
        answer.ids, answer.odds = [], []
        if is_last:
            del self._writing[number]
            reason = "stop" if ids[-1] in self._ends and answer.may_end else "length"
        self._tell(number, ids, odds, answer.error or reason, answer.cached or 0)

    def _matched(self, request: str, prompt: list[int]) -> int:
        """How much of a prompt is kept, as transformers has found it. One that gave way later finds what is its own."""
        tokens: int = self._search(request, prompt)
        answer = self._writing[int(request)]
        if answer.cached is None:
            answer.cached = tokens
        return tokens

    def _written(self) -> list[int]:
        """The answers that this step computes a token of."""
        states = self._processor.inputs_and_outputs.requests_in_batch
        return [int(future.state.request_id) for future in states if future.has_new_token]

    def _choose(self, scores: torch.Tensor, output_ids: torch.Tensor) -> None:
        """In place of transformers' own choice; `scores` has rows that mean nothing behind those of the answers."""
        answers = [self._writing[number] for number in self._written()]
        if answers:
            ids = chosen(scores[0, : len(answers)], answers)
            output_ids[0, : len(ids)] = output_ids.new_tensor(ids)


def _processor(model: Any, kept: int, slots: int) -> Any:
    from transformers import ContinuousBatchingConfig, GenerationConfig
    from transformers.generation.continuous_batching.continuous_api import OutputRouter

    class Taking(OutputRouter):  # type: ignore[misc]
        """Keeps what has ended for whoever stepped."""

        def deliver(self, output: Any) -> None:
            self.output_queue.put(output)

        def taken(self) -> list[Any]:
            return [self.output_queue.get() for _ in range(self.output_queue.qsize())]

    config = ContinuousBatchingConfig(
        page_size=BLOCK,
        num_blocks=blocks_of(kept, slots) - 2,
        max_batch_tokens=max(STEP_TOKENS, slots),
        max_requests_per_batch=slots,
        max_blocks_per_request=0,
        # So much is kept free of prompts that may be asked again.
        safety_margin=0.1,
        use_cuda_graph=False,
        use_async_batching=False,
        # That would be fetched from a hub.
        auto_switch_to_flash=False,
    )
    manager = model.init_continuous_batching(GenerationConfig(do_sample=False, eos_token_id=-1), config)
    manager.output_router = Taking()
    return manager._create_batch_processor()
